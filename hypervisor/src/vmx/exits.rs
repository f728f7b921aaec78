//! VM exits: what the guest did, and what comes of it. Policy is in
//! `stillpoint_core`; here it is asked and carried out. Fields are read when
//! they are needed, and not before.

pub mod control_registers;
mod hypercalls;
mod interrupts;
mod memory;

use gdb_stub::StopKind;
use stillpoint_core::cpu_state::{self, Signal, StartAction, StartState};
use stillpoint_core::cpuid::{self, CpuidContext, CpuidResult};
use stillpoint_core::msr::{ReadDecision, WriteDecision};
use stillpoint_core::registers::Gpr;
use stillpoint_core::xsetbv;
use vmcs_inspect::{ExitReason, Field};

use super::instructions::get;
use super::vcpu::Vcpu;
use super::{ept, state};
use crate::cpu::{apic, msr, tsc};
use crate::{debug, trace};

/// Handles the exit that has just come.
pub fn handle(vcpu: &mut Vcpu) {
    let reason = get(Field::EXIT_REASON) as u32;
    if reason >> 31 != 0 {
        debug::entry_failed(vcpu, None);
        return;
    }
    vcpu.launched = true;
    let basic = reason as u16;
    count(vcpu, basic);
    if basic != ExitReason::PreemptionTimerExpired.raw() {
        trace(vcpu, basic);
    }
    let Some(reason) = ExitReason::from_raw(basic) else {
        return vcpu.stop(StopKind::UnknownExit(basic));
    };
    match reason {
        ExitReason::Cpuid => execute_cpuid(vcpu),
        ExitReason::Vmcall => hypercalls::handle(vcpu),
        ExitReason::PreemptionTimerExpired => {
            vcpu.arm_timer();
            vcpu.polled = true;
            debug::poll(vcpu);
            return;
        }
        ExitReason::ExceptionOrNmi => interrupts::exception_or_nmi(vcpu),
        ExitReason::NmiWindow => interrupts::nmi_window(vcpu),
        ExitReason::ControlRegisterAccess => control_registers::access(vcpu),
        ExitReason::MovDr => debug::registers::mov_dr(vcpu),
        ExitReason::IoInstruction => super::io::access(vcpu),
        ExitReason::Rdmsr => read_msr(vcpu),
        ExitReason::Wrmsr => write_msr(vcpu),
        ExitReason::Xsetbv => set_xcr(vcpu),
        ExitReason::EptViolation => memory::ept_violation(vcpu),
        ExitReason::MonitorTrapFlag => memory::end_of_zero_view(vcpu),
        ExitReason::InitSignal => signal(vcpu, Signal::Init),
        ExitReason::StartUpIpi => {
            let vector = get(Field::EXIT_QUALIFICATION) as u8;
            signal(vcpu, Signal::Sipi(vector));
        }
        ExitReason::TripleFault => triple_fault(vcpu),
        ExitReason::TaskSwitch => interrupts::task_switch(vcpu),
        // The guest is told of no VMX, no SMX and no SEAM.
        ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::Vmfunc
        | ExitReason::Getsec
        | ExitReason::Seamcall
        | ExitReason::Tdcall => vcpu.invalid_opcode(),
        ExitReason::Invd => {
            // Dropping dirty lines would lose the hypervisor's own; writing them
            // back first is what INVD may do anyway.
            // SAFETY: writes caches back.
            unsafe { core::arch::asm!("wbinvd", options(nostack, preserves_flags)) };
            vcpu.skip_instruction();
        }
        _ => vcpu.stop(StopKind::UnknownExit(basic)),
    }
    vcpu.entered = tsc();
}

fn count(vcpu: &Vcpu, basic: u16) {
    use core::sync::atomic::Ordering::Relaxed;
    // Only this CPU writes: no locked instruction is needed.
    if let Some(counter) = vcpu.cpu.exits.get(usize::from(basic)) {
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }
}

/// Records the exit.
fn trace(vcpu: &Vcpu, basic: u16) {
    let exit = trace::Event::Exit {
        reason: basic,
        rip: get(Field::GUEST_RIP),
        entered: vcpu.entered,
    };
    vcpu.cpu.trace.event(tsc(), exit);
}

/// Records the last exit if it was the timer that polls the debugger's line, and
/// something comes of it. The others are left out: they would be all that is left in
/// the ring, and the guest is taken to run on.
pub fn trace_poll(vcpu: &mut Vcpu) {
    let polled = core::mem::take(&mut vcpu.polled);
    let basic = ExitReason::PreemptionTimerExpired.raw();
    if polled && get(Field::EXIT_REASON) as u16 == basic {
        trace(vcpu, basic);
    }
}

/// The context in which CPUID is answered.
fn cpuid_context(vcpu: &Vcpu) -> CpuidContext {
    CpuidContext {
        in_64_bit_mode: vcpu.in_64_bit_code(),
        pal: vcpu.pal.map(|id| id as u32),
        version: crate::VERSION,
        guest_cr4: get(Field::GUEST_CR4),
        features: vcpu.controls.features,
    }
}

fn execute_cpuid(vcpu: &mut Vcpu) {
    let gprs = &vcpu.registers.gprs;
    let (leaf, subleaf) = (gprs[Gpr::Rax] as u32, gprs[Gpr::Rcx] as u32);
    let raw = state::cpuid(leaf, subleaf);
    let raw = CpuidResult {
        eax: raw.eax,
        ebx: raw.ebx,
        ecx: raw.ecx,
        edx: raw.edx,
    };
    let answer = cpuid::adjust(leaf, subleaf, raw, &cpuid_context(vcpu));
    let gprs = &mut vcpu.registers.gprs;
    gprs[Gpr::Rax] = u64::from(answer.eax);
    gprs[Gpr::Rbx] = u64::from(answer.ebx);
    gprs[Gpr::Rcx] = u64::from(answer.ecx);
    gprs[Gpr::Rdx] = u64::from(answer.edx);
    vcpu.skip_instruction();
}

fn read_msr(vcpu: &mut Vcpu) {
    let index = vcpu.registers.gprs[Gpr::Rcx] as u32;
    let value = match stillpoint_core::msr::read(index) {
        ReadDecision::Native => msr::read(index),
        ReadDecision::Masked { clear, set } => msr::read(index).map(|value| value & !clear | set),
        ReadDecision::GeneralProtection => Err(msr::MsrFault),
    };
    match value {
        Ok(value) => {
            vcpu.registers.gprs[Gpr::Rax] = value & 0xffff_ffff;
            vcpu.registers.gprs[Gpr::Rdx] = value >> 32;
            vcpu.skip_instruction();
        }
        Err(msr::MsrFault) => vcpu.general_protection(),
    }
}

fn write_msr(vcpu: &mut Vcpu) {
    let gprs = &vcpu.registers.gprs;
    let index = gprs[Gpr::Rcx] as u32;
    let value = gprs[Gpr::Rdx] << 32 | gprs[Gpr::Rax] & 0xffff_ffff;
    // SAFETY: the policy lets through only what the guest could write natively,
    // nothing that the hypervisor runs on, and nothing that has the processor write
    // to memory where EPT does not reach.
    let native = || unsafe { msr::write(index, value) };
    let decision = stillpoint_core::msr::write(index);
    let result = match decision {
        WriteDecision::Native => native(),
        WriteDecision::NativeThenMemoryTypes => native(),
        WriteDecision::ApicBase => apic::write_base(vcpu.cpu, value),
        WriteDecision::Ignore => Ok(()),
        WriteDecision::GeneralProtection => Err(msr::MsrFault),
    };
    match result {
        Ok(()) => vcpu.skip_instruction(),
        Err(msr::MsrFault) => return vcpu.general_protection(),
    }
    // Last: a debugger may come first, and find this instruction done.
    if decision == WriteDecision::NativeThenMemoryTypes && ept::memory_types_changed() {
        debug::with_machine_stopped(vcpu, |_| {
            let unsplit = ept::apply_memory_types();
            if unsplit != 0 {
                crate::log::log!("{unsplit} pages could not be split and are uncacheable now");
            }
        });
    }
}

fn set_xcr(vcpu: &mut Vcpu) {
    let gprs = &vcpu.registers.gprs;
    let index = gprs[Gpr::Rcx] as u32;
    let value = gprs[Gpr::Rdx] << 32 | gprs[Gpr::Rax] & 0xffff_ffff;
    let supported = state::cpuid(0xd, 0);
    let supported = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    // The caller of a PAL gets its state back under the XCR0 that it was put aside under.
    let allowed = vcpu.pal.is_none() && xsetbv::allowed(index, value, supported, vcpu.cpl());
    if allowed && msr::write_xcr0(value).is_ok() {
        vcpu.skip_instruction();
    } else {
        vcpu.general_protection();
    }
}

fn signal(vcpu: &mut Vcpu, signal: Signal) {
    let bsp = msr::read(msr::IA32_APIC_BASE).unwrap_or(0) & (1 << 8) != 0;
    // The first instruction is at IP 0, and none that exits leaves IP there.
    if vcpu.start_state == StartState::Started && get(Field::GUEST_RIP) != 0 {
        vcpu.start_state = StartState::Running;
    }
    let action = cpu_state::on_signal(vcpu.start_state, bsp, signal);
    if vcpu.start_state == StartState::Started {
        // One INIT may have been kept from before the SIPI, not two.
        vcpu.start_state = StartState::Running;
    }
    vcpu.start_action(action);
}

/// The guest has faulted for good: the machine resets, as the bare one would.
pub fn triple_fault(vcpu: &mut Vcpu) {
    if vcpu.pal.is_some() {
        return vcpu.general_protection();
    }
    crate::log::log!(
        "triple fault of the guest at {:#x}: resetting the machine",
        get(Field::GUEST_RIP)
    );
    vcpu.start_action(StartAction::ResetMachine);
}
