//! `log`, `exits`, `breakpoints`, `arch`, `version`: what the hypervisor and the stub keep.

use core::fmt::Write;

use vmcs_inspect::ExitReason;

use super::{Arguments, CommandError, CommandResult, Context};
use crate::machine::{CpuIndex, EXIT_REASONS, Machine, WatchCondition};

/// Lines that `log` shows unless told.
const LOG_LINES: u64 = 40;

/// `log [N|all]`
pub fn log<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let wanted = match arguments.peek() {
        None => LOG_LINES,
        Some("all") => {
            arguments.next();
            u64::MAX
        }
        Some(_) => arguments.number("N")?,
    };
    let mut lines = 0_u64;
    context.machine.log(&mut |_| lines += 1);
    let mut skip = lines.saturating_sub(wanted);
    if skip > 0 {
        writeln!(out, "({skip} earlier lines: `monitor log all`)")?;
    }
    let mut result = Ok(());
    context.machine.log(&mut |line| {
        if skip > 0 {
            skip -= 1;
        } else if result.is_ok() {
            result = writeln!(out, "{line}");
        }
    });
    Ok(result?)
}

/// `exits [CPU]`
pub fn exits<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let count = context.machine.cpu_count();
    let only = match arguments.peek() {
        Some(_) => Some(arguments.cpu(context.debug.current, count)?),
        None => None,
    };
    for cpu in CpuIndex::all(count) {
        if only.is_some_and(|only| only != cpu) {
            continue;
        }
        let mut counts = [0; EXIT_REASONS];
        context.machine.exit_counts(cpu, &mut counts);
        let total = counts.iter().fold(0_u64, |sum, &n| sum.saturating_add(n));
        writeln!(out, "CPU {cpu}: {total} VM exits")?;
        for (reason, &number) in (0_u16..).zip(&counts).filter(|(_, number)| **number > 0) {
            write!(out, "{number:>14}  {reason:>2} ")?;
            match ExitReason::from_raw(reason) {
                Some(reason) => writeln!(out, "{reason}")?,
                None => writeln!(out, "?")?,
            }
        }
    }
    Ok(())
}

/// `breakpoints`
pub fn breakpoints<'a, M: Machine>(
    context: &mut Context<'_, M>,
    _: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let (software, hardware) = (&context.debug.software, &context.debug.hardware);
    for entry in software.iter() {
        writeln!(
            out,
            "INT3  gva {:#x}, gpa {:#x}, over {:#04x}",
            entry.gva, entry.gpa, entry.original
        )?;
    }
    for (slot, part) in hardware.iter() {
        let condition = match part.condition {
            WatchCondition::Execute => "execution",
            WatchCondition::Write => "writes",
            WatchCondition::ReadWrite => "reads and writes",
        };
        writeln!(
            out,
            "DR{slot}   {condition} of {} bytes at {:#x}",
            part.length, part.address
        )?;
    }
    if software.is_empty() && hardware.iter().next().is_none() {
        writeln!(
            out,
            "none now; GDB takes its breakpoints out while the machine is stopped"
        )?;
    }
    if software.overwritten() > 0 {
        writeln!(
            out,
            "{} were overwritten by the guest, and left so",
            software.overwritten()
        )?;
    }
    Ok(())
}

/// `arch`
pub fn arch<'a, M: Machine>(
    context: &mut Context<'_, M>,
    _: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    use crate::machine::CpuActivity;

    let cpu = context.debug.current;
    if let CpuActivity::Guest { mode, .. } | CpuActivity::Pal { mode, .. } =
        context.machine.activity(cpu)
    {
        writeln!(
            out,
            "CPU {cpu} is in {mode} mode: {}-bit code.",
            mode.bits()
        )?;
    }
    out.write_str(concat!(
        "The stub always describes the 64-bit registers; GDB reads the description once.\n",
        "To have 16-bit or 32-bit code disassembled and registers shown in that width:\n",
        "  source gdb-scripts/stillpoint.py\n",
        "  stillpoint-arch 16      (or 32; 64 for the way back)\n",
    ))?;
    Ok(())
}

/// `version`
pub fn version<'a, M: Machine>(
    context: &mut Context<'_, M>,
    _: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    context.machine.version(out).map_err(CommandError::from)
}
