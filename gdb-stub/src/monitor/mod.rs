//! The `monitor` commands: a table of them, and how one is found and run.
//!
//! [`Session`](crate::Session) hands over the text of a `qRcmd` packet. A command
//! prints to a writer; one that cannot do what it is asked prints `error: …`, for the
//! protocol has no better place for the reason.

mod arguments;
mod console;
mod cpus;
mod memory;
mod msr;
mod nmi;
mod pal;
mod reports;
mod trace;
mod vmcs;

use core::fmt::{self, Write};

use vmcs_inspect::VmcsSnapshot;

use crate::line::Line;
use crate::machine::{CpuIndex, Machine, MachineError, SerialPort, StopKind};
use crate::target::Debug;

pub use arguments::Arguments;
pub use console::Console;

/// What a command works on.
pub struct Context<'a, M> {
    /// The stopped machine.
    pub machine: &'a mut M,
    /// Breakpoints, and which CPU is meant where none is named.
    pub debug: &'a mut Debug,
    /// Each CPU's VMCS when the machine last went on.
    pub history: &'a [VmcsSnapshot],
}

impl<'a, M> Context<'a, M> {
    /// What a command works on.
    pub fn new(machine: &'a mut M, debug: &'a mut Debug, history: &'a [VmcsSnapshot]) -> Self {
        Self {
            machine,
            debug,
            history,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// The client no longer wants the output.
    Abandoned,
    /// An argument is missing.
    Missing(&'static str),
    /// An argument is not what belongs there.
    Unexpected(&'a str),
    /// A number that is no number, or too large.
    NotANumber(&'a str),
    /// There is no such CPU; the machine has this many.
    NoSuchCpu(usize),
    /// The machine refused, about this address or number.
    Refused(u64, MachineError),
    /// The machine refused, about this CPU.
    CpuRefused(CpuIndex, MachineError),
    /// There is no PAL with this number.
    NoSuchPal(u64),
    /// The machine refused, about this PAL.
    PalRefused(u32, MachineError),
}

impl From<fmt::Error> for CommandError<'_> {
    fn from(_: fmt::Error) -> Self {
        Self::Abandoned
    }
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandoned => f.write_str("given up"),
            Self::Missing(what) => write!(f, "{what} is missing"),
            Self::Unexpected(word) => write!(f, "`{word}` does not belong there"),
            Self::NotANumber(word) => {
                write!(
                    f,
                    "`{word}` is not a number; write 123, or 0x7b in hexadecimal"
                )
            }
            Self::NoSuchCpu(count) => {
                write!(f, "there is no such CPU; CPUs are 0 to {}", count - 1)
            }
            Self::Refused(number, error) => write!(f, "{number:#x}: {error}"),
            Self::CpuRefused(cpu, error) => write!(f, "CPU {cpu}: {error}"),
            Self::NoSuchPal(number) => {
                write!(f, "there is no PAL {number}; `monitor pal` lists them")
            }
            Self::PalRefused(id, MachineError::Unavailable) => {
                write!(f, "PAL {id} is being registered; let it finish")
            }
            Self::PalRefused(id, error) => write!(f, "PAL {id}: {error}"),
        }
    }
}

/// What a command returns.
pub type CommandResult<'a> = Result<(), CommandError<'a>>;

/// How a command is run.
type Run<M> =
    for<'a> fn(&mut Context<'_, M>, &mut Arguments<'a>, &mut dyn Write) -> CommandResult<'a>;

/// One command of the table.
struct Command<M> {
    name: &'static str,
    /// Its arguments, as help shows them.
    usage: &'static str,
    /// What it does, on one line.
    summary: &'static str,
    /// What else there is to know.
    details: &'static str,
    run: Run<M>,
}

impl<M: Machine> Command<M> {
    /// Every command, in the order that `help` lists them.
    const TABLE: [Self; 16] = [
        Self {
            name: "help",
            usage: "[COMMAND]",
            summary: "lists the commands, or explains one",
            details: "",
            run: help,
        },
        Self {
            name: "vmcs",
            usage: "[all|FIELD…|set FIELD VALUE [!]|diff|check] [CPU]",
            summary: "shows VMCSs, NMI state first; sets and checks fields",
            details: "",
            run: vmcs::run,
        },
        Self {
            name: "cpus",
            usage: "",
            summary: "why the machine is stopped, and what each CPU was doing",
            details: "",
            run: cpus::cpus,
        },
        Self {
            name: "log",
            usage: "[N|all]",
            summary: "the hypervisor's last N log lines (40)",
            details: "",
            run: reports::log,
        },
        Self {
            name: "trace",
            usage: "[CPU|all] [N|all]",
            summary: "the last N things that happened to the CPUs (40)",
            details: trace::DETAILS,
            run: trace::run,
        },
        Self {
            name: "regs",
            usage: "host [CPU]",
            summary: "the hypervisor's own registers on a CPU",
            details: "The guest's are GDB's `info registers`.",
            run: cpus::registers,
        },
        Self {
            name: "xp",
            usage: "[/NFS] ADDR",
            summary: "dumps guest physical memory: xp /16xb 0x7c00",
            details: "N is how many; F the format: x hexadecimal, d signed, u unsigned,\n\
                      o octal, t binary, c character; S the size: b 1, h 2, w 4, g 8 bytes.\n\
                      Without them: /1xw.",
            run: memory::dump,
        },
        Self {
            name: "wp",
            usage: "[/S] ADDR VALUE…",
            summary: "writes guest physical memory: wp /b 0x7c00 0x90",
            details: "S as for xp; w without it.",
            run: memory::write,
        },
        Self {
            name: "gva2gpa",
            usage: "ADDR [CPU]",
            summary: "the guest physical address of a virtual one",
            details: "",
            run: memory::translate,
        },
        Self {
            name: "msr",
            usage: "MSR [VALUE] [@CPU]",
            summary: "reads or writes an MSR by number or name: msr lstar",
            details: msr::DETAILS,
            run: msr::run,
        },
        Self {
            name: "nmi",
            usage: "[CPU]",
            summary: "what became of every NMI; owes the guest on a CPU one",
            details: nmi::DETAILS,
            run: nmi::run,
        },
        Self {
            name: "pal",
            usage: "[N|page ADDR|kill N|unlock|lock]",
            summary: "isolated programs, whose memory is whose; ends one",
            details: pal::DETAILS,
            run: pal::run,
        },
        Self {
            name: "exits",
            usage: "[CPU]",
            summary: "VM exits so far, by reason and CPU",
            details: "",
            run: reports::exits,
        },
        Self {
            name: "breakpoints",
            usage: "",
            summary: "what the stub has set, and where",
            details: "",
            run: reports::breakpoints,
        },
        Self {
            name: "arch",
            usage: "",
            summary: "how to look at 16-bit and 32-bit code",
            details: "",
            run: reports::arch,
        },
        Self {
            name: "version",
            usage: "",
            summary: "which Stillpoint this is",
            details: "",
            run: reports::version,
        },
    ];

    fn find(name: &str) -> Option<Self> {
        // GDB users know these by other names.
        let name = match name {
            "arch16" | "arch32" | "arch64" => "arch",
            "rdmsr" | "wrmsr" => "msr",
            other => other,
        };
        Self::TABLE.into_iter().find(|command| command.name == name)
    }
}

/// Runs the command that `text` names; without one, `help`.
pub fn run<M: Machine>(context: &mut Context<'_, M>, text: &[u8], out: &mut dyn Write) {
    // What cannot be printed cannot be helped: the client has gone on.
    let _ = match core::str::from_utf8(text) {
        Ok(text) => run_text(context, text, out),
        Err(_) => out.write_str("error: the command is not UTF-8\n"),
    };
}

fn run_text<M: Machine>(
    context: &mut Context<'_, M>,
    text: &str,
    out: &mut dyn Write,
) -> fmt::Result {
    let mut arguments = Arguments::new(text);
    let name = arguments.next().unwrap_or("help");
    let Some(command) = Command::<M>::find(name) else {
        return writeln!(
            out,
            "error: there is no command `{name}`; `monitor help` lists them"
        );
    };
    let result = (command.run)(context, &mut arguments, out).and_then(|()| arguments.end());
    match result {
        Ok(()) => Ok(()),
        Err(CommandError::Abandoned) => Err(fmt::Error),
        Err(error) => {
            writeln!(out, "error: {error}")?;
            let asks_for_usage = matches!(
                error,
                CommandError::Missing(_)
                    | CommandError::Unexpected(_)
                    | CommandError::NotANumber(_)
            );
            if asks_for_usage {
                writeln!(out, "usage: monitor {} {}", command.name, command.usage)?;
            }
            Ok(())
        }
    }
}

fn help<'a, M: Machine>(
    _: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let Some(name) = arguments.next() else {
        for command in Command::<M>::TABLE {
            writeln!(out, "{:<12} {}", command.name, command.summary)?;
        }
        writeln!(
            out,
            "`monitor help COMMAND` says more. CPU is a number from 0; without it,"
        )?;
        writeln!(
            out,
            "the CPU of GDB's current thread is meant (thread N is CPU N-1)."
        )?;
        return Ok(());
    };
    let Some(command) = Command::<M>::find(name) else {
        return Err(CommandError::Unexpected(name));
    };
    writeln!(out, "monitor {} {}", command.name, command.usage)?;
    writeln!(out, "{}", command.summary)?;
    if name == "vmcs" {
        vmcs::write_help(out)?;
    } else if !command.details.is_empty() {
        writeln!(out, "{}", command.details)?;
    }
    Ok(())
}

/// Whether a stop is about the hypervisor, so that its reason is worth a line.
pub fn is_hypervisors_own(kind: StopKind) -> bool {
    matches!(
        kind,
        StopKind::HostFault { .. }
            | StopKind::HostPanic
            | StopKind::EntryFailure
            | StopKind::UnknownExit(_)
    )
}
