//! One console for the lines of many CPUs: whole lines, none lost without a word, and
//! nobody waits.
//!
//! A CPU writes its line to its own ring and then announces it ([`Turn::announce`]). If
//! nobody is printing, it prints what all rings hold. If somebody is, that one finds the
//! announcement when it is done, and looks at the rings again; the announcer goes on at
//! once. So there is no lock that a stopped CPU could hold: who prints is not stopped
//! (a CPU stands only where it looks for stops), and who fails while it prints takes its
//! turn back ([`Turn::take_back`]).
//!
//! `tests/printing.rs` explores this file with a model checker's atomics.

use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering};

/// Who prints, and how many lines were announced since it began: the CPU in the lower
/// half, the count in the upper. 0: nobody.
pub struct Turn(AtomicU64);

const ANNOUNCEMENT: u64 = 1 << 32;

impl Turn {
    /// Nobody's turn. `word` is 0; it is made by the caller, since a model checker's cannot
    /// be made at compile time.
    pub const fn new(word: AtomicU64) -> Self {
        Self(word)
    }

    /// CPU `cpu` has written a line. `print` prints what there is; it is called as often
    /// as it takes, and never while somebody else's is running.
    pub fn announce(&self, cpu: u32, mut print: impl FnMut()) {
        let mut word = self.0.load(Ordering::Relaxed);
        let mut mine = loop {
            let new = if word == 0 {
                ANNOUNCEMENT | u64::from(cpu)
            } else {
                word.wrapping_add(ANNOUNCEMENT)
            };
            let set = self
                .0
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed);
            match set {
                Ok(_) => break new,
                Err(now) => word = now,
            }
        };
        if word != 0 {
            return;
        }
        loop {
            print();
            let done = self
                .0
                .compare_exchange(mine, 0, Ordering::Release, Ordering::Acquire);
            match done {
                Ok(_) => return,
                Err(now) => mine = now,
            }
        }
    }

    /// CPU `cpu` will never finish what it was doing. If that was printing, the turn is
    /// free again, and it returns true.
    pub fn take_back(&self, cpu: u32) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                (word != 0 && word as u32 == cpu).then_some(0)
            })
            .is_ok()
    }
}

/// How far one ring is printed. Changed by whose turn it is.
#[derive(Default)]
pub struct Printed {
    /// The number of the last record that is dealt with.
    last: AtomicU64,
    /// Up to this number, records that are not complete never will be.
    abandoned: AtomicU64,
}

impl Printed {
    /// Calls `print` with each record of the ring that it has not been called with, in
    /// their order, as far as they are complete: who is still writing one announces it.
    pub fn print<const SLOTS: usize, const WORDS: usize>(
        &self,
        ring: &Ring<SLOTS, WORDS>,
        mut print: impl FnMut([u64; WORDS]),
    ) {
        loop {
            let number = self.last.load(Ordering::Relaxed) + 1;
            let held = ring.numbers();
            if number >= held.end {
                return;
            }
            // Before the record is read: what is abandoned now can no longer become complete.
            let abandoned = self.abandoned.load(Ordering::Acquire);
            let done = if number < held.start {
                held.start - 1
            } else if let Some(words) = ring.read(number) {
                print(words);
                number
            } else if ring.numbers().start > number || number <= abandoned {
                number
            } else {
                return;
            };
            self.last.store(done, Ordering::Relaxed);
        }
    }

    /// The CPU of this ring will never finish a record that it has begun.
    pub fn abandon<const SLOTS: usize, const WORDS: usize>(&self, ring: &Ring<SLOTS, WORDS>) {
        self.abandoned
            .store(ring.numbers().end - 1, Ordering::Release);
    }
}
