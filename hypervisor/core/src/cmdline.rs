//! The image's command line, as the boot loader passes it.
//!
//! Called once, by the boot, before anything is started: an option that is
//! unknown or malformed stops the boot with what [`CommandLineError`] prints.

use core::fmt;

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLine {
    /// BIOS number of the drive that the guest boots from, 0x80 to 0xff:
    /// `boot_drive=`.
    pub boot_drive: u8,
    /// The debugger's serial port, if there is to be a stub: `debug=`.
    pub debug: Option<DebugPort>,
    /// Where the hypervisor's log goes until the guest starts: `log=`.
    pub log: LogPort,
    /// Stop in the debugger before the guest's first instruction: `wait`.
    pub wait: bool,
}

/// What an empty command line means.
impl Default for CommandLine {
    fn default() -> Self {
        Self {
            boot_drive: 0x80,
            debug: None,
            log: LogPort::Com1,
            wait: false,
        }
    }
}

/// The debugger's serial port: COM2, at this speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugPort {
    baud: u32,
}

/// The speeds that `debug=` takes, in bits a second: those that the UART's
/// 115200 Hz reaches exactly and that terminals and gdb offer.
const BAUD_RATES: [u32; 11] = [
    115_200, 57_600, 38_400, 19_200, 9_600, 4_800, 2_400, 1_200, 600, 300, 110,
];

impl DebugPort {
    /// Bits a second.
    pub const fn baud(self) -> u32 {
        self.baud
    }
}

impl Default for DebugPort {
    fn default() -> Self {
        Self { baud: 115_200 }
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

/// Why a command line was refused. Each holds the text at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLineError<'a> {
    /// No option has this name.
    UnknownOption(&'a str),
    /// The option was given before.
    Repeated(&'a str),
    /// The option needs `=` and a value.
    ValueMissing(&'a str),
    /// The option takes no value.
    ValueNotWanted(&'a str),
    /// Not a drive from 0x80 to 0xff.
    BadDrive(&'a str),
    /// `debug=` with another port than COM2.
    BadDebugPort(&'a str),
    /// `debug=com2,` with a speed that the UART doesn't have.
    BadBaud(&'a str),
    /// `log=` with a place that isn't known.
    BadLogPort(&'a str),
    /// `wait` without `debug=`: there would be nobody to wait for.
    WaitWithoutDebug,
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption(name) => write!(
                f,
                "unknown option `{name}`: the options are boot_drive=, debug=, log= and wait"
            ),
            Self::Repeated(name) => write!(f, "option `{name}` is given twice: keep one"),
            Self::ValueMissing(name) => {
                write!(f, "option `{name}` needs a value: write {name}=VALUE")
            }
            Self::ValueNotWanted(name) => {
                write!(f, "option `{name}` takes no value: write {name} alone")
            }
            Self::BadDrive(text) => write!(
                f,
                "boot_drive=`{text}` is no hard disk's BIOS number: give 0x80 to 0xff, or 128 to 255"
            ),
            Self::BadDebugPort(text) => write!(
                f,
                "debug=`{text}`: the debugger's port can only be com2: write debug=com2 or debug=com2,BAUD"
            ),
            Self::BadBaud(text) => {
                write!(
                    f,
                    "debug=com2,`{text}` is no speed of this port: give one of"
                )?;
                for rate in BAUD_RATES {
                    write!(f, " {rate}")?;
                }
                Ok(())
            }
            Self::BadLogPort(text) => write!(f, "log=`{text}` is not known: give com1, e9 or none"),
            Self::WaitWithoutDebug => f.write_str(
                "option `wait` needs a debugger to wait for: add debug=com2, or leave wait out",
            ),
        }
    }
}

impl core::error::Error for CommandLineError<'_> {}

/// Reads a command line: options apart by white space, each at most once.
///
/// # Errors
/// The first thing at fault, from left to right; `wait` without `debug=` last.
pub fn parse(line: &str) -> Result<CommandLine, CommandLineError<'_>> {
    let mut result = CommandLine::default();
    let mut seen = [false; 4];
    for token in line.split_ascii_whitespace() {
        let (name, value) = match token.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (token, None),
        };
        let needed = value.filter(|v| !v.is_empty());
        let needed = needed.ok_or(CommandLineError::ValueMissing(name));
        let which = match name {
            "boot_drive" => {
                result.boot_drive = drive(needed?)?;
                0
            }
            "debug" => {
                result.debug = Some(debug_port(needed?)?);
                1
            }
            "log" => {
                result.log = log_port(needed?)?;
                2
            }
            "wait" if value.is_some() => return Err(CommandLineError::ValueNotWanted(name)),
            "wait" => {
                result.wait = true;
                3
            }
            _ => return Err(CommandLineError::UnknownOption(name)),
        };
        if core::mem::replace(&mut seen[which], true) {
            return Err(CommandLineError::Repeated(name));
        }
    }
    if result.wait && result.debug.is_none() {
        return Err(CommandLineError::WaitWithoutDebug);
    }
    Ok(result)
}

/// A hard disk's number: `0x` and hexadecimal digits, or decimal digits.
fn drive(text: &str) -> Result<u8, CommandLineError<'_>> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix would take a plus sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(CommandLineError::BadDrive(text));
    }
    match u8::from_str_radix(digits, radix) {
        Ok(drive) if drive >= 0x80 => Ok(drive),
        _ => Err(CommandLineError::BadDrive(text)),
    }
}

/// `com2`, or `com2,` and a speed.
fn debug_port(text: &str) -> Result<DebugPort, CommandLineError<'_>> {
    let (port, baud) = match text.split_once(',') {
        Some((port, baud)) => (port, Some(baud)),
        None => (text, None),
    };
    if port != "com2" {
        return Err(CommandLineError::BadDebugPort(port));
    }
    let Some(baud) = baud else {
        return Ok(DebugPort::default());
    };
    let known = |rate: &u32| baud.parse() == Ok(*rate) && !baud.starts_with(['+', '0']);
    match BAUD_RATES.into_iter().find(known) {
        Some(baud) => Ok(DebugPort { baud }),
        None => Err(CommandLineError::BadBaud(baud)),
    }
}

fn log_port(text: &str) -> Result<LogPort, CommandLineError<'_>> {
    match text {
        "com1" => Ok(LogPort::Com1),
        "e9" => Ok(LogPort::E9),
        "none" => Ok(LogPort::None),
        _ => Err(CommandLineError::BadLogPort(text)),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use CommandLineError::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn what_is_accepted() {
        let default = CommandLine::default();
        let debug = |baud| Some(DebugPort { baud });
        let table = [
            ("", default),
            ("  \t ", default),
            (
                "boot_drive=0x81",
                CommandLine {
                    boot_drive: 0x81,
                    ..default
                },
            ),
            (
                "boot_drive=129",
                CommandLine {
                    boot_drive: 129,
                    ..default
                },
            ),
            (
                "boot_drive=0xFF",
                CommandLine {
                    boot_drive: 255,
                    ..default
                },
            ),
            (
                "debug=com2",
                CommandLine {
                    debug: debug(115_200),
                    ..default
                },
            ),
            (
                "debug=com2,9600",
                CommandLine {
                    debug: debug(9_600),
                    ..default
                },
            ),
            (
                "log=e9",
                CommandLine {
                    log: LogPort::E9,
                    ..default
                },
            ),
            (
                "log=none",
                CommandLine {
                    log: LogPort::None,
                    ..default
                },
            ),
            ("log=com1", default),
            (
                "wait log=e9  debug=com2,57600 boot_drive=0x80",
                CommandLine {
                    debug: debug(57_600),
                    log: LogPort::E9,
                    wait: true,
                    boot_drive: 0x80,
                },
            ),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn what_is_refused() {
        let table = [
            ("quiet", UnknownOption("quiet")),
            ("log=e9 Debug=com2", UnknownOption("Debug")),
            ("=", UnknownOption("")),
            ("boot_drive", ValueMissing("boot_drive")),
            ("boot_drive=", ValueMissing("boot_drive")),
            ("boot_drive=0x7f", BadDrive("0x7f")),
            ("boot_drive=0", BadDrive("0")),
            ("boot_drive=256", BadDrive("256")),
            ("boot_drive=0x", BadDrive("0x")),
            ("boot_drive=0x+80", BadDrive("0x+80")),
            ("boot_drive=+128", BadDrive("+128")),
            ("boot_drive=80h", BadDrive("80h")),
            ("boot_drive=128=", BadDrive("128=")),
            ("debug", ValueMissing("debug")),
            ("debug=com1", BadDebugPort("com1")),
            ("debug=COM2", BadDebugPort("COM2")),
            ("debug=com2,", BadBaud("")),
            ("debug=com2,0", BadBaud("0")),
            ("debug=com2,14400", BadBaud("14400")),
            ("debug=com2,+9600", BadBaud("+9600")),
            ("debug=com2,9600,8n1", BadBaud("9600,8n1")),
            ("log=com2", BadLogPort("com2")),
            ("wait=1 debug=com2", ValueNotWanted("wait")),
            ("wait= debug=com2", ValueNotWanted("wait")),
            ("wait", WaitWithoutDebug),
            ("log=e9 log=e9", Repeated("log")),
            ("debug=com2 debug=com2,9600", Repeated("debug")),
            ("wait debug=com2 wait", Repeated("wait")),
            ("boot_drive=0x80 boot_drive=0x80", Repeated("boot_drive")),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), Err(expected), "{line:?}");
        }
    }

    #[test]
    fn errors_name_cause_and_remedy() {
        assert_eq!(
            parse("debug=com2,31337").unwrap_err().to_string(),
            "debug=com2,`31337` is no speed of this port: \
             give one of 115200 57600 38400 19200 9600 4800 2400 1200 600 300 110"
        );
        assert_eq!(
            parse("wait").unwrap_err().to_string(),
            "option `wait` needs a debugger to wait for: add debug=com2, or leave wait out"
        );
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,80}") {
            let _ = parse(&line).map_err(|e| e.to_string());
        }

        #[test]
        fn the_offending_text_is_in_the_line(line in "((boot_drive|debug|log|wait)(=(0x[0-9a-f]{1,3}|com[12](,[0-9]{1,6})?|e9|none)?)? ){0,4}") {
            if let Err(UnknownOption(t) | Repeated(t) | ValueMissing(t) | ValueNotWanted(t)
                | BadDrive(t) | BadDebugPort(t) | BadBaud(t) | BadLogPort(t)) = parse(&line)
            {
                prop_assert!(line.contains(t));
            }
        }
    }
}
