//! The debug line: bytes in, packets out, and the acknowledgements between.
//!
//! [`Session`](crate::Session) owns one. It keeps what came in while nobody could
//! look at it, the packet sent last in case the client wants it again, and whether
//! packets are acknowledged at all.

use core::fmt;

use gdbstub::conn::Connection;

use crate::framer::{Event, Framer, PACKET_SIZE};
use crate::machine::SerialPort;

/// Received bytes that can wait to be looked at.
const BACKLOG: usize = 1024;

/// How long the transmitter may take no byte before the reply is given up.
const TRANSMIT_PATIENCE_US: u64 = 1_000_000;

/// How long the acknowledgement of one packet is awaited before the next is sent.
const ACKNOWLEDGE_PATIENCE_US: u64 = 500_000;

/// Received bytes, oldest first.
struct Backlog {
    bytes: [u8; BACKLOG],
    start: usize,
    length: usize,
}

impl Backlog {
    fn push(&mut self, byte: u8) {
        // When full the newest is dropped: what came first is a packet's start.
        if self.length < BACKLOG {
            self.bytes[(self.start + self.length) % BACKLOG] = byte;
            self.length += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        (self.length > 0).then(|| self.bytes[self.start % BACKLOG])
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.start = (self.start + 1) % BACKLOG;
        self.length -= 1;
        Some(byte)
    }
}

/// The packet being written, and then the last one sent.
struct Answer {
    bytes: [u8; PACKET_SIZE],
    length: usize,
    /// Whether the packet has outgrown the buffer.
    overflowed: bool,
}

impl Answer {
    fn set(&mut self, bytes: &[u8]) {
        self.length = 0;
        self.overflowed = false;
        for &byte in bytes {
            self.put(byte);
        }
    }

    fn put(&mut self, byte: u8) {
        match self.bytes.get_mut(self.length) {
            Some(slot) => {
                *slot = byte;
                self.length += 1;
            }
            None => self.overflowed = true,
        }
    }

    fn packet(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

/// A serial port with GDB's framing on both directions.
pub struct Line<S> {
    port: S,
    backlog: Backlog,
    framer: Framer,
    answer: Answer,
    /// Cleared by `QStartNoAckMode`.
    acknowledges: bool,
    /// Packets sent that the client has yet to acknowledge.
    unacknowledged: u8,
}

impl<S: SerialPort> Line<S> {
    /// A line on which nothing has been said.
    pub const fn new(port: S) -> Self {
        Self {
            port,
            backlog: Backlog {
                bytes: [0; BACKLOG],
                start: 0,
                length: 0,
            },
            framer: Framer::new(),
            answer: Answer {
                bytes: [0; PACKET_SIZE],
                length: 0,
                overflowed: false,
            },
            acknowledges: true,
            unacknowledged: 0,
        }
    }

    /// Moves what the UART has received into the backlog. Called at every chance:
    /// a 16550's FIFO holds 16 bytes.
    pub fn drain(&mut self) {
        while let Some(byte) = self.port.try_read() {
            self.backlog.push(byte);
        }
    }

    /// The next byte that has come in, left where it is.
    pub fn peek(&self) -> Option<u8> {
        self.backlog.peek()
    }

    /// Drops the next byte.
    pub fn skip(&mut self) {
        self.backlog.pop();
    }

    /// Drops the next byte if it is an acknowledgement that is still due.
    pub fn skip_due_acknowledgement(&mut self) -> bool {
        let due = self.unacknowledged > 0 && self.peek() == Some(b'+');
        if due {
            self.unacknowledged -= 1;
            self.skip();
        }
        due
    }

    /// Whether a Ctrl-C or a packet is waiting; what else came in is dealt with.
    pub fn wants_attention(&mut self) -> bool {
        self.drain();
        while let Some(byte) = self.peek() {
            match byte {
                b'$' | 0x03 => return true,
                b'+' => self.unacknowledged = self.unacknowledged.saturating_sub(1),
                b'-' if self.acknowledges => self.retransmit(),
                _ => {}
            }
            self.skip();
        }
        false
    }

    /// Takes a Ctrl-C, if that is what is waiting.
    pub fn take_interrupt(&mut self) -> bool {
        let taken = self.wants_attention() && self.peek() == Some(0x03);
        if taken {
            self.skip();
        }
        taken
    }

    /// Microseconds by the port's clock.
    pub fn now_us(&mut self) -> u64 {
        self.port.now_us()
    }

    /// Whether a packet has begun to come in.
    pub fn in_packet(&self) -> bool {
        self.framer.in_packet()
    }

    /// Drops a packet that has begun and not ended.
    pub fn drop_partial_packet(&mut self) {
        self.framer.reset();
    }

    /// The next whole packet or Ctrl-C among the bytes received so far.
    ///
    /// Acknowledgements and retransmissions are dealt with on the way.
    pub fn next(&mut self) -> Option<Incoming> {
        self.drain();
        while let Some(byte) = self.backlog.pop() {
            match self.framer.push(byte) {
                Some(Event::Packet) => {
                    if self.framer.packet().starts_with(b"qSupported") {
                        // The first word of a client that expects acknowledgements,
                        // whatever the last one had agreed on.
                        self.acknowledges = true;
                        self.unacknowledged = 0;
                    }
                    if self.acknowledges {
                        self.transmit(b"+");
                    }
                    return Some(Incoming::Packet);
                }
                Some(Event::Interrupt) => return Some(Incoming::Interrupt),
                Some(Event::Damaged) if self.acknowledges => self.transmit(b"-"),
                Some(Event::Refused) if self.acknowledges => self.retransmit(),
                Some(Event::Acknowledged) => {
                    self.unacknowledged = self.unacknowledged.saturating_sub(1);
                }
                Some(Event::Damaged | Event::Refused) | None => {}
            }
        }
        None
    }

    /// The body of the packet that [`next`](Self::next) reported.
    pub fn packet(&self) -> &[u8] {
        self.framer.packet()
    }

    /// From the next packet on, neither side acknowledges.
    pub fn stop_acknowledging(&mut self) {
        self.acknowledges = false;
    }

    /// A writer of one packet.
    pub fn reply(&mut self) -> Reply<'_, S> {
        self.await_acknowledgement();
        self.answer.set(b"$");
        Reply { line: self }
    }

    /// Sends one packet with this body.
    pub fn reply_with(&mut self, body: &str) {
        let mut reply = self.reply();
        reply.text(body);
        reply.send();
    }

    /// Sends an error reply.
    pub fn reply_error(&mut self, number: u8) {
        let mut reply = self.reply();
        reply.text("E");
        reply.hex(number);
        reply.send();
    }

    /// The packet that came last, and where gdbstub may write its answer to it.
    pub fn stub_exchange(&mut self) -> (&[u8], StubReply<'_>) {
        self.await_acknowledgement();
        self.answer.set(&[]);
        (
            self.framer.packet(),
            StubReply {
                answer: &mut self.answer,
                started: false,
            },
        )
    }

    /// Sends what gdbstub left in its [`StubReply`], if it left anything.
    pub fn send_stub_reply(&mut self) {
        if self.answer.length > 0 {
            self.send_answer();
        }
    }

    /// Before the last packet is overwritten: waits until the client has it, so that
    /// one that was damaged on the way can be sent again. Gives up when the client
    /// speaks of something else, or not at all.
    fn await_acknowledgement(&mut self) {
        if !self.acknowledges || self.unacknowledged == 0 {
            return;
        }
        let deadline = self.port.now_us().saturating_add(ACKNOWLEDGE_PATIENCE_US);
        while self.unacknowledged > 0 && self.port.now_us() < deadline {
            self.drain();
            match self.peek() {
                Some(b'+') => self.unacknowledged -= 1,
                Some(b'-') => self.retransmit(),
                Some(b'$' | 0x03) => break,
                Some(_) => {}
                None => {
                    core::hint::spin_loop();
                    continue;
                }
            }
            self.skip();
        }
        self.unacknowledged = 0;
    }

    fn send_answer(&mut self) {
        if self.acknowledges {
            self.unacknowledged = 1;
        }
        self.retransmit();
    }

    fn retransmit(&mut self) {
        let mut at = 0;
        while let Some(&byte) = self.answer.packet().get(at) {
            if !self.transmit_byte(byte) {
                break;
            }
            at += 1;
        }
    }

    fn transmit(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.transmit_byte(byte);
        }
    }

    /// Sends one byte, receiving meanwhile. False if the transmitter is stuck.
    fn transmit_byte(&mut self, byte: u8) -> bool {
        if self.port.try_write(byte) {
            return true;
        }
        let deadline = self.port.now_us().saturating_add(TRANSMIT_PATIENCE_US);
        loop {
            self.drain();
            if self.port.try_write(byte) {
                return true;
            }
            if self.port.now_us() >= deadline {
                return false;
            }
            core::hint::spin_loop();
        }
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

/// What the client wants, as [`Line::next`] reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// [`Line::packet`] has something to do.
    Packet,
    /// Ctrl-C.
    Interrupt,
}

/// One packet being written. [`send`](Self::send) ends it; dropped, it was never there.
pub struct Reply<'a, S: SerialPort> {
    line: &'a mut Line<S>,
}

impl<S: SerialPort> Reply<'_, S> {
    /// Writes text that has none of the protocol's special characters.
    pub fn text(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            self.line.answer.put(byte);
        }
    }

    /// Writes one byte in hexadecimal.
    pub fn hex(&mut self, byte: u8) {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        self.line.answer.put(DIGITS[usize::from(byte >> 4)]);
        self.line.answer.put(DIGITS[usize::from(byte & 15)]);
    }

    /// Writes bytes as they are, with those escaped that have a meaning of their own.
    pub fn binary(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if matches!(byte, b'#' | b'$' | b'}' | b'*') {
                self.line.answer.put(b'}');
                self.line.answer.put(byte ^ 0x20);
            } else {
                self.line.answer.put(byte);
            }
        }
    }

    /// Ends the packet with its checksum and sends it.
    pub fn send(mut self) {
        let body = self.line.answer.packet().get(1..).unwrap_or(&[]);
        let sum = body.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        self.line.answer.put(b'#');
        self.hex(sum);
        if self.line.answer.overflowed {
            // What is cut short must not be taken for the whole.
            self.line.answer.set(b"$E07#ac");
        }
        self.line.send_answer();
    }
}

impl<S: SerialPort> fmt::Write for Reply<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}
