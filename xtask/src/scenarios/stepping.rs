//! Single steps: one instruction each, with interrupts held.

use std::time::Duration;

use anyhow::{Result, ensure};
use regex::Regex;

use super::{COMMAND, Plan, Workshop};

const STEPS: usize = 1000;

/// Steps through kernel code with interrupts enabled, for many ticks of the timer: no step ends
/// in an interrupt's entry, time stands still for the kernel, and afterwards it goes on.
pub fn a_thousand_steps(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    // After stops as long as these it may report lockups.
    console.silence_kernel(COMMAND)?;
    console.check("sh -c 'while :; do /bin/true; done' &", COMMAND)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.command("break kernel_clone")?;
    gdb.begin("continue")?;
    let stop = gdb.finish(COMMAND)?;
    ensure!(stop.contains("Breakpoint 1"), "{stop}");
    gdb.command("delete")?;
    let enabled = gdb.number("$eflags & 0x200")?;
    ensure!(
        enabled != 0,
        "interrupts are off here: the test would show nothing"
    );

    let jiffies = "*(unsigned long *)&jiffies";
    let ticks = gdb.number(jiffies)?;
    gdb.command("set $count = 0")?;
    gdb.begin(&format!(
        "while $count < {STEPS}\nstepi\nset $count = $count + 1\nend"
    ))?;
    let steps = gdb.finish(Duration::from_secs(900))?;
    let places = Regex::new(r"0x[0-9a-f]{16} in (\w+)")?;
    let places: Vec<&str> = places
        .captures_iter(&steps)
        .filter_map(|found| found.get(1))
        .map(|name| name.as_str())
        .collect();
    ensure!(
        places.len() == STEPS,
        "{} steps of {STEPS} seen",
        places.len()
    );
    let strays: Vec<&&str> = places
        .iter()
        .filter(|name| {
            name.contains("sysvec") || name.contains("common_interrupt") || name.starts_with("asm_")
        })
        .collect();
    ensure!(strays.is_empty(), "steps landed in {strays:?}");
    let after = gdb.number(jiffies)?;
    ensure!(
        after == ticks,
        "the kernel counted {} ticks meanwhile",
        after - ticks
    );

    // The held interrupts come when the guest goes on.
    let stop = gdb.continue_for(Duration::from_secs(3))?;
    ensure!(
        stop.contains("SIGINT") || stop.contains("SIGTRAP"),
        "{stop}"
    );
    let later = gdb.number(jiffies)?;
    ensure!(later > ticks, "time stands still");
    gdb.expect("detach", "detached")?;
    console.check("./test 1", COMMAND)?;
    Ok(())
}
