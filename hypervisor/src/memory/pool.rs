//! Frames that come and go: what a PAL's page tables and views are made of. Unlike
//! [`super::frames`], these are taken back. They are counted: when there is none left,
//! a registration is refused.

use spin::Mutex;
use stillpoint_core::addr::{Hpa, PAGE_SIZE};
use stillpoint_core::ept::TableMemory;

use super::frames::{FRAMES, OutOfFrames};
use super::layout;

/// How many frames there are: 4 MiB. A PAL of four pages takes about a dozen.
pub const FRAMES_IN_POOL: u64 = 1024;

/// The end of a chain.
const END: u16 = u16::MAX;

struct Pool {
    base: Hpa,
    /// The first frame of the chain of free ones. All of them are zero.
    free: u16,
    left: u16,
    /// By frame: the next one of the chain that it is in.
    next: [u16; FRAMES_IN_POOL as usize],
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    base: Hpa::new(0),
    free: END,
    left: 0,
    next: [END; FRAMES_IN_POOL as usize],
});

impl Pool {
    fn address(&self, frame: u16) -> Hpa {
        Hpa::new(self.base.as_u64() + u64::from(frame) * PAGE_SIZE)
    }
}

/// Takes the pool's frames out of the hypervisor's memory.
///
/// # Errors
/// [`OutOfFrames`]
pub fn init() -> Result<(), OutOfFrames> {
    let base = FRAMES.allocate(FRAMES_IN_POOL)?;
    let mut pool = POOL.lock();
    pool.base = base;
    pool.free = 0;
    pool.left = FRAMES_IN_POOL as u16;
    for (frame, next) in (1..FRAMES_IN_POOL as u16).zip(&mut pool.next) {
        *next = frame;
    }
    Ok(())
}

/// How many frames are free.
pub fn left() -> u64 {
    POOL.try_lock().map_or(0, |pool| u64::from(pool.left))
}

/// Frames that belong together, and are given back together.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    first: u16,
}

impl Chain {
    /// No frames yet.
    pub const EMPTY: Self = Self { first: END };

    /// Calls `each` for every frame.
    pub fn for_each(&self, mut each: impl FnMut(Hpa)) {
        let mut frame = self.first;
        while frame != END {
            let (address, next) = {
                let pool = POOL.lock();
                (pool.address(frame), pool.next[usize::from(frame)])
            };
            each(address);
            frame = next;
        }
    }

    /// Gives those frames back, wiped, for which `which` says so.
    pub fn release_if(&mut self, mut which: impl FnMut(Hpa) -> bool) {
        let (mut before, mut this) = (END, self.first);
        while this != END {
            let (address, next) = {
                let pool = POOL.lock();
                (pool.address(this), pool.next[usize::from(this)])
            };
            if which(address) {
                wipe(address);
                let mut pool = POOL.lock();
                match before {
                    END => self.first = next,
                    before => pool.next[usize::from(before)] = next,
                }
                pool.next[usize::from(this)] = pool.free;
                pool.free = this;
                pool.left += 1;
            } else {
                before = this;
            }
            this = next;
        }
    }

    /// Gives the frames back, wiped.
    pub fn release(&mut self) {
        self.for_each(wipe);
        let mut pool = POOL.lock();
        while self.first != END {
            let frame = self.first;
            self.first = pool.next[usize::from(frame)];
            pool.next[usize::from(frame)] = pool.free;
            pool.free = frame;
            pool.left += 1;
        }
    }
}

impl TableMemory for Chain {
    fn allocate(&mut self) -> Option<Hpa> {
        let mut pool = POOL.lock();
        let frame = pool.free;
        let next = *pool.next.get(usize::from(frame))?;
        pool.free = next;
        pool.left -= 1;
        pool.next[usize::from(frame)] = self.first;
        self.first = frame;
        Some(pool.address(frame))
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        layout::read_entry(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        layout::write_entry(table, index, entry);
    }
}

/// Fills a page with zeros.
pub fn wipe(page: Hpa) {
    // SAFETY: a page of RAM in the direct map, at its start: the pool's, or a PAL's,
    // which nobody else can reach.
    unsafe { layout::direct(page).write_bytes(0, PAGE_SIZE as usize) };
}
