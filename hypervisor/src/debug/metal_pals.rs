//! The guest's isolated programs (PALs), as the debugger asks for them.

use core::sync::atomic::Ordering::Relaxed;

use gdb_stub::machine::{
    CpuIndex, GuestMode, MAX_PAL_PARTS, MachineError, PCRS, PageOwner, PalInfo, PalPaging,
    PalParameter, PalSection, PalState, Pals, SectionKind,
};
use stillpoint_abi::pal::{Parameter, ParameterType, SectionType, Width};
use stillpoint_core::addr::Gpa;
use stillpoint_core::paging::PagingMode;
use stillpoint_core::pal::Life;

use super::OWNER;
use super::metal::Metal;
use crate::pal::{self, Pal, Slot};
use crate::trace::PalEnd;
use crate::vmx::ept;

/// The record of a PAL.
fn record(id: u32) -> Option<(&'static Slot, &'static Pal)> {
    let slot = pal::slot(id as usize)?;
    // SAFETY: the machine is stopped while the debugger asks.
    let pal = unsafe { slot.pal() }?;
    Some((slot, pal))
}

fn kind(kind: SectionType) -> SectionKind {
    match kind {
        SectionType::Code => SectionKind::Code,
        SectionType::Data => SectionKind::Data,
        SectionType::Param => SectionKind::Parameters,
        SectionType::Stack => SectionKind::Stack,
        SectionType::SharedCode => SectionKind::SharedCode,
        SectionType::Shared => SectionKind::Shared,
    }
}

fn state(slot: &Slot) -> PalState {
    match slot.life() {
        Life::Running(cpu) => PalState::Running(CpuIndex(cpu)),
        Life::Returning => PalState::Returning,
        Life::Registering => PalState::Registering,
        Life::Idle | Life::Ending | Life::Free => PalState::Idle,
    }
}

/// Values in the first places of an array.
fn parts<T: Copy>(values: impl Iterator<Item = T>) -> [Option<T>; MAX_PAL_PARTS] {
    let mut parts = [None; MAX_PAL_PARTS];
    for (part, value) in parts.iter_mut().zip(values) {
        *part = Some(value);
    }
    parts
}

fn parameter(width: Width, parameter: &Parameter) -> PalParameter {
    match parameter.kind {
        ParameterType::Integer => PalParameter::Integer,
        ParameterType::Pointer => PalParameter::Pointer {
            bytes: parameter.words.saturating_mul(width.bytes()),
        },
    }
}

impl Pals for Metal {
    fn pal_slots(&self) -> u32 {
        pal::MAX_PALS as u32
    }

    fn pal(&mut self, id: u32) -> Option<PalInfo> {
        let (slot, pal) = record(id)?;
        // SAFETY: the machine is stopped while the debugger asks.
        let calls = unsafe { slot.calls() };
        let request = &pal.request;
        Some(PalInfo {
            id,
            owner_cr3: pal.owner.paging.cr3,
            mode: match request.width {
                Width::Bits32 => GuestMode::Protected32,
                Width::Bits64 => GuestMode::Long64,
            },
            paging: match pal.owner.paging.mode() {
                PagingMode::Off | PagingMode::Bits32 => PalPaging::Bits32,
                PagingMode::Pae => PalPaging::Pae,
                PagingMode::Level4 => PalPaging::Level4,
                PagingMode::Level5 => PalPaging::Level5,
            },
            entry: request.entry,
            state: state(slot),
            sections: parts(request.sections.iter().map(|section| PalSection {
                kind: kind(section.kind),
                start: section.start,
                pages: section.pages,
            })),
            parameters: parts(
                request
                    .parameters
                    .iter()
                    .map(|one| parameter(request.width, one)),
            ),
            pcrs: core::array::from_fn::<_, PCRS, _>(|n| {
                calls.pcrs.read(n).copied().unwrap_or([0; 20])
            }),
            calls: calls.count,
            decoy_reads: slot.decoy_reads.load(Relaxed),
            refused_writes: slot.refused_writes.load(Relaxed),
        })
    }

    fn page_owner(&mut self, gpa: u64) -> PageOwner {
        let page = Gpa::new(gpa).page();
        if ept::is_hypervisors(gpa) {
            return pal::table_owner(page).map_or(PageOwner::Hypervisor, |id| {
                PageOwner::PalTables { id: id as u32 }
            });
        }
        let Some(id) = pal::owner_of(page) else {
            return PageOwner::Guest;
        };
        let found = record(id as u32).and_then(|(_, pal)| pal.section_of(page));
        found.map_or(PageOwner::Guest, |(section, gva)| PageOwner::Pal {
            id: id as u32,
            kind: kind(section),
            gva,
        })
    }

    fn kill_pal(&mut self, id: u32) -> Result<(), MachineError> {
        let owner = OWNER.load(core::sync::atomic::Ordering::Acquire);
        if owner.is_null() {
            return Err(MachineError::Unavailable);
        }
        // SAFETY: as in `metal::on`: the session's own, and it is not in use meanwhile.
        let vcpu = unsafe { &mut *owner };
        if pal::ending::kill(vcpu, id as usize, PalEnd::Killed) {
            Ok(())
        } else {
            Err(MachineError::Unavailable)
        }
    }
}
