//! Memory that can be lent to a PAL: whole pages that are there, stay there, and are no
//! other process's.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap,
};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// Pages of this process, zero at first. Dropped, they are the system's again.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    count: usize,
}

impl Pages {
    /// Maps `count` pages, readable and writable.
    ///
    /// # Errors
    /// There is no memory, or none that this process may lock (`RLIMIT_MEMLOCK`).
    pub fn new(count: usize) -> io::Result<Self> {
        let size = count * PAGE_SIZE;
        let flags = MapFlags::PRIVATE | MapFlags::LOCKED | MapFlags::POPULATE;
        // SAFETY: a new mapping; the system chooses where.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = Self { start, count };
        // SAFETY: both are about this mapping. A child would share the pages until either process
        // writes, and then the system would copy one that it cannot read. And the lock that LOCKED
        // asks for may fail in silence.
        unsafe {
            madvise(pages.start.as_ptr().cast(), size, Advice::LinuxDontFork)?;
            mlock(pages.start.as_ptr().cast(), size)?;
        }
        Ok(pages)
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first byte. While the pages are lent, this process reads ones in them, and ends with
    /// SIGSEGV when it writes.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The first byte's address, as hypercalls take it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// The contents.
    ///
    /// # Safety
    /// The pages are not lent, or no reference stays when a PAL runs that has them.
    pub unsafe fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, readable and writable since `new`, and borrowed with `self`. The caller
        // answers for PALs.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.count * PAGE_SIZE) }
    }

    /// Makes the pages executable, and read-only.
    pub(crate) fn make_code(&self) -> io::Result<()> {
        let size = self.count * PAGE_SIZE;
        // SAFETY: this mapping alone; who holds `bytes` holds `self` as well.
        unsafe {
            mprotect(
                self.start.as_ptr().cast(),
                size,
                MprotectFlags::READ | MprotectFlags::EXEC,
            )?;
        }
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. It cannot fail: the range is as it was mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * PAGE_SIZE) };
    }
}

// SAFETY: the mapping belongs to the whole process, and only `&mut self` gives references into it.
unsafe impl Send for Pages {}
// SAFETY: as above; `&self` gives addresses only.
unsafe impl Sync for Pages {}
