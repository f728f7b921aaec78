//! The hypervisor's lines in a colour for each CPU, for `run` on a terminal. All else on the
//! console is the guest's, and passes as it is.

use std::io::IsTerminal;

/// What the hypervisor's lines begin with; a number and `: ` follow.
const TAG: &[u8] = b"stillpoint: CPU ";

/// Colours the hypervisor's lines in a stream of bytes.
pub struct Colour {
    enabled: bool,
    place: Place,
    /// What came of a line that may become one of the hypervisor's.
    held: Vec<u8>,
}

enum Place {
    /// At the beginning of a line, or in what may be a tag.
    Tag,
    /// Behind it.
    Line { coloured: bool },
}

impl Colour {
    /// With colours if stdout is a terminal and the environment has no NO_COLOR.
    pub fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(std::io::stdout().is_terminal() && !unwanted)
    }

    fn new(enabled: bool) -> Self {
        Self {
            enabled,
            place: Place::Tag,
            held: Vec::new(),
        }
    }

    /// What to print for `bytes`. What may be the beginning of a tag is kept back, unless
    /// `bytes` is empty: then nothing more will come for a while.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.enabled {
            return bytes.to_vec();
        }
        let mut out = Vec::new();
        if bytes.is_empty() && !self.held.is_empty() {
            out.append(&mut self.held);
            self.place = Place::Line { coloured: false };
        }
        for &byte in bytes {
            match self.place {
                Place::Tag => self.tag(byte, &mut out),
                Place::Line { coloured } => {
                    if coloured && matches!(byte, b'\r' | b'\n') {
                        out.extend(b"\x1b[0m");
                        self.place = Place::Line { coloured: false };
                    }
                    out.push(byte);
                }
            }
            if byte == b'\n' {
                self.place = Place::Tag;
            }
        }
        out
    }

    fn tag(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        let digits = self.held.get(TAG.len()..).unwrap_or_default();
        let cpu = match digits {
            [] if TAG.starts_with(&self.held) => return,
            [digits @ .., b':'] => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse::<usize>().ok()),
            _ if self.held.starts_with(TAG) && digits.iter().all(u8::is_ascii_digit) => return,
            _ => None,
        };
        if let Some(cpu) = cpu {
            // The six colours between red and cyan.
            out.extend(format!("\x1b[{}m", 31 + cpu % 6).bytes());
        }
        out.append(&mut self.held);
        self.place = Place::Line {
            coloured: cpu.is_some(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Colour;

    /// The stream in pieces of every size is the same.
    fn coloured(text: &str) -> String {
        let whole = Colour::new(true).pass(text.as_bytes());
        for size in 1..text.len() {
            let mut colour = Colour::new(true);
            let pieces: Vec<u8> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| colour.pass(piece))
                .collect();
            assert_eq!(pieces, whole, "{size}");
        }
        String::from_utf8(whole).expect("the text is UTF-8")
    }

    #[test]
    fn the_hypervisors_lines_have_their_cpus_colour_and_the_guests_have_none() {
        assert_eq!(
            coloured("a\r\nstillpoint: CPU 0: b\r\nstillpoint: CPU 7: c\nstill\nd\n"),
            "a\r\n\x1b[31mstillpoint: CPU 0: b\x1b[0m\r\n\x1b[32mstillpoint: CPU 7: c\x1b[0m\nstill\nd\n"
        );
        for text in [
            "say stillpoint: CPU 0: b\n",
            "stillpoint: CPU x: b\n",
            "stillpoint: CPU : b\n",
            "stillpoint: refused\n",
            "still: b\n",
            "\n\n",
        ] {
            assert_eq!(coloured(text), text);
        }
    }

    #[test]
    fn a_prompt_is_shown_though_it_may_become_a_tag() {
        let mut colour = Colour::new(true);
        assert_eq!(colour.pass(b"st"), b"");
        assert_eq!(colour.pass(b""), b"st");
        assert_eq!(
            colour.pass(b"illpoint: CPU 0: x\n"),
            b"illpoint: CPU 0: x\n"
        );
    }

    #[test]
    fn without_a_terminal_nothing_changes() {
        let text = b"stillpoint: CPU 0: b\n";
        assert_eq!(Colour::new(false).pass(text), text);
    }
}
