//! The packet being written, which stays until the next one in case the client wants
//! it again.
//!
//! [`Line`](crate::line::Line) owns one. The session writes to it through
//! [`Reply`](crate::line::Reply), gdbstub through [`StubReply`].

use gdbstub::conn::Connection;

use crate::framer::PACKET_SIZE;

/// Sent in place of an answer that is too long: what is cut short must not be taken
/// for the whole.
const TOO_LONG: &[u8] = b"$E07#ac";

/// The most repetitions that one run-length count stands for: it is written as a
/// character 29 above it, of which the last is `~`.
const LONGEST_RUN: usize = b'~' as usize - 29;

/// Fewer repetitions than this are shorter written out.
const SHORTEST_RUN: usize = 3;

/// One packet, from `$` to its checksum.
pub struct Answer {
    bytes: [u8; PACKET_SIZE],
    length: usize,
    /// Whether the packet has outgrown the buffer.
    overflowed: bool,
}

impl Answer {
    /// No packet.
    pub const fn new() -> Self {
        Self {
            bytes: [0; PACKET_SIZE],
            length: 0,
            overflowed: false,
        }
    }

    /// Starts anew with these bytes.
    pub fn set(&mut self, bytes: &[u8]) {
        self.length = 0;
        self.overflowed = false;
        for &byte in bytes {
            self.put(byte);
        }
    }

    /// Adds a byte.
    pub fn put(&mut self, byte: u8) {
        match self.bytes.get_mut(self.length) {
            Some(slot) => {
                *slot = byte;
                self.length += 1;
            }
            None => self.overflowed = true,
        }
    }

    /// Adds a byte in hexadecimal.
    pub fn put_hex(&mut self, byte: u8) {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        self.put(DIGITS[usize::from(byte >> 4)]);
        self.put(DIGITS[usize::from(byte & 15)]);
    }

    /// What has been written.
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Shortens the body by run-length encoding and ends it with its checksum.
    pub fn finish(&mut self) {
        if self.overflowed {
            return self.set(TOO_LONG);
        }
        self.compress();
        let body = self.packet().get(1..).unwrap_or(&[]);
        let sum = body.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        self.put(b'#');
        self.put_hex(sum);
        if self.overflowed {
            self.set(TOO_LONG);
        }
    }

    /// Writes runs of a byte as the byte, `*` and a count, in place: that is never
    /// longer.
    fn compress(&mut self) {
        let (mut from, mut to) = (1, 1);
        while let Some(&byte) = self.packet().get(from) {
            let same = self
                .packet()
                .iter()
                .skip(from + 1)
                .take_while(|&&other| other == byte);
            let mut repeats = same.take(LONGEST_RUN).count();
            // `#` and `$` would be taken for what they are elsewhere.
            while matches!(repeats + 29, 0x23 | 0x24) {
                repeats -= 1;
            }
            let count = u8::try_from(repeats + 29).unwrap_or(b'~');
            let run = [byte, b'*', count];
            let written = if repeats >= SHORTEST_RUN {
                &run[..]
            } else {
                &run[..1]
            };
            from += if repeats >= SHORTEST_RUN {
                repeats + 1
            } else {
                1
            };
            for (slot, &byte) in self.bytes.iter_mut().skip(to).zip(written) {
                *slot = byte;
            }
            to += written.len();
        }
        self.length = self.length.min(to);
    }
}

/// Where gdbstub writes its one answer to a packet.
///
/// It is held back until gdbstub has returned without an error. The `+` that gdbstub
/// puts before it is dropped: the line has acknowledged the packet already.
pub struct StubReply<'a> {
    answer: &'a mut Answer,
    started: bool,
}

impl<'a> StubReply<'a> {
    /// Lets gdbstub write to `answer`, which must be empty.
    pub fn new(answer: &'a mut Answer) -> Self {
        Self {
            answer,
            started: false,
        }
    }
}

impl Connection for StubReply<'_> {
    type Error = ReplyTooLong;

    fn write(&mut self, byte: u8) -> Result<(), ReplyTooLong> {
        self.started |= byte == b'$';
        if self.started {
            self.answer.put(byte);
        }
        if self.answer.overflowed {
            Err(ReplyTooLong)
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), ReplyTooLong> {
        Ok(())
    }
}

/// An answer outgrew [`PACKET_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTooLong;

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn finished(body: &[u8]) -> Box<Answer> {
        let mut answer = Box::new(Answer::new());
        answer.set(b"$");
        body.iter().for_each(|&byte| answer.put(byte));
        answer.finish();
        answer
    }

    /// The body that a client makes of a packet.
    fn expanded(packet: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut rest = packet[1..packet.len() - 3].iter();
        while let Some(&byte) = rest.next() {
            match byte {
                b'*' => {
                    let count = usize::from(*rest.next().unwrap()) - 29;
                    let last = *body.last().unwrap();
                    body.extend(std::iter::repeat_n(last, count));
                }
                other => body.push(other),
            }
        }
        body
    }

    #[test]
    fn runs_are_shortened() {
        assert_eq!(finished(b"0000").packet(), b"$0* #7a");
        assert_eq!(finished(b"000").packet(), b"$000#90");
        assert_eq!(finished(b"").packet(), b"$#00");
        // Six and seven repetitions would be written with `#` and `$`.
        assert_eq!(finished(b"0000000").packet(), b"$0*\"0#ac");
        assert_eq!(finished(&[b'0'; 98]).packet(), b"$0*~#d8");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert_eq!(finished(&[b'a'; PACKET_SIZE]).packet(), TOO_LONG);
        let body: Vec<u8> = (0..PACKET_SIZE - 3).map(|n| b'a' + (n % 2) as u8).collect();
        assert_eq!(finished(&body).packet(), TOO_LONG);
        assert_eq!(finished(&body[1..]).packet().len(), PACKET_SIZE);
    }

    proptest! {
        #[test]
        fn a_client_reads_what_was_written(
            runs in proptest::collection::vec((0x25_u8..0x7f, 1_usize..220), 0..20),
        ) {
            let body: Vec<u8> = runs
                .iter()
                .filter(|(byte, _)| *byte != b'*')
                .flat_map(|&(byte, count)| std::iter::repeat_n(byte, count))
                .collect();
            let answer = finished(&body);
            prop_assert_eq!(expanded(answer.packet()), body);
            let inside = &answer.packet()[1..answer.packet().len() - 3];
            prop_assert!(inside.iter().all(|byte| !matches!(byte, b'#' | b'$')));
        }
    }
}
