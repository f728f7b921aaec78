//! What came of a storm: one line on the console for the host, and the check that
//! no NMI was lost or invented.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::harness::{Context, Outcome};
use crate::{check, check_eq, println};

use super::load::{self, Counters, Mix};
use super::orders::{ORDERS, check_loads};

/// NMIs that did not come in time.
static MISSING: AtomicU64 = AtomicU64::new(0);

/// Counts from zero.
pub fn reset() {
    MISSING.store(0, SeqCst);
}

/// An NMI did not come.
pub fn missing() {
    MISSING.fetch_add(1, SeqCst);
}

/// NMIs of one storm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Sent by the CPUs.
    pub sent: u64,
    /// Taken by their handlers.
    pub seen: u64,
    /// Merged in a processor with another one, as far as is known.
    pub merged: u64,
    /// Those that had to come and did not.
    pub lost: u64,
    /// Those that came and were not sent.
    pub invented: u64,
}

impl Tally {
    /// Sorts the NMIs that did not come. A stop's NMI can meet the guest's in the
    /// processor, which then delivers one (docs/quiesce.md); without stops, the
    /// debugger's too, all must come.
    pub fn sort_missing(mut self, context: &Context, mix: Mix) -> Self {
        let missing = MISSING.load(SeqCst);
        if mix == Mix::Quiesces || context.config.storm.debugger {
            self.merged += missing;
        } else {
            self.lost += missing;
        }
        self
    }

    /// Prints `storm NAME pattern=… sent=… …`.
    pub fn print(&self, name: &str, pattern: &str) {
        let total = |count: fn(&Counters) -> &AtomicU64| -> u64 {
            (0..ORDERS.cpus())
                .map(|cpu| count(load::counters(cpu)).load(SeqCst))
                .sum()
        };
        let Self {
            sent,
            seen,
            merged,
            lost,
            invented,
        } = self;
        println!(
            "storm {name} pattern={pattern} sent={sent} seen={seen} merged={merged} lost={lost} \
             invented={invented} quiesces={} hypercalls={} exits={}",
            total(|counters| &counters.quiesces),
            total(|counters| &counters.hypercalls),
            total(|counters| &counters.exits),
        );
    }

    /// Nothing lost, nothing invented, every load content.
    pub fn check(&self, pattern: &str) -> Outcome {
        check_loads()?;
        check!(self.sent != 0, "{pattern}: nothing was sent");
        check_eq!(self.lost, 0, "{pattern}: NMIs lost");
        check_eq!(self.invented, 0, "{pattern}: NMIs invented");
        check_eq!(self.seen, self.sent - self.merged, "{pattern}: NMIs seen");
        Ok(())
    }
}
