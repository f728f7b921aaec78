//! The words of a command, one by one.

use vmcs_inspect::monitor::{cpu_number, number};

use super::CommandError;
use crate::machine::CpuIndex;

/// What is left of a command's words.
pub struct Arguments<'a> {
    words: core::iter::Peekable<core::str::SplitAsciiWhitespace<'a>>,
    text: &'a str,
}

impl<'a> Arguments<'a> {
    /// The words of `text`.
    pub fn new(text: &'a str) -> Self {
        Self {
            words: text.split_ascii_whitespace().peekable(),
            text,
        }
    }

    /// The next word.
    pub fn next(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    /// The next word, left where it is.
    pub fn peek(&mut self) -> Option<&'a str> {
        self.words.peek().copied()
    }

    /// An error if a word is left: for commands that change something, before they do.
    pub fn end(&mut self) -> Result<(), CommandError<'a>> {
        self.next()
            .map_or(Ok(()), |word| Err(CommandError::Unexpected(word)))
    }

    /// Takes all words: what follows the command's name, as it was typed.
    pub fn rest_of_line(&mut self) -> &'a str {
        while self.words.next().is_some() {}
        let text = self.text.trim_ascii();
        text.find(|character: char| character.is_ascii_whitespace())
            .and_then(|end| text.get(end..))
            .map_or("", str::trim_ascii)
    }

    /// The next word, which must be a number.
    pub fn number(&mut self, what: &'static str) -> Result<u64, CommandError<'a>> {
        let word = self.next().ok_or(CommandError::Missing(what))?;
        number(word).ok_or(CommandError::NotANumber(word))
    }

    /// The next word as a CPU, `default` if there is none.
    pub fn cpu(&mut self, default: CpuIndex, count: usize) -> Result<CpuIndex, CommandError<'a>> {
        match self.next() {
            None => Ok(default),
            Some(word) => parse_cpu(word, count),
        }
    }
}

/// A word as one of `count` CPUs.
pub fn parse_cpu(word: &str, count: usize) -> Result<CpuIndex, CommandError<'_>> {
    cpu_number(word)
        .filter(|&cpu| cpu < count)
        .and_then(|cpu| u16::try_from(cpu).ok())
        .map(CpuIndex)
        .ok_or(CommandError::NoSuchCpu(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_one_that_exists() {
        assert_eq!(Arguments::new("").cpu(CpuIndex(1), 2), Ok(CpuIndex(1)));
        assert_eq!(Arguments::new("0").cpu(CpuIndex(1), 2), Ok(CpuIndex(0)));
        assert_eq!(
            Arguments::new("2").cpu(CpuIndex(1), 2),
            Err(CommandError::NoSuchCpu(2))
        );
        for word in ["0x1", "65537", "one"] {
            assert_eq!(
                Arguments::new(word).cpu(CpuIndex(1), 2),
                Err(CommandError::NoSuchCpu(2))
            );
        }
    }

    #[test]
    fn the_rest_of_the_line_is_what_follows_the_name() {
        let mut arguments = Arguments::new(" vmcs  set  rip 1 ");
        assert_eq!(arguments.next(), Some("vmcs"));
        assert_eq!(arguments.rest_of_line(), "set  rip 1");
        assert_eq!(arguments.next(), None);
        assert_eq!(Arguments::new("vmcs").rest_of_line(), "");
    }
}
