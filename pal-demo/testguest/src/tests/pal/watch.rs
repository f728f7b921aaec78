//! The ports that can restart the machine exit while there are PALs, and no longer: else
//! the restart itself would exit again and again.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::TestHook;
use x86_64::instructions::port::Port;

use super::code;
use super::image::{Pal, Part};
use super::program::{Program, others};
use super::space::ALL;
use crate::descriptors::Shared;
use crate::harness::{Context, Failure, Outcome, Test};
use crate::tests::expect_ok;
use crate::tests::hypercall::vmcall;
use crate::{check, cpu, smp, tests};

/// The watch on the ports.
pub const TESTS: &[Test] = tests![
    reset_ports_exit_while_there_are_pals,
    pci_configuration_is_no_restart,
    the_watch_ends_amid_refusals,
];

const PAL: Pal = Pal::new(4, code::add);

/// A PAL with a page that is no RAM.
const REFUSED: Pal = Pal::new(8, code::add);
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Do reads of the keyboard controller's status exit?
fn is_watched() -> Result<bool, Failure> {
    const READS: u64 = 100;
    let exits = || expect_ok("ExitCount", vmcall(TestHook::ExitCount.command().into(), 0));
    let before = exits()?;
    for _ in 0..READS {
        // SAFETY: reading the status changes nothing.
        let _status: u8 = unsafe { Port::new(0x64).read() };
    }
    // A few more come from other CPUs' stops.
    Ok(exits()? - before > READS)
}

fn reset_ports_exit_while_there_are_pals(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    check!(!is_watched()?, "without a PAL");
    program.give(&PAL)?;
    check!(is_watched()?, "with a PAL");
    program.take_back(&PAL)?;
    check!(!is_watched()?, "afterwards");
    Ok(())
}

fn pci_configuration_is_no_restart(context: &Context) -> Outcome {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;
    context.require_stillpoint()?;
    let program = Program::usual();
    program.give(&PAL)?;
    // Its second byte, that of the reset control register, is a device and a function.
    for function in 0..8_u32 {
        // SAFETY: reads the first register of a device, if it is there.
        let identity: u32 = unsafe {
            Port::new(ADDRESS).write(1_u32 << 31 | function << 8);
            Port::new(DATA).read()
        };
        check!(
            (identity != u32::MAX) == (function == 0),
            "function {function} of the bridge: {identity:#x}"
        );
    }
    // UNREG fails if the PAL has been ended.
    program.take_back(&PAL)
}

static PROGRAM: Shared<Option<Program>> = Shared::new(None);
static STOP: AtomicU64 = AtomicU64::new(0);
static REFUSALS: AtomicU64 = AtomicU64::new(0);

/// Asks again and again for what is refused. Two CPUs that do wait for each other's stops, with
/// a place for their PAL.
fn keep_asking(_: usize) {
    // SAFETY: CPU 0 leaves it alone until this CPU is done.
    let Some(program) = (unsafe { *PROGRAM.get() }) else {
        return;
    };
    while STOP.load(Relaxed) == 0 && matches!(program.register(&REFUSED), Ok(1)) {
        REFUSALS.fetch_add(1, Relaxed);
    }
}

fn the_watch_ends_amid_refusals(context: &Context) -> Outcome {
    others(context, 2)?;
    let program = Program::usual();
    let data = REFUSED.page + Part::Data as u64;
    program.space.map(data, LOCAL_APIC, ALL);
    // SAFETY: the other CPUs have nothing to do.
    unsafe { PROGRAM.get().write(Some(program)) };
    STOP.store(0, Relaxed);
    REFUSALS.store(0, Relaxed);
    for cpu in 1..context.config.cpus {
        smp::give(cpu, keep_asking);
    }
    let outcome = (|| {
        for round in 0..20 {
            program.give(&PAL)?;
            program.take_back(&PAL)?;
            check!(!is_watched()?, "{round}: while others are refused");
        }
        let before = REFUSALS.load(Relaxed);
        let more = || REFUSALS.load(Relaxed) > before;
        check!(cpu::wait_until(smp::PATIENCE, more), "no more refusals");
        Ok(())
    })();
    STOP.store(1, Relaxed);
    for cpu in 1..context.config.cpus {
        check!(smp::done(cpu), "CPU {cpu} does not finish");
    }
    outcome
}
