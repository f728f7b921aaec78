//! NMIs from CPU to CPU, each known to its sender and its receiver: who sends to
//! whom, and how a sender learns that its NMI came.
//! Used by every storm of this folder.
//!
//! A processor merges NMIs that meet. So that none meet, a sender takes its
//! target's ticket first, and gives it back when the target's handler has counted
//! the NMI. What the handler counts without a ticket was invented.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::apic::{self, Destination, Message};
use crate::boot::MAX_CPUS;
use crate::cpu;
use crate::trap::{self, Frame, vector};

use super::load::Random;
use super::orders;
use super::tally::Tally;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each CPU to the next one.
    Next,
    /// All others to CPU 0.
    AllToOne,
    /// CPU 0 to the others in turn.
    OneToAll,
    /// Each to any, itself included.
    Random,
    /// Each to itself.
    ToSelf,
}

impl Pattern {
    /// All, by the names that the configuration has for them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("next", Self::Next),
        ("all-to-one", Self::AllToOne),
        ("one-to-all", Self::OneToAll),
        ("random", Self::Random),
        ("self", Self::ToSelf),
    ];

    /// Whom `sender`, one of `cpus` (2 or more), sends to in this round; `None`
    /// if it sends nothing in this pattern.
    pub fn target(
        self,
        sender: usize,
        cpus: usize,
        round: u64,
        random: &mut Random,
    ) -> Option<usize> {
        match self {
            Self::Next => Some((sender + 1) % cpus),
            Self::AllToOne => (sender != 0).then_some(0),
            Self::OneToAll => (sender == 0).then_some(1 + round as usize % (cpus - 1)),
            Self::Random => Some(random.below(cpus as u64) as usize),
            Self::ToSelf => Some(sender),
        }
    }
}

/// The sender of the NMI that is on its way to each CPU, plus one; 0 for none.
static TICKETS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// NMIs sent with a ticket, by target.
static SENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// NMIs that each CPU's handler counted, by sender.
static SEEN: [[AtomicU64; MAX_CPUS]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; MAX_CPUS] }; MAX_CPUS];
/// NMIs that came to each CPU and that nobody had sent.
static STRAY: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Counts from zero.
pub fn reset() {
    for counter in TICKETS
        .iter()
        .chain(&SENT)
        .chain(&STRAY)
        .chain(SEEN.iter().flatten())
    {
        counter.store(0, SeqCst);
    }
}

/// The NMI handler. Every other time it exits: that must not unblock NMIs.
pub fn on_nmi(_: &mut Frame) {
    let me = apic::id();
    match TICKETS[me].load(SeqCst) {
        0 => STRAY[me].fetch_add(1, SeqCst),
        sender => SEEN[me][sender as usize - 1].fetch_add(1, SeqCst),
    };
    if trap::count(me, vector::NMI).is_multiple_of(2) {
        cpu::cpuid(0);
    }
}

/// Sends an NMI from CPU `me`.
pub fn send(target: usize) {
    apic::send(Destination::Cpu(target), Message::Nmi);
}

/// Sends one NMI to `target` and waits until its handler has counted it, doing
/// `meanwhile` all the time. Whether it came.
pub fn send_acknowledged(me: usize, target: usize, mut meanwhile: impl FnMut()) -> bool {
    let ticket = &TICKETS[target];
    while ticket
        .compare_exchange(0, me as u64 + 1, SeqCst, SeqCst)
        .is_err()
    {
        meanwhile();
    }
    let seen = &SEEN[target][me];
    let before = seen.load(SeqCst);
    SENT[target].fetch_add(1, SeqCst);
    send(target);
    let came = orders::comes(meanwhile, || seen.load(SeqCst) != before);
    ticket.store(0, SeqCst);
    came
}

/// What came of the NMIs that were sent with a ticket, to all CPUs.
pub fn account() -> Tally {
    let sum = |counters: &mut dyn Iterator<Item = &AtomicU64>| -> u64 {
        counters.map(|counter| counter.load(SeqCst)).sum()
    };
    Tally {
        sent: sum(&mut SENT.iter()),
        seen: sum(&mut SEEN.iter().flatten()),
        invented: sum(&mut STRAY.iter()),
        ..Tally::default()
    }
}
