//! The debugger's `monitor vmcs` command: its grammar, what it does, and its printing.
//!
//! The stub calls [`run`] with the words after `vmcs`; the hypervisor calls
//! [`write_check`] when a VM entry fails.

mod command;
mod host;
mod layout;
mod names;
mod overview;
mod set;
#[cfg(test)]
mod tests;
mod words;

use core::fmt::{self, Write};
use core::ops::Range;

pub use host::{NmiState, VmcsHost};
pub use words::{cpu_number, number};

use crate::decode::ExitContext;
use crate::{
    Capabilities, ExitReasonField, Field, Kind, VmInstructionError, VmcsAccess, VmcsError,
    VmcsSnapshot, check,
};
use command::Command;

/// What `help vmcs` prints.
pub const HELP: &str = "\
vmcs                         NMI state of every CPU, one row each
vmcs CPU                     that row alone
vmcs all [CPU]               every field that the processor has, decoded
vmcs FIELD... [CPU]          these fields
vmcs set FIELD VALUE [CPU]   write a field; refused where VM entry would fail by it
vmcs set! FIELD VALUE [CPU]  write it all the same
vmcs diff [CPU]              what changed since the last stop
vmcs check [CPU]             the SDM's VM-entry checks: each broken rule with its section

FIELD is a name (guest_rip), an unambiguous beginning of one (guest_act), all names with a
beginning (guest_cs*), or an encoding (0x681e). VALUE is decimal, or hexadecimal with 0x.
CPU is a number from 0, as vmcs shows it; without it the current thread's CPU is meant, but
all of them for vmcs, diff and check. A field that the processor lacks shows as -.
";

/// Runs one `monitor vmcs` command, `args` being what follows `vmcs`, and writes its
/// output, or a line that begins with `error:`.
///
/// # Errors
/// Only those of `out`.
pub fn run(args: &str, host: &mut dyn VmcsHost, out: &mut dyn Write) -> fmt::Result {
    let command = match command::parse(args) {
        Ok(command) => command,
        Err(error) => return layout::error(out, error),
    };
    let current = host.current_cpu();
    match command {
        Command::Help => out.write_str(HELP),
        Command::Overview(cpu) => for_cpus(host, out, cpu, |host, out, cpus| {
            overview::write(out, host, cpus)
        }),
        Command::All(cpu) => for_cpus(host, out, cpu.or(Some(current)), |host, out, cpus| {
            each_vmcs(host, out, cpus, &mut all_fields)
        }),
        Command::Fields(words, cpu) => {
            for_cpus(host, out, cpu.or(Some(current)), |host, out, cpus| {
                each_vmcs(host, out, cpus, &mut |vmcs, out, _| {
                    fields(vmcs, out, words.clone())
                })
            })
        }
        Command::Set {
            field,
            value,
            cpu,
            force,
        } => for_cpus(host, out, cpu.or(Some(current)), |host, out, cpus| {
            set::run(
                host,
                out,
                cpus,
                &set::Request {
                    field,
                    value,
                    force,
                },
            )
        }),
        Command::Diff(cpu) => for_cpus(host, out, cpu, diff),
        Command::Check(cpu) => for_cpus(host, out, cpu, |host, out, cpus| {
            let caps = host.capabilities();
            each_vmcs(host, out, cpus, &mut |vmcs, out, cpu| {
                write!(out, "cpu {cpu}: ")?;
                write_check(vmcs, &caps, out)
            })
        }),
    }
}

/// Calls `f` with the CPUs meant: the one given, or all of them.
fn for_cpus(
    host: &mut dyn VmcsHost,
    out: &mut dyn Write,
    cpu: Option<usize>,
    f: impl FnOnce(&mut dyn VmcsHost, &mut dyn Write, Range<usize>) -> fmt::Result,
) -> fmt::Result {
    let count = host.cpus();
    match cpu {
        None => f(host, out, 0..count),
        Some(cpu) if cpu < count => f(host, out, cpu..cpu + 1),
        Some(cpu) => layout::error(
            out,
            format_args!("there is no CPU {cpu}; there are {count}, from 0 on"),
        ),
    }
}

/// What is done with one CPU's VMCS.
type WithVmcs<'a> = &'a mut dyn FnMut(&mut dyn VmcsAccess, &mut dyn Write, usize) -> fmt::Result;

/// Calls `f` with the VMCS of each of `cpus`; writes an error for one that cannot be
/// reached.
fn each_vmcs(
    host: &mut dyn VmcsHost,
    out: &mut dyn Write,
    cpus: Range<usize>,
    f: WithVmcs<'_>,
) -> fmt::Result {
    for cpu in cpus {
        let mut result = Ok(());
        let reached = host.with_vmcs(cpu, &mut |vmcs| result = f(vmcs, out, cpu));
        result?;
        if let Err(error) = reached {
            write_unreached(out, cpu, error)?;
        }
    }
    Ok(())
}

fn write_unreached(out: &mut dyn Write, cpu: usize, error: VmcsError) -> fmt::Result {
    layout::error(out, format_args!("cpu {cpu}: {error}"))
}

/// `vmcs all`: by area, without the fields that the processor does not have.
fn all_fields(vmcs: &mut dyn VmcsAccess, out: &mut dyn Write, cpu: usize) -> fmt::Result {
    let exit = ExitContext::read(vmcs);
    let mut absent = 0;
    for kind in [
        Kind::GuestState,
        Kind::Control,
        Kind::ReadOnlyData,
        Kind::HostState,
    ] {
        writeln!(out, "cpu {cpu}, {kind}:")?;
        for info in Field::all().iter().filter(|info| info.kind == kind) {
            match vmcs.read(info.field) {
                Err(VmcsError::Unsupported(_)) => absent += 1,
                Err(error) => return write_unreached(out, cpu, error),
                value => layout::field_line(out, info.field, value, exit)?,
            }
        }
    }
    match absent {
        0 => Ok(()),
        1 => writeln!(out, "1 field is not on this processor"),
        _ => writeln!(out, "{absent} fields are not on this processor"),
    }
}

/// `vmcs FIELD...`.
fn fields<'a>(
    vmcs: &mut dyn VmcsAccess,
    out: &mut dyn Write,
    words: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    let exit = ExitContext::read(vmcs);
    for word in words {
        if let Some(prefix) = word.strip_suffix('*') {
            let mut found = names::with_prefix(prefix).peekable();
            if found.peek().is_none() {
                layout::error(out, format_args!("no field's name begins with {prefix}"))?;
            }
            for info in found {
                layout::field_line(out, info.field, vmcs.read(info.field), exit)?;
            }
            continue;
        }
        match names::find(word) {
            Ok(field) => layout::field_line(out, field, vmcs.read(field), exit)?,
            Err(error) => layout::error(out, error)?,
        }
    }
    Ok(())
}

/// `vmcs diff`.
fn diff(host: &mut dyn VmcsHost, out: &mut dyn Write, cpus: Range<usize>) -> fmt::Result {
    for cpu in cpus {
        let mut now = VmcsSnapshot::empty();
        let mut captured = Ok(());
        let reached = host.with_vmcs(cpu, &mut |vmcs| captured = now.capture(vmcs));
        if let Err(error) = reached.and(captured) {
            write_unreached(out, cpu, error)?;
            continue;
        }
        let Some(before) = host.previous(cpu) else {
            writeln!(
                out,
                "cpu {cpu}: this is the first stop, there is nothing to compare with"
            )?;
            continue;
        };
        match before.changes(&now).count() {
            0 => writeln!(out, "cpu {cpu}: nothing changed since the last stop")?,
            1 => writeln!(out, "cpu {cpu}: 1 field changed since the last stop")?,
            count => writeln!(out, "cpu {cpu}: {count} fields changed since the last stop")?,
        }
        let exit = ExitContext::read(&mut &now);
        for change in before.changes(&now) {
            layout::change_line(out, change, exit)?;
        }
    }
    Ok(())
}

/// Writes whether `vmcs` passes the checks of a VM entry, and each rule that it breaks.
///
/// If the last thing that happened was a failed VM entry, that is told too.
///
/// # Errors
/// Only those of `out`: a VMCS that cannot be read is told in the output.
pub fn write_check(
    vmcs: &mut dyn VmcsAccess,
    caps: &Capabilities,
    out: &mut dyn Write,
) -> fmt::Result {
    let count = match check(vmcs, caps, &mut |_| {}) {
        Ok(count) => count,
        Err(error) => return layout::error(out, error),
    };
    match count {
        0 => writeln!(out, "the VMCS passes the checks of a VM entry")?,
        1 => writeln!(out, "a VM entry would fail, 1 rule is broken")?,
        _ => writeln!(out, "a VM entry would fail, {count} rules are broken")?,
    }
    let exit = ExitContext::read(vmcs);
    let mut result = Ok(());
    let checked = check(vmcs, caps, &mut |violation| {
        if result.is_ok() {
            result = layout::violation(out, &violation, exit);
        }
    });
    result?;
    if let Err(error) = checked {
        return layout::error(out, error);
    }
    write_last_failure(vmcs, out)
}

/// Tells of a VM entry that has failed, if the VMCS says so.
fn write_last_failure(vmcs: &mut dyn VmcsAccess, out: &mut dyn Write) -> fmt::Result {
    if let Ok(raw) = vmcs.read(Field::EXIT_REASON) {
        let reason = ExitReasonField::from_raw(raw as u32);
        if reason.entry_failure() {
            writeln!(out, "the last VM exit was a failed entry: {reason}")?;
            let qualification = vmcs.read(Field::EXIT_QUALIFICATION);
            let exit = ExitContext::read(vmcs);
            layout::field_line(out, Field::EXIT_QUALIFICATION, qualification, exit)?;
        }
    }
    // The field keeps the last error for ever, so only those of an entry are told.
    if let Ok(number) = vmcs.read(Field::VM_INSTRUCTION_ERROR)
        && let Some(error) = VmInstructionError::from_raw(number as u32)
        && error.is_entry_failure()
    {
        writeln!(out, "the last VM-instruction error, {number}: {error}")?;
    }
    Ok(())
}
