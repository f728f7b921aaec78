//! A caller's memory and a PAL's, each as its owner sees it at CPL 3.

use core::ops::Range;

use stillpoint_core::addr::{Gpa, Gva, Hpa, PAGE_SIZE};
use stillpoint_core::paging::{
    Access, AccessKind, AccessMode, PagingRegs, PhysMemError, WalkError, walk,
};
use stillpoint_core::pal::{Rights, VirtualMemory};
use stillpoint_utpm::BadAddress;

use super::{Pal, forbids_writes};
use crate::cpu::percpu::PerCpu;
use crate::memory::guest::{self, GuestView};
use crate::memory::layout;

/// The memory of a program that calls. Every access demands write permission, as
/// [`Marshalling::enter`](stillpoint_core::pal::Marshalling::enter) wants it: a stack has
/// it, and what a pointer leads to is written in the end.
pub struct CallersMemory<'a> {
    view: GuestView<'a>,
    paging: PagingRegs,
    /// The pages that were found last, and where; and how many were found.
    recent: [(u64, Gpa); RECENT],
    found: usize,
}

/// Pages that a call remembers while it copies, as a processor would.
const RECENT: usize = 4;

/// A page that no address is in: stands for one that is not there.
pub const NO_PAGE: (u64, Gpa) = (1, Gpa::new(0));

/// Does something with each part of a range that lies in one page: its address, and which
/// part it is.
fn by_page<E>(
    gva: u64,
    len: usize,
    mut part: impl FnMut(u64, Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    while done < len {
        let at = gva.wrapping_add(done as u64);
        let room = (PAGE_SIZE - at % PAGE_SIZE) as usize;
        let end = len.min(done + room);
        part(at, done..end)?;
        done = end;
    }
    Ok(())
}

impl<'a> CallersMemory<'a> {
    /// The memory of the program on this CPU whose addresses are translated so.
    pub const fn new(cpu: &'a PerCpu, paging: PagingRegs) -> Self {
        Self {
            view: GuestView(cpu),
            paging,
            recent: [NO_PAGE; RECENT],
            found: 0,
        }
    }

    /// Finds a page.
    fn find(&mut self, gva: u64) -> Result<Gpa, WalkError> {
        let (page, offset) = (gva & !(PAGE_SIZE - 1), gva & (PAGE_SIZE - 1));
        let found = match self.recent.iter().find(|(recent, _)| *recent == page) {
            Some(&(_, found)) => found,
            None => {
                let access = Access {
                    kind: AccessKind::Write,
                    mode: AccessMode::User,
                };
                let found = walk(&mut self.view, &self.paging, Gva::new(gva), access)?;
                let found = found.gpa.page();
                if forbids_writes(found, 1) {
                    return Err(WalkError::NoMemory(found));
                }
                self.recent[self.found % RECENT] = (page, found);
                self.found += 1;
                found
            }
        };
        Ok(Gpa::new(found.as_u64() + offset))
    }

    /// Finds every page of a range, and does something with each part of the buffer.
    fn each(
        &mut self,
        gva: u64,
        len: usize,
        mut part: impl FnMut(Gpa, Range<usize>) -> Result<(), PhysMemError>,
    ) -> Result<(), WalkError> {
        by_page(gva, len, |at, range| {
            let gpa = self.find(at)?;
            part(gpa, range).map_err(|PhysMemError(gpa)| WalkError::NoMemory(gpa))
        })
    }
}

impl VirtualMemory for CallersMemory<'_> {
    type Error = WalkError;

    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), WalkError> {
        self.each(gva, into.len(), |gpa, part| {
            guest::read(gpa, &mut into[part])
        })
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), WalkError> {
        self.each(gva, from.len(), |gpa, part| guest::write(gpa, &from[part]))
    }
}

/// A PAL's own memory.
pub struct PalsMemory<'a>(&'a Pal);

/// The PAL has no page at this address, or may not write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotThePals(pub u64);

impl<'a> PalsMemory<'a> {
    /// The memory of this PAL.
    pub const fn new(pal: &'a Pal) -> Self {
        Self(pal)
    }

    fn find(&self, gva: u64, writable: bool) -> Option<Gpa> {
        let (page, offset) = (gva & !(PAGE_SIZE - 1), gva & (PAGE_SIZE - 1));
        if let Some((_, gpa)) = self.0.hot.iter().find(|(hot, _)| *hot == page) {
            return Some(Gpa::new(gpa.as_u64() + offset));
        }
        let (gpa, rights) = self.0.tables.translate(&self.0.table_frames, gva)?;
        (!writable || rights == Rights::ReadWrite).then_some(gpa)
    }

    fn each(
        &self,
        gva: u64,
        writable: bool,
        len: usize,
        mut part: impl FnMut(*mut u8, Range<usize>),
    ) -> Result<(), NotThePals> {
        by_page(gva, len, |at, range| {
            let gpa = self.find(at, writable).ok_or(NotThePals(at))?;
            part(layout::direct(Hpa::new(gpa.as_u64())), range);
            Ok(())
        })
    }
}

impl VirtualMemory for PalsMemory<'_> {
    type Error = NotThePals;

    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), NotThePals> {
        self.each(gva, false, into.len(), |from, part| {
            let into = &mut into[part];
            // SAFETY: within a page of RAM that is the PAL's, in the direct map.
            unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        })
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), NotThePals> {
        self.each(gva, true, from.len(), |to, part| {
            let from = &from[part];
            // SAFETY: as in `read`.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        })
    }
}

impl stillpoint_utpm::CallerMemory for PalsMemory<'_> {
    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        VirtualMemory::read(self, gva, into).map_err(|_| BadAddress)
    }

    fn writable(&mut self, gva: u64, len: usize) -> Result<(), BadAddress> {
        self.each(gva, true, len, |_, _| {}).map_err(|_| BadAddress)
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), BadAddress> {
        stillpoint_utpm::CallerMemory::writable(self, gva, from.len())?;
        VirtualMemory::write(self, gva, from).map_err(|_| BadAddress)
    }
}
