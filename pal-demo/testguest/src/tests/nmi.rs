//! NMIs on one CPU: none lost, none invented, blocking as the processor's.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::{HypercallResult, TestHook};

use crate::apic::{self, Destination, Message};
use crate::descriptors::{self, IST_NMI};
use crate::harness::{Context, Outcome, Test};
use crate::trap::{self, Frame, catch, vector, with_handler};
use crate::{check, check_eq, cpu, tests};

/// NMIs.
pub const TESTS: &[Test] = tests![
    nmi_is_delivered_once,
    nmis_during_cpuid_are_exact,
    nmi_is_latched_once_while_blocked,
    iret_unblocks_nmis,
    exits_in_the_handler_keep_nmis_blocked,
    nmi_during_another_handler,
    page_fault_during_nmi_delivery,
    nmi_stack_in_the_hypervisor,
    nmis_owed_by_the_hypervisor_are_exact,
    nmi_on_each_instruction_of_the_vm_entry,
];

/// Ticks in which an NMI that should not come would have come.
const QUIET: u64 = 20_000;

/// Ticks in which one that should come has come.
const SOON: u64 = 10_000_000;

fn count() -> u64 {
    trap::count(0, vector::NMI)
}

fn send() {
    apic::send(Destination::Cpu(0), Message::Nmi);
}

fn quiet() {
    cpu::wait_until(QUIET, || false);
}

fn nothing(_: &mut Frame) {}

fn nmi_is_delivered_once(_: &Context) -> Outcome {
    let before = count();
    with_handler(vector::NMI, nothing, || {
        send();
        let came = cpu::wait_until(SOON, || count() != before);
        check!(came, "no NMI");
        quiet();
        check_eq!(count() - before, 1, "NMIs");
        Ok(())
    })
}

fn nmis_during_cpuid_are_exact(_: &Context) -> Outcome {
    const ROUNDS: u64 = 1000;
    let before = count();
    with_handler(vector::NMI, nothing, || {
        for round in 1..=ROUNDS {
            send();
            let came = cpu::wait_until(SOON, || {
                cpu::cpuid(0);
                count() - before >= round
            });
            check!(came, "NMI {round} did not come");
            check_eq!(count() - before, round, "NMIs after {round}");
        }
        quiet();
        check_eq!(count() - before, ROUNDS, "NMIs");
        Ok(())
    })
}

static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static SEEN_INSIDE: AtomicU64 = AtomicU64::new(0);

/// The first NMI sends three more, and sees none of them.
fn send_three(_: &mut Frame) {
    let first = DEPTH.fetch_add(1, Relaxed) == 0;
    if first {
        let before = count();
        for _ in 0..3 {
            send();
        }
        quiet();
        SEEN_INSIDE.store(count() - before, Relaxed);
    }
}

fn nmi_is_latched_once_while_blocked(_: &Context) -> Outcome {
    let before = count();
    DEPTH.store(0, Relaxed);
    SEEN_INSIDE.store(99, Relaxed);
    with_handler(vector::NMI, send_three, || {
        send();
        cpu::wait_until(SOON, || count() - before >= 2);
        quiet();
    });
    check_eq!(SEEN_INSIDE.load(Relaxed), 0, "NMIs in the handler");
    // The one handled and one latched; the others merged into that.
    check_eq!(count() - before, 2, "NMIs");
    Ok(())
}

/// The first NMI sends another and executes an IRET, which lets it in. Its
/// frame is kept from being overwritten by moving the NMI stack.
fn send_and_iret(_: &mut Frame) {
    let depth = DEPTH.fetch_add(1, Relaxed) + 1;
    DEEPEST.fetch_max(depth, Relaxed);
    if depth == 1 {
        let top = descriptors::default_stack(0, IST_NMI);
        // Half a stack lies below what this handler uses.
        descriptors::set_interrupt_stack(0, IST_NMI, top - 4096);
        send();
        quiet();
        SEEN_INSIDE.store(count(), Relaxed);
        // SAFETY: the handler of INT3 does nothing; its IRET unblocks NMIs.
        unsafe { asm!("int3") };
        cpu::wait_until(SOON, || DEEPEST.load(Relaxed) == 2);
        descriptors::set_interrupt_stack(0, IST_NMI, top);
    }
    DEPTH.fetch_sub(1, Relaxed);
}

fn iret_unblocks_nmis(_: &Context) -> Outcome {
    let before = count();
    DEPTH.store(0, Relaxed);
    DEEPEST.store(0, Relaxed);
    with_handler(vector::BP, nothing, || {
        with_handler(vector::NMI, send_and_iret, || {
            send();
            cpu::wait_until(SOON, || count() - before >= 2);
            quiet();
        });
    });
    check_eq!(
        SEEN_INSIDE.load(Relaxed) - before,
        1,
        "NMIs before the IRET"
    );
    check_eq!(DEEPEST.load(Relaxed), 2, "depth of NMI handlers");
    check_eq!(count() - before, 2, "NMIs");
    Ok(())
}

/// Sends one more, then exits in many ways: none of them may unblock NMIs.
fn send_and_exit(_: &mut Frame) {
    if DEPTH.fetch_add(1, Relaxed) == 0 {
        let before = count();
        send();
        for _ in 0..200 {
            cpu::cpuid(0);
            cpu::rdmsr(0x3a);
            let cr4 = cpu::read_cr4();
            cpu::write_cr4(cr4 ^ 1 << 7);
            cpu::write_cr4(cr4);
        }
        SEEN_INSIDE.store(count() - before, Relaxed);
    }
}

fn exits_in_the_handler_keep_nmis_blocked(_: &Context) -> Outcome {
    let before = count();
    DEPTH.store(0, Relaxed);
    SEEN_INSIDE.store(99, Relaxed);
    with_handler(vector::NMI, send_and_exit, || {
        send();
        cpu::wait_until(SOON, || count() - before >= 2);
        quiet();
    });
    check_eq!(SEEN_INSIDE.load(Relaxed), 0, "NMIs in the handler");
    check_eq!(count() - before, 2, "NMIs");
    Ok(())
}

/// A breakpoint's handler is no NMI handler: the NMI comes at once.
fn send_inside(_: &mut Frame) {
    let before = count();
    send();
    cpu::wait_until(SOON, || count() != before);
    SEEN_INSIDE.store(count() - before, Relaxed);
}

fn nmi_during_another_handler(_: &Context) -> Outcome {
    SEEN_INSIDE.store(0, Relaxed);
    with_handler(vector::NMI, nothing, || {
        with_handler(vector::BP, send_inside, || {
            // SAFETY: the handler is set.
            unsafe { asm!("int3") };
        });
    });
    check_eq!(
        SEEN_INSIDE.load(Relaxed),
        1,
        "NMIs in the breakpoint's handler"
    );
    Ok(())
}

/// Sends an NMI with its stack at `stack`; the trap that comes instead.
fn nmi_with_stack(stack: u64) -> Result<bool, trap::Trap> {
    let before = count();
    descriptors::set_interrupt_stack(0, IST_NMI, stack);
    let result = with_handler(vector::NMI, nothing, || {
        let result = catch(|| {
            send();
            cpu::wait_until(SOON, || count() != before)
        });
        descriptors::set_interrupt_stack(0, IST_NMI, descriptors::default_stack(0, IST_NMI));
        result
    });
    trap::set_handler(vector::NMI, None);
    result
}

/// After an NMI whose delivery failed, the next one is an ordinary one.
fn next_nmi_is_delivered() -> Outcome {
    // The failed NMI itself may come again, or not: that is the processor's.
    with_handler(vector::NMI, nothing, quiet);
    let before = count();
    with_handler(vector::NMI, nothing, || {
        send();
        cpu::wait_until(SOON, || count() != before);
        quiet();
    });
    check_eq!(count() - before, 1, "NMIs afterwards");
    Ok(())
}

fn page_fault_during_nmi_delivery(_: &Context) -> Outcome {
    // An address that no page maps: PML4 entry 3.
    let stack = (3 << 39) + 0x1000;
    let Err(trap) = nmi_with_stack(stack) else {
        crate::fail!("the NMI was delivered")
    };
    check_eq!(trap.vector(), vector::PF, "{trap}: vector");
    // A supervisor's write to an absent page.
    check_eq!(trap.frame.error, 2, "error code");
    check!(
        trap.cr2 < stack && trap.cr2 >= stack - 64,
        "CR2 {:#x}",
        trap.cr2
    );
    next_nmi_is_delivered()
}

fn nmi_stack_in_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = super::memory::hypervisor_range()?;
    // The delivery is an EPT violation: the hypervisor finds the NMI in the
    // IDT-vectoring information, and gives the guest a fault for it. The NMI is
    // spent then, as on a processor where delivering it faults (the test
    // before). Owed again, it would come before the fault's handler executes
    // an instruction, on the same bad stack, for ever.
    let Err(trap) = nmi_with_stack(range.start + 4096) else {
        crate::fail!("the NMI was delivered")
    };
    check!(
        matches!(trap.vector(), vector::GP | vector::SS | vector::DF),
        "an NMI stack in the hypervisor's range: {trap}"
    );
    next_nmi_is_delivered()
}

/// The hypervisor owes an NMI on request; whether the image has that hook.
fn owe() -> bool {
    let result: u64;
    // SAFETY: the hook touches no memory of this guest.
    unsafe {
        asm!("vmcall", inout("rax") u64::from(TestHook::OweNmi.command()) => result,
             options(nostack));
    }
    result == HypercallResult::Success.code()
}

fn nmis_owed_by_the_hypervisor_are_exact(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let before = count();
    with_handler(vector::NMI, nothing, || {
        if !owe() {
            // The release image: an unknown command, and no NMI.
            quiet();
            check_eq!(count() - before, 0, "NMIs without test hooks");
            return Ok(());
        }
        for round in 1..=200 {
            check!(
                cpu::wait_until(SOON, || count() - before >= round),
                "NMI {round} did not come"
            );
            check_eq!(count() - before, round, "NMIs after {round}");
            if round != 200 {
                owe();
            }
        }
        quiet();
        check_eq!(count() - before, 200, "NMIs");
        Ok(())
    })
}

/// Ticks in which an NMI comes that waits for no exit.
const AT_ONCE: u64 = 5_000;

/// Has the hypervisor aim the next NMI: the hits so far, and the last byte to aim
/// at. `None` without test hooks.
fn aim(offset: u64) -> Option<[u64; 2]> {
    let (mut rax, mut rcx, rdx) = (u64::from(TestHook::AimNmi.command()), offset, 0_u64);
    let last;
    // SAFETY: a hypercall that touches no memory of this guest.
    unsafe {
        asm!("vmcall", inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx => last,
             options(nostack));
    }
    (rax == HypercallResult::Success.code()).then_some([rcx, last])
}

/// Aims at a byte, shoots, and expects one NMI at once. Returns the hits before.
fn shoot(offset: u64) -> Result<u64, crate::harness::Failure> {
    let Some([hits, _]) = aim(offset) else {
        crate::fail!("no aim at byte {offset}");
    };
    let before = count();
    send();
    check!(
        cpu::wait_until(AT_ONCE, || count() != before),
        "the NMI that hit byte {offset} waits for an exit"
    );
    quiet();
    check_eq!(count() - before, 1, "NMIs for byte {offset}");
    Ok(hits)
}

/// An NMI that the hypervisor takes between its last look and VMRESUME must not
/// wait there for the next exit.
fn nmi_on_each_instruction_of_the_vm_entry(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let Some([_, resume]) = aim(0) else {
        // The release image: an unknown command.
        return Ok(());
    };
    with_handler(vector::NMI, nothing, || {
        let first = shoot(0)?;
        for offset in 1..resume {
            shoot(offset)?;
        }
        let before_resume = shoot(resume)?;
        let after = shoot(resume + 1)?;
        check_eq!(after - before_resume, 1, "hits on VMRESUME");
        // 16 vector registers, 15 others, MXCSR, the last look.
        check!(after - first > 33, "{} hits", after - first);
        Ok(())
    })
}
