//! Pieces of application logic (PALs): what a program has registered to run apart from
//! the rest of the guest. Policy is in [`stillpoint_core::pal`]; here pages change
//! hands and CPUs change views.
//!
//! | module | what |
//! |---|---|
//! | [`registration`] | REG, UNREG, SHARE |
//! | [`calls`] | a CPU goes into a PAL and comes back |
//! | [`touched`] | the guest touches a page that is lent: a call, a decoy, a #GP |
//! | [`ending`] | a PAL comes to its end, and its memory is wiped |
//! | [`tpm`] | the micro-TPM's commands |
//! | [`memory`] | a caller's memory and a PAL's, as each sees its own |
//! | [`fpu`] | the vector state, which neither leaves to the other |
//!
//! # Who may touch what
//! A PAL's record ([`Pal`]) is made, changed and removed while the machine is stopped, by
//! the CPU that holds it. Any CPU that handles a VM exit may read it: a stop does not come
//! in between, since such a CPU joins it only afterwards. So the PAL that it has found is the
//! same one when it takes a step in its [`Life`].
//!
//! A call stops nobody. What changes with calls ([`Calls`]) belongs to the CPU that has
//! brought the PAL's [`Life`] to Registering or Running, and in a stop to its owner.

pub mod calls;
pub mod ending;
pub mod fpu;
mod memory;
pub mod registration;
pub mod touched;
pub mod tpm;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use stillpoint_abi::pal::{SectionType, Width};
use stillpoint_core::addr::{Gpa, PAGE_SIZE};
use stillpoint_core::ept::PalView;
use stillpoint_core::paging::{PagingMode, PagingRegs};
use stillpoint_core::pal::{Caller, Entry, Life, Marshalling, PalTables, Request};
use stillpoint_core::registers::Gprs;
use stillpoint_utpm::Pcrs;

use crate::memory::pool::Chain;
use crate::vmx::ept;

/// How many PALs there can be at once.
pub const MAX_PALS: usize = 64;

const _: () = assert!(
    MAX_PALS < ept::SHARED_CODE as usize,
    "a page's tag is 7 bits"
);

/// The bits of CR3 that are the address of the tables; the others change from one moment
/// to the next.
const fn cr3_address(paging: &PagingRegs) -> u64 {
    match paging.mode() {
        // The four entries of the first table need not be at a page's start.
        PagingMode::Pae => paging.cr3 & 0xffff_ffe0,
        _ => paging.cr3 & 0x000f_ffff_ffff_f000,
    }
}

/// A PAL that is registered.
pub struct Pal {
    /// Its sections, those that are shared for a call at the end, and its parameters.
    pub request: Request,
    /// How many of the sections were registered.
    pub own_sections: usize,
    /// How its parameters are passed.
    marshalling: Marshalling,
    /// The program that registered it, at that time.
    pub owner: Caller,
    /// Its page tables, and the frames that they lie in.
    tables: PalTables,
    table_frames: Chain,
    /// Frames of page tables for shared pages.
    shared_frames: Chain,
    /// What it sees of memory, and the frames of the tables for that.
    view: PalView,
    view_frames: Chain,
    /// Where the pages are that every call writes: the first one for parameters, and the
    /// last one of the stack. Address in the PAL, address in memory.
    hot: [(u64, Gpa); 2],
}

/// What a PAL's calls change.
#[derive(Default)]
pub struct Calls {
    /// Its platform configuration registers.
    pub pcrs: Pcrs,
    /// Calls so far.
    pub count: u64,
    /// A call that is through but for what it has to give back.
    held: Option<Held>,
}

/// A call whose caller's memory was not there when the PAL had returned.
struct Held {
    entry: Entry,
    gprs: Gprs,
}

impl Pal {
    /// What lies at an address of the PAL's.
    pub fn translate(&self, gva: u64) -> Option<Gpa> {
        let (gpa, _) = self.tables.translate(&self.table_frames, gva)?;
        Some(gpa)
    }

    /// Are pages shared with it for a call?
    fn has_shared(&self) -> bool {
        self.request.sections.len() > self.own_sections
    }

    /// The kind of section that a page belongs to, and its address in the PAL.
    pub fn section_of(&self, page: Gpa) -> Option<(SectionType, u64)> {
        self.request
            .pages()
            .find(|&(_, gva)| self.translate(gva) == Some(page))
    }

    /// Is this one of the page tables that the PAL runs on?
    fn has_table(&self, page: u64) -> bool {
        let mut frames = self.tables.frames().iter();
        frames.any(|frame| frame.as_u64() == page)
    }
}

/// A place for a PAL.
pub struct Slot {
    life: AtomicU32,
    /// To find a PAL by: see [`program`]; and its entry.
    program: AtomicU64,
    /// See `program`.
    entry: AtomicU64,
    /// It is to end as soon as the CPU that has it lets go of it.
    doomed: AtomicBool,
    /// Where the call that is held was made: CR3 and RSP.
    held_at: [AtomicU64; 2],
    /// Reads of its pages by the guest, and writes to them.
    pub decoy_reads: AtomicU64,
    /// See `decoy_reads`.
    pub refused_writes: AtomicU64,
    pal: UnsafeCell<Option<Pal>>,
    calls: UnsafeCell<Calls>,
}

// SAFETY: the rule in this module's documentation.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_PALS] = [const {
    Slot {
        life: AtomicU32::new(Life::Free.to_bits()),
        program: AtomicU64::new(NOBODY),
        entry: AtomicU64::new(0),
        doomed: AtomicBool::new(false),
        held_at: [const { AtomicU64::new(0) }; 2],
        decoy_reads: AtomicU64::new(0),
        refused_writes: AtomicU64::new(0),
        pal: UnsafeCell::new(None),
        calls: UnsafeCell::new(Calls {
            pcrs: Pcrs::new(),
            count: 0,
            held: None,
        }),
    }
}; MAX_PALS];

impl Slot {
    /// Where the PAL is in its life.
    pub fn life(&self) -> Life {
        Life::from_bits(self.life.load(SeqCst))
    }

    /// Takes a step, if it is one: false if another CPU was first, or it is not possible.
    fn step(&self, step: impl FnOnce(Life) -> Option<Life>) -> bool {
        let old = self.life();
        step(old).is_some_and(|new| {
            self.life
                .compare_exchange(old.to_bits(), new.to_bits(), SeqCst, SeqCst)
                .is_ok()
        })
    }

    /// The record; `None` if there is no PAL here.
    ///
    /// # Safety
    /// The caller handles a VM exit, or has the machine stopped. It lets go of the record
    /// before it enters the guest or joins a stop.
    pub unsafe fn pal(&self) -> Option<&Pal> {
        // SAFETY: the caller's promise; nobody writes meanwhile.
        unsafe { (*self.pal.get()).as_ref() }
    }

    /// The record, to be changed.
    ///
    /// # Safety
    /// The caller has the machine stopped, and no other reference to the record.
    #[expect(
        clippy::mut_from_ref,
        reason = "the module's documentation has the rule"
    )]
    unsafe fn pal_mut(&self) -> Option<&mut Pal> {
        // SAFETY: the caller's promise.
        unsafe { (*self.pal.get()).as_mut() }
    }

    /// What calls change.
    ///
    /// # Safety
    /// The caller has the PAL running or registering on this CPU, or the machine stopped,
    /// and no other reference to this.
    #[expect(
        clippy::mut_from_ref,
        reason = "the module's documentation has the rule"
    )]
    pub unsafe fn calls(&self) -> &mut Calls {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.calls.get() }
    }

    /// Makes or removes the record.
    ///
    /// # Safety
    /// As for [`pal_mut`](Self::pal_mut) and [`calls`](Self::calls).
    unsafe fn set_pal(&self, pal: Option<Pal>) {
        let (program, entry) = pal.as_ref().map_or((NOBODY, 0), |pal| {
            let Request { width, entry, .. } = pal.request;
            (program(&pal.owner.paging, width), entry)
        });
        self.program.store(program, SeqCst);
        self.entry.store(entry, SeqCst);
        self.decoy_reads.store(0, SeqCst);
        self.refused_writes.store(0, SeqCst);
        self.doomed.store(false, SeqCst);
        // SAFETY: the caller's promise.
        unsafe {
            *self.pal.get() = pal;
            *self.calls.get() = Calls::default();
        }
    }
}

/// A program, as slots are searched for it: where its page tables are, how they are read,
/// and its width.
const fn program(paging: &PagingRegs, width: Width) -> u64 {
    const EFER_NXE: u64 = 1 << 11;
    let nx = paging.efer & EFER_NXE != 0;
    let width = matches!(width, Width::Bits64);
    cr3_address(paging) | (paging.mode() as u64) << 2 | (nx as u64) << 1 | width as u64
}

/// No program: with paging off there are no page tables.
const NOBODY: u64 = 0;

/// A slot, by the PAL's number.
pub fn slot(id: usize) -> Option<&'static Slot> {
    SLOTS.get(id)
}

/// All slots, with the PALs' numbers.
fn slots() -> impl Iterator<Item = (usize, &'static Slot)> {
    SLOTS.iter().enumerate()
}

/// The PAL that a program calls so.
fn find(paging: &PagingRegs, entry: u64, width: Width) -> Option<(usize, &'static Slot)> {
    let program = program(paging, width);
    if program == NOBODY {
        return None;
    }
    slots()
        .find(|(_, slot)| slot.entry.load(SeqCst) == entry && slot.program.load(SeqCst) == program)
}

/// Is any page of this range lent to a PAL, so that the guest cannot read it?
#[inline]
pub fn holds(address: Gpa, len: usize) -> bool {
    let lent = |page| !matches!(ept::tag_of(page), 0 | ept::SHARED_CODE);
    if address.page_offset() + len as u64 <= PAGE_SIZE {
        return lent(address.as_u64());
    }
    let end = address.as_u64().saturating_add(len as u64);
    let mut pages = (address.page().as_u64()..end).step_by(PAGE_SIZE as usize);
    pages.any(lent)
}

/// Is any page of this range lent to a PAL, so that the guest cannot write it? Shared code
/// is one, which the guest reads as before.
pub fn forbids_writes(address: Gpa, len: usize) -> bool {
    let end = address.as_u64().saturating_add(len as u64);
    let mut pages = (address.page().as_u64()..end).step_by(PAGE_SIZE as usize);
    pages.any(|page| ept::tag_of(page) != 0)
}

/// The PAL that a page is lent to; for shared code, one of those that have it. With the
/// machine stopped, or while this CPU handles an exit.
pub fn owner_of(page: Gpa) -> Option<usize> {
    match ept::tag_of(page.as_u64()) {
        0 => None,
        ept::SHARED_CODE => slots().find_map(|(id, slot)| {
            // SAFETY: the caller's promise.
            let pal = unsafe { slot.pal() }?;
            pal.section_of(page).map(|_| id)
        }),
        tag => Some(usize::from(tag) - 1),
    }
}

/// The PAL that runs on the page table that lies here. With the machine stopped.
pub fn table_owner(address: Gpa) -> Option<usize> {
    slots().find_map(|(id, slot)| {
        // SAFETY: the machine is stopped.
        let pal = unsafe { slot.pal() }?;
        pal.has_table(address.page().as_u64()).then_some(id)
    })
}

/// The tag that the pages of a section carry.
fn tag(id: usize, kind: SectionType) -> u8 {
    match kind {
        SectionType::SharedCode => ept::SHARED_CODE,
        _ => id as u8 + 1,
    }
}
