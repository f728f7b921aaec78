//! One packet through gdbstub, and what came of it.
//!
//! gdbstub's state machine is consumed by its first error. Here it lives for one
//! packet: nothing that matters is in it, so nothing is lost with it.

use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStubBuilder};

use crate::answer::StubReply;
use crate::framer::PACKET_SIZE;
use crate::machine::Machine;
use crate::target::StubTarget;

/// What gdbstub made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has answered.
    Answered,
    /// The machine is to move, as [`StubTarget::plan`] says.
    Resumed,
    /// The client has detached, and been told OK.
    Detached,
    /// The client wants to kill the machine, and no answer.
    Killed,
    /// It gave up: the packet is malformed, or its answer too long.
    Failed,
}

/// Gives gdbstub the packet with this body.
pub fn exchange<M: Machine>(
    target: &mut StubTarget<'_, M>,
    body: &[u8],
    reply: StubReply<'_>,
    buffer: &mut [u8; PACKET_SIZE],
) -> Outcome {
    let Ok(stub) = GdbStubBuilder::new(reply)
        .with_packet_buffer(buffer)
        .build()
    else {
        return Outcome::Failed;
    };
    let Ok(mut state) = stub.run_state_machine(target) else {
        return Outcome::Failed;
    };
    let sum = body.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
    let end = [b'#', lower_hex(sum >> 4), lower_hex(sum & 15)];
    for &byte in b"$".iter().chain(body).chain(&end) {
        state = match state {
            GdbStubStateMachine::Idle(idle) => match idle.incoming_data(target, byte) {
                Ok(next) => next,
                Err(_) => return Outcome::Failed,
            },
            other => other,
        };
    }
    match state {
        GdbStubStateMachine::Idle(_) => Outcome::Answered,
        GdbStubStateMachine::Running(_) => Outcome::Resumed,
        GdbStubStateMachine::Disconnected(end) => match end.get_reason() {
            DisconnectReason::Kill => Outcome::Killed,
            _ => Outcome::Detached,
        },
        // A packet is no Ctrl-C.
        GdbStubStateMachine::CtrlCInterrupt(_) => Outcome::Failed,
    }
}

/// The digit of a number below 16.
fn lower_hex(digit: u8) -> u8 {
    if digit < 10 {
        b'0' + digit
    } else {
        b'a' + (digit - 10)
    }
}
