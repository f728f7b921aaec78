//! The hypervisor's own faults and panics: gdb sees the hypervisor's registers and stack.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{BOOT, Plan, Workshop};
use crate::gdb::Gdb;

/// Provokes what `hook` does, and looks at it from gdb.
fn provoke(workshop: &Workshop, hook: &str, cause: &str) -> Result<()> {
    let plan = Plan::debian(2).test_hooks();
    let (machine, mut console) = workshop.boot(plan)?;
    console.send(&format!("./hook {hook}\n"))?;
    // The cause is on COM1 before any client is there.
    console.expect(cause, Duration::from_secs(60))?;
    let mut gdb = Gdb::start(&workshop.test_hooks_image()?)?;
    gdb.attach(machine.debug.port())?;
    let rip = gdb.number("$rip")?;
    ensure!(
        rip >= 1 << 63,
        "these are not the hypervisor's registers: {rip:#x}"
    );
    let stack = gdb.command("backtrace")?;
    ensure!(
        stack.contains("hypervisor/src/"),
        "no backtrace with the image's symbols:\n{stack}"
    );
    gdb.expect("info threads", r"(?s)Thread.*Thread")?;
    gdb.expect("monitor log", "(?i)stillpoint")?;
    Ok(())
}

/// A panic by a test-only hypercall.
pub fn panic(workshop: &Workshop) -> Result<()> {
    provoke(workshop, "panic", r"the hypervisor panicked: [^\n]*\n")
}

/// A page fault in VMX root operation.
pub fn fault(workshop: &Workshop) -> Result<()> {
    provoke(workshop, "page-fault", r"(?i)#PF|page fault")?;
    // The image that people run does not know the call.
    let (_machine, mut console) = workshop.boot(Plan::debian(1).part("release"))?;
    let answer = console.run("./hook panic", BOOT)?;
    ensure!(
        answer.status != 0,
        "the release image answers a test hook: {answer:?}"
    );
    Ok(())
}
