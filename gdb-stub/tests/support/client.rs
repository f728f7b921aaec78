//! A client driven by hand over a line made of memory, with a clock that the test moves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use gdb_stub::{CpuIndex, Poll, Resume, SerialPort, Session, StopKind, StopReason};

use super::machine::FakeMachine;

/// Both directions of the line, and the time.
#[derive(Default)]
pub struct Wire {
    /// To the stub.
    pub up: VecDeque<u8>,
    /// Packets that follow one by one, each when the stub has dealt with what came
    /// before and waits.
    pub later: VecDeque<Vec<u8>>,
    /// From the stub.
    pub down: Vec<u8>,
    /// Each look at the clock takes a millisecond.
    pub now_us: u64,
    /// Whether the transmitter is stuck.
    pub stuck: bool,
}

/// The stub's end of the line.
#[derive(Clone, Default)]
pub struct Port(pub Rc<RefCell<Wire>>);

impl SerialPort for Port {
    fn try_read(&mut self) -> Option<u8> {
        self.0.borrow_mut().up.pop_front()
    }

    fn try_write(&mut self, byte: u8) -> bool {
        let mut wire = self.0.borrow_mut();
        if wire.stuck {
            wire.now_us += 1000;
            return false;
        }
        wire.down.push(byte);
        true
    }

    fn now_us(&mut self) -> u64 {
        let mut wire = self.0.borrow_mut();
        wire.now_us += 1000;
        if wire.up.is_empty()
            && let Some(packet) = wire.later.pop_front()
        {
            wire.up.extend(packet);
        }
        assert!(
            wire.now_us < 1_000_000_000,
            "the stub waits for more than the test sends"
        );
        wire.now_us
    }
}

/// A session with a fake machine behind and a wire before it.
pub struct Bench {
    pub machine: FakeMachine,
    pub session: Box<Session<Port>>,
    pub wire: Rc<RefCell<Wire>>,
}

/// Wraps a packet's body.
pub fn packet(body: &str) -> Vec<u8> {
    packet_bytes(body.as_bytes())
}

/// Wraps a packet's body, as it is.
pub fn packet_bytes(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
    let mut bytes = vec![b'$'];
    bytes.extend_from_slice(body);
    bytes.extend(format!("#{sum:02x}").bytes());
    bytes
}

/// The bodies of the packets in what the stub sent, run-length encoding undone.
pub fn bodies(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(start) = bytes.iter().position(|&byte| byte == b'$') {
        let end = start
            + bytes[start..]
                .iter()
                .position(|&byte| byte == b'#')
                .expect("an end");
        let body = &bytes[start + 1..end];
        let sum = body.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        assert_eq!(
            format!("{sum:02x}").as_bytes(),
            &bytes[end + 1..end + 3],
            "the checksum"
        );
        let mut text = String::new();
        let mut rest = body.iter();
        while let Some(&byte) = rest.next() {
            if byte == b'*' {
                let count = rest.next().expect("a count") - 29;
                let last = text.chars().last().expect("something to repeat");
                text.extend(std::iter::repeat_n(last, count.into()));
            } else {
                text.push(char::from(byte));
            }
        }
        found.push(text);
        bytes = &bytes[end + 3..];
    }
    found
}

impl Bench {
    pub fn new(cpus: usize) -> Self {
        let port = Port::default();
        let wire = Rc::clone(&port.0);
        Self {
            machine: FakeMachine::new(cpus),
            session: Box::new(Session::new(port)),
            wire,
        }
    }

    /// Puts bytes on the line.
    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.borrow_mut().up.extend(bytes);
    }

    /// Takes what the stub has sent.
    pub fn received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.borrow_mut().down)
    }

    /// Runs the machine, with stops, until the line is quiet and `slices` have run
    /// without a stop.
    pub fn run(&mut self, slices: u32) -> Vec<StopReason> {
        let mut stops = Vec::new();
        let mut quiet = 0;
        while quiet < slices {
            quiet += 1;
            let mut stop = self.machine.run_slice(&self.session);
            if stop.is_none() && self.session.poll() == Poll::Stop {
                stop = Some(StopReason {
                    cpu: CpuIndex(0),
                    kind: StopKind::DebugLine,
                });
            }
            if let Some(reason) = stop {
                stops.push(reason);
                self.stopped(reason);
                quiet = 0;
            }
            assert!(
                stops.len() < 100,
                "the machine keeps stopping: {:?}",
                stops[0]
            );
        }
        stops
    }

    /// One stop. What is on the line must end it.
    pub fn stopped(&mut self, reason: StopReason) -> Resume {
        self.session.stopped(&mut self.machine, reason)
    }

    /// Opens in no-ack mode with these packets after, all in one stop that the last
    /// packet, a detach or resume, must end. Returns the answers to `packets`.
    pub fn converse(&mut self, packets: &[&str]) -> Vec<String> {
        let mut line = b"+".to_vec();
        line.extend(packet("qSupported:swbreak+;multiprocess+"));
        line.extend(b"+");
        line.extend(packet("QStartNoAckMode"));
        line.extend(b"+");
        self.send(&line);
        self.wire
            .borrow_mut()
            .later
            .extend(packets.iter().map(|body| packet(body)));
        self.received();
        self.stopped(StopReason {
            cpu: CpuIndex(0),
            kind: StopKind::DebugLine,
        });
        bodies(&self.received()).split_off(2)
    }
}

/// The text of the `O` packets among replies.
pub fn console(replies: &[String]) -> String {
    let digits: Vec<char> = replies
        .iter()
        .filter(|reply| *reply != "OK")
        .filter_map(|reply| reply.strip_prefix('O'))
        .flat_map(str::chars)
        .collect();
    let bytes = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("digits"))
        .collect();
    String::from_utf8(bytes).expect("text")
}

/// A `qRcmd` packet's body.
pub fn monitor(command: &str) -> String {
    let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("qRcmd,{digits}")
}
