//! Faults and panics of the hypervisor itself: the cause on COM1, then the stub,
//! which shows the hypervisor's own registers and memory for that CPU. There is
//! no way back from here.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use gdb_stub::machine::CpuIndex;
use gdb_stub::registers::{Registers, Segment};
use gdb_stub::{StopKind, StopReason};
use spin::Mutex;

use super::metal::Metal;
use super::with_session;
use crate::RENDEZVOUS;
use crate::cpu::apic::ApicKicker;
use crate::cpu::interrupts::Frame;
use crate::cpu::{halt_forever, percpu};
use crate::log::{self, log};
use crate::trace;
use crate::vmx::setup;
use crate::vmx::vcpu::Vcpu;

/// A CPU that was stopped in the hypervisor's own code.
#[derive(Clone, Copy)]
pub struct HostStop {
    /// The CPU.
    pub cpu: usize,
    /// Its registers there.
    pub registers: Registers,
}

/// The CPU that has failed. One is enough: it holds the machine for good.
static STOPPED: Mutex<Option<HostStop>> = Mutex::new(None);

/// The index of a CPU that has failed and serves nobody any more, or `usize::MAX`.
static FAILED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Has this CPU failed?
pub fn has_failed(cpu: usize) -> bool {
    FAILED.load(Ordering::Acquire) == cpu
}

/// The CPU that was stopped in the hypervisor, if any.
pub fn stopped() -> Option<HostStop> {
    STOPPED.try_lock().and_then(|stopped| *stopped)
}

fn read_cr2() -> u64 {
    let cr2: u64;
    // SAFETY: reading CR2 in ring 0 touches nothing.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    cr2
}

/// Control registers and segments, which are the same wherever the hypervisor runs.
fn environment() -> Registers {
    let flat = |selector| Segment { selector, base: 0 };
    Registers {
        cs: flat(8),
        ss: flat(16),
        gs: Segment {
            selector: 0,
            base: &raw const *percpu::this() as u64,
        },
        cr0: setup::read_cr0(),
        cr2: read_cr2(),
        cr3: setup::read_cr3(),
        cr4: setup::read_cr4(),
        efer: crate::cpu::msr::read(crate::cpu::msr::IA32_EFER).unwrap_or(0),
        ..Registers::default()
    }
}

/// The hypervisor took an exception that nothing expected.
pub fn fault(frame: &Frame) -> ! {
    let registers = Registers {
        rax: frame.rax,
        rbx: frame.rbx,
        rcx: frame.rcx,
        rdx: frame.rdx,
        rsi: frame.rsi,
        rdi: frame.rdi,
        rbp: frame.rbp,
        rsp: frame.rsp,
        r8: frame.r8,
        r9: frame.r9,
        r10: frame.r10,
        r11: frame.r11,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
        rip: frame.rip,
        rflags: frame.rflags,
        ..environment()
    };
    log::retake_console();
    log!(
        "the hypervisor faulted on CPU {}: {} (vector {}), error code {:#x}",
        percpu::this().index,
        vmcs_inspect::Exception(frame.vector as u8),
        frame.vector,
        frame.error
    );
    log!(
        "  rip {:#x} rsp {:#x} cr2 {:#x}",
        frame.rip,
        frame.rsp,
        registers.cr2
    );
    let kind = StopKind::HostFault {
        vector: frame.vector as u8,
        error: frame.error,
        rip: frame.rip,
        cr2: registers.cr2,
    };
    enter(kind, registers)
}

/// The hypervisor panicked, in the function that calls this.
#[inline(never)]
pub fn panicked() -> ! {
    let (rip, rsp, rbp): (u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
             out(reg) rip, out(reg) rsp, out(reg) rbp,
             options(nomem, nostack, preserves_flags));
    }
    let registers = Registers {
        rip,
        rsp,
        rbp,
        rflags: 2,
        ..environment()
    };
    enter(StopKind::HostPanic, registers)
}

/// Goes on, on the debugger's stack: a fault's own stack is small, and used again
/// by the next one, which the debugger's reads may well cause.
fn enter(kind: StopKind, registers: Registers) -> ! {
    if percpu::all().is_empty() {
        log!("before the machine was set up: halted");
        halt_forever()
    }
    let cpu = percpu::this();
    let first = STOPPED.try_lock().is_some_and(|mut stopped| {
        let first = stopped.is_none();
        if first {
            *stopped = Some(HostStop {
                cpu: cpu.index,
                registers,
            });
        }
        first
    });
    FAILED.store(cpu.index, Ordering::Release);
    if !first {
        // It will never join a stop: let it count as stopped.
        RENDEZVOUS.give_up(cpu.index);
        log!(
            "a second failure of the hypervisor, on CPU {}: halted",
            cpu.index
        );
        halt_forever()
    }
    // SAFETY: the stack is this CPU's own and in no other use, since this is the
    // first failure; `debug` never returns.
    unsafe {
        asm!("mov rsp, {stack}", "xor ebp, ebp", "push rbp", "jmp {debug}",
             stack = in(reg) cpu.debugger_stack, debug = sym debug,
             in("rdi") &raw const kind, options(noreturn));
    }
}

extern "C" fn debug(kind: *const StopKind) -> ! {
    // SAFETY: `enter`'s argument, on a stack that nothing uses any more; read
    // before anything else can fault.
    let kind = unsafe { kind.read() };
    let cpu = percpu::this();
    let vcpu: *mut Vcpu = cpu.vcpu.load(Ordering::Acquire);
    if vcpu.is_null() {
        log!("before the guest started: halted");
        halt_forever()
    }
    // SAFETY: this CPU's own; what was using it has failed and never runs again.
    let vcpu = unsafe { &mut *vcpu };
    let reason = StopReason {
        cpu: CpuIndex(cpu.index as u16),
        kind,
    };
    trace::event(trace::Event::StopAsked);
    RENDEZVOUS.stop(cpu.index, &mut ApicKicker::default(), vcpu);
    trace::event(trace::Event::DebuggerStopped(trace::cause(reason.kind)));
    while with_session(vcpu, |session| session.stopped(&mut Metal, reason)).is_some() {
        // There is nothing to go on with: the next client finds the same.
    }
    log!("no debugger's line (debug=com2), or it was what failed: halted");
    halt_forever()
}
