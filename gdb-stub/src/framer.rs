//! Finds packets in the bytes of the debug line.
//!
//! gdbstub's own receiver takes every byte at its word, so it only ever sees what
//! has passed here: whole packets with a right checksum. Everything else on the
//! line (noise, half a packet of a client that was killed, a sum that does not
//! match) ends here as an event that costs nothing. [`Line`](crate::line::Line)
//! feeds it.

/// Bytes of the largest packet either side may send, `$` and `#xx` included.
///
/// Holds a read or write of 4 KiB in hexadecimal with its header.
pub const PACKET_SIZE: usize = 0x2100;

/// The longest body of a packet, in bytes: what GDB calls `PacketSize`.
pub const LARGEST_BODY: usize = PACKET_SIZE - 4;

/// What the last byte completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has received our packet.
    Acknowledged,
    /// The peer wants our last packet again.
    Refused,
    /// Ctrl-C.
    Interrupt,
    /// A packet whose checksum is right; [`Framer::packet`] is its content.
    Packet,
    /// A packet whose checksum is wrong, or that is longer than [`PACKET_SIZE`].
    Damaged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between packets.
    Idle,
    /// After `$`, before `#`.
    Body,
    /// Body that no longer fits: its end is still awaited.
    Overlong,
    /// After `#`.
    FirstDigit,
    /// After the first digit of the sum, whose value this is.
    SecondDigit(u8),
}

/// The receiving end of GDB's remote protocol, below acknowledgement.
pub struct Framer {
    state: State,
    sum: u8,
    /// Bytes in `buffer`: `$`, the body, and from `#` on the checksum.
    length: usize,
    buffer: [u8; PACKET_SIZE],
}

impl Framer {
    /// A framer between packets.
    pub const fn new() -> Self {
        Self {
            state: State::Idle,
            sum: 0,
            length: 0,
            buffer: [0; PACKET_SIZE],
        }
    }

    /// Takes the next byte.
    ///
    /// `$` always starts a packet anew: inside one, binary data has it escaped. So does
    /// Ctrl-C end one that cannot hold it: what came before was noise.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        match (self.state, byte) {
            (_, 0x03) if !self.in_binary_body() => {
                self.reset();
                Some(Event::Interrupt)
            }
            (_, b'$') => {
                self.state = State::Body;
                self.sum = 0;
                self.length = 0;
                self.keep(byte);
                None
            }
            (State::Idle, b'+') => Some(Event::Acknowledged),
            (State::Idle, b'-') => Some(Event::Refused),
            (State::Idle, _) => None,
            (State::Overlong, b'#') => {
                self.state = State::Idle;
                Some(Event::Damaged)
            }
            (State::Overlong, _) => None,
            (State::Body, b'#') => {
                self.state = State::FirstDigit;
                None
            }
            (State::Body, _) => {
                self.sum = self.sum.wrapping_add(byte);
                // Three bytes stay free for the checksum.
                if self.length + 3 < PACKET_SIZE {
                    self.keep(byte);
                } else {
                    self.state = State::Overlong;
                }
                None
            }
            (State::FirstDigit, _) => match hex_digit(byte) {
                Some(digit) => {
                    self.state = State::SecondDigit(digit);
                    None
                }
                None => self.end(Event::Damaged),
            },
            (State::SecondDigit(first), _) => match hex_digit(byte) {
                Some(second) if first << 4 | second == self.sum => self.end(Event::Packet),
                _ => self.end(Event::Damaged),
            },
        }
    }

    /// The body of the packet that [`push`](Self::push) reported last.
    pub fn packet(&self) -> &[u8] {
        self.buffer.get(1..self.length).unwrap_or(&[])
    }

    /// Whether a packet has begun and not ended.
    pub fn in_packet(&self) -> bool {
        self.state != State::Idle
    }

    /// Forgets what has come of an unfinished packet.
    pub fn reset(&mut self) {
        self.state = State::Idle;
        self.length = 0;
    }

    /// Whether the packet that has begun may have any byte in its body.
    fn in_binary_body(&self) -> bool {
        const BINARY: [&[u8]; 3] = [b"X", b"qSearch:", b"vFile:"];
        matches!(self.state, State::Body | State::Overlong)
            && BINARY.iter().any(|name| self.packet().starts_with(name))
    }

    fn end(&mut self, event: Event) -> Option<Event> {
        self.state = State::Idle;
        Some(event)
    }

    fn keep(&mut self, byte: u8) {
        if let Some(slot) = self.buffer.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }
}

/// The value of a hexadecimal digit.
pub fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn events(framer: &mut Framer, bytes: &[u8]) -> Vec<(Event, Vec<u8>)> {
        bytes
            .iter()
            .filter_map(|&byte| {
                framer
                    .push(byte)
                    .map(|event| (event, framer.packet().to_vec()))
            })
            .collect()
    }

    fn packet(body: &str) -> String {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        format!("${body}#{sum:02x}")
    }

    #[test]
    fn a_packet_comes_through_the_noise_around_it() {
        let mut framer = Framer::new();
        let line = format!("noise#7f{}x", packet("g"));
        assert_eq!(
            events(&mut framer, line.as_bytes()),
            [(Event::Packet, b"g".to_vec())]
        );
    }

    #[test]
    fn a_packet_cut_short_gives_way_to_the_next() {
        let mut framer = Framer::new();
        let line = format!("$m1000,4{}", packet("?"));
        assert_eq!(
            events(&mut framer, line.as_bytes()),
            [(Event::Packet, b"?".to_vec())]
        );
        let line = format!("$m1000,40#3{}", packet("?"));
        assert_eq!(
            events(&mut framer, line.as_bytes()),
            [(Event::Packet, b"?".to_vec())]
        );
    }

    #[test]
    fn a_wrong_sum_is_damage_and_not_a_packet() {
        let mut framer = Framer::new();
        for line in ["$g#68", "$g#6x", "$g#xx"] {
            assert_eq!(
                events(&mut framer, line.as_bytes())[0].0,
                Event::Damaged,
                "{line}"
            );
            assert!(!framer.in_packet());
        }
    }

    #[test]
    fn control_bytes_count_between_packets_only() {
        let mut framer = Framer::new();
        let kinds: Vec<_> = events(&mut framer, b"+-\x03")
            .into_iter()
            .map(|e| e.0)
            .collect();
        assert_eq!(
            kinds,
            [Event::Acknowledged, Event::Refused, Event::Interrupt]
        );
        let binary = packet("X0,3:+-\x03");
        assert_eq!(events(&mut framer, binary.as_bytes()).len(), 1);
    }

    #[test]
    fn an_interrupt_is_not_lost_in_a_packet_that_never_was() {
        for noise in ["$", "$m10", "$#", "$g#6", &format!("${}", "a".repeat(9000))] {
            let mut framer = Framer::new();
            let line = format!("{noise}\x03{}", packet("?"));
            let seen = events(&mut framer, line.as_bytes());
            assert_eq!(seen[0].0, Event::Interrupt, "{noise}");
            assert_eq!(seen[1], (Event::Packet, b"?".to_vec()), "{noise}");
        }
    }

    #[test]
    fn the_largest_packet_fits_and_one_byte_more_is_damage() {
        let mut framer = Framer::new();
        let largest = "a".repeat(LARGEST_BODY);
        let seen = events(&mut framer, packet(&largest).as_bytes());
        assert_eq!(seen, [(Event::Packet, largest.clone().into_bytes())]);
        let seen = events(&mut framer, packet(&(largest + "a")).as_bytes());
        assert_eq!(seen[0].0, Event::Damaged);
        assert_eq!(
            events(&mut framer, packet("?").as_bytes())[0].0,
            Event::Packet
        );
    }

    proptest! {
        #[test]
        fn after_any_bytes_the_next_packet_is_found(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            body in "[a-zA-Z0-9,:;]{1,40}",
        ) {
            let mut framer = Framer::new();
            events(&mut framer, &noise);
            let seen = events(&mut framer, packet(&body).as_bytes());
            prop_assert_eq!(seen.last(), Some(&(Event::Packet, body.into_bytes())));
        }
    }
}
