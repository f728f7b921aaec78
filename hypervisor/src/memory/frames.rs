//! The hypervisor's own physical memory: handed out once, front to back, never
//! taken back. What it is for is known when the machine starts.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_core::addr::{Hpa, PAGE_SIZE, PhysRange};

use super::layout;

/// Memory that is left to hand out.
pub struct Frames {
    next: AtomicU64,
    end: AtomicU64,
}

/// The hypervisor's region has no room for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfFrames;

/// The machine's frames.
pub static FRAMES: Frames = Frames {
    next: AtomicU64::new(0),
    end: AtomicU64::new(0),
};

impl Frames {
    /// Gives the allocator its memory: the hypervisor's region behind the image.
    pub fn init(&self, region: PhysRange) {
        self.next.store(region.start, Relaxed);
        self.end.store(region.end, Relaxed);
    }

    /// `count` zeroed pages in a row.
    ///
    /// # Errors
    /// [`OutOfFrames`]: the plan of [`crate::boot`] was too small.
    pub fn allocate(&self, count: u64) -> Result<Hpa, OutOfFrames> {
        let bytes = count * PAGE_SIZE;
        let start = self
            .next
            .fetch_update(Relaxed, Relaxed, |next| {
                (next + bytes <= self.end.load(Relaxed)).then_some(next + bytes)
            })
            .map_err(|_| OutOfFrames)?;
        // SAFETY: the range is the hypervisor's, in the direct map, and nobody
        // else has been given it.
        unsafe { layout::direct(Hpa::new(start)).write_bytes(0, bytes as usize) };
        Ok(Hpa::new(start))
    }

    /// Bytes not handed out yet.
    pub fn left(&self) -> u64 {
        self.end.load(Relaxed) - self.next.load(Relaxed)
    }
}
