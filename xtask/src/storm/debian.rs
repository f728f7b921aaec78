//! Debian in the storm: programs that make hypercalls, NMIs by the kernel's and the program's own
//! interprocessor interrupts, NMIs of the debugger's, and a debugger that comes and goes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::combination::Combination;
use super::debugger::{self, Debugger, Ledger};
use super::tally::{Nmis, Tally};
use crate::console::Console;
use crate::gdb::Gdb;
use crate::image::Guest;
use crate::kernel::{FAULTS, Kernel, TROUBLE};
use crate::machine::{GuestDisk, Machine};
use crate::scenarios::{COMMAND, Plan, Workshop};

/// One test's programs.
const TEST: Duration = Duration::from_secs(1200);

/// `/dev/mem` shows the local APIC.
const CMDLINE: &str = "iomem=relaxed";

/// The machine under test.
struct Debian<'a> {
    machine: &'a Machine,
    console: Console,
    storm: &'a Combination,
}

/// Boots, and runs the four tests one after the other.
pub fn run(workshop: &Workshop, storm: &Combination, tally: &mut Tally) -> Result<()> {
    let mut plan = Plan::debian(storm.cpus).test_hooks();
    plan.hardware.quantum = storm.quantum;
    plan.guest = GuestDisk::Debian(Guest {
        cmdline: CMDLINE.into(),
        programs: true,
        ..Guest::default()
    });
    let gdb = workshop.gdb(Kernel::default())?;
    let (machine, mut console) = workshop.boot(plan)?;
    console.silence_kernel(COMMAND)?;
    console.check("dmesg -c >/dev/null", COMMAND)?;
    let mut debian = Debian {
        machine: &machine,
        console,
        storm,
    };
    debian.one_loop_and_nmis(tally).context("test 1")?;
    debian.two_loops(gdb, tally).context("test 2")?;
    debian.two_loops_and_nmis(tally).context("test 3")?;
    debian.nmis_alone(tally).context("test 4")
}

impl Debian<'_> {
    /// Test 1: `test N` in a loop while NMIs come, and a debugger comes and goes.
    fn one_loop_and_nmis(&mut self, tally: &mut Tally) -> Result<()> {
        let programs = format!(
            "{} & {}; wait",
            self.test_loop(1),
            self.nmi_storm("--pattern random", 2)
        );
        let output = self.debugged(&programs, tally)?;
        tally.add_nmi_storm("Debian, IPIs", &output, true)?;
        self.all_is_well(&[1], tally)
    }

    /// Test 2: two loops at once, while the machine is stopped by a hypercall and by gdb.
    fn two_loops(&mut self, mut gdb: Gdb, tally: &mut Tally) -> Result<()> {
        let port = self.machine.debug.port();
        let person = thread::spawn(move || -> Result<()> {
            for _ in 0..3 {
                gdb.attach(port)?;
                gdb.expect("info threads", "Thread.*")?;
                gdb.expect("stepi", "0x")?;
                gdb.expect("monitor nmi", "balances:")?;
                gdb.expect("detach", "detached")?;
            }
            Ok(())
        });
        let quiesces = self.storm.size.div_ceil(4);
        let programs = format!(
            "{} & {} & for i in $(seq {quiesces}); do ./hook quiesce; done >/tmp/hooks; wait; \
             echo hooks=$(grep -c rax=0x0 /tmp/hooks)",
            self.test_loop(1),
            self.test_loop(2),
        );
        let output = self.console.check(&programs, TEST)?;
        let gdb_did = person
            .join()
            .map_err(|_| anyhow::anyhow!("gdb's thread panicked"))?;
        gdb_did.context("gdb")?;
        tally.count("attaches", 3);
        tally.count("steps", 3);
        ensure!(
            output.contains(&format!("hooks={quiesces}")),
            "stops by hypercall: {output}"
        );
        tally.count("quiesces", quiesces.into());
        self.all_is_well(&[1, 2], tally)
    }

    /// Test 3: both, and another load, while NMIs come, the kernel's own among them.
    fn two_loops_and_nmis(&mut self, tally: &mut Tally) -> Result<()> {
        let programs = format!(
            "{} & {} & ./load 4 >/tmp/load & {}; ./nmi_storm --count 5; wait; tail -n 1 /tmp/load",
            self.test_loop(1),
            self.test_loop(2),
            self.nmi_storm("--pattern turn --from 1", 2)
        );
        let output = self.debugged(&programs, tally)?;
        let (first, second) = output
            .split_once("by=sysrq")
            .context("no NMIs by SysRq-l")?;
        tally.add_nmi_storm("Debian, IPIs", first, true)?;
        let second = format!("nmi_storm by=sysrq{second}");
        tally.add_nmi_storm("Debian, SysRq-l", &second, true)?;
        ensure!(output.contains("load ok"), "the load: {output}");
        self.all_is_well(&[1, 2], tally)
    }

    /// Test 4: NMIs alone, without a pause, from inside and from outside.
    fn nmis_alone(&mut self, tally: &mut Tally) -> Result<()> {
        let programs = self.nmi_storm("--flood --pattern all", 4000);
        let output = self.debugged(&programs, tally)?;
        tally.add_nmi_storm("Debian, flood", &output, true)?;
        self.all_is_well(&[], tally)?;

        let before = self.ledgers()?;
        let Combination {
            cpus, seed, size, ..
        } = *self.storm;
        let port = self.machine.debug.port();
        debugger::owe(port, cpus, seed, size, tally)?;
        self.all_is_well(&[], tally)?;
        let after = self.ledgers()?;
        let since = |what: fn(&Ledger) -> u64| -> u64 {
            after.iter().map(what).sum::<u64>() - before.iter().map(what).sum::<u64>()
        };
        let sent = u64::from(size);
        let (seen, merged) = (
            since(|ledger| ledger.injected),
            since(|ledger| ledger.merged),
        );
        let nmis = Nmis {
            sent,
            seen,
            merged,
            lost: sent.saturating_sub(seen + merged),
            invented: (seen + merged).saturating_sub(sent),
            ..Nmis::default()
        };
        tally.nmis("monitor nmi", nmis);
        Ok(())
    }

    /// Runs programs in the guest's shell while a debugger comes and goes.
    fn debugged(&mut self, programs: &str, tally: &mut Tally) -> Result<String> {
        let port = self.machine.debug.port();
        let debugger = Debugger::start(port, self.storm.cpus, self.storm.seed);
        let output = self.console.check(programs, TEST);
        let did = debugger.finish();
        let output = output?;
        tally.add(&did?);
        Ok(output)
    }

    /// Runs `test` with odd numbers (1) or even ones (2).
    fn test_loop(&self, first: u32) -> String {
        let last = 2 * self.storm.size;
        format!("for i in $(seq {first} 2 {last}); do ./test $i; done >/tmp/test{first}")
    }

    /// Runs `nmi_storm` by the local APIC, `factor` times as often as `test`. What it thinks of what
    /// it saw is not its exit status here.
    fn nmi_storm(&self, options: &str, factor: u32) -> String {
        let Combination { size, seed, .. } = self.storm;
        let count = factor * size;
        format!("(./nmi_storm --by apic --count {count} --seed {seed} {options} || true)")
    }

    /// Every answer of the loops is right, the kernel has no complaint, its handler saw exactly the
    /// NMIs that were injected, and nothing is owed any more.
    fn all_is_well(&mut self, loops: &[u32], tally: &mut Tally) -> Result<()> {
        let last = 2 * self.storm.size;
        for first in loops {
            let answers = self.console.check(
                &format!(
                    "seq {first} 2 {last} | sed 's/.*/0 = vmcall(TV_HC_TEST, &)/' \
                     | cmp - /tmp/test{first} && wc -l </tmp/test{first}"
                ),
                COMMAND,
            )?;
            let runs: u64 = answers
                .lines()
                .find_map(|line| line.trim().parse().ok())
                .context("no count of answers")?;
            ensure!(runs == u64::from(self.storm.size), "{runs} answers");
            tally.count("runs of test", runs);
        }
        let complaints = self.console.check(
            &format!("dmesg -c | grep -E '{TROUBLE}|{FAULTS}'; echo complaints=$?"),
            COMMAND,
        )?;
        // grep found none.
        ensure!(
            complaints.contains("complaints=1"),
            "the kernel complains: {complaints}"
        );
        let tainted = self
            .console
            .check("echo taint=$(cat /proc/sys/kernel/tainted)", COMMAND)?;
        ensure!(
            tainted.contains("taint=0"),
            "the kernel is tainted: {tainted}"
        );

        let port = self.machine.debug.port();
        let ledgers = debugger::ensure_all_seen(&mut self.console, port)?;
        ensure!(
            ledgers.iter().all(|ledger| ledger.owed == 0),
            "NMIs are owed to an idle guest: {ledgers:?}"
        );
        Ok(())
    }

    fn ledgers(&self) -> Result<Vec<Ledger>> {
        debugger::ledger(self.machine.debug.port())
    }
}
