//! The grammar of `monitor vmcs`.

use core::fmt;
use core::str::SplitAsciiWhitespace;

use super::{cpu_number, number};

/// A command, taken apart. Fields are still words; CPU numbers are not checked yet.
#[derive(Clone, Debug)]
pub(super) enum Command<'a> {
    /// The row of one CPU, or of all.
    Overview(Option<usize>),
    /// Every field.
    All(Option<usize>),
    /// Some fields.
    Fields(SplitAsciiWhitespace<'a>, Option<usize>),
    /// Write a field.
    Set {
        field: &'a str,
        value: u64,
        cpu: Option<usize>,
        /// Even if VM entry would fail.
        force: bool,
    },
    /// What changed.
    Diff(Option<usize>),
    /// The VM-entry checks.
    Check(Option<usize>),
    /// Help.
    Help,
}

/// Why a command line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandError<'a> {
    /// A CPU's number was expected.
    BadCpu(&'a str),
    /// There is a word too many.
    Excess(&'a str),
    /// `set` without field and value.
    IncompleteSet,
    /// Not a number, or more than 64 bits.
    BadValue(&'a str),
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::BadCpu(word) => {
                write!(f, "{word} is no CPU number: give it in decimal, from 0")
            }
            CommandError::Excess(word) => write!(f, "{word} is too much; see vmcs help"),
            CommandError::IncompleteSet => {
                f.write_str("set needs a field and a value: vmcs set FIELD VALUE [CPU]")
            }
            CommandError::BadValue(word) => {
                write!(f, "{word} is no value: give up to 64 bits, as 16 or 0x10")
            }
        }
    }
}

/// Takes the words after `vmcs` apart.
pub(super) fn parse(args: &str) -> Result<Command<'_>, CommandError<'_>> {
    let mut words = args.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Ok(Command::Overview(None));
    };
    match first {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "all" => Ok(Command::All(only_cpu(words)?)),
        "diff" => Ok(Command::Diff(only_cpu(words)?)),
        "check" => Ok(Command::Check(only_cpu(words)?)),
        "set" => set(words, false),
        "set!" => set(words, true),
        _ => match cpu(first) {
            Ok(cpu) => match words.next() {
                None => Ok(Command::Overview(Some(cpu))),
                Some(excess) => Err(CommandError::Excess(excess)),
            },
            Err(_) => Ok(fields(args)),
        },
    }
}

fn cpu(word: &str) -> Result<usize, CommandError<'_>> {
    cpu_number(word).ok_or(CommandError::BadCpu(word))
}

/// What is left must be nothing or one CPU number.
fn only_cpu<'a>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Option<usize>, CommandError<'a>> {
    let number = words.next().map(cpu).transpose()?;
    match words.next() {
        None => Ok(number),
        Some(excess) => Err(CommandError::Excess(excess)),
    }
}

/// A list of fields, of which a last word in decimal digits is the CPU.
fn fields(args: &str) -> Command<'_> {
    let args = args.trim_ascii();
    if let Some((rest, last)) = args.rsplit_once(|c: char| c.is_ascii_whitespace())
        && let Ok(cpu) = cpu(last)
    {
        return Command::Fields(rest.split_ascii_whitespace(), Some(cpu));
    }
    Command::Fields(args.split_ascii_whitespace(), None)
}

/// The words after `set`; the `!` may also end the line, as a word or on the last one.
fn set(mut words: SplitAsciiWhitespace<'_>, force: bool) -> Result<Command<'_>, CommandError<'_>> {
    let mut force = force;
    let mut next = || loop {
        let word = words.next()?;
        let plain = word.strip_suffix('!');
        force |= plain.is_some();
        let word = plain.unwrap_or(word);
        if !word.is_empty() {
            return Some(word);
        }
    };
    let (Some(field), Some(value)) = (next(), next()) else {
        return Err(CommandError::IncompleteSet);
    };
    let value = number(value).ok_or(CommandError::BadValue(value))?;
    let cpu = only_cpu(core::iter::from_fn(&mut next))?;
    Ok(Command::Set {
        field,
        value,
        cpu,
        force,
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_last_number_is_a_cpu() {
        let parsed = |args| match parse(args) {
            Ok(Command::Fields(words, cpu)) => (words.collect::<Vec<_>>(), cpu),
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed("guest_rip"), (Vec::from(["guest_rip"]), None));
        assert_eq!(
            parsed(" guest_rip\t3 "),
            (Vec::from(["guest_rip"]), Some(3))
        );
        assert_eq!(
            parsed("guest_rip 0x681e 12"),
            (Vec::from(["guest_rip", "0x681e"]), Some(12))
        );
        assert!(matches!(parse("2"), Ok(Command::Overview(Some(2)))));
        assert!(matches!(parse("  "), Ok(Command::Overview(None))));
        assert!(matches!(parse("all 1"), Ok(Command::All(Some(1)))));
    }

    #[test]
    fn force_may_stand_at_either_end() {
        for line in [
            "set! vpid 0x2 1",
            "set vpid 2 1 !",
            "set vpid 2 1!",
            "set vpid 2! 1",
            "set ! vpid 2 1",
        ] {
            let Ok(Command::Set {
                field: "vpid",
                value: 2,
                cpu: Some(1),
                force: true,
            }) = parse(line)
            else {
                panic!("{line}: {:?}", parse(line));
            };
        }
        assert!(matches!(
            parse("set vpid 2"),
            Ok(Command::Set {
                cpu: None,
                force: false,
                ..
            })
        ));
    }

    #[test]
    fn errors_say_what_to_do() {
        let cases = [
            ("all x", "x is no CPU number: give it in decimal, from 0"),
            ("all +1", "+1 is no CPU number: give it in decimal, from 0"),
            ("check 1 2", "2 is too much; see vmcs help"),
            ("0 guest_rip", "guest_rip is too much; see vmcs help"),
            (
                "set vpid",
                "set needs a field and a value: vmcs set FIELD VALUE [CPU]",
            ),
            (
                "set vpid two",
                "two is no value: give up to 64 bits, as 16 or 0x10",
            ),
        ];
        for (line, text) in cases {
            assert_eq!(parse(line).unwrap_err().to_string(), text);
        }
    }
}
