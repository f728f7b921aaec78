//! `xp`, `wp`, `gva2gpa`: memory as the memory controller sees it.

use core::fmt::{self, Write};

use super::{Arguments, CommandError, CommandResult, Context};
use crate::machine::{Machine, MachineError};
use crate::memory;

/// The most units that one dump shows.
const LARGEST_COUNT: u64 = 4096;

/// The most bytes that one `wp` writes. A command has room for fewer.
const LARGEST_WRITE: usize = 1024;

/// How many bytes of memory a line of a dump shows.
const BYTES_PER_LINE: usize = 16;

/// How one unit of memory is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Radix {
    Hexadecimal,
    Signed,
    Unsigned,
    Octal,
    Binary,
    Character,
}

/// The `/NFS` of QEMU's monitor and of GDB's `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    count: u64,
    radix: Radix,
    /// Bytes of a unit: 1, 2, 4 or 8.
    size: usize,
}

impl Format {
    const DEFAULT: Self = Self {
        count: 1,
        radix: Radix::Hexadecimal,
        size: 4,
    };

    /// Takes a leading `/NFS` word, if there is one.
    fn take<'a>(arguments: &mut Arguments<'a>) -> Result<Self, CommandError<'a>> {
        let Some(word) = arguments.peek().filter(|word| word.starts_with('/')) else {
            return Ok(Self::DEFAULT);
        };
        arguments.next();
        Self::parse(word).ok_or(CommandError::Unexpected(word))
    }

    fn parse(word: &str) -> Option<Self> {
        let text = word.strip_prefix('/')?;
        let letters = text.trim_start_matches(|character: char| character.is_ascii_digit());
        let digits = text.get(..text.len() - letters.len())?;
        let mut format = Self::DEFAULT;
        if !digits.is_empty() {
            format.count = digits
                .parse()
                .ok()
                .filter(|&count| count <= LARGEST_COUNT)?;
        }
        for letter in letters.chars() {
            match letter {
                'x' => format.radix = Radix::Hexadecimal,
                'd' => format.radix = Radix::Signed,
                'u' => format.radix = Radix::Unsigned,
                'o' => format.radix = Radix::Octal,
                't' => format.radix = Radix::Binary,
                'c' => (format.radix, format.size) = (Radix::Character, 1),
                'b' => format.size = 1,
                'h' => format.size = 2,
                'w' => format.size = 4,
                'g' => format.size = 8,
                _ => return None,
            }
        }
        Some(format)
    }

    fn write(self, value: u64, out: &mut dyn Write) -> fmt::Result {
        let digits = self.size * 2;
        match self.radix {
            Radix::Hexadecimal => write!(out, " 0x{value:0digits$x}"),
            Radix::Unsigned => write!(out, " {value}"),
            Radix::Octal => write!(out, " 0{value:o}"),
            Radix::Binary => write!(out, " {value:0bits$b}", bits = self.size * 8),
            Radix::Signed => {
                let unused = 64 - 8 * self.size as u32;
                write!(out, " {}", (value << unused) as i64 >> unused)
            }
            Radix::Character => {
                write!(out, " '{}'", (value as u8).escape_ascii())
            }
        }
    }
}

/// `xp [/NFS] ADDR`
pub fn dump<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let format = Format::take(arguments)?;
    let mut address = arguments.number("ADDR")?;
    let mut rest = format.count;
    while rest > 0 {
        let units = rest.min((BYTES_PER_LINE / format.size) as u64);
        let mut line = [0; BYTES_PER_LINE];
        let wanted = units as usize * format.size;
        let done = match line.get_mut(..wanted) {
            Some(line) => memory::read_physical(context.machine, context.debug, address, line)
                .map_err(|error| CommandError::Refused(address, error))?,
            None => 0,
        };
        write!(out, "{address:016x}:")?;
        let whole = line.get(..done).unwrap_or(&[]).chunks_exact(format.size);
        let shown = whole.len();
        for unit in whole {
            format.write(crate::arch::le_u64(unit), out)?;
        }
        writeln!(out)?;
        if shown < units as usize {
            let end = address.wrapping_add(done as u64);
            let next = memory::read_physical(context.machine, context.debug, end, &mut [0]);
            let error = next.err().unwrap_or(MachineError::BadAddress);
            return Err(CommandError::Refused(end, error));
        }
        address = address.wrapping_add(wanted as u64);
        rest -= units;
    }
    Ok(())
}

/// `wp [/S] ADDR VALUE…`
pub fn write<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let format = Format::take(arguments)?;
    let address = arguments.number("ADDR")?;
    if arguments.peek().is_none() {
        return Err(CommandError::Missing("VALUE"));
    }
    // All values are taken before the first is written.
    let mut data = [0; LARGEST_WRITE];
    let mut length = 0;
    while let Some(word) = arguments.peek() {
        let bytes = arguments.number("VALUE")?.to_le_bytes();
        let (Some(low), Some(high), Some(place)) = (
            bytes.get(..format.size),
            bytes.get(format.size..),
            data.get_mut(length..length + format.size),
        ) else {
            return Err(CommandError::Unexpected(word));
        };
        if high.iter().any(|&byte| byte != 0) {
            return Err(CommandError::NotANumber(word));
        }
        place.copy_from_slice(low);
        length += format.size;
    }
    let data = data.get(..length).unwrap_or(&[]);
    memory::write_physical(context.machine, context.debug, address, data)
        .map_err(|error| CommandError::Refused(address, error))?;
    writeln!(out, "{length} bytes written at {address:#x}")?;
    Ok(())
}

/// `gva2gpa ADDR [CPU]`
pub fn translate<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let gva = arguments.number("ADDR")?;
    let cpu = arguments.cpu(context.debug.current, context.machine.cpu_count())?;
    let gpa = context
        .machine
        .translate(cpu, gva)
        .map_err(|error| CommandError::Refused(gva, error))?;
    writeln!(out, "CPU {cpu}: gva {gva:#x} is gpa {gpa:#x}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    fn shown(format: &str, value: u64) -> String {
        let mut text = String::new();
        Format::parse(format)
            .unwrap()
            .write(value, &mut text)
            .unwrap();
        text
    }

    #[test]
    fn a_format_is_count_letter_and_size_in_any_order() {
        let parse = |word| Format::parse(word).map(|f| (f.count, f.radix, f.size));
        assert_eq!(parse("/16xb"), Some((16, Radix::Hexadecimal, 1)));
        assert_eq!(parse("/gd"), Some((1, Radix::Signed, 8)));
        assert_eq!(parse("/"), Some((1, Radix::Hexadecimal, 4)));
        assert_eq!(parse("/4c"), Some((4, Radix::Character, 1)));
        for bad in ["/16i", "/x16", "16", "/99999", "/99999999999999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn units_are_shown_in_their_size() {
        assert_eq!(shown("/xb", 0xcc), " 0xcc");
        assert_eq!(shown("/xg", 0xcc), " 0x00000000000000cc");
        assert_eq!(shown("/db", 0xff), " -1");
        assert_eq!(shown("/dg", u64::MAX), " -1");
        assert_eq!(shown("/uh", 0xffff), " 65535");
        assert_eq!(shown("/tb", 5), " 00000101");
        assert_eq!(shown("/c", 0x0a), " '\\n'");
    }
}
