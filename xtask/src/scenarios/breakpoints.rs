//! Breakpoints and watchpoints in a running kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use regex::Regex;

use super::{COMMAND, Plan, Workshop};
use crate::console::Console;
use crate::gdb::Gdb;

/// How long the guest may take to come to a breakpoint that it often passes.
const HIT: Duration = Duration::from_secs(120);

/// Makes every CPU start processes without end.
fn fork_on_each_cpu(console: &mut Console, cpus: u32) -> Result<()> {
    for cpu in 0..cpus {
        let loop_ = format!(
            "taskset {:x} sh -c 'while :; do /bin/true; done' &",
            1 << cpu
        );
        console.check(&loop_, COMMAND)?;
    }
    Ok(())
}

fn continue_to_stop(gdb: &mut Gdb) -> Result<String> {
    gdb.begin("continue")?;
    gdb.finish(HIT)
}

/// The CPU that gdb has selected, as its thread number.
fn current_thread(gdb: &mut Gdb) -> Result<u32> {
    let answer = gdb.command("output $_thread")?;
    Ok(answer.trim().parse()?)
}

/// A software breakpoint in a function that every CPU runs is hit on each.
pub fn on_each_cpu(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    fork_on_each_cpu(&mut console, 2)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect("break kernel_clone", "Breakpoint 1 at 0x")?;
    // What the client reads never shows the breakpoint itself, which has to be there for that.
    gdb.command("set breakpoint always-inserted on")?;
    let before = gdb.command("x/1xb kernel_clone")?;
    let address = gdb.number("&kernel_clone")?;
    let names = Regex::new(r"(?s)#0 .*kernel_clone.*do_syscall_64.*entry_SYSCALL_64")?;
    let mut seen = BTreeSet::new();
    for round in 0..40 {
        let stop = continue_to_stop(&mut gdb)?;
        ensure!(stop.contains("Breakpoint 1"), "round {round}: {stop}");
        let rip = gdb.number("$rip")?;
        ensure!(rip == address, "round {round}: stopped at {rip:#x}");
        seen.insert(current_thread(&mut gdb)?);
        if round == 0 {
            let stack = gdb.command("backtrace")?;
            ensure!(names.is_match(&stack), "{stack}");
            ensure!(
                gdb.command("x/1xb kernel_clone")? == before,
                "the breakpoint shows"
            );
        }
        if seen.len() == 2 {
            break;
        }
    }
    ensure!(seen.len() == 2, "hit on the CPUs {seen:?} only");
    gdb.command("delete")?;
    gdb.expect("detach", "detached")?;
    console.check("./test 1", COMMAND)?;
    Ok(())
}

/// A breakpoint in a debug register.
pub fn hardware(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    fork_on_each_cpu(&mut console, 2)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect(
        "hbreak kernel_clone",
        "Hardware assisted breakpoint 1 at 0x",
    )?;
    let address = gdb.number("&kernel_clone")?;
    for round in 0..6 {
        let stop = continue_to_stop(&mut gdb)?;
        ensure!(stop.contains("Breakpoint 1"), "round {round}: {stop}");
        let rip = gdb.number("$rip")?;
        ensure!(rip == address, "round {round}: stopped at {rip:#x}");
    }
    gdb.command("delete")?;
    gdb.expect("detach", "detached")?;
    console.check("./test 1", COMMAND)?;
    Ok(())
}

/// A write watchpoint on a counter of the kernel sees it go up by one, in the function that counts.
pub fn watchpoint(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    fork_on_each_cpu(&mut console, 2)?;
    let mut gdb = workshop.attach(&machine)?;
    // Counted up at each fork (kernel/fork.c).
    gdb.expect(
        "watch *(unsigned long *)&total_forks",
        "Hardware watchpoint 1",
    )?;
    let values = Regex::new(r"Old value = (\d+)\s+New value = (\d+)")?;
    for round in 0..3 {
        let stop = continue_to_stop(&mut gdb)?;
        let Some(found) = values.captures(&stop) else {
            anyhow::bail!("round {round}: {stop}");
        };
        let (old, new): (u64, u64) = (found[1].parse()?, found[2].parse()?);
        ensure!(new == old + 1, "round {round}: from {old} to {new}");
        let place = gdb.command("info symbol $rip")?;
        ensure!(place.starts_with("copy_process"), "round {round}: {place}");
    }
    gdb.command("delete")?;
    gdb.expect("awatch *(unsigned long *)&total_forks", "watchpoint 2")?;
    let stop = continue_to_stop(&mut gdb)?;
    ensure!(stop.contains("alue ="), "{stop}");
    gdb.command("delete")?;
    gdb.expect("detach", "detached")?;
    console.check("./test 1", COMMAND)?;
    Ok(())
}
