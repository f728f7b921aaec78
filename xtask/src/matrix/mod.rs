//! `cargo xtask matrix`: the table of what runs on which Debian, with programs of which width and
//! how many CPUs, seen and not remembered. Writes docs/matrix.md.

mod boot;
mod kept;
mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use xshell::{Shell, cmd};

use crate::kernel::Debian;
use crate::progress::say;
use crate::scenarios::Workshop;
use crate::{compile, paths, setup};
use boot::PROGRAMS;
use compile::Flavour;
use table::{Cell, Results, Row};

/// What is written, in the workspace.
const PAGE: &str = "docs/matrix.md";

/// How many CPUs the machines have.
const CPUS: [u32; 3] = [1, 2, 4];

/// Run every demo program on full Debians of both architectures with 1, 2 and 4 CPUs; print what is
/// good and what is bad, and write it to docs/matrix.md.
///
/// Each machine boots to its login prompt. Each program runs in two loops at once while NMIs come. It is
/// good if every run of it was right, the kernel has no complaint, and saw every NMI. About an hour. What
/// was seen of a machine is kept until that machine is run again.
#[derive(Args)]
pub struct MatrixArgs {
    /// Only Debian of this architecture.
    #[arg(long, value_enum, value_name = "ARCHITECTURE")]
    debian: Option<Debian>,
    /// Only with so many CPUs: 1, 2 or 4.
    #[arg(long)]
    cpus: Option<u32>,
}

/// `cargo xtask matrix`.
pub fn command(args: &MatrixArgs) -> Result<ExitCode> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    compile::image(&shell, Flavour::Release)?;
    let revision = revision(&shell)?;
    if let Some(cpus) = args.cpus {
        ensure!(
            CPUS.contains(&cpus),
            "no machine of the matrix has {cpus} CPUs"
        );
    }
    let mut seen = Results::default();
    let mut all = Results::default();
    for debian in [Debian::I386, Debian::Amd64] {
        for cpus in CPUS {
            if args.debian.is_none_or(|only| only == debian)
                && args.cpus.is_none_or(|only| only == cpus)
            {
                let mut one = Results::default();
                one.runs.entry((debian, cpus)).or_default().revision = revision.clone();
                machine(debian, cpus, &mut one)?;
                kept::write(debian, cpus, &one)?;
                seen.extend(one);
            }
            kept::read(debian, cpus, &mut all)?;
        }
    }
    let names = PROGRAMS.map(|program| program.name);
    let (table, complaints) = (seen.table(&names), seen.complaints(&names));
    println!("{table}{complaints}\n{}", seen.times());
    let path = paths::root().join(PAGE);
    fs::write(&path, page(&all, &names))?;
    println!("written to {}", path.display());
    Ok(if seen.all_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The revision of Stillpoint, as git names it, with `-dirty` if a file is changed. [`PAGE`] does not
/// count: the machine before has changed it.
fn revision(shell: &Shell) -> Result<String> {
    let _here = shell.push_dir(paths::root());
    let name = cmd!(shell, "git describe --always").quiet().read()?;
    let changed = cmd!(shell, "git diff --name-only HEAD -- . :(exclude){PAGE}")
        .quiet()
        .read()?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Ok(name + dirty)
}

/// Runs one machine. What keeps a machine from running its programs makes them bad.
fn machine(debian: Debian, cpus: u32, results: &mut Results) -> Result<()> {
    let name = format!("matrix-{}-{cpus}", debian.name());
    say(format!("{}, {}", table::system(debian), table::count(cpus)));
    let workshop = Workshop::new(&name)?;
    let result = boot::run(&workshop, debian, cpus, results);
    if let Err(error) = &result {
        eprintln!("{error:#}\n{}", workshop.report());
    }
    workshop.tidy();
    let why = match result {
        Ok(()) => return Ok(()),
        Err(error) => format!("the machine: {error:#}"),
    };
    for &width in boot::widths(debian) {
        for program in 0..PROGRAMS.len() {
            let row = Row {
                debian,
                width,
                program,
            };
            results.cells.entry((row, cpus)).or_insert_with(|| Cell {
                bad: Some(why.clone()),
                nmis: 0,
            });
        }
    }
    Ok(())
}

fn page(results: &Results, names: &[&str]) -> String {
    let complaints = match results.complaints(names) {
        none if none.is_empty() => none,
        some => format!("```\n{some}```\n\n"),
    };
    let seconds: u64 = results.runs.values().map(|run| run.all).sum();
    format!(
        "# What runs where

Written by `cargo xtask matrix`; the machines took {} minutes on the emulator.

```rst
{}```

{complaints}A 32-bit Debian runs no 64-bit programs, so there are three combinations of system and application. An empty cell
has not been run. Each machine is a full Debian ([testing](testing.md#the-full-debian)) under Stillpoint, with its own GRUB and
kernel, systemd, and a login. A program runs in two loops at once; of the x64 ones, one is written in Rust and the other in C,
where there are both. Meanwhile NMIs come: from the debugger, one after the other, to any CPU; and with several CPUs from
the kernel too, by SysRq-l. A cell is good if every run of the program printed what it should and ended with status 0,
the kernel had no complaint, and its own count of NMIs equals Stillpoint's on each CPU. One warning is expected: Linux 6.1
gives it for the #GP with which the kernel itself is refused a write to a PAL's page, which `attack` asks it for.

{}",
        seconds.div_ceil(60),
        results.table(names),
        results.times()
    )
}
