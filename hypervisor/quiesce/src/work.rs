//! How the owner of a stop hands work to a CPU that stands in it. Used by the
//! hypervisor's `debug/remote.rs`, which says what a request is.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sync::{AtomicPtr, AtomicU32};

const EMPTY: u32 = 0;
const POSTED: u32 = 1;
const DONE: u32 = 2;

/// Room for one request: the owner is alone, and waits for its end. All zeros is an
/// empty slot.
///
/// What the owner wrote before [`post`](Self::post), the CPU sees after
/// [`posted`](Self::posted); what the CPU wrote before [`finish`](Self::finish), the owner
/// sees after [`is_finished`](Self::is_finished). Between the two the request is the
/// CPU's.
pub struct WorkSlot<T> {
    state: AtomicU32,
    request: AtomicPtr<T>,
}

impl<T> Default for WorkSlot<T> {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            request: AtomicPtr::new(core::ptr::null_mut()),
        }
    }
}

impl<T> WorkSlot<T> {
    /// The owner posts a request. It stays where it is, untouched, until it is finished.
    pub fn post(&self, request: *mut T) {
        self.request.store(request, Relaxed);
        self.state.store(POSTED, Release);
    }

    /// The request, if one is posted. Asked by the CPU that it is for.
    pub fn posted(&self) -> Option<*mut T> {
        (self.state.load(Acquire) == POSTED).then(|| self.request.load(Relaxed))
    }

    /// The CPU has done what was posted.
    pub fn finish(&self) {
        self.state.store(DONE, Release);
    }

    /// Whether it has.
    pub fn is_finished(&self) -> bool {
        self.state.load(Acquire) == DONE
    }

    /// The owner takes the request back: it is finished, or nobody will.
    pub fn clear(&self) {
        self.state.store(EMPTY, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_there_from_its_post_to_its_finish() {
        let slot = WorkSlot::default();
        assert_eq!(slot.posted(), None);
        let mut work = 1;
        let request = &raw mut work;
        slot.post(request);
        assert_eq!(slot.posted(), Some(request));
        assert!(!slot.is_finished());
        slot.finish();
        assert!(slot.is_finished());
        assert_eq!(slot.posted(), None);
        slot.clear();
        assert!(!slot.is_finished());
    }
}
