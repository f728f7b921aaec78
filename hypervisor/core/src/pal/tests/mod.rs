//! Tests of requests, page tables, marshalling and life-cycle, and the memory
//! that they share.

mod life;
mod marshal;
mod request;
mod share;
mod tables;

extern crate std;

use super::*;
use crate::addr::{Gpa, Hpa};
use crate::control_regs::*;
use crate::ept::TableMemory;
use crate::paging::{PagingMode, PhysMem, PhysMemError};
use std::collections::BTreeMap;
use std::vec::Vec;

const MODES: [PagingMode; 4] = [
    PagingMode::Bits32,
    PagingMode::Pae,
    PagingMode::Level4,
    PagingMode::Level5,
];

/// Frames of memory, for tables and for what a guest keeps in them. Frames are
/// handed out from 1 MiB on, as many as there may be.
#[derive(Clone, PartialEq, Eq)]
struct Frames {
    frames: BTreeMap<u64, [u8; 4096]>,
    left: usize,
}

impl Frames {
    const FIRST: u64 = 0x10_0000;

    fn new(left: usize) -> Self {
        Self {
            frames: BTreeMap::new(),
            left,
        }
    }

    /// Puts bytes somewhere; frames appear where there are none.
    fn put(&mut self, address: u64, bytes: &[u8]) {
        for (at, &byte) in (address..).zip(bytes) {
            let frame = self.frames.entry(at & !0xfff).or_insert([0; 4096]);
            frame[at as usize & 0xfff] = byte;
        }
    }
}

impl TableMemory for Frames {
    fn allocate(&mut self) -> Option<Hpa> {
        self.left = self.left.checked_sub(1)?;
        let free = (Self::FIRST..)
            .step_by(4096)
            .find(|frame| !self.frames.contains_key(frame))?;
        self.frames.insert(free, [0; 4096]);
        Some(Hpa::new(free))
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        u64::from_le_bytes(self.frames[&table.as_u64()].as_chunks().0[index])
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        let frame = self.frames.get_mut(&table.as_u64()).unwrap();
        frame.as_chunks_mut().0[index] = entry.to_le_bytes();
    }
}

impl PhysMem for Frames {
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        for (n, byte) in (0..).zip(into) {
            let at = Gpa::new(address.as_u64() + n);
            let frame = self.frames.get(&at.page().as_u64());
            *byte = frame.ok_or(PhysMemError(at))?[at.page_offset() as usize];
        }
        Ok(())
    }

    fn write(&mut self, address: Gpa, _: &[u8]) -> Result<(), PhysMemError> {
        panic!("a guest's memory is written at {address:?}");
    }
}

/// The registers of a guest that runs on these tables.
fn regs(mode: PagingMode, nx: bool, tables: &PalTables) -> PagingRegs {
    let (cr4, lma) = match mode {
        PagingMode::Off => panic!("no tables without paging"),
        PagingMode::Bits32 => (CR4_PSE, 0),
        PagingMode::Pae => (CR4_PAE, 0),
        PagingMode::Level4 => (CR4_PAE, EFER_LME | EFER_LMA),
        PagingMode::Level5 => (CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA),
    };
    PagingRegs {
        cr0: CR0_PG | CR0_PE | CR0_WP,
        cr3: tables.root.as_u64(),
        cr4,
        efer: lma | if nx { EFER_NXE } else { 0 },
        max_phys_addr: 40,
        pages_1g: true,
        // Every key but 0 is forbidden.
        pkru: Some(!3),
        ..PagingRegs::default()
    }
}

/// A caller with these pages, which lie at `0x4000_0000` and up.
fn caller(width: Width, mode: PagingMode, pages: &[(u64, Rights)]) -> (Frames, Caller) {
    let mut memory = Frames::new(usize::MAX);
    let frames = (0x4000_0000..).step_by(4096).map(Gpa::new);
    let pages: Vec<_> = pages
        .iter()
        .zip(frames)
        .map(|(&(gva, rights), gpa)| (gva, gpa, rights))
        .collect();
    for (_, gpa, _) in &pages {
        memory.put(gpa.as_u64(), &[0; 4096]);
    }
    let tables = PalTables::build(&mut memory, mode, true, pages.iter().copied()).unwrap();
    let paging = regs(mode, true, &tables);
    (memory, Caller { paging, width })
}
