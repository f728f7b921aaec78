//! Text for the client's terminal, in as few `O` packets as it takes.

use core::fmt;

use super::{Line, SerialPort};
use crate::framer::PACKET_SIZE;

/// Text that fits one packet: two digits a byte.
const CHUNK: usize = (PACKET_SIZE - 8) / 2;

/// A writer to the client's terminal.
///
/// Writing fails once the client has sent something new: it has stopped waiting.
pub struct Console<'a, S> {
    line: &'a mut Line<S>,
    text: &'a mut [u8],
    length: usize,
    abandoned: bool,
}

impl<'a, S: SerialPort> Console<'a, S> {
    /// A writer that has nothing to send yet, and collects in `buffer` what it gets.
    pub fn new(line: &'a mut Line<S>, buffer: &'a mut [u8; PACKET_SIZE]) -> Self {
        let text = buffer.get_mut(..CHUNK).unwrap_or_default();
        Self {
            line,
            text,
            length: 0,
            abandoned: false,
        }
    }

    /// Sends what is left. False if the client no longer listens, which then also
    /// expects no other answer.
    pub fn finish(mut self) -> bool {
        self.flush();
        !self.abandoned
    }

    fn flush(&mut self) {
        let text = self.text.get(..self.length).unwrap_or(&[]);
        if !text.is_empty() && !self.abandoned {
            let mut reply = self.line.reply();
            reply.text("O");
            for &byte in text {
                reply.hex(byte);
            }
            reply.send();
            self.abandoned = self.line.wants_attention();
        }
        self.length = 0;
    }
}

impl<S: SerialPort> fmt::Write for Console<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.length == self.text.len() {
                self.flush();
            }
            if self.abandoned {
                return Err(fmt::Error);
            }
            if let Some(slot) = self.text.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}
