//! The `T` packet: why the machine stopped, on which CPU, and where.
//!
//! Sent when the machine stops under a client, and in answer to `?`. It carries RIP,
//! RSP and RBP along, which is most of what a client asks for next.

use core::fmt::Write;

use crate::arch::{self, MAX_REGISTER_SIZE, REGISTERS};
use crate::line::Line;
use crate::machine::{Machine, SerialPort, StopKind, WatchCondition};
use crate::registers::Registers;
use crate::target::{Debug, thread_id};

/// GDB's signal numbers.
mod signal {
    pub const INT: u8 = 2;
    pub const ILL: u8 = 4;
    pub const TRAP: u8 = 5;
    pub const ABRT: u8 = 6;
    pub const FPE: u8 = 8;
    pub const BUS: u8 = 10;
    pub const SEGV: u8 = 11;
}

/// What led to the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The machine has just stopped under the client.
    Stopped,
    /// The client asks, having found the machine stopped.
    Asked,
}

/// The numbers of RBP, RSP and RIP.
const EXPEDITED: [usize; 3] = [6, 7, 16];

/// Sends the stop reply for `debug.stop`.
pub fn send<M: Machine, S: SerialPort>(
    machine: &mut M,
    debug: &Debug,
    line: &mut Line<S>,
    occasion: Occasion,
) {
    let mut registers = Registers::default();
    let available = machine
        .read_registers(debug.stop.cpu, &mut registers)
        .is_ok();
    let mut reply = line.reply();
    reply.text("T");
    reply.hex(signal_of(debug.stop.kind, occasion));
    if available {
        for number in EXPEDITED {
            let Some(info) = REGISTERS.get(number) else {
                continue;
            };
            let mut value = [0; MAX_REGISTER_SIZE];
            arch::read(&registers, info.source, &mut value);
            reply.hex(number as u8);
            reply.text(":");
            for &byte in value.iter().take(info.size) {
                reply.hex(byte);
            }
            reply.text(";");
        }
    }
    // Writing to a reply cannot fail; what outgrows it becomes an error when sent.
    let _ = write!(reply, "thread:{:x};", thread_id(debug.stop.cpu));
    let _ = match debug.stop.kind {
        StopKind::SoftwareBreakpoint => reply.write_str("swbreak:;"),
        StopKind::HardwareBreakpoint(_) => reply.write_str("hwbreak:;"),
        StopKind::Watchpoint(slot) => match debug.hardware.hit(slot) {
            Some(hit) if hit.condition == WatchCondition::Write => {
                write!(reply, "watch:{:x};", hit.address)
            }
            Some(hit) => write!(reply, "awatch:{:x};", hit.address),
            None => Ok(()),
        },
        _ => Ok(()),
    };
    reply.send();
}

fn signal_of(kind: StopKind, occasion: Occasion) -> u8 {
    match kind {
        StopKind::DebugLine if occasion == Occasion::Stopped => signal::INT,
        StopKind::HostFault { vector, .. } => match vector {
            0 | 16 | 19 => signal::FPE,
            1 | 3 => signal::TRAP,
            6 => signal::ILL,
            13 | 14 => signal::SEGV,
            _ => signal::BUS,
        },
        StopKind::HostPanic | StopKind::EntryFailure | StopKind::UnknownExit(_) => signal::ABRT,
        _ => signal::TRAP,
    }
}
