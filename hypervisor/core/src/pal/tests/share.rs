//! What SHARE takes and refuses.

extern crate std;

use super::*;
use crate::addr::Gva;
use crate::paging::WalkError;
use std::vec;
use stillpoint_abi::pal::{Section, SectionType};

/// Where the caller has its arrays: a page that it may only read.
const ARRAYS: u64 = 0x8000_0000;
const ADDRESSES: u64 = ARRAYS + 0x100;
const LENGTHS: u64 = ARRAYS + 0x200;

const OWN: [Section; 2] = [
    section(SectionType::Code, 1, 0x1000),
    section(SectionType::Stack, 2, 0x2000),
];

const fn section(kind: SectionType, pages: u32, start: u64) -> Section {
    Section { kind, pages, start }
}

/// A caller that has these arrays.
fn with_arrays(width: Width, ranges: &[(u64, u32)]) -> (Frames, Caller) {
    let mode = match width {
        Width::Bits32 => PagingMode::Bits32,
        Width::Bits64 => PagingMode::Level4,
    };
    let (mut memory, caller) = caller(width, mode, &[(ARRAYS, Rights::ReadExecute)]);
    for (n, &(start, length)) in (0..).zip(ranges) {
        let at = n * width.bytes();
        let bytes = width.bytes() as usize;
        memory.put(0x4000_0100 + at, &start.to_le_bytes()[..bytes]);
        // What is after a length in a word of 64 bits does not count.
        let padded = u64::from(length) | 0xdead << 32;
        memory.put(0x4000_0200 + at, &padded.to_le_bytes()[..bytes]);
    }
    (memory, caller)
}

fn share(width: Width, ranges: &[(u64, u32)], own: &[Section]) -> Result<Vec<Section>, Refusal> {
    let (mut memory, caller) = with_arrays(width, ranges);
    let count = ranges.len() as u64;
    let shared = read_share(&mut memory, &caller, ADDRESSES, LENGTHS, count, own)?;
    Ok(shared.to_vec())
}

#[test]
fn ranges_become_shared_sections() {
    let ranges = [(0x5000, 0x1000), (0x8000, 0x3000)];
    let expected = vec![
        section(SectionType::Shared, 1, 0x5000),
        section(SectionType::Shared, 3, 0x8000),
    ];
    for width in [Width::Bits32, Width::Bits64] {
        assert_eq!(share(width, &ranges, &OWN), Ok(expected.clone()));
        assert_eq!(share(width, &[], &OWN), Ok(vec![]));
    }
    let high = 0x7fff_ffff_f000;
    let expected = vec![section(SectionType::Shared, 1, high)];
    assert_eq!(share(Width::Bits64, &[(high, 0x1000)], &OWN), Ok(expected));
}

#[test]
fn ranges_are_judged_beside_the_pals_own_sections() {
    let cases = [
        ((0x5000, 0x800), Refusal::UnalignedSection(3)),
        ((0x5800, 0x1000), Refusal::UnalignedSection(3)),
        ((0x5000, 0), Refusal::EmptySection(3)),
        ((0, 0x1000), Refusal::PageZero(3)),
        ((0x1000, 0x1000), Refusal::Overlap(0, 3)),
        ((0x3000, 0x1000), Refusal::Overlap(1, 3)),
        ((0x9000, 0x1000), Refusal::Overlap(2, 3)),
        ((0x8000, 0x1001000), Refusal::Overlap(2, 3)),
        ((0x10000, 0xffd000), Refusal::TooManyPages(4097)),
        ((0xffff_f000, 0x2000), Refusal::SectionRange(3)),
    ];
    for (range, refusal) in cases {
        let ranges = [(0x9000, 0x1000), range];
        assert_eq!(share(Width::Bits32, &ranges, &OWN), Err(refusal));
    }
    let ranges = [(0x9000, 0x1000), (0x10000, 0xffc000)];
    assert!(share(Width::Bits32, &ranges, &OWN).is_ok());
}

#[test]
fn there_are_at_most_ten_sections_in_all() {
    let ranges: Vec<_> = (0..9).map(|n| (0x10000 + n * 0x1000, 0x1000)).collect();
    for width in [Width::Bits32, Width::Bits64] {
        assert_eq!(share(width, &ranges[..8], &OWN).unwrap().len(), 8);
        assert_eq!(
            share(width, &ranges, &OWN),
            Err(Refusal::TooManySections(11))
        );
        let (mut memory, caller) = with_arrays(width, &[]);
        let mut share =
            |count, own| read_share(&mut memory, &caller, ADDRESSES, LENGTHS, count, own);
        let wide = width == Width::Bits64;
        let half = share(1 << 32, &OWN);
        assert_eq!(
            half.is_err(),
            wide,
            "only half of the register counts: {width:?}"
        );
        let refused = share(u64::MAX, &OWN).unwrap_err();
        let most = if wide { u64::MAX } else { 0x1_0000_0001 };
        assert_eq!(refused, Refusal::TooManySections(most));
        let too_many = [OWN[0]; 11];
        assert_eq!(share(0, &too_many), Err(Refusal::TooManySections(11)));
    }
}

#[test]
fn arrays_are_read_with_the_callers_rights() {
    let (mut memory, caller) = with_arrays(Width::Bits64, &[(0x5000, 0x1000)]);
    let mut share = |addresses, lengths| {
        read_share(&mut memory, &caller, addresses, lengths, 1, &OWN).map(|shared| shared.len())
    };
    assert_eq!(share(ADDRESSES, LENGTHS), Ok(1));
    let gva = Gva::new(ARRAYS + 0x1000);
    let fault = WalkError::PageFault { code: 4, gva };
    let end = ARRAYS + 0xffc;
    assert_eq!(
        share(end, LENGTHS),
        Err(Refusal::Unreadable(Structure::Addresses, fault))
    );
    assert_eq!(
        share(ADDRESSES, end),
        Err(Refusal::Unreadable(Structure::Lengths, fault))
    );
}
