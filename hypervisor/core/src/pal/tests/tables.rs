//! A PAL's page tables, against the walk of the guest's paging.

extern crate std;

use super::*;
use crate::addr::{Gva, PAGE_SIZE};
use crate::paging::{Access, AccessKind, AccessMode, load_pdptes, walk};
use crate::pal::tables::MAX_TABLES;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec;

type Pages = BTreeMap<u64, (Gpa, Rights)>;

/// Addresses that a program can have pages at, many of them where a table of
/// some level ends.
fn gva(mode: PagingMode) -> impl Strategy<Value = u64> {
    let bits = match mode {
        PagingMode::Off | PagingMode::Bits32 | PagingMode::Pae => 32,
        PagingMode::Level4 => 47,
        PagingMode::Level5 => 56,
    };
    let boundary = prop::sample::select(vec![21, 22, 30, 39, 48]);
    let near = (boundary, 0..4u64, -3..3i64)
        .prop_map(|(shift, n, pages)| (n << shift).wrapping_add_signed(pages * PAGE_SIZE as i64));
    prop_oneof![near, any::<u64>()].prop_map(move |gva| gva & ((1 << bits) - 1) & !0xfff)
}

fn rights() -> impl Strategy<Value = Rights> {
    prop::sample::select(vec![Rights::ReadExecute, Rights::ReadWrite])
}

fn pages(mode: PagingMode) -> impl Strategy<Value = Pages> {
    let frame_bits = if mode == PagingMode::Bits32 { 32 } else { 40 };
    let frame = any::<u64>().prop_map(move |a| Gpa::new(a & ((1 << frame_bits) - 1)).page());
    prop::collection::btree_map(gva(mode), (frame, rights()), 0..=10)
}

fn case() -> impl Strategy<Value = (PagingMode, bool, Pages, Pages)> {
    (prop::sample::select(MODES.to_vec()), any::<bool>())
        .prop_flat_map(|(mode, nx)| (Just(mode), Just(nx), pages(mode), pages(mode)))
}

fn triples(pages: &Pages) -> impl Iterator<Item = (u64, Gpa, Rights)> + Clone + '_ {
    pages
        .iter()
        .map(|(&gva, &(gpa, rights))| (gva, gpa, rights))
}

/// How many tables pages at these addresses take: the root, and below it one for each
/// stretch of memory that a table of its level spans.
fn tables_needed(mode: PagingMode, gvas: impl Iterator<Item = u64> + Clone) -> usize {
    let spans: &[u32] = match mode {
        PagingMode::Off => &[],
        PagingMode::Bits32 => &[22],
        PagingMode::Pae => &[30, 21],
        PagingMode::Level4 => &[39, 30, 21],
        PagingMode::Level5 => &[48, 39, 30, 21],
    };
    let stretches = |span| gvas.clone().map(move |gva| gva >> span);
    let below_root = spans
        .iter()
        .map(|span| stretches(span).collect::<BTreeSet<_>>().len());
    1 + below_root.sum::<usize>()
}

/// Every entry that isn't zero, with whether it is in the root.
fn entries(memory: &Frames, tables: &PalTables, mode: PagingMode) -> Vec<(bool, u64)> {
    let mut entries = Vec::new();
    for &frame in tables.frames() {
        let pairs = (0..512).map(|n| TableMemory::read(memory, frame, n));
        let all: Vec<u64> = match mode {
            PagingMode::Bits32 => pairs.flat_map(|p| [p & 0xffff_ffff, p >> 32]).collect(),
            _ => pairs.collect(),
        };
        let used = all.into_iter().filter(|&entry| entry != 0);
        entries.extend(used.map(|entry| (frame == tables.root, entry)));
    }
    entries
}

fn at_cpl_3(memory: &mut Frames, regs: &PagingRegs, gva: u64, kind: AccessKind) -> Option<Gpa> {
    let mode = AccessMode::User;
    let found = walk(memory, regs, Gva::new(gva), Access { kind, mode });
    found.map(|translation| translation.gpa).ok()
}

/// Do the tables map these pages, so, and nothing else?
fn check(
    memory: &mut Frames,
    tables: &PalTables,
    mode: PagingMode,
    nx: bool,
    pages: &Pages,
) -> Result<(), TestCaseError> {
    let regs = regs(mode, nx, tables);
    for (gva, gpa, rights) in triples(pages) {
        let writes = rights == Rights::ReadWrite;
        let executes = rights == Rights::ReadExecute || !nx || mode == PagingMode::Bits32;
        let read = at_cpl_3(memory, &regs, gva, AccessKind::Read);
        let write = at_cpl_3(memory, &regs, gva, AccessKind::Write);
        let execute = at_cpl_3(memory, &regs, gva, AccessKind::Execute);
        prop_assert_eq!(read, Some(gpa));
        prop_assert_eq!(write, writes.then_some(gpa));
        prop_assert_eq!(execute, executes.then_some(gpa));
        let last = Gpa::new(gpa.as_u64() + 0xfff);
        prop_assert_eq!(tables.translate(memory, gva + 0xfff), Some((last, rights)));
        for near in [gva.wrapping_sub(PAGE_SIZE), gva + PAGE_SIZE, gva ^ 1 << 63] {
            let expected = pages.get(&near).copied();
            let read = at_cpl_3(memory, &regs, near, AccessKind::Read);
            prop_assert_eq!(read, expected.map(|page| page.0));
            prop_assert_eq!(tables.translate(memory, near), expected);
        }
    }
    let entries = entries(memory, tables, mode);
    // An entry for each page, and one for each table but the root.
    prop_assert_eq!(entries.len(), pages.len() + tables.frames().len() - 1);
    prop_assert_eq!(
        entries.iter().filter(|(_, e)| e & DIRTY != 0).count(),
        pages.len()
    );
    for (in_root, entry) in entries {
        prop_assert_eq!(entry & (WRITE_THROUGH | CACHE_DISABLE | GLOBAL), 0);
        let is_pdpte = in_root && mode == PagingMode::Pae;
        prop_assert_eq!(entry & ACCESSED == 0, is_pdpte);
    }
    match mode {
        PagingMode::Pae => {
            prop_assert_eq!(load_pdptes(memory, regs.cr3, 40), Ok(tables.pdptes));
        }
        _ => prop_assert_eq!(tables.pdptes, [0; 4]),
    }
    Ok(())
}

const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const GLOBAL: u64 = 1 << 8;

proptest! {
    #[test]
    fn the_pages_are_mapped_and_nothing_else((mode, nx, pages, _) in case()) {
        let mut memory = Frames::new(usize::MAX);
        let tables = PalTables::build(&mut memory, mode, nx, triples(&pages)).unwrap();
        check(&mut memory, &tables, mode, nx, &pages)?;
    }

    #[test]
    fn as_many_tables_as_are_needed((mode, nx, pages, more) in case()) {
        // In no order, and some twice.
        let gvas = pages.keys().chain(more.keys()).chain(pages.keys()).copied();
        let needed = tables_needed(mode, gvas.clone());
        let build = |frames| {
            let mut memory = Frames::new(frames);
            let pages = gvas.clone().map(|gva| (gva, Gpa::new(0), Rights::ReadWrite));
            PalTables::build(&mut memory, mode, nx, pages).map(|t| t.frames().to_vec())
        };
        let frames = build(needed).unwrap();
        prop_assert_eq!(frames.len(), needed);
        prop_assert_eq!(build(needed - 1), Err(OutOfTables));
    }

    #[test]
    fn shared_pages_come_and_go((mode, nx, own, mut shared) in case(), frames in 0..20usize) {
        shared.retain(|gva, _| !own.contains_key(gva));
        let mut memory = Frames::new(usize::MAX);
        let mut tables = PalTables::build(&mut memory, mode, nx, triples(&own)).unwrap();
        let (memory_before, tables_before) = (memory.clone(), tables.clone());
        memory.left = frames;
        let mut all = own.clone();
        let mut mapped = Vec::new();
        let mut refused = None;
        for (gva, gpa, rights) in triples(&shared) {
            if tables.map(&mut memory, gva, gpa, rights).is_err() {
                refused = Some(gva);
                break;
            }
            all.insert(gva, (gpa, rights));
            mapped.push(gva);
        }
        if let Some(gva) = refused {
            // The tables for this page are there, but nothing leads to them.
            prop_assert_eq!(memory.left, 0);
            let needed = tables_needed(mode, all.keys().copied());
            let entries = entries(&memory, &tables, mode);
            let orphans = tables.frames().len() - needed;
            let inside_orphans = orphans.saturating_sub(1);
            prop_assert_eq!(entries.len(), all.len() + needed - 1 + inside_orphans);
            prop_assert_eq!(tables.translate(&memory, gva), None);
            for (gva, gpa, rights) in triples(&all) {
                prop_assert_eq!(tables.translate(&memory, gva), Some((gpa, rights)));
            }
        } else {
            check(&mut memory, &tables, mode, nx, &all)?;
        }
        let added = tables.frames()[tables_before.frames().len()..].to_vec();
        let mut given_back = Vec::new();
        tables.unmap_shared(&mut memory, mapped.into_iter(), |frame| given_back.push(frame));
        for frame in &given_back {
            memory.frames.remove(&frame.as_u64());
        }
        given_back.reverse();
        prop_assert_eq!(given_back, added);
        prop_assert!(memory.frames == memory_before.frames);
        prop_assert_eq!(tables, tables_before);
    }
}

#[test]
fn the_largest_pal_has_room_for_its_tables() {
    // Each section crosses a boundary of the highest level.
    let last = MAX_PAGES - 18;
    let sections = (0..10).map(|n| {
        (
            ((2 * n + 1) << 48) - PAGE_SIZE,
            if n == 9 { last } else { 2 },
        )
    });
    let gvas = sections.flat_map(|(start, pages)| (0..pages).map(move |n| start + n * PAGE_SIZE));
    assert_eq!(gvas.clone().count() as u64, MAX_PAGES);
    let needed = tables_needed(PagingMode::Level5, gvas.clone());
    assert!(needed <= MAX_TABLES && needed > MAX_TABLES - 3, "{needed}");
    let mut memory = Frames::new(needed);
    let pages = gvas.map(|gva| (gva, Gpa::new(0), Rights::ReadWrite));
    PalTables::build(&mut memory, PagingMode::Level5, true, pages).unwrap();
}
