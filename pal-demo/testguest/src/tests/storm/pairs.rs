//! Two NMIs for one CPU at once: the second is sent while the handler of the first
//! is known to run. The processor keeps one latched, so both must come.
//!
//! One pair at a time in the whole machine: two CPUs that wait in their handlers
//! for each other's second NMI would wait for ever.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::cpu;
use crate::harness::{Context, Outcome};
use crate::trap::Frame;

use super::load::Mix;
use super::orders::{self, ORDERS};
use super::tally::{self, Tally};
use super::traffic;

/// The steps of a pair.
mod phase {
    /// No pair is under way.
    pub const NONE: u64 = 0;
    /// The first NMI is being sent.
    pub const FIRST: u64 = 1;
    /// Its handler runs, and waits.
    pub const HANDLING: u64 = 2;
    /// The second NMI has been sent.
    pub const SECOND: u64 = 3;
    /// The second NMI's handler has run.
    pub const DONE: u64 = 4;
}

static PHASE: AtomicU64 = AtomicU64::new(phase::NONE);
/// The CPU that sends a pair, plus one; 0 for none.
static SENDER: AtomicU64 = AtomicU64::new(0);
/// NMIs sent.
static SENT: AtomicU64 = AtomicU64::new(0);
/// NMIs that were no part of a pair.
static STRAY: AtomicU64 = AtomicU64::new(0);

/// The NMI handler.
fn on_nmi(_: &mut Frame) {
    match PHASE.load(SeqCst) {
        phase::FIRST => {
            PHASE.store(phase::HANDLING, SeqCst);
            // The exits must not unblock NMIs.
            while PHASE.load(SeqCst) == phase::HANDLING {
                cpu::cpuid(0);
            }
        }
        phase::SECOND => PHASE.store(phase::DONE, SeqCst),
        _ => {
            STRAY.fetch_add(1, SeqCst);
        }
    }
}

/// Sends a pair from CPU `me` to `target`, another one. False when one of the two
/// did not come; the second is not sent without the first.
fn send_pair(me: usize, target: usize, mut meanwhile: impl FnMut()) -> bool {
    while SENDER
        .compare_exchange(0, me as u64 + 1, SeqCst, SeqCst)
        .is_err()
    {
        meanwhile();
    }
    let both = pair(target, &mut meanwhile);
    PHASE.store(phase::NONE, SeqCst);
    SENDER.store(0, SeqCst);
    both
}

fn pair(target: usize, meanwhile: &mut impl FnMut()) -> bool {
    let mut reaches = |wanted| orders::comes(&mut *meanwhile, || PHASE.load(SeqCst) == wanted);
    PHASE.store(phase::FIRST, SeqCst);
    SENT.fetch_add(1, SeqCst);
    traffic::send(target);
    if !reaches(phase::HANDLING) {
        return false;
    }
    SENT.fetch_add(1, SeqCst);
    traffic::send(target);
    PHASE.store(phase::SECOND, SeqCst);
    reaches(phase::DONE)
}

/// Sends pairs to other CPUs, random ones.
fn send(index: usize) {
    let mut load = ORDERS.load(index);
    let cpus = ORDERS.cpus();
    for _ in 0..ORDERS.rounds() {
        let target = (index + 1 + load.random.below(cpus as u64 - 1) as usize) % cpus;
        if !send_pair(index, target, || load.step()) {
            tally::missing();
        }
        ORDERS.pause(&mut load);
    }
    ORDERS.finish(&mut load);
}

fn run(context: &Context, name: &str, mix: Mix) -> Outcome {
    orders::prepare(context, mix)?;
    orders::reset();
    SENT.store(0, SeqCst);
    STRAY.store(0, SeqCst);
    let before: u64 = orders::taken().iter().sum();
    orders::storm(on_nmi, send, || {
        send(0);
        Ok(())
    })?;
    let tally = Tally {
        sent: SENT.load(SeqCst),
        seen: orders::taken().iter().sum::<u64>() - before,
        invented: STRAY.load(SeqCst),
        ..Tally::default()
    }
    .sort_missing(context, mix);
    tally.print(name, "pairs");
    tally.check("pairs")
}

/// While the CPUs spin.
pub fn pairs_without_exits(context: &Context) -> Outcome {
    run(context, "pairs_without_exits", Mix::Spin)
}

/// While they make exits of every kind.
pub fn pairs_amid_exits(context: &Context) -> Outcome {
    run(context, "pairs_amid_exits", Mix::Exits)
}

/// While they stop the machine, too.
pub fn pairs_amid_quiesces(context: &Context) -> Outcome {
    run(context, "pairs_amid_quiesces", Mix::Quiesces)
}
