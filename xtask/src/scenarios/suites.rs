//! The bare-metal test guest's suites, under Stillpoint and, to check the tests themselves, on
//! the bare machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use regex::Regex;

use super::{Plan, Workshop};
use crate::machine::Machine;

/// A suite takes a second or a few on an idle host.
const SUITE: Duration = Duration::from_secs(240);

/// What ends a suite's output.
pub const END: &str = r"\d+ passed, \d+ failed\D|test guest panicked[^\n]*";

/// Runs what `plan` says to its end.
fn run(workshop: &Workshop, plan: Plan) -> Result<()> {
    to_the_end(&workshop.start(plan)?)
}

/// Waits for the end of the suite that the machine runs; every test must pass, and there must be some.
pub fn to_the_end(machine: &Machine) -> Result<()> {
    passed(&machine.console().expect(END, SUITE)?)
}

/// Whether every test passed, and there were some.
pub fn passed(output: &str) -> Result<()> {
    let failures: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("FAILED") || line.contains("panicked"))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    let counts = Regex::new(r"(\d+) passed, (\d+) failed")?;
    let passed = counts
        .captures(output)
        .filter(|counts| &counts[2] == "0")
        .and_then(|counts| counts[1].parse::<u32>().ok())
        .unwrap_or(0);
    ensure!(passed > 0, "no test passed:\n{output}");
    Ok(())
}

/// The tests of one CPU, under Stillpoint.
pub fn basic(workshop: &Workshop) -> Result<()> {
    run(
        workshop,
        Plan::test_guest(workshop, 1, "suite=basic com2=uart")?,
    )
}

/// The same on the bare machine.
pub fn basic_bare(workshop: &Workshop) -> Result<()> {
    run(
        workshop,
        Plan::test_guest(workshop, 1, "suite=basic com2=uart")?.bare(),
    )
}

/// With `debug=`, COM2 does not exist for the guest.
pub fn com2_hidden(workshop: &Workshop) -> Result<()> {
    let plan = Plan::test_guest(workshop, 1, "suite=basic com2=hidden")?;
    run(workshop, plan.cmdline("debug=com2 log=com1"))
}

/// The tests of several CPUs.
pub fn smp(workshop: &Workshop, cpus: u32) -> Result<()> {
    run(workshop, Plan::test_guest(workshop, cpus, "suite=smp")?)
}

/// The same on the bare machine.
pub fn smp_bare(workshop: &Workshop) -> Result<()> {
    run(workshop, Plan::test_guest(workshop, 2, "suite=smp")?.bare())
}

/// The storm on the bare machine: what it expects is what the processor does.
pub fn storm_bare(workshop: &Workshop) -> Result<()> {
    run(
        workshop,
        Plan::test_guest(workshop, 4, "suite=storm")?.bare(),
    )
}

/// PALs, on four CPUs. COM2 is the debugger's, so that Stillpoint reads and writes memory in the guest's place.
pub fn pal(workshop: &Workshop) -> Result<()> {
    let plan = Plan::test_guest(workshop, 4, "suite=pal com2=hidden")?;
    run(workshop, plan.cmdline("debug=com2 log=com1"))
}

/// Each way to reset a machine: the second boot says that it is one. Not by the keyboard controller:
/// after that the emulator's BIOS hangs, on the bare machine too.
pub fn resets(workshop: &Workshop) -> Result<()> {
    for (part, words, cpus) in [
        ("chipset", "suite=reset-chipset", 1),
        ("triple-fault", "suite=reset-triple-fault", 1),
        ("smp", "suite=reset-smp", 2),
    ] {
        let machine = workshop.start(Plan::test_guest(workshop, cpus, words)?.part(part))?;
        machine
            .console()
            .expect("reset ok", SUITE)
            .map_err(|error| error.context(words))?;
    }
    Ok(())
}

/// The same resets while there are PALs: nothing of them is left in memory.
pub fn pal_resets(workshop: &Workshop) -> Result<()> {
    for (part, words) in [
        ("chipset", "suite=pal-reset-chipset"),
        ("keyboard", "suite=pal-reset-keyboard"),
        ("triple-fault", "suite=pal-reset-triple-fault"),
        ("init", "suite=pal-reset-init"),
    ] {
        let mut plan = Plan::test_guest(workshop, 2, words)?.part(part);
        plan.hardware.reset_on_triple_fault = part == "keyboard";
        let machine = workshop.start(plan)?;
        let output = machine.console().expect(END, SUITE)?;
        passed(&output).map_err(|error| error.context(words))?;
    }
    Ok(())
}
