//! One machine of the matrix: a full Debian under Stillpoint. Each program runs in two loops at once
//! while NMIs arrive, and what they print is judged, and what the kernel and the ledger of NMIs say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use super::table::{Cell, Results, Row};
use crate::c_programs::Width;
use crate::compile::Flavour;
use crate::console::Console;
use crate::full_debian::FullDebian;
use crate::kernel::{Debian, REFUSED_WRITE, TROUBLE};
use crate::machine::GuestDisk;
use crate::progress::say;
use crate::scenarios::{Plan, Workshop};
use crate::storm::debugger;
use crate::storm::tally::Tally;

/// A demo program and what shows that it went well.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    arguments: &'static str,
    /// How often each of the two loops runs it.
    rounds: usize,
    /// What it prints each time, at least once.
    says: &'static str,
    /// Whether it has the micro-TPM's key made, which Linux may take for a lockup.
    makes_key: bool,
}

/// All of them, in the order of the table.
pub const PROGRAMS: [Program; 5] = [
    Program {
        name: "main",
        arguments: "7 8",
        rounds: 2,
        says: r"With PAL:\s+0x8 = \*\S+\s+0xf = my_pal\(0x7, \S+\)\s+0x9 = ",
        makes_key: false,
    },
    Program {
        name: "test",
        arguments: "7",
        rounds: 10,
        says: r"(?m)^0 = vmcall\(TV_HC_TEST, 7\)",
        makes_key: false,
    },
    Program {
        name: "test_args",
        arguments: "7 7 7",
        rounds: 1,
        says: r"(?m)^Test pass",
        makes_key: false,
    },
    Program {
        name: "utpm",
        arguments: "",
        rounds: 1,
        says: r"(?m)^utpm: all ok",
        makes_key: true,
    },
    Program {
        name: "attack",
        arguments: "",
        rounds: 1,
        says: r"(?m)^all \d+ attempts refused",
        makes_key: false,
    },
];

/// From power-on to the login prompt.
const BOOT: Duration = Duration::from_secs(1800);
/// The two loops of a program.
const LOOPS: Duration = Duration::from_secs(1200);
const COMMAND: Duration = Duration::from_secs(300);

/// What makes a boot light on an emulator and leaves everything in place that a program can see.
const QUICK: &str = "mitigations=off tsc=reliable cryptomgr.notests=1 \
                     initcall_blacklist=trace_eval_init,init_kprobes";

/// The kernel asks the other CPUs for backtraces by NMIs until the loops have ended. There are none
/// on one CPU; there they come from the debugger alone.
const SYSRQ: &str =
    "while [ ! -e /tmp/ended ]; do echo l >/proc/sysrq-trigger; sleep 2; done & NMIS=$!";

/// Boots Debian on `cpus` CPUs and runs every program, in both widths if there are two. What is seen
/// goes to `results`; the error is for what keeps all from being run.
pub fn run(workshop: &Workshop, debian: Debian, cpus: u32, results: &mut Results) -> Result<()> {
    let start = Instant::now();
    let mut plan = Plan::debian(cpus);
    plan.hypervisor = Some((Flavour::Release, "debug=com2 log=com1"));
    plan.guest = GuestDisk::Full(FullDebian {
        debian,
        cmdline: QUICK.into(),
        ..FullDebian::default()
    });
    let machine = workshop.start(plan)?;
    let booted = Instant::now();
    let mut console = machine.console();
    console.log_in(BOOT)?;
    let boot = booted.elapsed();
    say(format!("    logged in after {} s", boot.as_secs()));
    // The loops leave udev little of one CPU, and it kills what takes it too long, in the middle of a module.
    console.check("udevadm settle --timeout=900", BOOT)?;
    console.silence_kernel(COMMAND)?;
    console.check("dmesg -c >/dev/null", COMMAND)?;
    let online = console.check("nproc", COMMAND)?;
    ensure!(online.trim() == cpus.to_string(), "{online} CPUs online");

    let mut guest = Guest {
        console,
        debug_port: machine.debug.port(),
        cpus,
    };
    for &width in widths(debian) {
        for (program, what) in PROGRAMS.iter().enumerate() {
            let row = Row {
                debian,
                width,
                program,
            };
            let files = workshop.guest_programs(debian)?;
            let cell = match names(&files, what.name, debian, width) {
                Some(names) => guest.cell(what, &names),
                None => Cell {
                    bad: Some("there is no such program".into()),
                    nmis: 0,
                },
            };
            let verdict = cell.bad.as_deref().unwrap_or("good");
            say(format!("    {}, {width:?}: {verdict}", what.name));
            let bad = cell.bad.is_some();
            results.cells.insert((row, cpus), cell);
            if bad {
                guest
                    .console
                    .check("true", COMMAND)
                    .with_context(|| format!("no answer after {}", what.name))?;
            }
        }
    }
    let run = results.runs.entry((debian, cpus)).or_default();
    run.boot = boot.as_secs();
    run.all = start.elapsed().as_secs();
    Ok(())
}

/// How wide the programs are that a Debian runs.
pub fn widths(debian: Debian) -> &'static [Width] {
    match debian {
        Debian::Amd64 => &[Width::Bits32, Width::Bits64],
        Debian::I386 => &[Width::Bits32],
    }
}

/// The files of a program, one for each loop: of 64-bit programs the Rust one and the C one.
fn names(files: &[String], name: &str, debian: Debian, width: Width) -> Option<[String; 2]> {
    let wide = match width {
        Width::Bits64 => [name.to_owned(), format!("{name}64")],
        Width::Bits32 if debian == Debian::I386 => [name.to_owned(), name.to_owned()],
        Width::Bits32 => [format!("{name}32"), format!("{name}32")],
    };
    let found: Vec<String> = wide
        .into_iter()
        .filter(|name| files.contains(name))
        .collect();
    match &found[..] {
        [both] => Some([both.clone(), both.clone()]),
        [first, second] => Some([first.clone(), second.clone()]),
        _ => None,
    }
}

/// The machine, logged in.
struct Guest {
    console: Console,
    debug_port: u16,
    cpus: u32,
}

impl Guest {
    /// Runs one program, as the table wants it.
    fn cell(&mut self, program: &Program, names: &[String; 2]) -> Cell {
        let before = self.nmis().unwrap_or_default();
        let result = self
            .loops(program, names)
            .and_then(|()| self.kernel_is_well())
            .and_then(|()| self.nmis());
        match result {
            Ok(after) if after > before => Cell {
                bad: None,
                nmis: after - before,
            },
            Ok(_) => Cell {
                bad: Some("no NMI came".into()),
                nmis: 0,
            },
            Err(error) => Cell {
                bad: Some(format!("{error:#}")),
                nmis: 0,
            },
        }
    }

    /// Both loops of a program while NMIs come, from the debugger and from the kernel.
    fn loops(&mut self, program: &Program, names: &[String; 2]) -> Result<()> {
        let Program {
            arguments, rounds, ..
        } = program;
        let one = |number: usize, name: &str| {
            format!(
                "for i in $(seq {rounds}); do ./{name} {arguments}; echo status=$?; done >/tmp/{number} 2>&1 & P{number}=$!"
            )
        };
        let command = format!(
            "rm -f /tmp/ended; {SYSRQ}; {}; {}; wait $P0 $P1; touch /tmp/ended; wait $NMIS; cat /tmp/0; echo; echo ----; cat /tmp/1",
            one(0, &names[0]),
            one(1, &names[1])
        );
        if program.makes_key {
            self.console.detect_lockups(false, COMMAND)?;
        }
        let ended = AtomicBool::new(false);
        let (port, cpus) = (self.debug_port, self.cpus);
        let (output, sender) = thread::scope(|scope| {
            let sender = scope.spawn(|| send_nmis(port, cpus, &ended));
            let output = self.console.check(&command, LOOPS);
            ended.store(true, Ordering::Relaxed);
            (output, sender.join())
        });
        let output = output?;
        if program.makes_key {
            self.console.detect_lockups(true, COMMAND)?;
        }
        match sender {
            Ok(result) => result.context("NMIs by the debugger")?,
            Err(_) => bail!("the debugger's thread panicked"),
        }
        let (first, second) = output.split_once("----\n").context("two outputs")?;
        for (name, output) in names.iter().zip([first, second]) {
            judge(program, output).with_context(|| format!("{name} printed\n{output}"))?;
        }
        Ok(())
    }

    /// The kernel has no complaint (that programs fault is none: `attack` does), and its handler saw
    /// exactly the NMIs that were injected.
    fn kernel_is_well(&mut self) -> Result<()> {
        let complaints = self.console.check(
            &format!("dmesg -c | grep -v '{REFUSED_WRITE}' | grep -E '{TROUBLE}'; echo complaints=$? taint=$(cat /proc/sys/kernel/tainted)"),
            COMMAND,
        )?;
        // grep found none.
        ensure!(
            ["complaints=1 taint=0\n", "complaints=1 taint=512\n"]
                .iter()
                .any(|well| complaints.contains(well)),
            "the kernel complains: {complaints}"
        );
        debugger::ensure_all_seen(&mut self.console, self.debug_port)?;
        Ok(())
    }

    fn nmis(&mut self) -> Result<u64> {
        Ok(self.console.nmis(COMMAND)?.iter().sum())
    }
}

/// Sends NMIs by the debugger until told to end, each with a pause of about the time that it took.
fn send_nmis(port: u16, cpus: u32, ended: &AtomicBool) -> Result<()> {
    let mut seed = 0;
    while !ended.load(Ordering::Relaxed) {
        let start = Instant::now();
        debugger::owe(port, cpus, seed, 1, &mut Tally::default())?;
        seed += 1;
        thread::sleep(start.elapsed().max(Duration::from_millis(500)));
    }
    Ok(())
}

/// Whether the output of a loop is right.
fn judge(program: &Program, output: &str) -> Result<()> {
    let said = Regex::new(program.says)?.find_iter(output).count();
    let well = output.lines().filter(|line| *line == "status=0").count();
    ensure!(
        well == program.rounds && said >= program.rounds,
        "of {} rounds {well} ended with status 0, {said} said the right thing",
        program.rounds
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{PROGRAMS, judge, names};
    use crate::c_programs::Width;
    use crate::kernel::Debian;

    #[test]
    fn a_loop_is_good_only_if_every_round_was() {
        let test = &PROGRAMS[1];
        let good = "0 = vmcall(TV_HC_TEST, 7)\nstatus=0\n".repeat(test.rounds);
        assert!(judge(test, &good).is_ok());
        assert!(judge(test, &good.replacen("status=0", "status=1", 1)).is_err());
        assert!(judge(test, &good.replacen("0 = ", "1 = ", 1)).is_err());
        assert!(judge(test, "").is_err());

        let main = &PROGRAMS[0];
        let good = "Without PAL:\n 0x8 = *0x1\n 0xf = my_pal(0x7, 0x1)\n 0x9 = *0x1\n\n\
                    With PAL:\n 0x8 = *0x1\n 0xf = my_pal(0x7, 0x1)\n 0x9 = *0x1\n\nstatus=0\n";
        assert!(judge(main, &good.repeat(2)).is_ok());
        let wrong = good.replacen(
            "With PAL:\n 0x8 = *0x1\n 0xf",
            "With PAL:\n 0x8 = *0x1\n 0xe",
            1,
        );
        assert!(judge(main, &wrong.repeat(2)).is_err());
    }

    #[test]
    fn each_loop_has_its_program() {
        let files = ["test", "test64", "test32", "utpm32"].map(str::to_owned);
        let of = |name, debian, width| names(&files, name, debian, width);
        let pair = |a: &str, b: &str| Some([a.to_owned(), b.to_owned()]);
        assert_eq!(
            of("test", Debian::Amd64, Width::Bits64),
            pair("test", "test64")
        );
        assert_eq!(
            of("test", Debian::Amd64, Width::Bits32),
            pair("test32", "test32")
        );
        assert_eq!(
            of("test", Debian::I386, Width::Bits32),
            pair("test", "test")
        );
        assert_eq!(of("utpm", Debian::Amd64, Width::Bits64), None);
    }
}
