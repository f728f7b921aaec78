//! The tables, checked by a walker that knows only the SDM's entry formats.

extern crate std;

use super::*;
use crate::addr::PhysRange;
use crate::mtrr::{Mtrrs, VariableMtrr};
use proptest::prelude::*;
use std::vec::Vec;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const ZERO_PAGE: Hpa = Hpa::new(0x3ff0_0000);

/// Tables from 1 TiB on, so that they are never mistaken for what is mapped.
#[derive(Clone)]
struct Tables {
    tables: Vec<[u64; 512]>,
    capacity: usize,
}

const TABLES_AT: u64 = 1 << 40;

fn tables(capacity: usize) -> Tables {
    Tables {
        tables: Vec::new(),
        capacity,
    }
}

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<Hpa> {
        if self.tables.len() == self.capacity {
            return None;
        }
        self.tables.push([0; 512]);
        Some(Hpa::new(
            TABLES_AT + (self.tables.len() as u64 - 1) * 0x1000,
        ))
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.tables[((table.as_u64() - TABLES_AT) / 0x1000) as usize][index]
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        self.tables[((table.as_u64() - TABLES_AT) / 0x1000) as usize][index] = entry;
    }
}

/// What the processor makes of an address: host-physical address, permission
/// bits, memory type, size of the page. `None` is an EPT violation.
fn walk(tables: &Tables, eptp: u64, gpa: u64) -> Option<(u64, u64, u64, u64)> {
    assert_eq!(eptp & 0xfff, 0x1e, "write-back, four levels, nothing else");
    let mut table = eptp & !0xfff;
    let mut permissions = 7;
    for shift in [39, 30, 21, 12] {
        let entry = tables.read(Hpa::new(table), (gpa >> shift & 511) as usize);
        if entry & 7 == 0 {
            return None;
        }
        assert_ne!(entry & 7, 2, "write without read is a misconfiguration");
        permissions &= entry & 7;
        let leaf = shift == 12 || entry & 1 << 7 != 0;
        if !leaf {
            assert_eq!(entry & 0xf8, 0, "reserved bits of a table's entry");
            table = entry & 0x000f_ffff_ffff_f000;
            continue;
        }
        assert_ne!(shift, 39, "there are no 512 GiB pages");
        let size = 1 << shift;
        let base = entry & 0x000f_ffff_ffff_f000;
        assert_eq!(base % size, 0, "reserved bits of a page's address");
        let memory_type = entry >> 3 & 7;
        assert!([0, 1, 4, 5, 6].contains(&memory_type));
        assert_eq!(entry & 1 << 6, 0, "the guest's PAT counts");
        return Some((base + gpa % size, permissions, memory_type, size));
    }
    unreachable!()
}

/// 1 GiB of write-back RAM, the rest uncacheable: a small PC.
fn mtrrs() -> Mtrrs {
    let mut mtrrs = Mtrrs::disabled();
    mtrrs.default_type = 3 << 10;
    mtrrs.fixed = [0x0606_0606_0606_0606; 11];
    mtrrs.fixed[2] = 0;
    let mask = ((1 << 40) - 1) & !(GIB - 1) | 1 << 11;
    mtrrs.variable.push(VariableMtrr { base: 6, mask }).unwrap();
    mtrrs
}

fn plan(mtrrs: &Mtrrs) -> IdentityPlan<'_> {
    IdentityPlan {
        mtrrs,
        hole: PhysRange::new(0x3e00_0000, 0x3f00_0000),
        zero_page: ZERO_PAGE,
        limit: 512 * GIB,
        pages_1g: true,
    }
}

/// Checks both views at an address that is mapped.
fn check(memory: &Tables, map: &IdentityMap, mtrrs: &Mtrrs, gpa: u64) -> u64 {
    let main = walk(memory, eptp(map.root()), gpa);
    let zero = walk(memory, eptp(map.zero_root()), gpa);
    if map.hole.contains(gpa) {
        assert_eq!(main, None);
        assert_eq!(
            zero,
            Some((ZERO_PAGE.as_u64() + gpa % 0x1000, 5, 6, 0x1000))
        );
        return 0x1000;
    }
    assert_eq!(main, zero, "{gpa:#x}");
    let (hpa, permissions, memory_type, size) =
        main.unwrap_or_else(|| panic!("{gpa:#x} is missing"));
    assert_eq!((hpa, permissions), (gpa, 7));
    assert_eq!(memory_type, mtrrs.type_at(gpa) as u64, "{gpa:#x}");
    size
}

/// Every page of the first 2 GiB, and a few beyond.
fn check_all(memory: &Tables, map: &IdentityMap, mtrrs: &Mtrrs, limit: u64) {
    let mut gpa = 0;
    while gpa < 2 * GIB {
        gpa += check(memory, map, mtrrs, gpa);
    }
    for gpa in [3 * GIB, 0xfee0_0000, limit - 1] {
        check(memory, map, mtrrs, gpa);
    }
    assert_eq!(walk(memory, eptp(map.root()), limit), None);
}

#[test]
fn a_small_pc() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    check_all(&memory, &map, &mtrrs, 512 * GIB);
    // Main view: PML4, PDPT, page directory of the first GiB, page table of
    // the first 2 MiB. Zero view: PML4, PDPT, page directory, zeros.
    assert_eq!(map.tables(), 8);
    assert_eq!(memory.tables.len(), 8);
    assert_eq!(walk(&memory, eptp(map.root()), 5 * GIB).unwrap().3, GIB);
    assert_eq!(walk(&memory, eptp(map.root()), 2 * MIB).unwrap().3, 2 * MIB);
}

#[test]
fn without_1_gib_pages() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let limit = default_limit(40, false, 5 * GIB + 1);
    assert_eq!(limit, 6 * GIB);
    let plan = IdentityPlan {
        pages_1g: false,
        limit,
        ..plan(&mtrrs)
    };
    let mut map = IdentityMap::build(&mut memory, &plan).unwrap();
    check_all(&memory, &map, &mtrrs, limit);
    let gpa = Gpa::new(700 * GIB + 5);
    let leaf = map.map_on_demand(&mut memory, &mtrrs, gpa).unwrap();
    assert_eq!(
        (leaf.hpa.as_u64(), leaf.size),
        (700 * GIB, PageSize::Size2M)
    );
    check(&memory, &map, &mtrrs, gpa.as_u64());
    let before = map.clone();
    assert_eq!(map.map_on_demand(&mut memory, &mtrrs, gpa), Ok(leaf));
    assert_eq!(map, before, "the second time nothing is made");
}

#[test]
fn limits() {
    assert_eq!(default_limit(46, true, 0), 512 * GIB);
    assert_eq!(default_limit(36, true, 0), 64 * GIB);
    assert_eq!(default_limit(36, false, 0), 4 * GIB);
    assert_eq!(default_limit(36, false, u64::MAX), 64 * GIB);
    assert_eq!(default_limit(0, true, 0), GIB);
}

#[test]
fn past_the_limit_on_demand() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    for gpa in [512 * GIB, 514 * GIB - 1, (1 << 46) - 1] {
        assert_eq!(walk(&memory, eptp(map.zero_root()), gpa), None);
        let leaf = map
            .map_on_demand(&mut memory, &mtrrs, Gpa::new(gpa))
            .unwrap();
        assert_eq!(leaf.size, PageSize::Size1G);
        check(&memory, &map, &mtrrs, gpa);
    }
    assert_eq!(map.tables(), memory.tables.len());
    // In the hole, and where the tables would take the address for a lower one.
    for gpa in [map.hole.start, 1 << 48, (1 << 51) + GIB] {
        let refused = map.map_on_demand(&mut memory, &mtrrs, Gpa::new(gpa));
        assert_eq!(refused, Err(EptError::BadAddress(Gpa::new(gpa))));
    }
    memory.capacity = memory.tables.len();
    let far = Gpa::new(1 << 45);
    let refused = map.map_on_demand(&mut memory, &mtrrs, far);
    assert_eq!(refused, Err(EptError::OutOfTables));
}

#[test]
fn holes_of_every_shape() {
    let mtrrs = mtrrs();
    for (start, end) in [
        (0, 2 * MIB),
        (GIB - 4 * MIB, GIB + 2 * MIB),
        (0, GIB),
        (GIB, 2 * GIB),
        (GIB - 2 * MIB, 2 * GIB + 2 * MIB),
        (511 * GIB, 512 * GIB),
    ] {
        let mut memory = tables(64);
        let hole = PhysRange::new(start, end);
        let map = IdentityMap::build(
            &mut memory,
            &IdentityPlan {
                hole,
                ..plan(&mtrrs)
            },
        )
        .unwrap();
        for gpa in (0..3 * GIB)
            .step_by(MIB as usize)
            .chain([511 * GIB, 512 * GIB - 1])
        {
            check(&memory, &map, &mtrrs, gpa);
        }
    }
}

#[test]
fn a_bad_hole_is_refused() {
    let mtrrs = mtrrs();
    for (start, end) in [
        (MIB, 4 * MIB),
        (2 * MIB, 3 * MIB),
        (2 * MIB, 2 * MIB),
        (512 * GIB, 513 * GIB),
    ] {
        let hole = PhysRange::new(start, end);
        let built = IdentityMap::build(
            &mut tables(64),
            &IdentityPlan {
                hole,
                ..plan(&mtrrs)
            },
        );
        assert_eq!(built, Err(EptError::BadHole));
    }
}

#[test]
fn too_few_tables_are_an_error() {
    let mtrrs = mtrrs();
    for capacity in 0..8 {
        let built = IdentityMap::build(&mut tables(capacity), &plan(&mtrrs));
        assert_eq!(built, Err(EptError::OutOfTables), "{capacity}");
    }
}

fn lent(hpa: Hpa, permissions: Permissions, tag: u8) -> Page {
    Page {
        hpa,
        permissions,
        tag,
    }
}

#[test]
fn one_page_can_be_taken_away_and_given_back() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    let decoy = Hpa::new(0x1234_5000);
    // In a 2 MiB page, in a 1 GiB page, and beside the hole.
    for page in [0x1000_3000, 7 * GIB + 0x5000, 0x3dff_f000] {
        let gpa = Gpa::new(page);
        map.set_page(&mut memory, gpa, lent(decoy, Permissions::READ, 127))
            .unwrap();
        assert_eq!(lookup(&memory, map.root(), gpa).unwrap().tag, 127);
        for root in [map.root(), map.zero_root()] {
            assert_eq!(
                walk(&memory, eptp(root), page),
                Some((decoy.as_u64(), 1, mtrrs.type_at(page) as u64, 0x1000))
            );
        }
        check(&memory, &map, &mtrrs, page - 0x1000);
        map.set_page(
            &mut memory,
            gpa,
            lent(Hpa::new(page), Permissions::empty(), 1),
        )
        .unwrap();
        assert_eq!(walk(&memory, eptp(map.zero_root()), page), None);
        let leaf = lookup(&memory, map.root(), gpa).unwrap();
        assert_eq!((leaf.permissions, leaf.tag), (Permissions::empty(), 1));
        // A page without permissions isn't one that was never mapped.
        let met = map.map_on_demand(&mut memory, &mtrrs, gpa).unwrap();
        assert_eq!(met, leaf);
        map.set_page(&mut memory, gpa, Page::own(gpa)).unwrap();
        assert_eq!(lookup(&memory, map.root(), gpa).unwrap().tag, 0);
        check(&memory, &map, &mtrrs, page);
    }
    check_all(&memory, &map, &mtrrs, 512 * GIB);
    assert_eq!(map.tables(), memory.tables.len());
}

#[test]
fn pages_are_joined_when_all_are_the_guests_own() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    let before = map.tables();
    let gpa = Gpa::new(0x1000_3000);
    assert_eq!(map.join(&mut memory, gpa), None, "a large page");
    for page in [gpa, Gpa::new(0x1000_4000)] {
        map.set_page(
            &mut memory,
            page,
            lent(Hpa::new(0x5000), Permissions::READ, 3),
        )
        .unwrap();
    }
    let split = map.tables();
    assert!(split > before);
    let table = page_table(&memory, map.root(), gpa).unwrap();
    // The address has more bits than the tables translate.
    let alias = Gpa::new(1 << 48 | gpa.as_u64());
    assert_eq!(page_table(&memory, map.root(), alias), None);
    map.set_page(&mut memory, gpa, Page::own(gpa)).unwrap();
    assert_eq!(map.join(&mut memory, gpa), None, "one is lent still");
    assert_eq!(own_region(&memory, table), None, "one is lent still");
    let other = Gpa::new(0x1000_4000);
    map.set_page(&mut memory, other, Page::own(other)).unwrap();
    let table = page_table(&memory, map.root(), gpa);
    assert_eq!(
        own_region(&memory, table.unwrap()),
        Some(Gpa::new(0x1000_0000))
    );
    assert_eq!(map.join(&mut memory, gpa), table);
    assert_eq!(map.tables(), split - 1);
    for root in [map.root(), map.zero_root()] {
        assert_eq!(lookup(&memory, root, gpa).unwrap().size, PageSize::Size2M);
    }
    check_all(&memory, &map, &mtrrs, 512 * GIB);
    assert_eq!(map.join(&mut memory, Gpa::new(0)), None, "several types");
    assert_eq!(map.join(&mut memory, Gpa::new(map.hole.start)), None);
    assert_eq!(
        map.join(&mut memory, Gpa::new(1 << 45)),
        None,
        "nothing there"
    );
}

#[test]
fn what_cannot_be_set_is_refused() {
    let (mtrrs, mut memory) = (mtrrs(), tables(64));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    let before = memory.tables.clone();
    let past_48_bits = (1 << 48) | (7 * GIB);
    for gpa in [
        map.hole.start,
        map.hole.end - 0x1000,
        0x1001,
        512 * GIB,
        past_48_bits,
    ] {
        let refused = map.set_page(&mut memory, Gpa::new(gpa), Page::own(Gpa::new(0)));
        assert_eq!(refused, Err(EptError::BadAddress(Gpa::new(gpa))));
    }
    memory.capacity = memory.tables.len();
    let gpa = Gpa::new(7 * GIB);
    let refused = map.set_page(&mut memory, gpa, Page::own(gpa));
    assert_eq!(refused, Err(EptError::OutOfTables));
    assert_eq!(memory.tables, before);
}

#[test]
fn changed_mtrrs_change_the_types() {
    let (mut mtrrs, mut memory) = (mtrrs(), tables(64));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    // A frame buffer, write-combining, inside a 1 GiB page; a fixed range.
    let mask = ((1 << 40) - 1) & !(8 * MIB - 1) | 1 << 11;
    mtrrs
        .variable
        .push(VariableMtrr {
            base: 0x4080_0000 | 1,
            mask,
        })
        .unwrap();
    mtrrs.fixed[0] = 0x0404_0606_0606_0606;
    assert_eq!(map.set_memory_types(&mut memory, &mtrrs), 0);
    check_all(&memory, &map, &mtrrs, 512 * GIB);
    assert_eq!(map.tables(), 9);
}

#[test]
fn types_that_cannot_be_split_are_uncacheable() {
    let (mut mtrrs, mut memory) = (mtrrs(), tables(8));
    let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
    let mask = ((1 << 40) - 1) & !(8 * MIB - 1) | 1 << 11;
    mtrrs
        .variable
        .push(VariableMtrr {
            base: 0x4080_0000 | 1,
            mask,
        })
        .unwrap();
    assert_eq!(map.set_memory_types(&mut memory, &mtrrs), 1);
    assert_eq!(walk(&memory, eptp(map.root()), 0x4080_0000).unwrap().2, 0);
    assert_eq!(
        walk(&memory, eptp(map.zero_root()), 0x4080_0000).unwrap().2,
        0
    );
}

/// 0 where there is no page table.
fn tag_at(memory: &Tables, map: &IdentityMap, gpa: u64) -> u8 {
    let gpa = Gpa::new(gpa);
    page_table(memory, map.root(), gpa).map_or(0, |table| tag(memory, table, gpa))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_changes_leave_both_views_as_a_model_says(
        changes in proptest::collection::vec((0..0x60_0000u64, 0..3u64, 0..8u64), 0..24),
        probes in proptest::collection::vec(0..0x60_0000u64, 32),
    ) {
        let (mtrrs, mut memory) = (mtrrs(), tables(256));
        let mut map = IdentityMap::build(&mut memory, &plan(&mtrrs)).unwrap();
        let mut model = std::collections::BTreeMap::new();
        for (page, to, permissions) in changes {
            // Write without read is no permission that EPT knows.
            let permissions = if permissions & 3 == 2 { permissions | 1 } else { permissions };
            let (gpa, hpa) = (page << 12, (page ^ to) << 12);
            let page = lent(Hpa::new(hpa), Permissions::from_bits_truncate(permissions), to as u8 + 1);
            let set = map.set_page(&mut memory, Gpa::new(gpa), page);
            prop_assert_eq!(set.is_ok(), !map.hole.contains(gpa));
            if let Ok(set) = set {
                let table = page_table(&memory, map.root(), Gpa::new(gpa));
                prop_assert_eq!(set, (table.unwrap(), mtrrs.type_at(gpa)));
                model.insert(gpa, (hpa, permissions));
                prop_assert_eq!(tag_at(&memory, &map, gpa), to as u8 + 1);
            }
        }
        for gpa in probes.into_iter().map(|page| page << 12).chain(model.keys().copied()) {
            match model.get(&gpa) {
                None => {
                    check(&memory, &map, &mtrrs, gpa);
                    prop_assert_eq!(tag_at(&memory, &map, gpa), 0);
                }
                Some(&(hpa, permissions)) => for root in [map.root(), map.zero_root()] {
                    let found = walk(&memory, eptp(root), gpa).map(|(hpa, permissions, ..)| (hpa, permissions));
                    prop_assert_eq!(found, (permissions != 0).then_some((hpa, permissions)));
                },
            }
        }
    }

    #[test]
    fn a_pals_view_holds_its_pages_and_nothing_else(
        changes in proptest::collection::vec((0..6u64, 0..1024u64, 0..3usize), 0..64),
    ) {
        let mut memory = tables(64);
        let view = PalView::new(&mut memory).unwrap();
        let rights = [Permissions::READ, Permissions::READ | Permissions::EXECUTE, Permissions::READ | Permissions::WRITE];
        let mut model = std::collections::BTreeMap::new();
        for (far, page, kind) in changes {
            // Some in one table, some in another, some far away.
            let gpa = (far / 2) << 38 | page << 12;
            if far % 2 == 1 && model.remove(&gpa).is_some() {
                view.unmap(&mut memory, Gpa::new(gpa));
                continue;
            }
            view.map(&mut memory, Gpa::new(gpa), rights[kind], MemoryType::WriteBack).unwrap();
            model.insert(gpa, rights[kind].bits());
        }
        for gpa in (0..3).flat_map(|far| (0..1024).map(move |page| far << 38 | page << 12)) {
            let found = walk(&memory, view.eptp(), gpa);
            let expected = model.get(&gpa).map(|&rights| (gpa, rights, 6, 0x1000));
            prop_assert_eq!(found, expected);
            prop_assert_eq!(view.maps(&memory, Gpa::new(gpa)), expected.is_some());
        }
    }
}

#[test]
fn a_pals_view_says_what_it_cannot_hold() {
    let mut memory = tables(3);
    let view = PalView::new(&mut memory).unwrap();
    let mut map = |gpa| {
        view.map(
            &mut memory,
            Gpa::new(gpa),
            Permissions::READ,
            MemoryType::WriteBack,
        )
    };
    assert_eq!(map(0x1001), Err(EptError::BadAddress(Gpa::new(0x1001))));
    assert_eq!(map(1 << 48), Err(EptError::BadAddress(Gpa::new(1 << 48))));
    assert_eq!(map(0x1000), Err(EptError::OutOfTables));
}
