//! Every interleaving of writers and a reader of a small ring, and every order in
//! which their stores may be seen: the ring's source, over a model checker's atomics.
//!
//! Two writers that run at once can do all that a writer and an NMI in the middle of
//! it can. Left out of `ring.rs`, each of these is found here: the 0 at the start of a
//! record, either fence, `Release` at its end, the atomic claim of a number.

#[path = "../src/ring.rs"]
#[expect(dead_code, reason = "`numbers` is for who merges rings")]
mod ring;

/// What `ring.rs` finds in its crate.
mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use loom::sync::Arc;
use loom::thread;
use ring::Ring;

/// A record whose words tell whose it is.
fn words(writer: u64) -> [u64; 2] {
    [writer, writer + 100]
}

/// What a reader finds must be a whole record of some writer.
fn check<const SLOTS: usize>(ring: &Ring<SLOTS, 2>, number: u64) -> bool {
    match ring.read(number) {
        Some([first, second]) => {
            assert_eq!(second, first + 100, "half of a record");
            true
        }
        None => false,
    }
}

#[test]
fn interrupted_writers_keep_both_records() {
    loom::model(|| {
        let ring = Arc::new(Ring::<2, 2>::default());
        let other = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.record(words(1)))
        };
        let mine = ring.record(words(2));
        let its = other.join().unwrap();
        assert_eq!(mine + its, 3, "numbers {mine} and {its}");
        assert_eq!(ring.read(its), Some(words(1)));
        assert_eq!(ring.read(mine), Some(words(2)));
    });
}

#[test]
fn a_reader_sees_whole_records_or_none() {
    loom::model(|| {
        // One slot: the second record overwrites the first under the reader's eyes.
        let ring = Arc::new(Ring::<1, 2>::default());
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                ring.record(words(1));
                ring.record(words(2));
            })
        };
        check(&ring, 1);
        check(&ring, 2);
        writer.join().unwrap();
        assert!(!check(&ring, 1));
        assert!(check(&ring, 2));
    });
}

#[test]
fn a_reader_sees_whole_records_of_interrupted_writers() {
    loom::model(|| {
        let ring = Arc::new(Ring::<2, 2>::default());
        let writers: Vec<_> = [1, 2]
            .map(|writer| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.record(words(writer)))
            })
            .into();
        check(&ring, 1);
        check(&ring, 2);
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(check(&ring, 1) && check(&ring, 2));
    });
}
