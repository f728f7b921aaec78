//! SHARE: pages that a program lends to its PAL for one call.
//!
//! Called for the hypercall; the pages themselves are judged by
//! [`find_page`](super::find_page), as those of any section.

use super::request::{check_sections, read_structure};
use super::{Caller, Refusal, Structure};
use crate::addr::PAGE_SIZE;
use heapless::Vec;
use stillpoint_abi::pal::{MAX_SECTIONS, Section, SectionType, Width};

use crate::paging::PhysMem;

/// Reads SHARE's arrays, `count` elements each, and judges what they ask for:
/// sections that may stand beside `sections`, which the PAL has already.
///
/// `addresses_at` is an array of words, `lengths_at` one of 32-bit numbers of
/// bytes, for 64-bit callers each in a word. Starts and lengths must be whole
/// pages: nothing is lent that was not named.
///
/// # Errors
/// [`Refusal`]. A section's number in it counts on from the PAL's own.
pub fn read_share(
    mem: &mut impl PhysMem,
    caller: &Caller,
    addresses_at: u64,
    lengths_at: u64,
    count: u64,
    sections: &[Section],
) -> Result<Vec<Section, MAX_SECTIONS>, Refusal> {
    let count = caller.width.truncate(count);
    let taken = sections.len();
    let total = (taken as u64).saturating_add(count);
    let mut all = Vec::<_, MAX_SECTIONS>::from_slice(sections)
        .map_err(|_| Refusal::TooManySections(total))?;
    if total > MAX_SECTIONS as u64 {
        return Err(Refusal::TooManySections(total));
    }
    let mut addresses = [0; MAX_SECTIONS];
    let mut lengths = [0; MAX_SECTIONS];
    let addresses = &mut addresses[..count as usize];
    let lengths = &mut lengths[..count as usize];
    read_words(mem, caller, Structure::Addresses, addresses_at, addresses)?;
    read_words(mem, caller, Structure::Lengths, lengths_at, lengths)?;
    for (n, (&start, &length)) in (taken as u8..).zip(addresses.iter().zip(lengths.iter())) {
        let length = u64::from(length as u32);
        if !length.is_multiple_of(PAGE_SIZE) {
            return Err(Refusal::UnalignedSection(n));
        }
        let section = Section {
            kind: SectionType::Shared,
            pages: (length / PAGE_SIZE) as u32,
            start,
        };
        // There is room: the total has been judged.
        let _ = all.push(section);
    }
    check_sections(caller, &all, taken)?;
    Ok(all.iter().skip(taken).copied().collect())
}

/// Reads an array of the caller's words.
fn read_words(
    mem: &mut impl PhysMem,
    caller: &Caller,
    structure: Structure,
    at: u64,
    words: &mut [u64],
) -> Result<(), Refusal> {
    let mut bytes = [0; MAX_SECTIONS * 8];
    let bytes = &mut bytes[..words.len() * caller.width.bytes() as usize];
    read_structure(mem, caller, structure, at, bytes)?;
    match caller.width {
        Width::Bits32 => {
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u32::from_le_bytes(*bytes).into();
            }
        }
        Width::Bits64 => {
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
    }
    Ok(())
}
