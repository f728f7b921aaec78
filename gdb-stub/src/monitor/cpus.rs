//! `cpus`, `regs host`: what the CPUs were doing.

use core::fmt::Write;

use super::{Arguments, CommandError, CommandResult, Context};
use crate::activity::{write_activity, write_stop};
use crate::machine::{CpuIndex, Machine};
use crate::registers::Registers;

/// `cpus`
pub fn cpus<'a, M: Machine>(
    context: &mut Context<'_, M>,
    _: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let stop = context.debug.stop;
    write_stop(&*context.machine, stop, out)?;
    writeln!(out)?;
    for cpu in CpuIndex::all(context.machine.cpu_count()) {
        let mark = if cpu == stop.cpu { '*' } else { ' ' };
        write!(out, "{mark} CPU {cpu}  ")?;
        let mut registers = Registers::default();
        if context.machine.read_registers(cpu, &mut registers).is_ok() {
            write!(
                out,
                "rip {:016x}  cr3 {:012x}  ",
                registers.linear_rip(),
                registers.cr3
            )?;
        }
        write_activity(&*context.machine, cpu, out)?;
        writeln!(out)?;
    }
    Ok(())
}

/// `regs host [CPU]`
pub fn registers<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    match arguments.next() {
        Some("host") => {}
        Some(word) => return Err(CommandError::Unexpected(word)),
        None => return Err(CommandError::Missing("`host`")),
    }
    let cpu = arguments.cpu(context.debug.current, context.machine.cpu_count())?;
    context.machine.host_registers(cpu, out)?;
    Ok(())
}
