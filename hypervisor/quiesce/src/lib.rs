//! The rendezvous that stops every CPU, and the accounting of NMIs.
//!
//! The hypervisor stops the machine by sending an NMI, a *kick*, to each other
//! CPU; but the guest's own NMIs arrive by the same door. This crate decides
//! what each NMI was, who holds the machine, and when everyone else stands
//! still. It has three layers:
//!
//! - [`CpuWord`]: what one CPU's NMI state is, as a plain value with pure
//!   transitions. No atomics, nothing to wait for.
//! - [`Rendezvous`]: the same transitions applied to shared memory, and the
//!   stop itself: a generation number that only grows, with one owner.
//! - [`Stop`], [`Look`], [`Release`]: what each CPU does with it, one access at a
//!   time.
//!
//! Beside them is [`WorkSlot`], by which the owner of a stop hands work to a CPU that
//! stands in it.
//!
//! `docs/quiesce.md` tells the protocol as a whole.
#![no_std]
#![forbid(unsafe_code)]

mod ledger;
mod rendezvous;
mod steps;
mod sync;
mod word;
mod work;

pub use ledger::{Counted, Imbalance, Ledger, LedgerCounts};
#[cfg(feature = "snapshot")]
pub use rendezvous::Snapshot;
pub use rendezvous::{Kicker, Rendezvous, Waiter};
pub use steps::{Look, LookStep, Release, Stop, StopStep};
pub use word::{CpuWord, GUEST, LOOK, MAX_OWED, NmiMeaning, OwedChange};
pub use work::WorkSlot;
