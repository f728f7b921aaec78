//! Walks, against tables that are built page by page and rules as the SDM
//! states them.

extern crate std;

use super::*;
use crate::control_regs::*;
use AccessKind::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

const DEBUGGER: Access = Access {
    kind: Read,
    mode: AccessMode::Debugger,
};

/// Memory that has the pages that were put there.
#[derive(Default, Clone)]
struct Memory {
    pages: BTreeMap<u64, [u8; 4096]>,
}

impl Memory {
    fn each<E>(
        &mut self,
        address: Gpa,
        len: usize,
        mut f: impl FnMut(usize, &mut u8),
        absent: impl Fn(Gpa) -> E,
    ) -> Result<(), E> {
        for n in 0..len {
            let at = Gpa::new(address.as_u64() + n as u64);
            let page = self.pages.get_mut(&at.page().as_u64()).ok_or(absent(at))?;
            f(n, &mut page[at.page_offset() as usize]);
        }
        Ok(())
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        for n in 0..bytes.len() as u64 {
            self.pages
                .entry((address + n) & !0xfff)
                .or_insert([0; 4096]);
        }
        self.write(Gpa::new(address), bytes).unwrap();
    }
}

impl PhysMem for Memory {
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        self.each(address, into.len(), |n, byte| into[n] = *byte, PhysMemError)
    }

    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
        self.each(address, from.len(), |n, byte| *byte = from[n], PhysMemError)
    }
}

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const PS: u64 = 0x80;
const XD: u64 = 1 << 63;
const OPEN: u64 = P | RW | US;

fn long_mode() -> PagingRegs {
    PagingRegs {
        cr0: CR0_PG | CR0_PE,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA | EFER_NXE,
        max_phys_addr: 40,
        pages_1g: true,
        ..PagingRegs::default()
    }
}

fn pae() -> PagingRegs {
    PagingRegs {
        efer: EFER_NXE,
        ..long_mode()
    }
}

fn bits_32() -> PagingRegs {
    PagingRegs {
        cr4: CR4_PSE,
        efer: 0,
        ..long_mode()
    }
}

/// Tables at 0x1000, 0x2000 and so on, one for each index, the last entry
/// being the page's.
fn tables(entries: &[(u64, u64)]) -> Memory {
    let mut memory = Memory::default();
    for (n, &(index, entry)) in entries.iter().enumerate() {
        let table = 0x1000 * (n as u64 + 1);
        let next = if n + 1 == entries.len() {
            0
        } else {
            table + 0x1000
        };
        memory.put(table + 8 * index, &(entry | next).to_le_bytes());
    }
    memory
}

fn gpa(memory: &mut Memory, regs: &PagingRegs, gva: u64) -> Result<u64, WalkError> {
    walk(memory, regs, Gva::new(gva), DEBUGGER).map(|t| t.gpa.as_u64())
}

fn page_fault(gva: u64, code: u32) -> Result<u64, WalkError> {
    Err(WalkError::PageFault {
        code,
        gva: Gva::new(gva),
    })
}

#[test]
fn paging_off() {
    let regs = PagingRegs {
        cr3: 0x1000,
        ..PagingRegs::default()
    };
    let mut memory = Memory::default();
    assert_eq!(gpa(&mut memory, &regs, 0xffff_fff0), Ok(0xffff_fff0));
    let beyond = 1 << 32;
    assert_eq!(
        gpa(&mut memory, &regs, beyond),
        Err(WalkError::NonCanonical(Gva::new(beyond)))
    );
}

#[test]
fn four_levels() {
    let regs = long_mode();
    let gva = 0xffff_8123_4567_8abc;
    let indices = [
        gva >> 39 & 511,
        gva >> 30 & 511,
        gva >> 21 & 511,
        gva >> 12 & 511,
    ];
    let entries = indices.map(|index| (index, OPEN));
    let mut memory = tables(&[
        entries[0],
        entries[1],
        entries[2],
        (indices[3], OPEN | 0xab_cdef_5000),
    ]);
    assert_eq!(gpa(&mut memory, &regs, gva), Ok(0xab_cdef_5abc));
    assert_eq!(
        gpa(&mut memory, &regs, gva + 0x1000),
        page_fault(gva + 0x1000, 0)
    );
    let mut memory = tables(&[
        entries[0],
        entries[1],
        (indices[2], OPEN | PS | 0xab_cde0_0000),
    ]);
    assert_eq!(
        gpa(&mut memory, &regs, gva),
        Ok(0xab_cdf7_8abc - 0x10_0000 + (gva & 0x10_0000))
    );
    let mut memory = tables(&[entries[0], (indices[1], OPEN | PS | 0xab_c000_0000)]);
    assert_eq!(
        gpa(&mut memory, &regs, gva),
        Ok(0xab_c000_0000 + (gva & 0x3fff_ffff))
    );
    let no_1g = PagingRegs {
        pages_1g: false,
        ..regs
    };
    assert_eq!(gpa(&mut memory, &no_1g, gva), page_fault(gva, 9));
}

#[test]
fn five_levels() {
    let regs = PagingRegs {
        cr4: CR4_PAE | CR4_LA57,
        ..long_mode()
    };
    let gva = 0x00ab_cdef_0123_4567;
    let index = |shift: u64| gva >> shift & 511;
    let mut memory = tables(&[
        (index(48), OPEN),
        (index(39), OPEN),
        (index(30), OPEN),
        (index(21), OPEN),
        (index(12), OPEN | 0x7_7777_7000),
    ]);
    assert_eq!(gpa(&mut memory, &regs, gva), Ok(0x7_7777_7567));
}

#[test]
fn pae_paging_takes_the_registers_or_memory() {
    let mut memory = Memory::default();
    let gva = 0xc0a0_3123u64;
    memory.put(0x1020 + 8 * 3, &(P | 0x2000).to_le_bytes());
    memory.put(
        0x2000 + 8 * (gva >> 21 & 511),
        &(OPEN | 0x3000).to_le_bytes(),
    );
    memory.put(
        0x3000 + 8 * (gva >> 12 & 511),
        &(OPEN | 0xff_0000_4000).to_le_bytes(),
    );
    let from_memory = PagingRegs {
        cr3: 0x1020,
        ..pae()
    };
    assert_eq!(gpa(&mut memory, &from_memory, gva), Ok(0xff_0000_4123));
    let registers = PagingRegs {
        cr3: 0,
        pdptes: Some([0, 0, 0, P | 0x2000]),
        ..pae()
    };
    assert_eq!(gpa(&mut memory, &registers, gva), Ok(0xff_0000_4123));
    assert_eq!(gpa(&mut memory, &registers, 0x1000), page_fault(0x1000, 0));
    // Bits that 4-level paging ignores are reserved here.
    memory.put(
        0x3000 + 8 * (gva >> 12 & 511),
        &(OPEN | 1 << 52 | 0x4000).to_le_bytes(),
    );
    assert_eq!(gpa(&mut memory, &registers, gva), page_fault(gva, 9));
}

#[test]
fn pdptes_are_checked_when_loaded() {
    let mut memory = Memory::default();
    memory.put(0x1fe0, &[0; 32]);
    assert_eq!(load_pdptes(&mut memory, 0x1fff, 40), Ok([0; 4]));
    memory.put(0x1fe8, &(P | 0x5018).to_le_bytes());
    assert_eq!(
        load_pdptes(&mut memory, 0x1fe0, 40),
        Ok([0, P | 0x5018, 0, 0])
    );
    for reserved in [2u64, 4, 0x20, 0x100, 1 << 40, 1 << 63] {
        memory.put(0x1ff8, &(P | reserved).to_le_bytes());
        assert_eq!(
            load_pdptes(&mut memory, 0x1fe0, 40),
            Err(PdpteError::Reserved),
            "{reserved:#x}"
        );
        memory.put(0x1ff8, &reserved.to_le_bytes());
        assert!(load_pdptes(&mut memory, 0x1fe0, 40).is_ok());
    }
    let absent = PdpteError::Unreadable(Gpa::new(0x8000));
    assert_eq!(load_pdptes(&mut memory, 0x8000, 40), Err(absent));
}

#[test]
fn paging_of_32_bits() {
    let mut memory = Memory::default();
    let gva = 0x8040_3123u64;
    memory.put(
        0x1000 + 4 * (gva >> 22),
        &(OPEN as u32 | 0x2000).to_le_bytes(),
    );
    memory.put(
        0x2000 + 4 * (gva >> 12 & 0x3ff),
        &(OPEN as u32 | 0xfedc_b000).to_le_bytes(),
    );
    let regs = bits_32();
    assert_eq!(gpa(&mut memory, &regs, gva), Ok(0xfedc_b123));
    assert_eq!(gpa(&mut memory, &regs, 0), page_fault(0, 0));
    // PSE-36: address bits 39:32 in bits 20:13.
    memory.put(
        0x1000,
        &(OPEN | PS | 0x0140_0000 | 0xa5 << 13).to_le_bytes()[..4],
    );
    assert_eq!(gpa(&mut memory, &regs, 0x12_3456), Ok(0xa5_0152_3456));
    let narrow = PagingRegs {
        max_phys_addr: 39,
        ..regs
    };
    assert_eq!(
        gpa(&mut memory, &narrow, 0x12_3456),
        page_fault(0x12_3456, 9)
    );
    memory.put(0x1000, &(OPEN | PS | 1 << 21).to_le_bytes()[..4]);
    assert_eq!(
        gpa(
            &mut memory,
            &PagingRegs {
                max_phys_addr: 52,
                ..regs
            },
            0
        ),
        page_fault(0, 9)
    );
    // Without CR4.PSE the bit says nothing.
    memory.put(0x1000, &(OPEN | PS | 0x2000).to_le_bytes()[..4]);
    memory.put(0x2000, &(OPEN | 0x7000).to_le_bytes()[..4]);
    assert_eq!(
        gpa(&mut memory, &PagingRegs { cr4: 0, ..regs }, 0x10),
        Ok(0x7010)
    );
}

#[test]
fn reserved_bits() {
    let gva = 0x1234_5678;
    let regs = long_mode();
    for (level, bit, reserved) in [
        (0, 7, true),
        (0, 40, true),
        (0, 51, true),
        (0, 52, false),
        (0, 62, false),
        (0, 8, false),
        (1, 40, true),
        (2, 45, true),
        (3, 39, false),
        (3, 40, true),
        (3, 7, false),
    ] {
        let mut entries = [39, 30, 21, 12].map(|shift| (gva >> shift & 511, OPEN));
        entries[level].1 |= 1 << bit;
        let result = gpa(&mut tables(&entries), &regs, gva);
        assert_eq!(
            result == page_fault(gva, 9),
            reserved,
            "level {level} bit {bit}"
        );
    }
    for (level, shift, bit, reserved) in [
        (2, 21, 12, false),
        (2, 21, 13, true),
        (2, 21, 20, true),
        (1, 30, 29, true),
        (1, 30, 13, true),
    ] {
        let entries = [39, 30, 21].map(|shift| (gva >> shift & 511, OPEN));
        let mut entries = Vec::from(&entries[..=level]);
        entries[level] = (gva >> shift & 511, OPEN | PS | 1 << bit);
        let result = gpa(&mut tables(&entries), &regs, gva);
        assert_eq!(
            result == page_fault(gva, 9),
            reserved,
            "page of level {level} bit {bit}"
        );
    }
    let entries = [39, 30, 21, 12].map(|shift| (gva >> shift & 511, OPEN | XD));
    assert!(gpa(&mut tables(&entries), &regs, gva).is_ok());
    let no_nx = PagingRegs {
        efer: EFER_LME | EFER_LMA,
        ..regs
    };
    assert_eq!(gpa(&mut tables(&entries), &no_nx, gva), page_fault(gva, 9));
}

#[test]
fn canonical_addresses() {
    let (four, five) = (
        long_mode(),
        PagingRegs {
            cr4: CR4_PAE | CR4_LA57,
            ..long_mode()
        },
    );
    for (gva, in_four, in_five) in [
        (0, true, true),
        (0x0000_7fff_ffff_ffff, true, true),
        (0x0000_8000_0000_0000, false, true),
        (0xffff_7fff_ffff_ffff, false, true),
        (0xffff_8000_0000_0000, true, true),
        (0x00ff_ffff_ffff_ffff, false, true),
        (0x0100_0000_0000_0000, false, false),
        (u64::MAX, true, true),
    ] {
        let gva = Gva::new(gva);
        assert_eq!(
            (four.is_addressable(gva), five.is_addressable(gva)),
            (in_four, in_five),
            "{gva:#x}"
        );
    }
}

#[test]
fn a_table_outside_memory_is_an_error() {
    let gva = 0x1234_5678;
    let mut memory = tables(&[(0, OPEN | 0xdead_0000)]);
    let at = WalkError::TableUnreadable(Gpa::new(0xdead_0000));
    assert_eq!(gpa(&mut memory, &long_mode(), gva), Err(at));
}

/// What a table of one page does for each way to touch it, by the SDM's words.
fn oracle(regs: &PagingRegs, flags: u64, access: Access) -> Result<(), u32> {
    let nx = regs.efer & EFER_NXE != 0;
    let (user_page, writable, xd) = (flags & US != 0, flags & RW != 0, flags & XD != 0);
    let (wp, smep, smap) = (
        regs.cr0 & CR0_WP != 0,
        regs.cr4 & CR4_SMEP != 0,
        regs.cr4 & CR4_SMAP != 0,
    );
    let ac = regs.rflags & 1 << 18 != 0;
    let pk = regs
        .pkru
        .map_or(0, |pkru| pkru >> (2 * (flags >> 59 & 15)) & 3);
    let user = access.mode == AccessMode::User;
    let mut key_fault = false;
    let allowed = match (access.mode, access.kind) {
        (AccessMode::Debugger, _) => true,
        (AccessMode::User, Read) => user_page,
        (AccessMode::User, Write) => user_page && writable,
        (AccessMode::User, Execute) => user_page && !xd,
        (_, Execute) => !(xd || user_page && smep),
        (AccessMode::Implicit, _) if user_page && smap => false,
        (AccessMode::Supervisor, _) if user_page && smap && !ac => false,
        (_, Read) => true,
        (_, Write) => writable || !wp,
    };
    if allowed && user_page && access.kind != Execute && access.mode != AccessMode::Debugger {
        key_fault = pk & 1 != 0 || (access.kind == Write && pk & 2 != 0 && (user || wp));
    }
    if allowed && !key_fault {
        return Ok(());
    }
    let write = if access.kind == Write { 2 } else { 0 };
    let fetch = if access.kind == Execute && (nx || smep) {
        16
    } else {
        0
    };
    Err(1 | write | if user { 4 } else { 0 } | fetch | if key_fault { 32 } else { 0 })
}

fn accesses() -> impl Strategy<Value = Access> {
    let kinds = proptest::sample::select(&[Read, Write, Execute][..]);
    let modes = [
        AccessMode::User,
        AccessMode::Supervisor,
        AccessMode::Implicit,
        AccessMode::Debugger,
    ];
    (kinds, proptest::sample::select(modes.to_vec())).prop_map(|(kind, mode)| Access { kind, mode })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn rights_are_the_sdms(
        access in accesses(),
        flags in proptest::array::uniform4(0..8u64),
        controls in 0..32u64,
        key in 0..16u64,
        pkru in proptest::option::of(any::<u32>()),
        gva in 0..0x8000_0000_0000u64,
        five in any::<bool>(),
    ) {
        let bit = |n: u64, value: u64| if controls >> n & 1 != 0 { value } else { 0 };
        let mut regs = long_mode();
        regs.cr0 |= bit(0, CR0_WP);
        regs.cr4 |= bit(1, CR4_SMEP) | bit(2, CR4_SMAP) | if five { CR4_LA57 } else { 0 };
        regs.efer = EFER_LME | EFER_LMA | bit(3, EFER_NXE);
        regs.rflags = bit(4, 1 << 18);
        regs.pkru = pkru;
        // XD counts only with NXE; without, it is reserved and another test's.
        let xd = |flags: u64| if flags & 1 != 0 && regs.efer & EFER_NXE != 0 { XD } else { 0 };
        let entry = |flags: u64| P | flags & 6 | xd(flags);
        let shifts = [39u64, 30, 21, 12];
        let mut entries: Vec<_> = (0..4).map(|n| (gva >> shifts[n] & 511, entry(flags[n]))).collect();
        entries[3].1 |= key << 59 | 0x77_7000;
        if five {
            entries.insert(0, (0, OPEN));
        }
        let all = flags.iter().fold(6, |all, &flags| all & flags);
        let any_xd = flags.iter().fold(0, |any, &flags| any | xd(flags));
        let result = walk(&mut tables(&entries), &regs, Gva::new(gva), access);
        match oracle(&regs, all | any_xd | key << 59, access) {
            Err(code) => prop_assert_eq!(result, Err(WalkError::PageFault { code, gva: Gva::new(gva) })),
            Ok(()) => prop_assert_eq!(result, Ok(Translation {
                gpa: Gpa::new(0x77_7000 + (gva & 0xfff)),
                size: Some(PageSize::Size4K),
                user: all & US != 0,
                writable: all & RW != 0,
                executable: any_xd == 0,
            })),
        }
    }

    #[test]
    fn rights_in_32_bit_paging(access in accesses(), flags in 0..16u64, controls in 0..16u64, large in any::<bool>()) {
        let bit = |n: u64, value: u64| if controls >> n & 1 != 0 { value } else { 0 };
        let mut regs = bits_32();
        regs.cr0 |= bit(0, CR0_WP);
        regs.cr4 |= bit(1, CR4_SMEP) | bit(2, CR4_SMAP);
        regs.rflags = bit(3, 1 << 18);
        let (first, second) = (flags & 6, flags >> 1 & 6);
        let mut memory = Memory::default();
        let directory_entry = if large { P | PS | first } else { P | first | 0x2000 };
        memory.put(0x1000, &directory_entry.to_le_bytes()[..4]);
        memory.put(0x2000, &(P | second | 0x7000).to_le_bytes()[..4]);
        let all = if large { first } else { first & second };
        let result = walk(&mut memory, &regs, Gva::new(5), access).map(|_| ());
        let expected = oracle(&regs, all, access);
        prop_assert_eq!(result, expected.map_err(|code| WalkError::PageFault { code, gva: Gva::new(5) }));
    }

    /// Whatever the tables hold, a walk ends, and with a translation only if
    /// the address was one that the guest can form.
    #[test]
    fn no_tables_break_a_walk(
        words in proptest::collection::vec((0..0x8000u64, any::<u64>()), 64),
        gva in any::<u64>(),
        kind in 0..5usize,
        access in accesses(),
    ) {
        let mut memory = Memory::default();
        memory.pages.extend((0..8).map(|page| (page << 12, [0; 4096])));
        for (at, word) in words {
            memory.put(at & !7, &(word & 0x8000_0000_0000_7fff).to_le_bytes());
        }
        let five = PagingRegs { cr4: CR4_PAE | CR4_LA57, ..long_mode() };
        let regs = [PagingRegs::default(), bits_32(), pae(), long_mode(), five][kind];
        let gva = Gva::new(if kind < 3 { gva & 0xffff_ffff } else { gva });
        if walk(&mut memory, &regs, gva, access).is_ok() {
            prop_assert!(regs.is_addressable(gva));
        }
    }
}

/// Two pages, one after the other in virtual memory and far apart in physical
/// memory; the page after them is not there.
fn two_pages() -> (Memory, PagingRegs) {
    let mut memory = tables(&[(0, OPEN), (0, OPEN), (0, OPEN), (0, OPEN | 0x9000)]);
    memory.put(0x4008, &(P | 0x6000).to_le_bytes());
    memory.put(0x9000, &[0xaa; 4096]);
    memory.put(0x6000, &[0xbb; 4096]);
    (memory, long_mode())
}

#[test]
fn copies_cross_pages() {
    let (mut memory, regs) = two_pages();
    let mut bytes = [0; 6];
    read_virtual(
        &mut memory,
        &regs,
        Gva::new(0xffd),
        &mut bytes,
        AccessMode::Debugger,
    )
    .unwrap();
    assert_eq!(bytes, [0xaa, 0xaa, 0xaa, 0xbb, 0xbb, 0xbb]);
    write_virtual(
        &mut memory,
        &regs,
        Gva::new(0xffe),
        &[1, 2, 3, 4],
        AccessMode::Debugger,
    )
    .unwrap();
    assert_eq!(memory.pages[&0x9000][0xffd..], [0xaa, 1, 2]);
    assert_eq!(memory.pages[&0x6000][..3], [3, 4, 0xbb]);
    read_virtual(
        &mut memory,
        &regs,
        Gva::new(u64::MAX),
        &mut [],
        AccessMode::User,
    )
    .unwrap();
}

#[test]
fn a_copy_tells_how_far_it_came() {
    let (mut memory, regs) = two_pages();
    let mut bytes = [0; 8];
    let stopped = read_virtual(
        &mut memory,
        &regs,
        Gva::new(0x1ffd),
        &mut bytes,
        AccessMode::Supervisor,
    );
    let error = WalkError::PageFault {
        code: 0,
        gva: Gva::new(0x2000),
    };
    assert_eq!(stopped, Err(Partial { done: 3, error }));
    assert_eq!(bytes[..3], [0xbb; 3]);
    // The second page is the kernel's, and read-only: no byte is written.
    let before = memory.pages.clone();
    let stopped = write_virtual(
        &mut memory,
        &regs,
        Gva::new(0xffe),
        &[1; 4],
        AccessMode::User,
    );
    let error = WalkError::PageFault {
        code: 7,
        gva: Gva::new(0x1000),
    };
    assert_eq!(stopped, Err(Partial { done: 0, error }));
    assert_eq!(memory.pages, before);
    // Mapped to where there is nothing.
    memory.pages.remove(&0x6000);
    let stopped = write_virtual(
        &mut memory,
        &regs,
        Gva::new(0xffe),
        &[1; 4],
        AccessMode::Debugger,
    );
    assert_eq!(
        stopped,
        Err(Partial {
            done: 2,
            error: WalkError::NoMemory(Gpa::new(0x6000))
        })
    );
}

#[test]
fn a_copy_does_not_wrap() {
    let (mut memory, regs) = two_pages();
    let last = 0xffff_ffff_ffff_f000u64;
    let indices = [39, 30, 21, 12].map(|shift| last >> shift & 511);
    for (n, (index, next)) in indices
        .into_iter()
        .zip([0x2000, 0x3000, 0x4000, 0x9000])
        .enumerate()
    {
        memory.put(
            0x1000 * (n as u64 + 1) + 8 * index,
            &(OPEN | next).to_le_bytes(),
        );
    }
    let stopped = read_virtual(
        &mut memory,
        &regs,
        Gva::new(u64::MAX - 1),
        &mut [0; 4],
        AccessMode::Debugger,
    );
    let error = WalkError::NonCanonical(Gva::new(0));
    assert_eq!(stopped, Err(Partial { done: 2, error }));
}
