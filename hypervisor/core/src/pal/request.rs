//! REG: what a program wants for a PAL.
//!
//! Everything is read once, into values of the hypervisor's own: the program
//! may go on writing its structures meanwhile. [`Request::read`] judges what
//! can be judged without the pages of the sections; [`find_page`] then judges
//! each page. Both leave everything as it is.

use super::{Caller, Marshalling, Refusal, Rights, Structure};
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::paging::{Access, AccessKind, AccessMode, PagingMode, PhysMem, read_virtual, walk};
use heapless::Vec;
use stillpoint_abi::pal::{
    HEADER_SIZE, MAX_PARAMETERS, MAX_SECTIONS, PARAMETER_SIZE, Parameter, SECTION_SIZE, Section,
    SectionType, Width,
};

/// The most pages that a PAL has, shared ones among them: 16 MiB. Lending them
/// takes one VM exit, in which the CPU does nothing else.
pub const MAX_PAGES: u64 = 4096;

/// A PAL that a program asks for. [`Request::read`] gives only such as have
/// been judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its sections: whole pages at addresses that the caller can form, none of
    /// them page 0, no two overlapping, a stack among them, at most [`MAX_PAGES`].
    pub sections: Vec<Section, MAX_SECTIONS>,
    /// Its parameters. They fit the first section for parameters.
    pub parameters: Vec<Parameter, MAX_PARAMETERS>,
    /// Where it is entered; in a section of code.
    pub entry: u64,
    /// The caller's width, and the PAL's.
    pub width: Width,
}

impl Request {
    /// Reads REG's two structures, as the caller itself could read them at CPL
    /// 3, and judges them. The second value is how the parameters will be passed.
    ///
    /// # Errors
    /// [`Refusal`], for the first thing that is wrong.
    pub fn read(
        mem: &mut impl PhysMem,
        caller: &Caller,
        sections_at: u64,
        parameters_at: u64,
        entry: u64,
    ) -> Result<(Self, Marshalling), Refusal> {
        if caller.paging.mode() == PagingMode::Off {
            return Err(Refusal::NoPaging);
        }
        let request = Self {
            sections: read_sections(mem, caller, sections_at)?,
            parameters: read_parameters(mem, caller, parameters_at)?,
            entry,
            width: caller.width,
        };
        check_sections(caller, &request.sections, 0)?;
        request.check_entry()?;
        let marshalling = Marshalling::new(&request)?;
        Ok((request, marshalling))
    }

    /// The address of every page and what it is for, section by section.
    pub fn pages(&self) -> impl Iterator<Item = (SectionType, u64)> + Clone + '_ {
        self.sections.iter().flat_map(|section| {
            let kind = section.kind;
            section.addresses().map(move |gva| (kind, gva))
        })
    }

    /// The first section of a kind: the one that counts.
    pub fn first(&self, kind: SectionType) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    fn check_entry(&self) -> Result<(), Refusal> {
        let mut code = self.sections.iter().filter(|s| s.kind == SectionType::Code);
        if code.any(|s| s.start <= self.entry && self.entry - s.start < s.bytes()) {
            Ok(())
        } else {
            Err(Refusal::Entry(Gva::new(self.entry)))
        }
    }
}

fn read_sections(
    mem: &mut impl PhysMem,
    caller: &Caller,
    at: u64,
) -> Result<Vec<Section, MAX_SECTIONS>, Refusal> {
    let count = read_count(mem, caller, Structure::Sections, at)?;
    if count as usize > MAX_SECTIONS {
        return Err(Refusal::TooManySections(count.into()));
    }
    let mut bytes = [0; MAX_SECTIONS * SECTION_SIZE];
    let elements = &mut bytes[..count as usize * SECTION_SIZE];
    let start = at.wrapping_add(HEADER_SIZE as u64);
    read_structure(mem, caller, Structure::Sections, start, elements)?;
    let mut sections = Vec::new();
    for (n, bytes) in (0..).zip(elements.as_chunks().0) {
        match Section::from_bytes(bytes) {
            Ok(section) if section.kind != SectionType::Shared => {
                // There is room: the count has been judged.
                let _ = sections.push(section);
            }
            Ok(section) => return Err(Refusal::SectionType(n, section.kind.raw())),
            Err(raw) => return Err(Refusal::SectionType(n, raw)),
        }
    }
    Ok(sections)
}

fn read_parameters(
    mem: &mut impl PhysMem,
    caller: &Caller,
    at: u64,
) -> Result<Vec<Parameter, MAX_PARAMETERS>, Refusal> {
    let count = read_count(mem, caller, Structure::Parameters, at)?;
    if count as usize > MAX_PARAMETERS {
        return Err(Refusal::TooManyParameters(count));
    }
    let mut bytes = [0; MAX_PARAMETERS * PARAMETER_SIZE];
    let elements = &mut bytes[..count as usize * PARAMETER_SIZE];
    let start = at.wrapping_add(HEADER_SIZE as u64);
    read_structure(mem, caller, Structure::Parameters, start, elements)?;
    let mut parameters = Vec::new();
    for (n, bytes) in (0..).zip(elements.as_chunks().0) {
        let parameter =
            Parameter::from_bytes(bytes).map_err(|raw| Refusal::ParameterType(n, raw))?;
        // There is room: the count has been judged.
        let _ = parameters.push(parameter);
    }
    Ok(parameters)
}

/// Only the four bytes of the count: an empty list needs no more to be there.
fn read_count(
    mem: &mut impl PhysMem,
    caller: &Caller,
    structure: Structure,
    at: u64,
) -> Result<u32, Refusal> {
    let mut count = [0; 4];
    read_structure(mem, caller, structure, at, &mut count)?;
    Ok(u32::from_le_bytes(count))
}

pub(super) fn read_structure(
    mem: &mut impl PhysMem,
    caller: &Caller,
    structure: Structure,
    at: u64,
    into: &mut [u8],
) -> Result<(), Refusal> {
    let at = Gva::new(caller.width.truncate(at));
    read_virtual(mem, &caller.paging, at, into, AccessMode::User)
        .map_err(|partial| Refusal::Unreadable(structure, partial.error))
}

/// Judges the sections from the `first` on; those before have been judged.
pub(super) fn check_sections(
    caller: &Caller,
    sections: &[Section],
    first: usize,
) -> Result<(), Refusal> {
    for (n, section) in (0..).zip(sections).skip(first) {
        check_section(caller, n, section)?;
        for (before, other) in (0..n).zip(sections) {
            if section.start < other.start + other.bytes()
                && other.start < section.start + section.bytes()
            {
                return Err(Refusal::Overlap(before, n));
            }
        }
    }
    match sections
        .iter()
        .map(|section| u64::from(section.pages))
        .sum()
    {
        0..=MAX_PAGES => Ok(()),
        count => Err(Refusal::TooManyPages(count)),
    }
}

fn check_section(caller: &Caller, n: u8, section: &Section) -> Result<(), Refusal> {
    let start = section.start;
    if section.pages == 0 {
        return Err(Refusal::EmptySection(n));
    }
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Refusal::UnalignedSection(n));
    }
    if start == 0 {
        return Err(Refusal::PageZero(n));
    }
    let last = start
        .checked_add(section.bytes() - 1)
        .ok_or(Refusal::SectionRange(n))?;
    let addressable =
        |gva| caller.width.truncate(gva) == gva && caller.paging.is_addressable(Gva::new(gva));
    // The very last page is nobody's: where it ended would have no number.
    if addressable(start) && addressable(last) && last != u64::MAX {
        Ok(())
    } else {
        Err(Refusal::SectionRange(n))
    }
}

/// The frame of a page for a section of this kind. The caller itself must be
/// able to use the page so at CPL 3; then a PAL gets nothing that its program
/// does not have.
///
/// # Errors
/// [`Refusal::Page`], [`Refusal::NotExecutable`], [`Refusal::FrameTooHigh`].
pub fn find_page(
    mem: &mut impl PhysMem,
    caller: &Caller,
    kind: SectionType,
    gva: u64,
) -> Result<Gpa, Refusal> {
    let rights = Rights::of(kind);
    let gva = Gva::new(gva);
    let access = Access {
        kind: match rights {
            // Reading is the stricter of the two with protection keys; whether
            // the page is executable, the translation tells.
            Rights::ReadExecute => AccessKind::Read,
            Rights::ReadWrite => AccessKind::Write,
        },
        mode: AccessMode::User,
    };
    let found = walk(mem, &caller.paging, gva, access).map_err(|e| Refusal::Page(kind, e))?;
    if rights == Rights::ReadExecute && !found.executable {
        return Err(Refusal::NotExecutable(gva));
    }
    if caller.paging.mode() == PagingMode::Bits32 && found.gpa.as_u64() >> 32 != 0 {
        return Err(Refusal::FrameTooHigh(gva, found.gpa));
    }
    Ok(found.gpa)
}
