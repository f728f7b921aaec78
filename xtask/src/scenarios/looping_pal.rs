//! A PAL that does not end: gdb stops in it, is refused its memory until it asks for it, and
//! ends it; its program is told, and Debian goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde_json::Value;

use super::{COMMAND, Plan, Workshop};
use crate::console::Console;
use crate::gdb::Gdb;
use crate::kernel::TROUBLE;
use crate::machine::Machine;

/// A program that calls a PAL which loops for ever, and how `monitor pal` shows its code.
struct Looping {
    program: &'static str,
    bits: &'static str,
    /// How GDB's list of threads calls its mode: a 32-bit program of a 64-bit system.
    mode: &'static str,
}

const PROGRAMS: [Looping; 2] = [
    Looping {
        program: "spin",
        bits: "64-bit",
        mode: "64-bit",
    },
    Looping {
        program: "spin32",
        bits: "32-bit",
        mode: "compatibility",
    },
];

/// gdb stops in a looping PAL and kills it, for a 64-bit and a 32-bit one.
pub fn is_killed(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    for looping in &PROGRAMS {
        let program = looping.program;
        // The PAL keeps interrupts off on its CPU for as long as gdb works.
        console.detect_lockups(false, COMMAND)?;
        // Not on CPU 0, which the console's interrupts go to.
        console.check(
            &format!(
                "(taskset 2 ./{program} > {program}.out 2>&1; echo status $? >> {program}.out) &"
            ),
            COMMAND,
        )?;
        let mut gdb = stop_inside(workshop, &machine, looping)?;
        look_and_kill(&mut gdb, looping).with_context(|| format!("a PAL of {program}"))?;
        gdb.expect("detach", "detached")?;
        let output = end_of(&mut console, program)?;
        console.detect_lockups(true, COMMAND)?;
        ensure!(
            output.contains("ended") && output.ends_with("status 0"),
            "{program}: {output}"
        );
        console.check("./test 9", COMMAND)?;
    }
    console.check(&format!("! dmesg | grep -E '{TROUBLE}'"), COMMAND)?;
    picture(workshop, &machine)
}

/// Attaches until CPU 1 is inside the PAL.
fn stop_inside(workshop: &Workshop, machine: &Machine, looping: &Looping) -> Result<Gdb> {
    let running = Regex::new(&format!(
        r"(?m)^  0  [0-9a-f]{{12}}  {}  4-level  [0-9a-f]{{16}}  +\d+  running +1  [0-9a-f]{{40}}$",
        looping.bits
    ))?;
    let deadline = Instant::now() + COMMAND;
    loop {
        let mut gdb = workshop.attach(machine)?;
        let table = gdb.command("monitor pal")?;
        if running.is_match(&table) {
            return Ok(gdb);
        }
        gdb.expect("detach", "detached")?;
        if Instant::now() > deadline {
            bail!(
                "CPU 1 does not come into the PAL of {}: {table}",
                looping.program
            );
        }
    }
}

fn look_and_kill(gdb: &mut Gdb, looping: &Looping) -> Result<()> {
    gdb.expect(
        "info threads",
        &format!(r#"Thread 2 "cpu1" \(PAL 0 {}\)"#, looping.mode),
    )?;
    gdb.command("thread 2")?;

    // Its memory is closed, by virtual and by physical address, to reads and writes.
    let rip = gdb.number("$rip")?;
    let found = gdb.expect(&format!("monitor gva2gpa {rip:#x}"), "is gpa 0x")?;
    let gpa = found
        .trim()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned();
    let closed = "PAL 0's memory, closed until `monitor pal unlock`";
    gdb.expect("x/xb $rip", "Cannot access memory")?;
    gdb.expect("set *(char *)$rip = 0", "Cannot access memory")?;
    gdb.expect(&format!("monitor xp /b {gpa}"), closed)?;
    gdb.expect(&format!("monitor wp /b {gpa} 0x90"), closed)?;
    gdb.expect(&format!("monitor pal page {gpa}"), "PAL 0's: code, gva")?;

    // A stop inside says so, and steps go on there.
    gdb.command("hbreak *$rip")?;
    gdb.begin("continue")?;
    let stop = gdb.finish(COMMAND)?;
    ensure!(
        stop.contains("CPU 1 is inside PAL 0, whose memory stays closed"),
        "{stop}"
    );
    gdb.command("delete")?;
    gdb.command("stepi")?;
    gdb.expect("info threads", r#"\* 2 .*\(PAL 0 "#)?;

    gdb.expect("monitor pal unlock", "is open")?;
    gdb.expect("x/xb $rip", r":\s+0x[0-9a-f]{2}")?;
    gdb.expect(&format!("monitor xp /b {gpa}"), r": 0x[0-9a-f]{2}\s*$")?;
    gdb.expect(
        "monitor pal 0",
        r"(?s)PAL 0: running on CPU 1.*code .*stack .*PCR 7",
    )?;
    gdb.command("break *$rip")?;
    gdb.begin("continue")?;
    let stop = gdb.finish(COMMAND)?;
    ensure!(
        stop.contains("hit Breakpoint") && !stop.contains("closed"),
        "{stop}"
    );
    gdb.command("delete")?;
    gdb.expect("monitor pal lock", "is closed")?;
    gdb.expect("x/xb $rip", "Cannot access memory")?;

    gdb.expect("monitor pal kill 1", "error: there is no PAL 1")?;
    gdb.expect("monitor pal kill 0", "PAL 0 is ended")?;
    gdb.expect("monitor pal", "no PAL is registered")?;
    gdb.expect(&format!("monitor pal page {gpa}"), "the guest's")?;
    gdb.expect(
        "monitor trace all 300",
        "(?s)PAL 0 registered.*PAL 0 ended at 0x.*killed by the debugger",
    )?;
    Ok(())
}

/// What the program has written, once it has ended.
fn end_of(console: &mut Console, program: &str) -> Result<String> {
    let deadline = Instant::now() + COMMAND;
    loop {
        let output = console.run(&format!("cat {program}.out"), COMMAND)?.text;
        if output.contains("status ") {
            return Ok(output.trim().to_owned());
        }
        if Instant::now() > deadline {
            bail!("{program} does not end: {output}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The picture of the trace has a thread for the PALs of CPU 1.
fn picture(workshop: &Workshop, machine: &Machine) -> Result<()> {
    let mut gdb = workshop.attach(machine)?;
    let file = machine.folder().join("trace.json");
    gdb.expect(
        &format!("stillpoint-trace {} all", file.display()),
        "events are in",
    )?;
    gdb.expect("detach", "detached")?;
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let events = trace["traceEvents"].as_array().context("no traceEvents")?;
    let killed = events.iter().any(|event| {
        event["name"] == "PAL 0" && event["args"]["ended"] == "killed by the debugger"
    });
    ensure!(killed, "no slice of the PAL in {}", file.display());
    Ok(())
}
