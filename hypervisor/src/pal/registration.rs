//! REG, UNREG and SHARE: a program gives pages away, and gets them back.

use stillpoint_abi::HypercallResult;
use stillpoint_abi::pal::{Section, SectionType, Width};
use stillpoint_core::addr::{Gpa, Hpa, PAGE_SIZE};
use stillpoint_core::ept::{PalView, Permissions};
use stillpoint_core::mtrr::MemoryType;
use stillpoint_core::pal::{
    Caller, Life, Marshalling, PalTables, Refusal, Request, Rights, find_page, read_share,
};
use stillpoint_utpm::SectionMeasurement;

use super::memory::NO_PAGE;
use super::{MAX_PALS, Pal, Slot, ending, find, slots, tag, touched};
#[cfg(feature = "test-hooks")]
use crate::cpu::tsc;
use crate::log::log;
use crate::memory::guest::{self, GuestView};
use crate::memory::layout;
use crate::memory::pool::{self, Chain};
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{ept, guest_state, io};
use crate::{RENDEZVOUS, debug, trace};

/// With fewer frames than this left, those of page tables are taken back that no lent
/// page needs any more.
const LOW_ON_FRAMES: u64 = 256;

/// How long the last measurement took, in ticks of the time-stamp counter.
#[cfg(feature = "test-hooks")]
pub static MEASURING: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

const EFER_NXE: u64 = 1 << 11;

/// Why a command answers 1.
#[derive(Clone, Copy)]
enum Refused {
    /// The request itself is wrong.
    Request(Refusal),
    /// It comes from inside a PAL.
    InsidePal,
    /// There are [`MAX_PALS`] already.
    NoSlot,
    /// The hypervisor has no frames left for tables.
    NoFrames,
    /// The page is lent already, to a PAL or twice in this request.
    Lent(Gpa),
    /// The page is not RAM.
    NotRam(Gpa),
    /// The caller has a PAL at this entry already.
    Taken,
    /// The caller has no PAL with this entry.
    NoSuchPal,
    /// The PAL runs, or has something to give back.
    Busy,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Request(refusal)
    }
}

impl Refused {
    /// A number for the trace; from 64 on they are not the request's.
    const fn code(self) -> u8 {
        match self {
            Self::Request(refusal) => refusal.code(),
            Self::InsidePal => 64,
            Self::NoSlot => 65,
            Self::NoFrames => 66,
            Self::Lent(_) => 67,
            Self::NotRam(_) => 68,
            Self::Taken => 69,
            Self::NoSuchPal => 70,
            Self::Busy => 71,
        }
    }
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Request(refusal) => refusal.fmt(f),
            Self::InsidePal => f.write_str("it comes from inside a PAL"),
            Self::NoSlot => write!(f, "there are {MAX_PALS} PALs already"),
            Self::NoFrames => write!(f, "only {} frames are left for tables", pool::left()),
            Self::Lent(gpa) => write!(f, "the page at {gpa:#x} is lent already"),
            Self::NotRam(gpa) => write!(f, "the page at {gpa:#x} is not RAM"),
            Self::Taken => f.write_str("the caller has a PAL at this entry already"),
            Self::NoSuchPal => f.write_str("the caller has no PAL at this entry"),
            Self::Busy => f.write_str("the PAL is busy"),
        }
    }
}

/// The program that runs on this CPU. A PAL is none.
fn caller(vcpu: &Vcpu) -> Result<Caller, Refused> {
    if vcpu.pal.is_some() {
        return Err(Refused::InsidePal);
    }
    Ok(Caller {
        paging: guest_state::paging(),
        width: width(vcpu),
    })
}

/// The width of the code that runs on this CPU.
pub fn width(vcpu: &Vcpu) -> Width {
    if vcpu.in_64_bit_code() {
        Width::Bits64
    } else {
        Width::Bits32
    }
}

fn answer(command: &str, number: u32, result: Result<(), Refused>) -> HypercallResult {
    match result {
        Ok(()) => HypercallResult::Success,
        Err(refused) => {
            let code = refused.code();
            trace::event(trace::Event::PalRefused {
                command: number,
                code,
            });
            log!("{command} refused: {refused}");
            HypercallResult::Failure
        }
    }
}

/// REG: CX = sections, SI = parameters, DI = entry.
pub fn register(vcpu: &mut Vcpu, [sections, _, parameters, entry]: [u64; 4]) -> HypercallResult {
    answer("REG", 1, try_register(vcpu, sections, parameters, entry))
}

fn try_register(
    vcpu: &mut Vcpu,
    sections: u64,
    parameters: u64,
    entry: u64,
) -> Result<(), Refused> {
    let caller = caller(vcpu)?;
    let mut view = GuestView(vcpu.cpu);
    let (request, marshalling) = Request::read(&mut view, &caller, sections, parameters, entry)?;
    let there = || find(&caller.paging, request.entry, caller.width);
    if let Some((id, slot)) = there() {
        // It may be that of a program that has gone.
        touched::end_orphan(vcpu, id, slot);
        if there().is_some() {
            return Err(Refused::Taken);
        }
    }
    let (id, slot) = claim(vcpu).ok_or(Refused::NoSlot)?;
    // No page can be taken from under the walk, and none is seen by a CPU that still
    // has its old translation.
    let lent = debug::with_machine_stopped(vcpu, |vcpu| {
        let mut lending = Lending {
            id,
            caller,
            request,
            marshalling,
            view_frames: Chain::EMPTY,
            table_frames: Chain::EMPTY,
        };
        if pool::left() < LOW_ON_FRAMES {
            ept::join();
        }
        let result = lending.lend_all(vcpu);
        let result = match result {
            Ok((tables, view)) => Ok(lending.into_pal(tables, view)),
            Err(why) => {
                lending.release();
                Err(why)
            }
        };
        ept::views_changed();
        let pal = result?;
        io::watch_resets(true);
        // SAFETY: the machine is stopped.
        unsafe { slot.set_pal(Some(pal)) };
        Ok(())
    });
    if let Err(refused) = lent {
        slot.step(Life::abandon);
        return Err(refused);
    }
    #[cfg(feature = "test-hooks")]
    let start = tsc();
    measure(vcpu, slot);
    #[cfg(feature = "test-hooks")]
    MEASURING.store(tsc() - start, core::sync::atomic::Ordering::SeqCst);
    ending::bring_on(vcpu, id, slot, Life::publish);
    trace::event(trace::Event::PalRegistered { id: id as u32 });
    Ok(())
}

/// A place for one PAL more. If there is none, PALs go whose programs have gone.
fn claim(vcpu: &mut Vcpu) -> Option<(usize, &'static Slot)> {
    let free = || slots().find(|(_, slot)| slot.step(Life::claim));
    free().or_else(|| {
        touched::end_orphans(vcpu);
        free()
    })
}

/// The pages of one request, on their way to a PAL. With the machine stopped.
struct Lending {
    id: usize,
    caller: Caller,
    request: Request,
    marshalling: Marshalling,
    view_frames: Chain,
    table_frames: Chain,
}

impl Lending {
    /// Lends every page, and builds what the PAL runs on.
    ///
    /// All pages are found first: those of the caller's page tables may be among them,
    /// and cannot be read once they are lent.
    fn lend_all(&mut self, vcpu: &Vcpu) -> Result<(PalTables, PalView), Refused> {
        let tables = self.build_tables(vcpu)?;
        let view = PalView::new(&mut self.view_frames).map_err(|_| Refused::NoFrames)?;
        show_tables(&tables, &view, &mut self.view_frames)?;
        let pages = || {
            self.request.pages().filter_map(|(kind, gva)| {
                let (gpa, _) = tables.translate(&self.table_frames, gva)?;
                Some((kind, gpa))
            })
        };
        for (lent, (kind, gpa)) in pages().enumerate() {
            if let Err(why) = lend(self.id, kind, gpa, &view, &mut self.view_frames) {
                for (kind, gpa) in pages().take(lent) {
                    ending::return_unused(self.id, kind, gpa);
                }
                return Err(why);
            }
        }
        Ok((tables, view))
    }

    /// Finds every page, and builds the PAL's page tables.
    fn build_tables(&mut self, vcpu: &Vcpu) -> Result<PalTables, Refused> {
        let mut refused = None;
        let mode = self.caller.paging.mode();
        let nx = self.caller.paging.efer & EFER_NXE != 0;
        let pages = self.request.pages().map_while(|(kind, gva)| {
            match find_frame(vcpu, &self.caller, kind, gva) {
                Ok(gpa) => Some((gva, gpa, Rights::of(kind))),
                Err(why) => {
                    refused = Some(why);
                    None
                }
            }
        });
        let tables = PalTables::build(&mut self.table_frames, mode, nx, pages);
        match refused {
            Some(why) => Err(why),
            None => tables.map_err(|_| Refused::NoFrames),
        }
    }

    /// The record of the PAL.
    fn into_pal(self, tables: PalTables, view: PalView) -> Pal {
        let page = |section: Option<&Section>, last: bool| {
            let section = section?;
            let offset = if last { section.bytes() - PAGE_SIZE } else { 0 };
            let gva = section.start + offset;
            let (gpa, _) = tables.translate(&self.table_frames, gva)?;
            Some((gva, gpa))
        };
        let hot = [
            page(self.request.first(SectionType::Param), false),
            page(self.request.first(SectionType::Stack), true),
        ]
        .map(|found| found.unwrap_or(NO_PAGE));
        Pal {
            hot,
            marshalling: self.marshalling,
            own_sections: self.request.sections.len(),
            request: self.request,
            owner: self.caller,
            tables,
            table_frames: self.table_frames,
            shared_frames: Chain::EMPTY,
            view,
            view_frames: self.view_frames,
        }
    }

    /// Gives the frames back, no page being lent.
    fn release(&mut self) {
        self.view_frames.release();
        self.table_frames.release();
    }
}

/// The frame of a page that the caller can lend.
fn find_frame(vcpu: &Vcpu, caller: &Caller, kind: SectionType, gva: u64) -> Result<Gpa, Refused> {
    let gpa = find_page(&mut GuestView(vcpu.cpu), caller, kind, gva)?.page();
    if guest::is_ram(gpa, PAGE_SIZE as usize) {
        Ok(gpa)
    } else {
        Err(Refused::NotRam(gpa))
    }
}

/// Takes one page from the guest, and lets the PAL see it. A page that is refused stays
/// whose it was.
fn lend(
    id: usize,
    kind: SectionType,
    gpa: Gpa,
    view: &PalView,
    frames: &mut Chain,
) -> Result<(), Refused> {
    let tag = tag(id, kind);
    let memory_type = match ept::tag_of(gpa.as_u64()) {
        0 => ept::lend(gpa, tag).map_err(|_| Refused::NoFrames)?,
        // Several PALs can have the same code from the guest.
        ept::SHARED_CODE if tag == ept::SHARED_CODE => MemoryType::WriteBack,
        _ => return Err(Refused::Lent(gpa)),
    };
    let permissions = match Rights::of(kind) {
        Rights::ReadExecute => Permissions::READ | Permissions::EXECUTE,
        Rights::ReadWrite => Permissions::READ | Permissions::WRITE,
    };
    view.map(frames, gpa, permissions, memory_type)
        .map_err(|_| {
            ending::return_unused(id, kind, gpa);
            Refused::NoFrames
        })
}

/// Lets the processor read the page tables that a PAL runs on. Their accessed and dirty
/// flags are set, so it never writes them.
fn show_tables(tables: &PalTables, view: &PalView, frames: &mut Chain) -> Result<(), Refused> {
    for &table in tables.frames() {
        let gpa = Gpa::new(table.as_u64());
        view.map(frames, gpa, Permissions::READ, MemoryType::WriteBack)
            .map_err(|_| Refused::NoFrames)?;
    }
    Ok(())
}

/// Extends PCR 0 by every section. Nobody but the PAL reaches the pages any more. That
/// may take a while, so a stop is joined in between.
fn measure(vcpu: &mut Vcpu, slot: &Slot) {
    let sections = {
        // SAFETY: this CPU handles an exit.
        let Some(pal) = (unsafe { slot.pal() }) else {
            return;
        };
        pal.request.sections.clone()
    };
    for section in sections {
        let Section { kind, pages, start } = section;
        let mut measurement = None;
        for page in 0..u64::from(pages) {
            let me = vcpu.cpu.index;
            if !vcpu.stepping && RENDEZVOUS.must_look(me) {
                RENDEZVOUS.look(me, vcpu);
            }
            // SAFETY: as above; the reference does not outlive this turn.
            let Some(pal) = (unsafe { slot.pal() }) else {
                return;
            };
            let hash = measurement.get_or_insert_with(|| {
                let size = u64::from(pages) * PAGE_SIZE;
                SectionMeasurement::new(kind, start, size, pal.request.width)
            });
            if let Some(gpa) = pal.translate(start + page * PAGE_SIZE) {
                let contents = layout::direct(Hpa::new(gpa.as_u64()));
                // SAFETY: a page of RAM in the direct map; devices that write it do so
                // without a processor's knowledge anyway.
                hash.update(unsafe { core::slice::from_raw_parts(contents, PAGE_SIZE as usize) });
            }
        }
        if let Some(hash) = measurement {
            // SAFETY: the PAL is registering, on this CPU.
            let calls = unsafe { slot.calls() };
            let _pcr_0_exists = calls.pcrs.extend(0, &hash.finish());
        }
    }
}

/// UNREG: CX = entry.
pub fn unregister(vcpu: &mut Vcpu, [entry, ..]: [u64; 4]) -> HypercallResult {
    answer("UNREG", 2, try_unregister(vcpu, entry))
}

fn try_unregister(vcpu: &mut Vcpu, entry: u64) -> Result<(), Refused> {
    let caller = caller(vcpu)?;
    let (id, slot) = find(&caller.paging, entry, caller.width).ok_or(Refused::NoSuchPal)?;
    if !slot.step(Life::unregister) {
        return Err(Refused::Busy);
    }
    debug::with_machine_stopped(vcpu, |_| ending::remove(id, slot));
    trace::event(trace::Event::PalUnregistered { id: id as u32 });
    Ok(())
}

/// SHARE: CX = entry, DX = addresses, SI = lengths, DI = how many.
pub fn share(vcpu: &mut Vcpu, [entry, addresses, lengths, count]: [u64; 4]) -> HypercallResult {
    let result = try_share(vcpu, entry, addresses, lengths, count);
    answer("SHARE", 6, result)
}

fn try_share(
    vcpu: &mut Vcpu,
    entry: u64,
    addresses: u64,
    lengths: u64,
    count: u64,
) -> Result<(), Refused> {
    let caller = caller(vcpu)?;
    let (id, slot) = find(&caller.paging, entry, caller.width).ok_or(Refused::NoSuchPal)?;
    let me = vcpu.cpu.index as u16;
    if !slot.step(|life| life.enter(me)) {
        return Err(Refused::Busy);
    }
    let result = debug::with_machine_stopped(vcpu, |vcpu| {
        // SAFETY: the machine is stopped.
        let pal = unsafe { slot.pal_mut() }.ok_or(Refused::NoSuchPal)?;
        let mut memory = GuestView(vcpu.cpu);
        let sections = &pal.request.sections;
        let shared = read_share(&mut memory, &caller, addresses, lengths, count, sections)?;
        let result = shared
            .iter()
            .try_for_each(|section| share_section(vcpu, &caller, id, pal, section));
        let result =
            result.and_then(|()| show_tables(&pal.tables, &pal.view, &mut pal.view_frames));
        if result.is_err() {
            // All that is shared for this call: its tables go together.
            ending::take_back_shared(pal);
        }
        ept::views_changed();
        result
    });
    ending::bring_on(vcpu, id, slot, |life| life.leave(me));
    result
}

/// Lends the pages of one more section for the next call.
fn share_section(
    vcpu: &Vcpu,
    caller: &Caller,
    id: usize,
    pal: &mut Pal,
    section: &Section,
) -> Result<(), Refused> {
    for page in 0..u64::from(section.pages) {
        let gva = section.start + page * PAGE_SIZE;
        let gpa = find_frame(vcpu, caller, section.kind, gva)?;
        lend(id, section.kind, gpa, &pal.view, &mut pal.view_frames)?;
        let rights = Rights::of(section.kind);
        let mapped = pal.tables.map(&mut pal.shared_frames, gva, gpa, rights);
        if mapped.is_err() {
            pal.view.unmap(&mut pal.view_frames, gpa);
            ending::return_unused(id, section.kind, gpa);
            return Err(Refused::NoFrames);
        }
        // What the PAL has is in its sections, page by page, so that it can be taken back.
        match pal.request.sections.last_mut() {
            Some(last) if page != 0 => last.pages += 1,
            _ => {
                let first = Section {
                    pages: 1,
                    start: gva,
                    ..*section
                };
                let _room_was_judged = pal.request.sections.push(first);
            }
        }
    }
    Ok(())
}
