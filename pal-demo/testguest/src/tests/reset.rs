//! The guest resets the machine; the second boot says that it came, and ends
//! in `reset ok`.
//!
//! Bochs' reset by the keyboard controller leaves IA32_FEATURE_CONTROL locked,
//! and its firmware faults for good when it writes that MSR again. So
//! `suite=reset-keyboard` needs `reset_on_triple_fault=1` there, on the bare
//! machine as under Stillpoint; the others run with either setting.
//!
//! A byte of CMOS memory, which survives a reset, tells the boots apart.

use crate::harness::{Context, Test};
use crate::{cpu, power, println, smp};

/// A byte that no firmware is known to use.
const CMOS_INDEX: u8 = 0x78;

/// What it holds while a reset is under way.
const MARK: u8 = 0xa5;

/// How long a reset may take.
const PATIENCE: u64 = 100_000_000;

/// First boot: resets by `reset`. Second boot: runs `tests` and ends.
pub fn boot(context: &Context, name: &'static str, reset: fn(), tests: &'static [Test]) -> ! {
    if is_second_boot() {
        power::write_cmos(CMOS_INDEX, 0);
        println!("test guest: second boot");
        context.run(tests);
        if context.all_passed() {
            println!("reset ok");
        }
        context.finish()
    }
    println!("test guest: {name}");
    crate::console::drain();
    power::write_cmos(CMOS_INDEX, MARK);
    reset();
    // The device may take a moment.
    cpu::wait_until(PATIENCE, || false);
    power::write_cmos(CMOS_INDEX, 0);
    crate::harness::abandon(format_args!("{name}: the machine was not reset"))
}

/// `suite=reset-keyboard`.
pub fn by_keyboard(context: &Context) -> ! {
    const TESTS: &[Test] = &[Test {
        name: "reset_by_keyboard",
        run: |_| Ok(()),
    }];
    boot(
        context,
        "reset_by_keyboard",
        power::reset_by_keyboard,
        TESTS,
    )
}

/// `suite=reset-chipset`.
pub fn by_chipset(context: &Context) -> ! {
    const TESTS: &[Test] = &[Test {
        name: "reset_by_chipset",
        run: |_| Ok(()),
    }];
    boot(context, "reset_by_chipset", power::reset_by_chipset, TESTS)
}

/// `suite=reset-triple-fault`.
pub fn by_triple_fault(context: &Context) -> ! {
    const TESTS: &[Test] = &[Test {
        name: "reset_by_triple_fault",
        run: |_| Ok(()),
    }];
    boot(context, "reset_by_triple_fault", power::triple_fault, TESTS)
}

/// Is this the boot after the reset?
pub fn is_second_boot() -> bool {
    power::read_cmos(CMOS_INDEX) == MARK
}

/// `suite=reset-smp`: a reset while every CPU is busy; after it they all start
/// again.
pub fn with_all_cpus(context: &Context) -> ! {
    const TESTS: &[Test] = super::smp::TESTS;
    if !is_second_boot() {
        if let Err(index) = smp::start_all(context.config.cpus) {
            crate::harness::abandon(format_args!("CPU {index} does not start"));
        }
        for index in 1..context.config.cpus {
            smp::give(index, |_| {
                loop {
                    cpu::cpuid(0);
                }
            });
        }
    }
    boot(context, "reset_smp", power::reset_by_chipset, TESTS)
}
