//! The image's command line, as the boot loader passes it.
//!
//! Called once, by the boot, before anything is started: an option that is
//! unknown or malformed stops the boot with what [`CommandLineError`] prints.

use core::fmt;

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLine {
    /// BIOS number of the drive that the guest boots from: `boot_drive=`.
    pub boot_drive: u8,
    /// The debugger's serial port, if there is to be a stub: `debug=`.
    pub debug: Option<DebugPort>,
    /// Where the hypervisor's log goes until the guest starts: `log=`.
    pub log: LogPort,
    /// Stop in the debugger before the guest's first instruction: `wait`.
    pub wait: bool,
}

/// The debugger's serial port: COM2, at this speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugPort {
    /// Bits a second: 115200 or a whole part of it.
    pub baud: u32,
}

impl DebugPort {
    /// What goes into the UART's divisor latch.
    pub const fn divisor(self) -> u16 {
        todo!()
    }
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPort {
    /// The first serial port, until the guest owns it.
    Com1,
    /// Port 0xE9, the emulators' debug console.
    E9,
    /// Nowhere but the ring in memory.
    None,
}

/// Why a command line was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLineError<'a> {
    /// No option has this name.
    Unknown(&'a str),
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// Reads a command line: options apart by spaces, each at most once.
pub fn parse(_line: &str) -> Result<CommandLine, CommandLineError<'_>> {
    todo!()
}
