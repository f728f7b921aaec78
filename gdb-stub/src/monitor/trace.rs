//! `trace`: what happened to the CPUs, as the hypervisor recorded it.

use core::fmt::{self, Write};

use super::{Arguments, CommandResult, Context};
use crate::machine::{Machine, TraceEvent};

/// What else `help trace` says.
pub const DETAILS: &str = "\
VM exits and what the guest ran before, NMIs and what they were taken for, stops,\n\
injections, hypercalls, in the order of time: microseconds since the processor's reset.\n\
Each CPU keeps its last 1024. `stillpoint-trace` of gdb-scripts makes a picture of them.";

/// Events that are shown unless told.
const EVENTS: u64 = 40;

/// `trace [CPU|all] [N|all]`. gdb-scripts read what this prints.
pub fn run<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let only = match arguments.peek() {
        None => None,
        Some("all") => {
            arguments.next();
            None
        }
        Some(_) => Some(arguments.cpu(context.debug.current, context.machine.cpu_count())?),
    };
    let wanted = match arguments.peek() {
        None => EVENTS,
        Some("all") => {
            arguments.next();
            u64::MAX
        }
        Some(_) => arguments.number("N")?,
    };
    let mut events = 0_u64;
    context.machine.trace(only, &mut |_| events += 1);
    let mut skip = events.saturating_sub(wanted);
    if skip > 0 {
        write!(out, "({skip} earlier events: `monitor trace ")?;
        match only {
            Some(cpu) => writeln!(out, "{cpu} all`)")?,
            None => writeln!(out, "all all`)")?,
        }
    }
    writeln!(out, "{:>13}  cpu  event", "us")?;
    let mut result = Ok(());
    context.machine.trace(only, &mut |event| {
        if skip > 0 {
            skip -= 1;
        } else if result.is_ok() {
            result = write_event(event, out);
        }
    });
    Ok(result?)
}

fn write_event(event: &TraceEvent<'_>, out: &mut dyn Write) -> fmt::Result {
    let (us, ns) = (event.nanoseconds / 1000, event.nanoseconds % 1000);
    writeln!(out, "{us:>9}.{ns:03}  {:>3}  {}", event.cpu.0, event.text)
}
