//! The shared state as a plain value, for model checkers: they keep values, and
//! turn one into a machine only to run a step on it.

use super::{NOBODY, Rendezvous, Slot};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize};
use crate::{CpuWord, Ledger};

/// The state of a [`Rendezvous`] in which CPUs 0 to N - 1 take part, without its
/// ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot<const N: usize> {
    /// [`Rendezvous::generation`]
    pub generation: u64,
    /// [`Rendezvous::owner`]
    pub owner: Option<usize>,
    /// The words of the CPUs.
    pub words: [CpuWord; N],
    /// [`Rendezvous::acknowledged`] of the CPUs.
    pub acknowledged: [u64; N],
}

impl<const N: usize> Rendezvous<N> {
    /// A machine in this state, with empty ledgers.
    pub fn restore(snapshot: &Snapshot<N>) -> Self {
        Self {
            generation: AtomicU64::new(snapshot.generation),
            owner: AtomicU32::new(snapshot.owner.map_or(NOBODY, |cpu| cpu as u32)),
            joined: AtomicUsize::new(N),
            cpus: core::array::from_fn(|cpu| Slot {
                word: AtomicU32::new(snapshot.words[cpu].to_bits()),
                acked: AtomicU64::new(snapshot.acknowledged[cpu]),
                ledger: Ledger::default(),
            }),
        }
    }

    /// The same as on the metal. loom's atomics cannot be made at compile time.
    #[cfg(feature = "loom")]
    pub fn new() -> Self {
        Self::restore(&Snapshot {
            generation: 0,
            owner: None,
            words: [CpuWord::default(); N],
            acknowledged: [0; N],
        })
    }

    /// The state of the machine.
    pub fn snapshot(&self) -> Snapshot<N> {
        Snapshot {
            generation: self.generation(),
            owner: self.owner(),
            words: core::array::from_fn(|cpu| self.cpus[cpu].word()),
            acknowledged: core::array::from_fn(|cpu| self.acknowledged(cpu)),
        }
    }
}
