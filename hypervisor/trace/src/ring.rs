//! A ring of records that one CPU writes, in any context, and any CPU reads.
//!
//! A writer may be interrupted at any point by another writer on its CPU (an NMI's
//! handler): each takes a number of its own and with it a slot of its own. A reader
//! never sees a record half written: the slot says which record it holds, before and
//! after. That holds as long as a record is not interrupted by as many others as the
//! ring has slots.
//!
//! `tests/interleavings.rs` explores this file with a model checker's atomics.

use crate::sync::{AtomicU64, Ordering, fence};

/// The last `SLOTS` records of `WORDS` words.
pub struct Ring<const SLOTS: usize, const WORDS: usize> {
    /// The number of the last record that was begun; the first is 1.
    last: AtomicU64,
    slots: [Slot<WORDS>; SLOTS],
}

struct Slot<const WORDS: usize> {
    /// The number of the record that the slot holds; 0 while it is being written.
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const SLOTS: usize, const WORDS: usize> Default for Ring<SLOTS, WORDS> {
    /// An empty ring, which is all zeros.
    fn default() -> Self {
        Self {
            last: AtomicU64::new(0),
            slots: core::array::from_fn(|_| Slot {
                sequence: AtomicU64::new(0),
                words: core::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }
}

impl<const SLOTS: usize, const WORDS: usize> Ring<SLOTS, WORDS> {
    /// Writes a record, or the first words of one: the others keep what they held. Its
    /// number is returned.
    #[inline(always)]
    pub fn record<const N: usize>(&self, words: [u64; N]) -> u64 {
        const { assert!(N <= WORDS) };
        let sequence = self.begin();
        let slot = self.slot(sequence);
        slot.sequence.store(0, Ordering::Relaxed);
        // Who sees one of the words below sees the 0, too.
        fence(Ordering::Release);
        for (place, word) in slot.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        slot.sequence.store(sequence, Ordering::Release);
        sequence
    }

    /// Takes the number of the next record.
    #[inline(always)]
    pub(crate) fn begin(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The record with this number, if it is written and not yet overwritten.
    pub fn read(&self, sequence: u64) -> Option<[u64; WORDS]> {
        let slot = self.slot(sequence);
        if sequence == 0 || slot.sequence.load(Ordering::Acquire) != sequence {
            return None;
        }
        let words = core::array::from_fn(|n| slot.words[n].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (slot.sequence.load(Ordering::Relaxed) == sequence).then_some(words)
    }

    /// The numbers of the records that the ring may hold now.
    pub fn numbers(&self) -> core::ops::Range<u64> {
        let last = self.last.load(Ordering::Relaxed);
        last.saturating_sub(SLOTS as u64) + 1..last + 1
    }

    fn slot(&self, sequence: u64) -> &Slot<WORDS> {
        &self.slots[sequence as usize % SLOTS]
    }
}
