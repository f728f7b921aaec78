//! What REG takes and refuses, by examples and against a model.

extern crate std;

use super::*;
use crate::addr::Gva;
use crate::paging::WalkError;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec;
use stillpoint_abi::pal::{
    Parameter, ParameterType, Section, SectionType, encode_parameters, encode_sections,
};

/// Where the caller has its structures: a page that it may only read.
const STRUCTURES: u64 = 0x8000_0000;
const SECTIONS: u64 = STRUCTURES + 0x100;
const PARAMETERS: u64 = STRUCTURES + 0x200;
/// Where those pages lie that [`caller`] is given first.
const FRAME: u64 = 0x4000_0000;

const CODE: u64 = 0x10_0000;

fn section(kind: SectionType, pages: u32, start: u64) -> Section {
    Section { kind, pages, start }
}

fn sections() -> Vec<Section> {
    vec![
        section(SectionType::Code, 2, CODE),
        section(SectionType::Data, 1, 0x20_0000),
        section(SectionType::Param, 1, 0x20_1000),
        section(SectionType::Stack, 3, 0x1000),
        section(SectionType::SharedCode, 1, 0xffff_f000),
    ]
}

fn integers(count: usize) -> Vec<Parameter> {
    let kind = ParameterType::Integer;
    vec![Parameter { kind, words: 0 }; count]
}

/// A caller that has the structures in its memory as they are.
fn with_bytes(width: Width, sections: &[u8], parameters: &[u8]) -> (Frames, Caller) {
    let mode = match width {
        Width::Bits32 => PagingMode::Pae,
        Width::Bits64 => PagingMode::Level4,
    };
    let (mut memory, caller) = caller(width, mode, &[(STRUCTURES, Rights::ReadExecute)]);
    memory.put(FRAME + 0x100, sections);
    memory.put(FRAME + 0x200, parameters);
    (memory, caller)
}

fn read(
    width: Width,
    sections: &[Section],
    parameters: &[Parameter],
    entry: u64,
) -> Result<Request, Refusal> {
    let sections = encode_sections(sections).unwrap();
    let parameters = encode_parameters(parameters).unwrap();
    let (mut memory, caller) = with_bytes(width, &sections, &parameters);
    let read = Request::read(&mut memory, &caller, SECTIONS, PARAMETERS, entry);
    read.map(|(request, _)| request)
}

#[test]
fn a_good_request_is_taken_as_it_is() {
    for width in [Width::Bits32, Width::Bits64] {
        let parameters = integers(10);
        let request = read(width, &sections(), &parameters, CODE + 0x1fff).unwrap();
        assert_eq!(request.sections[..], sections());
        assert_eq!(request.parameters[..], parameters);
        assert_eq!((request.entry, request.width), (CODE + 0x1fff, width));
        let pages: Vec<_> = request.pages().collect();
        assert_eq!(pages.len(), 8);
        assert_eq!(pages[1], (SectionType::Code, CODE + 0x1000));
        assert_eq!(pages[6], (SectionType::Stack, 0x3000));
        assert!(read(width, &sections(), &[], CODE).is_ok());
    }
}

#[test]
fn sections_are_judged() {
    type Spoil = fn(&mut Vec<Section>);
    let cases: [(Spoil, Refusal); 14] = [
        (
            |s| s[1].kind = SectionType::Shared,
            Refusal::SectionType(1, 6),
        ),
        (|s| s[4].pages = 0, Refusal::EmptySection(4)),
        (|s| s[2].start += 8, Refusal::UnalignedSection(2)),
        (|s| s[3].start = 0, Refusal::PageZero(3)),
        (|s| s[1].start = 1 << 47, Refusal::SectionRange(1)),
        (|s| s[1].start = 1 << 63, Refusal::SectionRange(1)),
        (|s| s[1].start = !0xfff, Refusal::SectionRange(1)),
        (|s| s[1].pages = u32::MAX, Refusal::Overlap(1, 2)),
        (|s| s[2].start -= 0x1000, Refusal::Overlap(1, 2)),
        (|s| s[3].start = CODE + 0x1000, Refusal::Overlap(0, 3)),
        (|s| s[3].start = CODE - 0x2000, Refusal::Overlap(0, 3)),
        (|s| s[2].pages = 4090, Refusal::TooManyPages(4097)),
        (|s| s[3].kind = SectionType::Data, Refusal::NoStack),
        (
            |s| s[2].kind = SectionType::Data,
            Refusal::NoParameterSection,
        ),
    ];
    for (n, (spoil, refusal)) in cases.into_iter().enumerate() {
        let mut spoilt = sections();
        spoil(&mut spoilt);
        for width in [Width::Bits32, Width::Bits64] {
            let refused = read(width, &spoilt, &integers(2), CODE).err();
            // What ends past 4 GiB, 32-bit code is told first.
            let early = width == Width::Bits32 && spoilt[1].pages == u32::MAX;
            let refusal = if early {
                Refusal::SectionRange(1)
            } else {
                refusal
            };
            assert_eq!(refused, Some(refusal), "case {n}, {width:?}");
        }
    }
    let mut most = sections();
    most[2].pages = 4089;
    assert!(read(Width::Bits64, &most, &integers(2), CODE).is_ok());
}

#[test]
fn addresses_past_4_gib_are_for_64_bit_code() {
    let mut high = sections();
    high[1].start = 1 << 32;
    assert!(read(Width::Bits64, &high, &[], CODE).is_ok());
    let refused = read(Width::Bits32, &high, &[], CODE);
    assert_eq!(refused, Err(Refusal::SectionRange(1)));

    // Under a 64-bit system, too, 32-bit code has no more.
    let structure = encode_sections(&high).unwrap();
    let (mut memory, mut caller) = with_bytes(Width::Bits64, &structure, &[0; 8]);
    caller.width = Width::Bits32;
    let refused = Request::read(&mut memory, &caller, SECTIONS, PARAMETERS, CODE);
    assert_eq!(refused, Err(Refusal::SectionRange(1)));
}

#[test]
fn the_entry_is_in_a_section_of_code() {
    let at = |entry| read(Width::Bits64, &sections(), &[], entry).err();
    assert_eq!(at(CODE), None);
    assert_eq!(at(CODE + 0x1fff), None);
    for entry in [CODE - 1, CODE + 0x2000, 0x20_0000, 0xffff_f000, 0, u64::MAX] {
        assert_eq!(at(entry), Some(Refusal::Entry(Gva::new(entry))));
    }
}

#[test]
fn counts_and_types_are_judged() {
    let encoded = encode_sections(&sections()).unwrap();
    let read = |sections: &[u8], parameters: &[u8]| {
        let (mut memory, caller) = with_bytes(Width::Bits64, sections, parameters);
        Request::read(&mut memory, &caller, SECTIONS, PARAMETERS, CODE).err()
    };
    assert_eq!(read(&encoded, &[0; 4]), None);
    assert_eq!(
        read(&encoded, &[11, 0, 0, 0]),
        Some(Refusal::TooManyParameters(11))
    );
    assert_eq!(
        read(&[11, 0, 0, 0], &[0; 4]),
        Some(Refusal::TooManySections(11))
    );
    let negative = Refusal::TooManySections(0xffff_ffff);
    assert_eq!(read(&[0xff; 4], &[0; 4]), Some(negative));
    let no_code = Refusal::Entry(Gva::new(CODE));
    assert_eq!(read(&[0; 4], &[0; 4]), Some(no_code));
    for raw in [0, 7, 0x101] {
        let mut wrong = encoded;
        wrong[8 + 16..][..4].copy_from_slice(&u32::to_le_bytes(raw));
        assert_eq!(read(&wrong, &[0; 4]), Some(Refusal::SectionType(1, raw)));
        let mut parameters = encode_parameters(&integers(3)).unwrap();
        parameters[8 + 32..][..4].copy_from_slice(&u32::to_le_bytes(raw));
        assert_eq!(
            read(&encoded, &parameters),
            Some(Refusal::ParameterType(2, raw))
        );
    }
}

#[test]
fn structures_are_read_with_the_callers_rights() {
    let encoded = encode_sections(&sections()).unwrap();
    let (mut memory, caller) = with_bytes(Width::Bits64, &encoded, &[0; 4]);
    let mut read = |caller: &Caller, sections, parameters| {
        Request::read(&mut memory, caller, sections, parameters, CODE).err()
    };
    assert_eq!(read(&caller, SECTIONS, PARAMETERS), None);
    let fault = |gva| WalkError::PageFault {
        code: 4,
        gva: Gva::new(gva),
    };
    // A count at the very end of the memory, and nothing to count.
    let last = STRUCTURES + 0xffc;
    let unreadable = Refusal::Unreadable(Structure::Sections, fault(0));
    assert_eq!(read(&caller, 0, PARAMETERS), Some(unreadable));
    assert_eq!(read(&caller, SECTIONS, last), None);
    let unreadable = Refusal::Unreadable(Structure::Parameters, fault(STRUCTURES + 0x1000));
    assert_eq!(read(&caller, SECTIONS, last + 1), Some(unreadable));
    let no_code = Refusal::Entry(Gva::new(CODE));
    assert_eq!(read(&caller, last, PARAMETERS), Some(no_code));
    let Some(Refusal::Unreadable(Structure::Sections, _)) = read(&caller, u64::MAX - 2, 0) else {
        panic!("an address without a meaning is read");
    };
    // Half of a register is nothing to 32-bit code.
    let narrow = Caller {
        width: Width::Bits32,
        ..caller
    };
    assert_eq!(
        read(&narrow, SECTIONS | 7 << 32, PARAMETERS | 9 << 40),
        None
    );
    let off = Caller {
        paging: PagingRegs::default(),
        ..caller
    };
    assert_eq!(read(&off, SECTIONS, PARAMETERS), Some(Refusal::NoPaging));
}

#[test]
fn a_page_is_found_with_the_callers_rights() {
    const CODE_PAGE: u64 = 0x40_0000;
    const DATA_PAGE: u64 = 0x40_1000;
    let pages = [
        (CODE_PAGE, Rights::ReadExecute),
        (DATA_PAGE, Rights::ReadWrite),
    ];
    let fault = |kind, gva, code| {
        let gva = Gva::new(gva);
        Some(Refusal::Page(kind, WalkError::PageFault { code, gva }))
    };
    for mode in MODES {
        let (mut memory, caller) = caller(Width::Bits32, mode, &pages);
        let mut find = |kind, gva| find_page(&mut memory, &caller, kind, gva);
        for kind in [SectionType::Code, SectionType::SharedCode] {
            assert_eq!(find(kind, CODE_PAGE), Ok(Gpa::new(FRAME)));
            // 32-bit paging has no pages that cannot be executed.
            let executes = (mode == PagingMode::Bits32).then_some(Gpa::new(FRAME + 0x1000));
            let expected = executes.ok_or(Refusal::NotExecutable(Gva::new(DATA_PAGE)));
            assert_eq!(find(kind, DATA_PAGE), expected);
            assert_eq!(find(kind, 0x5000).err(), fault(kind, 0x5000, 4));
        }
        for kind in [
            SectionType::Data,
            SectionType::Param,
            SectionType::Stack,
            SectionType::Shared,
        ] {
            assert_eq!(find(kind, DATA_PAGE), Ok(Gpa::new(FRAME + 0x1000)));
            assert_eq!(find(kind, CODE_PAGE).err(), fault(kind, CODE_PAGE, 7));
        }
    }
}

#[test]
fn the_systems_own_pages_are_not_found() {
    let page = [(0x40_0000, Rights::ReadWrite)];
    let (mut memory, caller) = caller(Width::Bits64, PagingMode::Level4, &page);
    let table = *memory.frames.keys().rfind(|&&frame| frame < FRAME).unwrap();
    let table = Hpa::new(table);
    let entry = TableMemory::read(&memory, table, 0);
    TableMemory::write(&mut memory, table, 0, entry & !4);
    let found = find_page(&mut memory, &caller, SectionType::Data, 0x40_0000);
    assert!(matches!(found, Err(Refusal::Page(..))), "{found:?}");
}

#[test]
fn frames_past_4_gib_are_none_for_32_bit_paging() {
    let (mut memory, caller) = caller(Width::Bits32, PagingMode::Bits32, &[]);
    // A 4 MiB page at 4 GiB, of PSE-36, and one below.
    let root = caller.paging.cr3;
    memory.put(root + 4, &u32::to_le_bytes(1 << 13 | 0x87));
    memory.put(root + 8, &u32::to_le_bytes(0xffc0_0087));
    let mut find = |gva| find_page(&mut memory, &caller, SectionType::Data, gva);
    let (gva, gpa) = (Gva::new(0x40_3000), Gpa::new(0x1_0000_3000));
    assert_eq!(find(0x40_3000), Err(Refusal::FrameTooHigh(gva, gpa)));
    assert_eq!(find(0x80_3000), Ok(Gpa::new(0xffc0_3000)));
}

#[test]
fn refusals_have_numbers_and_lines_of_their_own() {
    let error = WalkError::NonCanonical(Gva::new(1 << 47));
    let gva = Gva::new(0x1000);
    let all = [
        Refusal::NoPaging,
        Refusal::Unreadable(Structure::Lengths, error),
        Refusal::TooManySections(11),
        Refusal::TooManyParameters(11),
        Refusal::SectionType(1, 7),
        Refusal::ParameterType(1, 7),
        Refusal::EmptySection(1),
        Refusal::UnalignedSection(1),
        Refusal::SectionRange(1),
        Refusal::PageZero(1),
        Refusal::Overlap(1, 2),
        Refusal::TooManyPages(5000),
        Refusal::Entry(gva),
        Refusal::NoStack,
        Refusal::NoParameterSection,
        Refusal::ParametersTooLarge,
        Refusal::Page(SectionType::Stack, error),
        Refusal::NotExecutable(gva),
        Refusal::FrameTooHigh(gva, Gpa::new(1 << 32)),
    ];
    assert!(all.iter().map(|refusal| refusal.code()).eq(1..=19));
    let lines: BTreeSet<_> = all.iter().map(Refusal::to_string).collect();
    assert_eq!(lines.len(), all.len());
    assert!(
        lines
            .iter()
            .all(|line| line.len() < 80 && !line.contains('\n'))
    );
    assert_eq!(
        all[16].to_string(),
        "the caller has no such stack page: 0x800000000000 is no address"
    );
}

/// Numbers as they come in structures: mostly such as make sense.
fn raw_section() -> impl Strategy<Value = (u32, u32, u64)> {
    let kind = prop_oneof![30 => 1..=5u32, 1 => 0..9u32];
    let pages = prop_oneof![30 => 1..=4u32, 1 => Just(0), 1 => any::<u32>()];
    let start = prop_oneof![
        30 => (1..60u64).prop_map(|page| page << 12),
        1 => (0..60u64).prop_map(|page| page << 11),
        1 => (0..60u64).prop_map(|page| page.wrapping_sub(30) << 12),
        1 => (0..9u64).prop_map(|page| (1 << 32) + (page << 12) - 0x5000),
        1 => any::<u64>(),
    ];
    (kind, pages, start)
}

fn raw_parameter() -> impl Strategy<Value = (u32, u64)> {
    let kind = prop_oneof![30 => 1..=2u32, 1 => 0..5u32];
    let words = prop_oneof![10 => 0..300u64, 1 => any::<u64>()];
    (kind, words)
}

/// May this be registered? By sets of pages, not by ranges.
fn is_good(
    width: Width,
    sections: &[(u32, u32, u64)],
    parameters: &[(u32, u64)],
    entry: u64,
) -> bool {
    // The upper half, too, has addresses for 64-bit code; not its last page.
    let (low, high) = match width {
        Width::Bits32 => (1..1 << 20, 0..0),
        Width::Bits64 => (1..1 << 35, (1 << 52) - (1 << 35)..(1 << 52) - 1),
    };
    let mut taken = BTreeSet::new();
    for &(kind, pages, start) in sections {
        let first = start >> 12;
        let end = first + u64::from(pages);
        let in_range = [&low, &high]
            .iter()
            .any(|r| r.start <= first && end <= r.end);
        let good = matches!(kind, 1..=5) && matches!(pages, 1..=4096) && start << 52 == 0;
        if !good || !in_range {
            return false;
        }
        if !(first..first + u64::from(pages)).all(|page| taken.insert(page)) {
            return false;
        }
    }
    let code = sections.iter().filter(|section| section.0 == 1);
    let mut code_pages = code.flat_map(|&(_, pages, start)| {
        let first = start >> 12;
        first..first + u64::from(pages)
    });
    let area = sections.iter().find(|section| section.0 == 3);
    let room = area.map_or(0, |section| u128::from(section.1) << 12);
    let needed = parameters.iter().map(|&(kind, words)| match kind {
        1 => 24,
        _ => 24 + u128::from(words) * u128::from(width.bytes()),
    });
    taken.len() <= 4096
        && parameters
            .iter()
            .all(|parameter| matches!(parameter.0, 1..=2))
        && sections.iter().any(|section| section.0 == 4)
        && code_pages.any(|page| page == entry >> 12)
        && (parameters.is_empty() || 24 + needed.sum::<u128>() <= room)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn exactly_the_good_requests_are_taken(
        wide in any::<bool>(),
        sections in prop::collection::vec(raw_section(), 0..=6),
        parameters in prop::collection::vec(raw_parameter(), 0..=4),
        entry in prop_oneof![10 => 0..0x4_0000u64, 1 => any::<u64>()],
        in_code in any::<prop::sample::Index>(),
    ) {
        let width = if wide { Width::Bits64 } else { Width::Bits32 };
        // Half of the entries are in some section.
        let entry = match sections.get(in_code.index(2 * sections.len() + 1)) {
            Some(section) => section.2.wrapping_add(entry & 0xfff),
            None => entry,
        };
        let mut bytes = (sections.len() as u64).to_le_bytes().to_vec();
        for (kind, pages, start) in &sections {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(pages.to_le_bytes());
            bytes.extend(start.to_le_bytes());
        }
        let mut words = (parameters.len() as u64).to_le_bytes().to_vec();
        for (kind, size) in &parameters {
            words.extend(u64::from(*kind).to_le_bytes());
            words.extend(size.to_le_bytes());
        }
        let (mut memory, caller) = with_bytes(width, &bytes, &words);
        let before = memory.clone();
        let request = Request::read(&mut memory, &caller, SECTIONS, PARAMETERS, entry);
        prop_assert!(memory == before);
        let good = is_good(width, &sections, &parameters, entry);
        prop_assert_eq!(request.is_ok(), good, "{:?}", request);
        if let Ok((request, _)) = request {
            let all: Vec<_> = request.sections.iter().map(|s| s.to_bytes()).collect();
            prop_assert_eq!(all.concat(), &bytes[8..]);
            prop_assert!(request.pages().count() as u64 <= MAX_PAGES);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(
        sections in any::<[[u8; 24]; 7]>(),
        parameters in any::<[[u8; 24]; 7]>(),
        count in 0..12u8,
        entry in any::<u64>(),
    ) {
        let mut sections = sections.concat();
        sections[..4].copy_from_slice(&[count, 0, 0, 0]);
        let (mut memory, caller) = with_bytes(Width::Bits64, &sections, &parameters.concat());
        let request = Request::read(&mut memory, &caller, SECTIONS, PARAMETERS, entry);
        prop_assert!(request.is_err());
    }
}
