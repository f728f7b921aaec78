//! Debugging sessions as such: they come, go, break off, and the guest lives on.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{COMMAND, Plan, Workshop};
use crate::console::Console;
use crate::rsp::{RawClient, packet};

const ROUNDS: u32 = 20;

/// Attach and detach again and again while the guest works on both CPUs.
pub fn attach_and_detach(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    console.check("./load >/tmp/load 2>&1 & sleep 2", COMMAND)?;
    let mut before = beats(&mut console)?;
    for round in 1..=ROUNDS {
        let mut gdb = workshop.attach(&machine)?;
        let threads = gdb.command("info threads")?;
        let count = threads
            .lines()
            .filter(|line| line.contains("Thread "))
            .count();
        ensure!(count == 2, "round {round}: {threads}");
        gdb.expect("detach", "detached")?;
        drop(gdb);
        if round % 5 == 0 {
            console.check("sleep 2", COMMAND)?;
            let after = beats(&mut console)?;
            ensure!(
                after > before,
                "round {round}: the guest's load stands still"
            );
            before = after;
        }
    }
    Ok(())
}

/// How often the guest's load has checked itself; it must not have found an error.
fn beats(console: &mut Console) -> Result<u32> {
    let failed = console.check("grep -c FAILED /tmp/load || true", COMMAND)?;
    ensure!(failed.trim() == "0", "the guest's load found an error");
    Ok(console
        .check("grep -c beat= /tmp/load", COMMAND)?
        .trim()
        .parse()?)
}

/// Clients that go without a word: in the middle of a packet, while the guest runs, while it is stopped.
pub fn killed_client(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    let mut raw = RawClient::connect(machine.debug.port())?;
    raw.raw(b"+")?;
    raw.request(
        "qSupported:swbreak+;vContSupported+",
        Duration::from_secs(30),
    )?;
    raw.raw(b"$mffffffff81000000,4")?;
    drop(raw);

    // The machine is stopped now, and the next client must find it as if nothing had been.
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect("x/2xw _text", r"0x[0-9a-f]{8}\s+0x[0-9a-f]{8}")?;
    gdb.command("break kernel_clone")?;
    drop(gdb);

    // Killed while stopped; the breakpoint was never inserted. Now killed while the guest runs, with one in.
    let mut gdb = workshop.attach(&machine)?;
    gdb.command("break __x64_sys_reboot")?;
    gdb.begin("continue")?;
    console.check("true", COMMAND)?;
    drop(gdb);
    console.check("./test 3", COMMAND)?;

    let mut gdb = workshop.attach(&machine)?;
    // What a client reads never shows breakpoints; what the stub says of itself does.
    gdb.expect("monitor breakpoints", r"^none now\b")?;
    gdb.expect("detach", "detached")?;
    console.check("./test 4", COMMAND)?;
    Ok(())
}

/// Noise on the idle line, wrong checksums, and a `-`: the guest goes on, and gdb can attach.
pub fn noise(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    let mut raw = RawClient::connect(machine.debug.port())?;
    for noise in [
        &b"\xff\x00\x55\xaa"[..],
        b"hello, is there anybody?\r\n",
        b"$qSup#00",
        b"$$$###",
        b"++++----",
        b"}}}}",
    ] {
        raw.raw(noise)?;
        // Stopped by the noise, it must go on by itself.
        console.check("./test 5", COMMAND)?;
    }
    // A good packet after a bad one: refused, repeated, answered.
    raw.raw(b"$qSupported#00")?;
    let patience = Duration::from_secs(30);
    let mut byte = raw.byte(patience)?;
    while byte != b'-' {
        byte = raw.byte(patience)?;
    }
    let answer = raw.request("qSupported:swbreak+", patience)?;
    ensure!(answer.contains("PacketSize="), "{answer}");
    // Not acknowledged: sent again.
    raw.raw(packet("?").as_bytes())?;
    let first = raw.packet(patience)?;
    raw.raw(b"-")?;
    let stopped = raw.reply(patience)?;
    ensure!(first == stopped, "{first}, and again {stopped}");
    ensure!(stopped.starts_with(['T', 'S']), "{stopped}");
    raw.request("D", patience)?;
    drop(raw);
    thread::sleep(Duration::from_millis(500));

    console.check("./test 6", COMMAND)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect("info threads", r"(?s)Thread.*Thread")?;
    gdb.expect("detach", "detached")?;
    console.check("./test 7", COMMAND)?;
    Ok(())
}
