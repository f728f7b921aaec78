//! A caller's memory and a PAL's, each as its owner sees it at CPL 3.

use stillpoint_core::addr::{Gpa, Gva, PAGE_SIZE};
use stillpoint_core::paging::{
    Access, AccessKind, AccessMode, PagingRegs, PhysMem, PhysMemError, WalkError, walk,
};
use stillpoint_core::pal::{CallerMemory, Rights, VirtualMemory};
use stillpoint_utpm::BadAddress;

use super::{Pal, holds};
use crate::memory::guest::{self, GuestView};

/// The memory of a program that calls.
pub struct CallersMemory<'a> {
    /// Physical memory as the guest finds it.
    pub view: GuestView<'a>,
    /// How the program's addresses are translated.
    pub paging: PagingRegs,
}

impl CallersMemory<'_> {
    /// Finds every page of a range for an access, and does something with each part of
    /// the buffer.
    fn each(
        &mut self,
        gva: u64,
        kind: AccessKind,
        len: usize,
        mut part: impl FnMut(
            &mut GuestView<'_>,
            Gpa,
            core::ops::Range<usize>,
        ) -> Result<(), PhysMemError>,
    ) -> Result<(), WalkError> {
        let access = Access {
            kind,
            mode: AccessMode::User,
        };
        let mut done = 0;
        while done < len {
            let at = gva.wrapping_add(done as u64);
            let found = walk(&mut self.view, &self.paging, Gva::new(at), access)?;
            let room = (PAGE_SIZE - found.gpa.page_offset()) as usize;
            let end = len.min(done + room);
            part(&mut self.view, found.gpa, done..end)
                .map_err(|PhysMemError(gpa)| WalkError::NoMemory(gpa))?;
            done = end;
        }
        Ok(())
    }
}

impl VirtualMemory for CallersMemory<'_> {
    type Error = WalkError;

    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), WalkError> {
        self.each(gva, AccessKind::Read, into.len(), |view, gpa, part| {
            view.read(gpa, &mut into[part])
        })
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), WalkError> {
        self.each(gva, AccessKind::Write, from.len(), |view, gpa, part| {
            view.write(gpa, &from[part])
        })
    }
}

impl CallerMemory for CallersMemory<'_> {
    fn read_for_copy_back(&mut self, gva: u64, into: &mut [u8]) -> Result<(), WalkError> {
        self.each(gva, AccessKind::Write, into.len(), |view, gpa, part| {
            if holds(gpa, part.len()) {
                return Err(PhysMemError(gpa));
            }
            view.read(gpa, &mut into[part])
        })
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

    fn each(
        &self,
        gva: u64,
        writable: bool,
        len: usize,
        mut part: impl FnMut(Gpa, core::ops::Range<usize>) -> Result<(), PhysMemError>,
    ) -> Result<(), NotThePals> {
        let mut done = 0;
        while done < len {
            let at = gva.wrapping_add(done as u64);
            let found = self.0.tables.translate(&self.0.table_frames, at);
            let allowed = found.filter(|&(_, rights)| !writable || rights == Rights::ReadWrite);
            let (gpa, _) = allowed.ok_or(NotThePals(at))?;
            let room = (PAGE_SIZE - gpa.page_offset()) as usize;
            let end = len.min(done + room);
            part(gpa, done..end).map_err(|_| NotThePals(at))?;
            done = end;
        }
        Ok(())
    }
}

impl VirtualMemory for PalsMemory<'_> {
    type Error = NotThePals;

    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), NotThePals> {
        self.each(gva, false, into.len(), |gpa, part| {
            guest::read(gpa, &mut into[part])
        })
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), NotThePals> {
        self.each(gva, true, from.len(), |gpa, part| {
            guest::write(gpa, &from[part])
        })
    }
}

impl stillpoint_utpm::CallerMemory for PalsMemory<'_> {
    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        VirtualMemory::read(self, gva, into).map_err(|_| BadAddress)
    }

    fn writable(&mut self, gva: u64, len: usize) -> Result<(), BadAddress> {
        self.each(gva, true, len, |_, _| Ok(()))
            .map_err(|_| BadAddress)
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), BadAddress> {
        stillpoint_utpm::CallerMemory::writable(self, gva, from.len())?;
        VirtualMemory::write(self, gva, from).map_err(|_| BadAddress)
    }
}
