//! Neat lines: columns of fixed width, and long lists wrapped under themselves.

use core::fmt::{self, Write};

use crate::decode::{Decoded, ExitContext, has_named_bits};
use crate::{Change, Field, Violation, VmcsError};

/// No line is made longer than this, unless one item of it is.
pub(super) const WIDTH: usize = 100;
/// Where values begin in a list of fields: after the longest name but one.
const VALUE_COLUMN: usize = 36;
/// Where their meanings begin.
const MEANING_COLUMN: usize = 55;

/// Counts what goes through it.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: usize,
}

impl Write for Counted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.count += text.len();
        self.out.write_str(text)
    }
}

/// Writes `content` and fills up with spaces to `width` columns. Content that is as wide or
/// wider is followed by one space.
pub(super) fn column(out: &mut dyn Write, width: usize, content: impl fmt::Display) -> fmt::Result {
    let mut counted = Counted { out, count: 0 };
    write!(counted, "{content}")?;
    let fill = width.saturating_sub(counted.count).max(1);
    write!(out, "{:fill$}", "")
}

/// Where a text may be broken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// After a comma: items of a list stay whole.
    AfterItems,
    /// After any word.
    AfterWords,
}

/// Breaks lines so that they keep within [`WIDTH`]; what follows a break begins at column
/// `indent`.
///
/// Nothing is written before the first item, so that an empty text leaves no
/// blanks at the end of a line.
struct Wrapped<'a> {
    out: &'a mut dyn Write,
    breaks: Break,
    indent: usize,
    /// Where the next item goes if it fits.
    column: usize,
    item: [u8; 120],
    len: usize,
}

impl<'a> Wrapped<'a> {
    /// Begins when `column` columns of the line are written.
    fn new(out: &'a mut dyn Write, breaks: Break, column: usize, indent: usize) -> Self {
        Wrapped {
            out,
            breaks,
            indent,
            column,
            item: [0; 120],
            len: 0,
        }
    }

    /// Whether the line may be broken after what was gathered.
    fn may_break(&self) -> bool {
        let gathered = self.item.get(..self.len).unwrap_or_default();
        match gathered.last() {
            None => false,
            Some(b',') => true,
            Some(_) => self.breaks == Break::AfterWords,
        }
    }

    /// Writes out the item that was gathered.
    fn flush(&mut self) -> fmt::Result {
        let Some(bytes) = self.item.get(..self.len) else {
            return Ok(());
        };
        let item = core::str::from_utf8(bytes).map_err(|_| fmt::Error)?;
        if item.is_empty() {
            return Ok(());
        }
        if self.column < self.indent {
            let fill = self.indent - self.column;
            write!(self.out, "{:fill$}", "")?;
            self.column = self.indent;
        } else if self.column > self.indent {
            if self.column + 1 + self.len > WIDTH {
                let indent = self.indent;
                write!(self.out, "\n{:indent$}", "")?;
                self.column = indent;
            } else {
                self.out.write_str(" ")?;
                self.column += 1;
            }
        }
        self.out.write_str(item)?;
        self.column += self.len;
        self.len = 0;
        Ok(())
    }
}

impl Write for Wrapped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character == ' ' && self.may_break() {
                self.flush()?;
                continue;
            }
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            if self.len + encoded.len() > self.item.len() {
                self.flush()?;
            }
            if let Some(place) = self.item.get_mut(self.len..self.len + encoded.len()) {
                place.copy_from_slice(encoded);
                self.len += encoded.len();
            }
        }
        Ok(())
    }
}

/// Writes `text` from column `column` on, wrapped so that it stays right of `indent`.
pub(super) fn wrap(
    out: &mut dyn Write,
    breaks: Break,
    column: usize,
    indent: usize,
    text: impl fmt::Display,
) -> fmt::Result {
    let mut wrapped = Wrapped::new(out, breaks, column, indent);
    write!(wrapped, "{text}")?;
    wrapped.flush()
}

/// Writes one field as a line: name, value, meaning.
pub(super) fn field_line(
    out: &mut dyn Write,
    field: Field,
    value: Result<u64, VmcsError>,
    exit: ExitContext,
) -> fmt::Result {
    let written = field.name().len().max(VALUE_COLUMN - 1) + 1;
    column(out, VALUE_COLUMN, field)?;
    match value {
        Ok(value) => {
            let mut counted = Counted { out, count: 0 };
            write!(counted, "{value:#x}")?;
            let at = written + counted.count;
            // A very long name moves the value; the meaning stays clear of it.
            let indent = MEANING_COLUMN.max(at + 1);
            // All others are lists; this is a sentence.
            let breaks = match field {
                Field::VM_INSTRUCTION_ERROR => Break::AfterWords,
                _ => Break::AfterItems,
            };
            wrap(out, breaks, at, indent, Decoded { field, value, exit })?;
        }
        Err(VmcsError::Unsupported(_)) => {
            column(out, MEANING_COLUMN - VALUE_COLUMN, "-")?;
            out.write_str("not on this processor")?;
        }
        Err(error) => write!(out, "{error}")?,
    }
    out.write_str("\n")
}

/// Writes an error as a person meets it: its first word, and the text wrapped beside it.
pub(super) fn error(out: &mut dyn Write, text: impl fmt::Display) -> fmt::Result {
    out.write_str("error: ")?;
    wrap(out, Break::AfterWords, 7, 7, text)?;
    out.write_str("\n")
}

/// Writes a change as a line: name, value before and after; below it what the new value
/// means, if it means anything.
pub(super) fn change_line(out: &mut dyn Write, change: Change, exit: ExitContext) -> fmt::Result {
    let Change {
        field,
        before,
        after,
    } = change;
    column(out, VALUE_COLUMN, field)?;
    for (value, end) in [(before, " -> "), (after, "\n")] {
        match value {
            Some(value) => write!(out, "{value:#x}{end}")?,
            None => write!(out, "-{end}")?,
        }
    }
    if let Some(value) = after {
        let mut counted = Counted { out, count: 0 };
        wrap(
            &mut counted,
            Break::AfterItems,
            0,
            VALUE_COLUMN,
            Decoded { field, value, exit },
        )?;
        if counted.count > 0 {
            out.write_str("\n")?;
        }
    }
    Ok(())
}

/// Whether a set of bits prints as `none`: it has no bit that is worth a name.
fn says_none(names: Decoded) -> bool {
    /// Takes no more than what is left of the word.
    struct Expect(&'static str);

    impl Write for Expect {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    let mut expect = Expect("none");
    write!(expect, "{names}").is_ok() && expect.0.is_empty()
}

/// Writes a broken rule: where and what, below it the rule, and which bits break it.
pub(super) fn violation(
    out: &mut dyn Write,
    violation: &Violation,
    exit: ExitContext,
) -> fmt::Result {
    let Violation {
        rule,
        field,
        value,
        bits,
    } = *violation;
    let section = rule.section().number();
    writeln!(out, "  SDM {section:<9} {field} = {value:#x}")?;
    out.write_str("      ")?;
    wrap(out, Break::AfterWords, 6, 6, rule)?;
    out.write_str("\n")?;
    if bits != 0 {
        let mut counted = Counted { out, count: 0 };
        write!(counted, "      wrong bits: {bits:#x}")?;
        let at = counted.count;
        let value = bits;
        let names = Decoded { field, value, exit };
        if has_named_bits(field) && !says_none(names) {
            out.write_str(",")?;
            wrap(out, Break::AfterItems, at + 1, at + 2, names)?;
        }
        out.write_str("\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::String;

    use super::*;
    use crate::Kind;

    fn line(field: Field, value: Result<u64, VmcsError>) -> String {
        let mut out = String::new();
        field_line(&mut out, field, value, ExitContext::default()).unwrap();
        out
    }

    #[test]
    fn meanings_stand_in_a_column_and_wrap_there() {
        let blanks = |n| " ".repeat(n);
        assert_eq!(
            line(Field::GUEST_RIP, Ok(0xffff_ffff_8100_0000)),
            std::format!("GUEST_RIP{}0xffffffff81000000\n", blanks(27))
        );
        assert_eq!(
            line(Field::GUEST_CR4, Ok(0x37_26f0)),
            std::format!(
                "GUEST_CR4{}0x3726f0{}PSE, PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, VMXE,\n\
                 {}FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP\n",
                blanks(27),
                blanks(11),
                blanks(55)
            )
        );
        assert_eq!(
            line(Field::VPID, Err(VmcsError::Unsupported(Field::VPID))),
            std::format!("VPID{}-{}not on this processor\n", blanks(32), blanks(18))
        );
    }

    #[test]
    fn no_line_is_too_long_whatever_the_value() {
        for info in Field::all() {
            for value in [
                0,
                1,
                12,
                25,
                u64::from(u32::MAX),
                u64::MAX,
                0x5555_5555_5555_5555,
            ] {
                let value = value & info.width.max_value();
                for line in line(info.field, Ok(value)).lines() {
                    assert!(line.len() <= WIDTH, "{line}");
                    assert_eq!(line.trim_end(), line);
                }
            }
        }
        assert!(Field::all().iter().any(|info| info.kind == Kind::Control));
    }

    #[test]
    fn an_item_too_long_for_any_line_is_written_whole() {
        let mut out = String::new();
        let long = "x".repeat(300);
        wrap(&mut out, Break::AfterWords, 0, 4, &long).unwrap();
        assert_eq!(out.replace(['\n', ' '], ""), long);
    }
}
