//! What the hypervisor writes down while it runs: typed events and log lines, in rings
//! for each CPU, without locks and from any context, an NMI's handler included.
//!
//! The image records and prints; the debugger's `monitor trace` and `monitor log` read.
//! Nothing here touches hardware or waits.

#![no_std]
#![forbid(unsafe_code)]

mod event;
mod merge;
mod printing;
mod ring;

/// The atomics, in one place: the tests put a model checker's there instead.
mod sync {
    pub use core::sync::atomic::{AtomicU64, Ordering, fence};
}

pub use event::{DebuggerCause, Event, PalEnd, Record, nanoseconds};
pub use merge::merge;
pub use printing::{Printed, Turn};
pub use ring::Ring;

/// Events that are kept of one CPU.
pub const EVENTS: usize = 1024;

/// One CPU's events.
pub type TraceRing = Ring<EVENTS, { event::WORDS }>;

impl TraceRing {
    /// Records an event at a time, in ticks of the time-stamp counter.
    #[inline(always)]
    pub fn event(&self, time: u64, event: Event) {
        self.record(event.encode(time));
    }

    /// The event with this number, if it is still there.
    pub fn event_at(&self, sequence: u64) -> Option<Record> {
        self.read(sequence).and_then(Record::decode)
    }
}
