//! What can happen to a CPU, as a value, as words in a ring, and as text.

mod pal;

use core::fmt;

pub use pal::PalEnd;
use stillpoint_quiesce::NmiMeaning;
use vmcs_inspect::{ExitReason, InterruptionInfo};

/// Words of a record: the time, the kind with a small number, two numbers.
pub const WORDS: usize = 4;

/// Something that happened to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A VM exit. It stands for the VM entry before it, too: one record for both.
    Exit {
        /// Basic exit reason.
        reason: u16,
        /// The guest's RIP.
        rip: u64,
        /// When the guest was entered, in ticks of the time-stamp counter.
        entered: u64,
    },
    /// An NMI was taken while the guest ran; its VM exit is the event before.
    NmiInGuest(NmiMeaning),
    /// An NMI interrupted the hypervisor.
    NmiInHypervisor {
        /// What it was taken for.
        meaning: NmiMeaning,
        /// The hypervisor's RIP.
        rip: u64,
    },
    /// An NMI interrupted the entry sequence between its last look and the entry:
    /// the sequence starts over.
    EntryRestarted,
    /// This CPU sends a kick.
    KickSent {
        /// The CPU that it goes to.
        to: u16,
    },
    /// This CPU wants to stop the machine.
    StopAsked,
    /// This CPU holds the machine: every other one stands or is parked.
    StopOwned {
        /// The generation of the stop.
        generation: u64,
    },
    /// This CPU gives the machine back.
    StopReleased {
        /// The generation of the stop that ends.
        generation: u64,
    },
    /// This CPU stands in another's stop, and says so.
    StopJoined {
        /// The generation of the stop.
        generation: u64,
    },
    /// This CPU has seen the end of the stop that it stood in.
    StopLeft,
    /// An event goes into the guest with the next VM entry.
    Injected(InterruptionInfo),
    /// An owed NMI waits for the guest to be able to take it: NMI-window exiting.
    NmiWindowOpened,
    /// The guest made a hypercall.
    Hypercall {
        /// EAX.
        command: u32,
        /// RCX.
        argument: u64,
    },
    /// The guest read the hypervisor's memory, and saw zeros.
    RangeRead {
        /// Guest-physical address.
        gpa: u64,
    },
    /// The guest wrote the hypervisor's memory, and gets #GP.
    RangeWrite {
        /// Guest-physical address.
        gpa: u64,
    },
    /// This CPU waits for a SIPI.
    Parked,
    /// A SIPI started this CPU.
    Unparked {
        /// The vector of the SIPI: the page that the CPU starts at.
        vector: u8,
    },
    /// The debugger has the machine.
    DebuggerStopped(DebuggerCause),
    /// The debugger lets the machine go on.
    DebuggerResumed,
    /// A program has registered a PAL.
    PalRegistered {
        /// Its number.
        id: u32,
    },
    /// A command about PALs was refused: its caller sees a result of 1.
    PalRefused {
        /// The command.
        command: u32,
        /// Why, as a number of `stillpoint_core::pal::Refusal`.
        code: u8,
    },
    /// This CPU goes into a PAL with the next VM entry.
    PalEntered {
        /// The PAL.
        id: u32,
    },
    /// This CPU has come out of a PAL that returned.
    PalLeft {
        /// The PAL.
        id: u32,
    },
    /// A PAL was ended: by what it did, or from outside.
    PalEnded {
        /// The PAL, below 65536.
        id: u32,
        /// Why.
        end: PalEnd,
        /// Where it was executing.
        rip: u64,
    },
    /// A program has given its PAL back.
    PalUnregistered {
        /// The PAL.
        id: u32,
    },
    /// The guest read a PAL's memory from outside, and saw a decoy. Recorded the first
    /// time for each PAL.
    PalPageRead {
        /// Guest-physical address.
        gpa: u64,
    },
    /// The guest wrote a PAL's memory from outside, and gets #GP.
    PalPageWrite {
        /// Guest-physical address.
        gpa: u64,
    },
}

/// Why the debugger has the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebuggerCause {
    /// Something came on the debug line.
    DebugLine,
    /// A breakpoint, in software or in a debug register.
    Breakpoint,
    /// A watchpoint.
    Watchpoint,
    /// The `wait` option.
    Wait,
    /// Something that cannot go on: a failed VM entry, an exit that nothing handles,
    /// a fault or panic of the hypervisor.
    Failure,
}

const CAUSES: [DebuggerCause; 5] = [
    DebuggerCause::DebugLine,
    DebuggerCause::Breakpoint,
    DebuggerCause::Watchpoint,
    DebuggerCause::Wait,
    DebuggerCause::Failure,
];

const MEANINGS: [NmiMeaning; 3] = [NmiMeaning::Kick, NmiMeaning::Owed, NmiMeaning::Merged];

/// Kinds of event: the upper half of the second word; a small number is the lower half.
/// The most frequent one is 0: it costs nothing to add.
mod kind {
    pub const EXIT: u64 = 0;
    pub const NMI_IN_GUEST: u64 = 1;
    pub const NMI_IN_HYPERVISOR: u64 = 2;
    pub const ENTRY_RESTARTED: u64 = 3;
    pub const KICK_SENT: u64 = 4;
    pub const STOP_ASKED: u64 = 5;
    pub const STOP_OWNED: u64 = 6;
    pub const STOP_RELEASED: u64 = 7;
    pub const STOP_JOINED: u64 = 8;
    pub const STOP_LEFT: u64 = 9;
    pub const INJECTED: u64 = 10;
    pub const NMI_WINDOW_OPENED: u64 = 11;
    pub const HYPERCALL: u64 = 12;
    pub const PARKED: u64 = 13;
    pub const UNPARKED: u64 = 14;
    pub const DEBUGGER_STOPPED: u64 = 15;
    pub const DEBUGGER_RESUMED: u64 = 16;
    pub const RANGE_READ: u64 = 17;
    pub const RANGE_WRITE: u64 = 18;
    pub const PAL_REGISTERED: u64 = 19;
    pub const PAL_REFUSED: u64 = 20;
    pub const PAL_ENTERED: u64 = 21;
    pub const PAL_LEFT: u64 = 22;
    pub const PAL_ENDED: u64 = 23;
    pub const PAL_UNREGISTERED: u64 = 24;
    pub const PAL_PAGE_READ: u64 = 25;
    pub const PAL_PAGE_WRITE: u64 = 26;
}

impl Event {
    /// The words of a record, with its time in the first.
    #[inline(always)]
    pub(crate) fn encode(self, time: u64) -> [u64; WORDS] {
        let words = |kind: u64, small: u64, first: u64, second: u64| {
            [time, kind << 32 | small, first, second]
        };
        match self {
            Self::Exit {
                reason,
                rip,
                entered,
            } => words(kind::EXIT, u64::from(reason), rip, entered),
            Self::NmiInGuest(meaning) => words(kind::NMI_IN_GUEST, index(meaning), 0, 0),
            Self::NmiInHypervisor { meaning, rip } => {
                words(kind::NMI_IN_HYPERVISOR, index(meaning), rip, 0)
            }
            Self::EntryRestarted => words(kind::ENTRY_RESTARTED, 0, 0, 0),
            Self::KickSent { to } => words(kind::KICK_SENT, u64::from(to), 0, 0),
            Self::StopAsked => words(kind::STOP_ASKED, 0, 0, 0),
            Self::StopOwned { generation } => words(kind::STOP_OWNED, 0, generation, 0),
            Self::StopReleased { generation } => words(kind::STOP_RELEASED, 0, generation, 0),
            Self::StopJoined { generation } => words(kind::STOP_JOINED, 0, generation, 0),
            Self::StopLeft => words(kind::STOP_LEFT, 0, 0, 0),
            Self::Injected(info) => words(kind::INJECTED, u64::from(info.raw()), 0, 0),
            Self::NmiWindowOpened => words(kind::NMI_WINDOW_OPENED, 0, 0, 0),
            Self::Hypercall { command, argument } => {
                words(kind::HYPERCALL, u64::from(command), argument, 0)
            }
            Self::RangeRead { gpa } => words(kind::RANGE_READ, 0, gpa, 0),
            Self::RangeWrite { gpa } => words(kind::RANGE_WRITE, 0, gpa, 0),
            Self::Parked => words(kind::PARKED, 0, 0, 0),
            Self::Unparked { vector } => words(kind::UNPARKED, u64::from(vector), 0, 0),
            Self::DebuggerStopped(cause) => words(kind::DEBUGGER_STOPPED, cause as u64, 0, 0),
            Self::DebuggerResumed => words(kind::DEBUGGER_RESUMED, 0, 0, 0),
            Self::PalRegistered { id } => words(kind::PAL_REGISTERED, u64::from(id), 0, 0),
            Self::PalRefused { command, code } => {
                words(kind::PAL_REFUSED, u64::from(command), u64::from(code), 0)
            }
            Self::PalEntered { id } => words(kind::PAL_ENTERED, u64::from(id), 0, 0),
            Self::PalLeft { id } => words(kind::PAL_LEFT, u64::from(id), 0, 0),
            Self::PalEnded { id, end, rip } => {
                let (small, detail) = end.encode(id);
                words(kind::PAL_ENDED, small, rip, detail)
            }
            Self::PalUnregistered { id } => words(kind::PAL_UNREGISTERED, u64::from(id), 0, 0),
            Self::PalPageRead { gpa } => words(kind::PAL_PAGE_READ, 0, gpa, 0),
            Self::PalPageWrite { gpa } => words(kind::PAL_PAGE_WRITE, 0, gpa, 0),
        }
    }
}

/// The place of a meaning in [`MEANINGS`].
fn index(meaning: NmiMeaning) -> u64 {
    match meaning {
        NmiMeaning::Kick => 0,
        NmiMeaning::Owed => 1,
        NmiMeaning::Merged => 2,
    }
}

/// An event and its time, as it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in ticks of the time-stamp counter.
    pub time: u64,
    /// What.
    pub event: Event,
}

impl Record {
    /// The inverse of [`Event::encode`]; `None` for words that it does not make.
    pub(crate) fn decode([time, tag, first, second]: [u64; WORDS]) -> Option<Self> {
        let small = tag & 0xffff_ffff;
        let meaning = MEANINGS.get(small as usize).copied();
        let generation = first;
        let id = small as u32;
        let event = match tag >> 32 {
            kind::EXIT => Event::Exit {
                reason: small as u16,
                rip: first,
                entered: second,
            },
            kind::NMI_IN_GUEST => Event::NmiInGuest(meaning?),
            kind::NMI_IN_HYPERVISOR => Event::NmiInHypervisor {
                meaning: meaning?,
                rip: first,
            },
            kind::ENTRY_RESTARTED => Event::EntryRestarted,
            kind::KICK_SENT => Event::KickSent { to: small as u16 },
            kind::STOP_ASKED => Event::StopAsked,
            kind::STOP_OWNED => Event::StopOwned { generation },
            kind::STOP_RELEASED => Event::StopReleased { generation },
            kind::STOP_JOINED => Event::StopJoined { generation },
            kind::STOP_LEFT => Event::StopLeft,
            kind::INJECTED => Event::Injected(InterruptionInfo::from_raw(small as u32)),
            kind::NMI_WINDOW_OPENED => Event::NmiWindowOpened,
            kind::HYPERCALL => Event::Hypercall {
                command: small as u32,
                argument: first,
            },
            kind::RANGE_READ => Event::RangeRead { gpa: first },
            kind::RANGE_WRITE => Event::RangeWrite { gpa: first },
            kind::PARKED => Event::Parked,
            kind::UNPARKED => Event::Unparked {
                vector: small as u8,
            },
            kind::DEBUGGER_STOPPED => Event::DebuggerStopped(CAUSES.get(small as usize).copied()?),
            kind::DEBUGGER_RESUMED => Event::DebuggerResumed,
            kind::PAL_REGISTERED => Event::PalRegistered { id },
            kind::PAL_REFUSED => Event::PalRefused {
                command: small as u32,
                code: first as u8,
            },
            kind::PAL_ENTERED => Event::PalEntered { id },
            kind::PAL_LEFT => Event::PalLeft { id },
            kind::PAL_ENDED => {
                let (id, end) = PalEnd::decode(small as u32, second)?;
                Event::PalEnded {
                    id,
                    end,
                    rip: first,
                }
            }
            kind::PAL_UNREGISTERED => Event::PalUnregistered { id },
            kind::PAL_PAGE_READ => Event::PalPageRead { gpa: first },
            kind::PAL_PAGE_WRITE => Event::PalPageWrite { gpa: first },
            _ => return None,
        };
        Some(Self { time, event })
    }

    /// The event as one line of text, without its time. `ticks_per_ms` is what the
    /// time-stamp counter counts in a millisecond.
    pub fn text(&self, ticks_per_ms: u64) -> impl fmt::Display {
        Text {
            record: *self,
            ticks_per_ms,
        }
    }
}

/// Ticks of the time-stamp counter as nanoseconds; 0 ticks a millisecond count as 1.
pub fn nanoseconds(ticks: u64, ticks_per_ms: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000 / u128::from(ticks_per_ms.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

struct Text {
    record: Record,
    ticks_per_ms: u64,
}

/// The exporter in `gdb-scripts` reads these lines: the tests of both hold them together.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record.event {
            Event::Exit {
                reason,
                rip,
                entered,
            } => {
                f.write_str("exit ")?;
                match ExitReason::from_raw(reason) {
                    Some(reason) => write!(f, "{reason}")?,
                    None => write!(f, "{reason}")?,
                }
                let ns = nanoseconds(self.record.time.saturating_sub(entered), self.ticks_per_ms);
                write!(
                    f,
                    " at {rip:#x}, guest ran {}.{:03} us",
                    ns / 1000,
                    ns % 1000
                )
            }
            Event::NmiInGuest(meaning) => write!(f, "NMI in the guest: {}", taken_for(meaning)),
            Event::NmiInHypervisor { meaning, rip } => write!(
                f,
                "NMI in the hypervisor at {rip:#x}: {}",
                taken_for(meaning)
            ),
            Event::EntryRestarted => f.write_str("entry starts over"),
            Event::KickSent { to } => write!(f, "kick sent to CPU {to}"),
            Event::StopAsked => f.write_str("stop asked for"),
            Event::StopOwned { generation } => write!(f, "stop {generation} owned"),
            Event::StopReleased { generation } => write!(f, "stop {generation} released"),
            Event::StopJoined { generation } => write!(f, "stop {generation} joined"),
            Event::StopLeft => f.write_str("stop left"),
            Event::Injected(info) => write!(f, "injected {info}"),
            Event::NmiWindowOpened => f.write_str("NMI window opened"),
            Event::Hypercall { command, argument } => {
                write!(f, "hypercall {command:#x}, argument {argument:#x}")
            }
            Event::RangeRead { gpa } => write!(f, "hypervisor's memory read at {gpa:#x}: zeros"),
            Event::RangeWrite { gpa } => write!(f, "hypervisor's memory written at {gpa:#x}: #GP"),
            Event::Parked => f.write_str("parked"),
            Event::Unparked { vector } => write!(f, "started by SIPI, vector {vector:#04x}"),
            Event::DebuggerStopped(cause) => write!(f, "debugger stops: {cause}"),
            Event::DebuggerResumed => f.write_str("debugger goes on"),
            Event::PalRegistered { id } => write!(f, "PAL {id} registered"),
            Event::PalRefused { command, code } => {
                write!(f, "PAL command {command} refused, reason {code}")
            }
            Event::PalEntered { id } => write!(f, "PAL {id} entered"),
            Event::PalLeft { id } => write!(f, "PAL {id} left"),
            Event::PalEnded { id, end, rip } => write!(f, "PAL {id} ended at {rip:#x}: {end}"),
            Event::PalUnregistered { id } => write!(f, "PAL {id} given back"),
            Event::PalPageRead { gpa } => write!(f, "PAL's memory read at {gpa:#x}: a decoy"),
            Event::PalPageWrite { gpa } => write!(f, "PAL's memory written at {gpa:#x}: #GP"),
        }
    }
}

impl fmt::Display for DebuggerCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DebugLine => "debug line",
            Self::Breakpoint => "breakpoint",
            Self::Watchpoint => "watchpoint",
            Self::Wait => "wait",
            Self::Failure => "failure",
        })
    }
}

fn taken_for(meaning: NmiMeaning) -> &'static str {
    match meaning {
        NmiMeaning::Kick => "the kick",
        NmiMeaning::Owed => "owed",
        NmiMeaning::Merged => "merged",
    }
}

#[cfg(test)]
mod tests;
