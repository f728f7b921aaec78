//! Every monitor command, on a stopped Debian: each answers what its help promises.

use anyhow::{Result, ensure};

use super::{COMMAND, Plan, Workshop};

/// Commands, and what their answers must contain.
const COMMANDS: &[(&str, &str)] = &[
    (
        "help",
        r"(?s)vmcs.*cpus.*log.*regs.*xp.*wp.*msr.*nmi.*exits.*version",
    ),
    ("version", r"Stillpoint \d+\.\d+\.\d+"),
    (
        "cpus",
        r"(?s)\* CPU \d  rip [0-9a-f]{16}  cr3 .*CPU 1  rip ",
    ),
    ("log", r"(?i)stillpoint"),
    (
        "trace",
        r"(?s)exit .* at 0x.*stop \d+ joined.*debugger stops: debug line\s*$",
    ),
    ("exits", r"CPUID|CR_ACCESS|EPT"),
    ("regs host", r"(?i)rip"),
    ("xp /4xb 0x7c00", r"0x[0-9a-f]{2}"),
    ("msr 0xc0000082", r"lstar = 0xffffffff[0-9a-f]{8}"),
    ("gva2gpa 0xffffffff81000000", r"0x[0-9a-f]+"),
    ("breakpoints", r"none|no "),
    ("arch", r"16"),
    ("nmi 9", r"error"),
    ("pal", r"no PAL is registered"),
    ("pal page 0x7c00", r"page 0x7000: the guest's"),
    ("pal kill 0", r"error: there is no PAL 0"),
    // Every CPU has been kicked by now, but for the one that holds the machine.
    (
        "nmi",
        r"(?m)^  1 +[1-9][0-9]*( +[0-9]+){8}\s[^!]*^balances:",
    ),
    ("vmcs", r"(?is)NMI.*0.*\n.*1"),
    ("vmcs all", r"GUEST_RIP"),
    ("vmcs GUEST_RIP", r"0x[0-9a-f]+"),
    ("vmcs guest_cr3 1", r"0x[0-9a-f]+"),
    ("vmcs 0x681e", r"GUEST_RIP"),
    (
        "vmcs check",
        r"(?s)cpu 0: the VMCS passes.*cpu 1: the VMCS passes",
    ),
    (
        "vmcs diff",
        r"cpu 0: (\d+ fields? changed|nothing changed|this is the first stop)",
    ),
    ("vmcs set GUEST_CR0 0", r"(?i)error|refuse"),
    ("vmcs nonsense", r"(?i)error"),
    ("nonsense", r"(?i)error"),
];

/// What is run below, with its effect.
const WRITING: &[&str] = &["wp"];

/// Runs them all; then the writing ones, which must have their effect.
pub fn every_command(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    // It reports the NMI that nobody claims.
    console.silence_kernel(COMMAND)?;
    let mut gdb = workshop.attach(&machine)?;
    for (command, pattern) in COMMANDS {
        gdb.expect(&format!("monitor {command}"), pattern)?;
    }
    // Each command that help lists has help of its own, and is run here.
    let help = gdb.command("monitor help")?;
    let names: Vec<&str> = help
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .take_while(|name| *name != "version")
        .collect();
    ensure!(names.len() > 10, "help lists {names:?}");
    for name in names {
        ensure!(
            WRITING
                .iter()
                .chain(COMMANDS.iter().map(|(command, _)| command))
                .any(|command| command.split(' ').next() == Some(name)),
            "{name} is not run"
        );
        let own = gdb.command(&format!("monitor help {name}"))?;
        ensure!(
            own.contains(name) && !own.contains("error"),
            "help {name}: {own}"
        );
    }
    // A physical write is seen by a physical read; the old byte is put back.
    let old = gdb.command("monitor xp /1xb 0x7000")?;
    gdb.command("monitor wp /b 0x7000 0x5a")?;
    gdb.expect("monitor xp /1xb 0x7000", "0x5a")?;
    let byte = old.split("0x").last().unwrap_or_default().trim().to_owned();
    gdb.command(&format!("monitor wp /b 0x7000 0x{byte}"))?;
    ensure!(
        gdb.command("monitor xp /1xb 0x7000")? == old,
        "the old byte is not back"
    );

    // An NMI that is owed to the guest arrives there: Linux counts it.
    gdb.expect("detach", "detached")?;
    let before = console.nmis(COMMAND)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.command("monitor nmi 1")?;
    gdb.expect("detach", "detached")?;
    let after = console.nmis(COMMAND)?;
    ensure!(
        after.first() == before.first() && after.get(1) == before.get(1).map(|n| n + 1).as_ref(),
        "NMIs before {before:?}, after {after:?}"
    );
    Ok(())
}
