//! `pal`: the guest's isolated programs, whose memory is whose, and an end for one.

use core::fmt::{self, Write};

use super::{Arguments, CommandError, CommandResult, Context};
use crate::machine::{Machine, PalInfo, PalParameter, PalState};
use crate::pal_lock::PalLock;

/// What else `help pal` says.
pub const DETAILS: &str = "\
pal            every PAL, one row each
pal N          one: its sections, parameters and PCRs
pal page ADDR  whose the page of guest physical memory is; see gva2gpa for others
pal kill N     ends it as a fault of its own would: wiped and given back
pal unlock     opens the memory of PALs to GDB and to xp and wp, which else are
               refused it; detaching closes it, or
pal lock";

/// `pal [N|page ADDR|kill N|unlock|lock]`
pub fn run<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    match arguments.peek() {
        None => write_table(context.machine, out)?,
        Some("page") => {
            arguments.next();
            let gpa = arguments.number("ADDR")?;
            let owner = context.machine.page_owner(gpa);
            writeln!(out, "page {:#x}: {owner}", gpa & !0xfff)?;
        }
        Some("kill") => {
            arguments.next();
            let pal = named(context.machine, arguments)?;
            arguments.end()?;
            context
                .machine
                .kill_pal(pal.id)
                .map_err(|error| CommandError::PalRefused(pal.id, error))?;
            write!(out, "PAL {} is ended, its memory wiped", pal.id)?;
            match pal.state {
                PalState::Running(cpu) => writeln!(out, "; its caller on CPU {cpu} gets a fault")?,
                _ => writeln!(out)?,
            }
        }
        Some("unlock") => {
            arguments.next();
            arguments.end()?;
            context.debug.pal_lock = PalLock::Unlocked;
            writeln!(
                out,
                "the memory of PALs is open, until `monitor pal lock` or detach"
            )?;
        }
        Some("lock") => {
            arguments.next();
            arguments.end()?;
            context.debug.pal_lock = PalLock::Locked;
            writeln!(out, "the memory of PALs is closed")?;
        }
        Some(_) => {
            let pal = named(context.machine, arguments)?;
            write_pal(&pal, out)?;
        }
    }
    Ok(())
}

/// The PAL that the next word names.
fn named<'a, M: Machine>(
    machine: &mut M,
    arguments: &mut Arguments<'a>,
) -> Result<PalInfo, CommandError<'a>> {
    let number = arguments.number("N")?;
    u32::try_from(number)
        .ok()
        .and_then(|id| machine.pal(id))
        .ok_or(CommandError::NoSuchPal(number))
}

fn write_table<M: Machine>(machine: &mut M, out: &mut dyn Write) -> fmt::Result {
    let mut any = false;
    for id in 0..machine.pal_slots() {
        let Some(pal) = machine.pal(id) else {
            continue;
        };
        if !any {
            writeln!(
                out,
                "PAL  owner CR3     code    paging   entry             pages  state        CPU  PCR0"
            )?;
        }
        any = true;
        write!(
            out,
            "{id:>3}  {:012x}  {}-bit  {:<7}  {:016x}  {:>5}  {:<11}  ",
            pal.owner_cr3,
            pal.mode.bits(),
            pal.paging,
            pal.entry,
            pal.pages(),
            pal.state
        )?;
        match pal.state.cpu() {
            Some(cpu) => write!(out, "{:>3}", cpu.0)?,
            None => write!(out, "  -")?,
        }
        write!(out, "  ")?;
        let [pcr0, ..] = pal.pcrs;
        write_digest(&pcr0, out)?;
        writeln!(out)?;
    }
    if !any {
        writeln!(out, "no PAL is registered")?;
    }
    Ok(())
}

fn write_pal(pal: &PalInfo, out: &mut dyn Write) -> fmt::Result {
    let PalInfo { id, entry, .. } = pal;
    write!(out, "PAL {id}: {}", pal.state)?;
    if let Some(cpu) = pal.state.cpu() {
        write!(out, " on CPU {cpu}")?;
    }
    writeln!(
        out,
        ", {}-bit code, {} paging, entry {entry:#x}, owner's CR3 {:#x}",
        pal.mode.bits(),
        pal.paging,
        pal.owner_cr3
    )?;
    writeln!(
        out,
        "calls: {}; from outside: {} reads of a decoy, {} refused writes",
        pal.calls, pal.decoy_reads, pal.refused_writes
    )?;
    writeln!(out, "section      pages  start")?;
    for section in pal.sections.iter().flatten() {
        writeln!(
            out,
            "{:<11}  {:>5}  {:016x}",
            section.kind, section.pages, section.start
        )?;
    }
    write!(out, "parameters:")?;
    for (n, parameter) in pal.parameters.iter().flatten().enumerate() {
        write!(out, "{}", if n == 0 { " " } else { ", " })?;
        match parameter {
            PalParameter::Integer => write!(out, "integer")?,
            PalParameter::Pointer { bytes } => write!(out, "pointer to {bytes} bytes")?,
        }
    }
    if pal.parameters.iter().all(Option::is_none) {
        write!(out, " none")?;
    }
    writeln!(out)?;
    for (n, pcr) in pal.pcrs.iter().enumerate() {
        write!(out, "PCR {n}        ")?;
        write_digest(pcr, out)?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_digest(digest: &[u8; 20], out: &mut dyn Write) -> fmt::Result {
    digest.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}
