//! `nmi`: the ledger of NMIs, and one more for a CPU.

use core::fmt::{self, Write};

use stillpoint_quiesce::{Counted, Imbalance, LedgerCounts};

use super::{Arguments, CommandError, CommandResult, Context};
use crate::machine::{CpuIndex, MAX_CPUS, Machine};

/// What else `help nmi` says.
pub const DETAILS: &str = "\
Without CPU: the NMIs of each CPU, as taken and as what became of them, and whether\n\
the two agree. With CPU: its guest is owed one, injected once the machine runs and\n\
the guest can take it.";

/// How often a ledger that does not balance is read again: an NMI that is being
/// counted at this moment has moved one number and not yet the other.
const READS: usize = 1000;

/// The columns: two lines of heading, and the number.
type Column = (&'static str, &'static str, fn(&LedgerCounts) -> u64);
const COLUMNS: [Column; 9] = [
    ("taken in", "guest", |l| l.in_guest),
    ("taken in", "hyperv.", |l| l.in_hypervisor),
    ("NMIs", "asked", |l| l.asked),
    ("kicks", "sent", |l| l.kicks_sent),
    ("kicks", "consumed", |l| l.kicks_consumed),
    ("kicks", "out", |l| u64::from(l.kick_outstanding)),
    ("NMIs", "owed", |l| u64::from(l.owed)),
    ("NMIs", "injected", |l| l.injected),
    ("NMIs", "merged", |l| l.merged),
];

/// An imbalance in words.
struct Verdict(Imbalance);

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Imbalance { of, came, went } = self.0;
        let about = match of {
            Counted::Nmis => {
                "NMIs came (in guest, in hypervisor, asked), and there went (kicks \
                 consumed, owed, injected, merged)"
            }
            Counted::Kicks => "kicks were sent, and there are consumed or out",
        };
        let (difference, what) = match came.checked_sub(went) {
            Some(lost) => (lost, "lost"),
            None => (went - came, "invented"),
        };
        write!(f, "{came} {about} {went}: {difference} {what}")
    }
}

/// `nmi [CPU]`
pub fn run<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    // No default: an NMI cannot be taken back.
    if arguments.peek().is_none() {
        return Ok(write_ledger(context.machine, out)?);
    }
    let cpu = arguments.cpu(context.debug.current, context.machine.cpu_count())?;
    arguments.end()?;
    context
        .machine
        .owe_nmi(cpu)
        .map_err(|error| CommandError::CpuRefused(cpu, error))?;
    let owed = context.machine.nmi_ledger(cpu).owed;
    writeln!(
        out,
        "CPU {cpu}: the guest is owed {owed} NMI{}",
        if owed == 1 { "" } else { "s" }
    )?;
    Ok(())
}

fn write_ledger(machine: &impl Machine, out: &mut dyn Write) -> fmt::Result {
    write!(out, "cpu")?;
    for (first, ..) in COLUMNS {
        write!(out, " {first:>9}")?;
    }
    write!(out, "\n   ")?;
    for (_, second, _) in COLUMNS {
        write!(out, " {second:>9}")?;
    }
    writeln!(out)?;
    let mut totals = [0_u64; COLUMNS.len()];
    let cpus = CpuIndex::all(machine.cpu_count());
    // What is printed is what is judged, so that the person can do the sum.
    let mut verdicts: [Option<Verdict>; MAX_CPUS] = [const { None }; MAX_CPUS];
    for (cpu, verdict) in cpus.clone().zip(&mut verdicts) {
        let mut ledger = machine.nmi_ledger(cpu);
        for _ in 1..READS {
            if ledger.imbalance().is_none() {
                break;
            }
            core::hint::spin_loop();
            ledger = machine.nmi_ledger(cpu);
        }
        write!(out, "{:>3}", cpu.0)?;
        for ((.., value), total) in COLUMNS.iter().zip(&mut totals) {
            let value = value(&ledger);
            *total = total.saturating_add(value);
            write!(out, " {value:>9}")?;
        }
        writeln!(out)?;
        *verdict = ledger.imbalance().map(Verdict);
    }
    write!(out, "all")?;
    for total in totals {
        write!(out, " {total:>9}")?;
    }
    writeln!(out)?;
    for (cpu, verdict) in cpus.zip(&verdicts) {
        if let Some(verdict) = verdict {
            writeln!(out, "CPU {cpu} does not balance: {verdict}")?;
        }
    }
    if verdicts.iter().all(Option::is_none) {
        writeln!(
            out,
            "balances: each NMI and each kick is accounted for, once"
        )?;
    }
    Ok(())
}
