//! The test guest's storm, alone or with a debugger that comes and goes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::combination::{Combination, Kind};
use super::debugger::{self, Debugger};
use super::tally::Tally;
use crate::scenarios::{BOOT, Plan, Workshop, suites};

/// From the first test to the last one.
const SUITE: Duration = Duration::from_secs(900);

/// Runs it; adds what was seen to `tally`, of a failed run too.
pub fn run(workshop: &Workshop, storm: &Combination, tally: &mut Tally) -> Result<()> {
    let debugged = storm.kind == Kind::SuiteDebugged;
    let mut words = format!("suite=storm rounds={} seed={}", storm.size, storm.seed);
    if debugged {
        // The machine stays for the debugger's last look.
        words += " stops=outside end=halt";
    }
    let mut plan = Plan::test_guest(workshop, storm.cpus, &words)?;
    plan.hardware.quantum = storm.quantum;
    // Alone, the guest storms again as it did. A debugger comes when it comes.
    plan.hardware.exact = !debugged;
    if debugged {
        plan = plan.cmdline("debug=com2 log=com1");
    }
    let machine = workshop.start(plan)?;
    let mut console = machine.console();
    console.expect("test guest: suite=storm", BOOT)?;
    let port = machine.debug.port();
    let debugger = debugged.then(|| Debugger::start(port, storm.cpus, storm.seed));
    let deadline = Instant::now() + SUITE;
    let output = loop {
        match console.expect(suites::END, Duration::from_secs(10)) {
            Ok(output) => break output,
            Err(error) => match debugger {
                Some(debugger) if debugger.has_failed() => {
                    debugger.finish()?;
                    return Err(error);
                }
                _ if Instant::now() >= deadline => return Err(error),
                _ => {}
            },
        }
    };
    tally.add_test_guest(&output)?;
    suites::passed(&output)?;
    if let Some(debugger) = debugger {
        tally.add(&debugger.finish()?);
        let ledgers = debugger::ledger(port)?;
        let kicks: u64 = ledgers.iter().map(|ledger| ledger.kicks_consumed).sum();
        let met_a_stop = tally.total().met_a_stop;
        ensure!(
            met_a_stop <= kicks,
            "{met_a_stop} NMIs did not come, and only {kicks} kicks could have met them"
        );
    }
    Ok(())
}
