//! Copies to and from guest-virtual memory, page by page.

use super::{Access, AccessKind, AccessMode, PagingRegs, PhysMem, WalkError, walk};
use crate::addr::{Gva, PAGE_SIZE};

/// A copy that stopped: how far it came, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Bytes that were copied, from the start.
    pub done: usize,
    /// What stopped it.
    pub error: WalkError,
}

/// Reads guest-virtual memory, each page translated by itself.
///
/// # Errors
/// [`Partial`]: what is `done` has been read; the rest of `into` is undefined.
pub fn read_virtual(
    mem: &mut impl PhysMem,
    regs: &PagingRegs,
    gva: Gva,
    into: &mut [u8],
    mode: AccessMode,
) -> Result<(), Partial> {
    let access = Access {
        kind: AccessKind::Read,
        mode,
    };
    let mut done = 0;
    while done < into.len() {
        let stop = |error| Partial { done, error };
        let (at, len) = piece(gva, done, into.len()).map_err(stop)?;
        let gpa = walk(mem, regs, at, access).map_err(stop)?.gpa;
        mem.read(gpa, &mut into[done..done + len])
            .map_err(|error| stop(WalkError::NoMemory(error.0)))?;
        done += len;
    }
    Ok(())
}

/// Writes guest-virtual memory, each page translated by itself. Every page is
/// translated before the first byte is written, so that a write that is not
/// allowed at its end changes nothing.
///
/// # Errors
/// [`Partial`]. `done` is 0 if a translation fails; where the translation
/// holds but no memory is there, the pages before have been written.
pub fn write_virtual(
    mem: &mut impl PhysMem,
    regs: &PagingRegs,
    gva: Gva,
    from: &[u8],
    mode: AccessMode,
) -> Result<(), Partial> {
    let access = Access {
        kind: AccessKind::Write,
        mode,
    };
    let mut checked = 0;
    while checked < from.len() {
        let stop = |error| Partial { done: 0, error };
        let (at, len) = piece(gva, checked, from.len()).map_err(stop)?;
        walk(mem, regs, at, access).map_err(stop)?;
        checked += len;
    }
    let mut done = 0;
    while done < from.len() {
        let stop = |error| Partial { done, error };
        let (at, len) = piece(gva, done, from.len()).map_err(stop)?;
        let gpa = walk(mem, regs, at, access).map_err(stop)?.gpa;
        mem.write(gpa, &from[done..done + len])
            .map_err(|error| stop(WalkError::NoMemory(error.0)))?;
        done += len;
    }
    Ok(())
}

/// Where the part after `done` bytes starts, and how much of it lies in one page.
fn piece(gva: Gva, done: usize, total: usize) -> Result<(Gva, usize), WalkError> {
    let at = gva
        .checked_add(done as u64)
        .ok_or(WalkError::NonCanonical(Gva::new(0)))?;
    let in_page = (PAGE_SIZE - at.page_offset()) as usize;
    Ok((at, in_page.min(total - done)))
}
