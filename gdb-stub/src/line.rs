//! The debug line: bytes in, packets out, and the acknowledgements between.
//!
//! [`Session`](crate::Session) owns one. It keeps what came in while nobody could
//! look at it, the packet sent last in case the client wants it again, and whether
//! packets are acknowledged at all.

use core::fmt;

use crate::answer::{Answer, StubReply};
use crate::framer::{Event, Framer};
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
    fn is_full(&self) -> bool {
        self.length == BACKLOG
    }

    fn push(&mut self, byte: u8) {
        if !self.is_full() {
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
            answer: Answer::new(),
            acknowledges: true,
            unacknowledged: 0,
        }
    }

    /// Moves what the UART has received into the backlog, as far as it has room. Called
    /// at every chance: a 16550's FIFO holds 16 bytes.
    pub fn drain(&mut self) {
        while !self.backlog.is_full()
            && let Some(byte) = self.port.try_read()
        {
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
        (self.framer.packet(), StubReply::new(&mut self.answer))
    }

    /// Sends what gdbstub left in its [`StubReply`], if it left anything.
    pub fn send_stub_reply(&mut self) {
        if !self.answer.packet().is_empty() {
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
        self.line.answer.put_hex(byte);
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
    pub fn send(self) {
        self.line.answer.finish();
        self.line.send_answer();
    }
}

impl<S: SerialPort> fmt::Write for Reply<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}
