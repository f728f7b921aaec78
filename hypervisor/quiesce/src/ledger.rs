//! What became of every NMI, per CPU: the numbers behind `monitor vmcs` and
//! `monitor nmi`.

use core::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicU64;

/// Counters of one CPU. Each NMI is counted once where it was taken and once
/// for what became of it, so the two sides balance: see
/// [`LedgerCounts::imbalance`].
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) in_guest: AtomicU64,
    pub(crate) in_hypervisor: AtomicU64,
    pub(crate) asked: AtomicU64,
    pub(crate) kicks_sent: AtomicU64,
    pub(crate) kicks_consumed: AtomicU64,
    pub(crate) injected: AtomicU64,
    pub(crate) merged: AtomicU64,
}

/// A [`Ledger`] read out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// NMIs that caused a VM exit.
    pub in_guest: u64,
    /// NMIs that interrupted the hypervisor.
    pub in_hypervisor: u64,
    /// NMIs that a person asked for (`monitor nmi CPU`).
    pub asked: u64,
    /// Kicks sent to this CPU.
    pub kicks_sent: u64,
    /// NMIs that were taken for a kick.
    pub kicks_consumed: u64,
    /// NMIs given to the guest.
    pub injected: u64,
    /// NMIs that merged into one already owed.
    pub merged: u64,
    /// NMIs owed to the guest now (0..=2).
    pub owed: u32,
    /// Whether a kick is on its way.
    pub kick_outstanding: bool,
}

/// One of the two sums of a ledger that does not come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imbalance {
    /// What was counted twice.
    pub of: Counted,
    /// How many came.
    pub came: u64,
    /// For how many there is something that became of them.
    pub went: u64,
}

/// What a ledger counts where it comes from and again where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// NMIs: taken in the guest or in the hypervisor or asked for; consumed as kicks,
    /// owed, injected or merged.
    Nmis,
    /// Kicks: sent; consumed or outstanding.
    Kicks,
}

impl LedgerCounts {
    /// What is not accounted for, once. `None` whenever the CPU is stopped; on a
    /// running CPU the counters may be mid-change.
    pub fn imbalance(&self) -> Option<Imbalance> {
        let sum = |parts: &[u64]| parts.iter().fold(0, |sum: u64, &n| sum.saturating_add(n));
        let nmis = Imbalance {
            of: Counted::Nmis,
            came: sum(&[self.in_guest, self.in_hypervisor, self.asked]),
            went: sum(&[
                self.kicks_consumed,
                u64::from(self.owed),
                self.injected,
                self.merged,
            ]),
        };
        let kicks = Imbalance {
            of: Counted::Kicks,
            came: self.kicks_sent,
            went: sum(&[self.kicks_consumed, u64::from(self.kick_outstanding)]),
        };
        [nmis, kicks].into_iter().find(|sum| sum.came != sum.went)
    }
}

impl Ledger {
    #[cfg(not(feature = "loom"))]
    pub(crate) const fn new() -> Self {
        Self {
            in_guest: AtomicU64::new(0),
            in_hypervisor: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            kicks_sent: AtomicU64::new(0),
            kicks_consumed: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            merged: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(crate) fn counts(&self, owed: u32, kick_outstanding: bool) -> LedgerCounts {
        LedgerCounts {
            in_guest: self.in_guest.load(Relaxed),
            in_hypervisor: self.in_hypervisor.load(Relaxed),
            asked: self.asked.load(Relaxed),
            kicks_sent: self.kicks_sent.load(Relaxed),
            kicks_consumed: self.kicks_consumed.load(Relaxed),
            injected: self.injected.load(Relaxed),
            merged: self.merged.load(Relaxed),
            owed,
            kick_outstanding,
        }
    }
}
