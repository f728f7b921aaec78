//! Every event, to its words and back, and as it reads.

extern crate std;
use std::string::ToString;
use std::vec::Vec;

use super::*;

/// Each event, with the largest numbers that it holds, and its text.
fn all() -> Vec<(Event, &'static str)> {
    let exit = |reason| Event::Exit {
        reason,
        rip: u64::MAX,
        entered: 1_000,
    };
    let ended = |end| Event::PalEnded {
        id: 0xffff,
        end,
        rip: u64::MAX,
    };
    std::vec![
        (
            exit(10),
            "exit CPUID at 0xffffffffffffffff, guest ran 1.250 us"
        ),
        (
            exit(0xffff),
            "exit 65535 at 0xffffffffffffffff, guest ran 1.250 us"
        ),
        (
            Event::NmiInGuest(NmiMeaning::Kick),
            "NMI in the guest: the kick"
        ),
        (
            Event::NmiInGuest(NmiMeaning::Owed),
            "NMI in the guest: owed"
        ),
        (
            Event::NmiInGuest(NmiMeaning::Merged),
            "NMI in the guest: merged"
        ),
        (
            Event::NmiInHypervisor {
                meaning: NmiMeaning::Merged,
                rip: u64::MAX
            },
            "NMI in the hypervisor at 0xffffffffffffffff: merged",
        ),
        (Event::EntryRestarted, "entry starts over"),
        (Event::KickSent { to: u16::MAX }, "kick sent to CPU 65535"),
        (Event::StopAsked, "stop asked for"),
        (
            Event::StopOwned {
                generation: u64::MAX
            },
            "stop 18446744073709551615 owned",
        ),
        (Event::StopReleased { generation: 3 }, "stop 3 released"),
        (Event::StopJoined { generation: 5 }, "stop 5 joined"),
        (Event::StopLeft, "stop left"),
        (Event::Injected(InterruptionInfo::NMI), "injected NMI"),
        (
            Event::Injected(InterruptionInfo::from_raw(0x8000_0b0d)),
            "injected hardware exception #GP, error code",
        ),
        (Event::NmiWindowOpened, "NMI window opened"),
        (
            Event::Hypercall {
                command: u32::MAX,
                argument: u64::MAX
            },
            "hypercall 0xffffffff, argument 0xffffffffffffffff",
        ),
        (
            Event::RangeRead { gpa: u64::MAX },
            "hypervisor's memory read at 0xffffffffffffffff: zeros",
        ),
        (
            Event::RangeWrite { gpa: 0x1000 },
            "hypervisor's memory written at 0x1000: #GP",
        ),
        (Event::Parked, "parked"),
        (
            Event::Unparked { vector: 0x9a },
            "started by SIPI, vector 0x9a"
        ),
        (
            Event::DebuggerStopped(DebuggerCause::DebugLine),
            "debugger stops: debug line",
        ),
        (
            Event::DebuggerStopped(DebuggerCause::Breakpoint),
            "debugger stops: breakpoint",
        ),
        (
            Event::DebuggerStopped(DebuggerCause::Watchpoint),
            "debugger stops: watchpoint",
        ),
        (
            Event::DebuggerStopped(DebuggerCause::Wait),
            "debugger stops: wait"
        ),
        (
            Event::DebuggerStopped(DebuggerCause::Failure),
            "debugger stops: failure",
        ),
        (Event::DebuggerResumed, "debugger goes on"),
        (
            Event::PalRegistered { id: u32::MAX },
            "PAL 4294967295 registered",
        ),
        (
            Event::PalRefused {
                command: u32::MAX,
                code: u8::MAX,
            },
            "PAL command 4294967295 refused, reason 255",
        ),
        (Event::PalEntered { id: 3 }, "PAL 3 entered"),
        (Event::PalLeft { id: 3 }, "PAL 3 left"),
        (
            ended(PalEnd::Exception(InterruptionInfo::from_raw(0x8000_0b0e))),
            "PAL 65535 ended at 0xffffffffffffffff: hardware exception #PF, error code",
        ),
        (
            ended(PalEnd::Outside(u64::MAX)),
            "PAL 65535 ended at 0xffffffffffffffff: touched 0xffffffffffffffff, not its own",
        ),
        (
            ended(PalEnd::Exit(12)),
            "PAL 65535 ended at 0xffffffffffffffff: exit HLT",
        ),
        (
            ended(PalEnd::Exit(0xffff)),
            "PAL 65535 ended at 0xffffffffffffffff: exit 65535",
        ),
        (
            ended(PalEnd::Killed),
            "PAL 65535 ended at 0xffffffffffffffff: killed by the debugger",
        ),
        (
            ended(PalEnd::Orphaned),
            "PAL 65535 ended at 0xffffffffffffffff: its program has gone",
        ),
        (
            ended(PalEnd::Restart),
            "PAL 65535 ended at 0xffffffffffffffff: the machine restarts",
        ),
        (Event::PalUnregistered { id: 0 }, "PAL 0 given back"),
        (
            Event::PalPageRead { gpa: u64::MAX },
            "PAL's memory read at 0xffffffffffffffff: a decoy",
        ),
        (
            Event::PalPageWrite { gpa: 0x1000 },
            "PAL's memory written at 0x1000: #GP",
        ),
    ]
}

#[test]
fn events_come_back_from_their_words_and_read_well() {
    for (event, text) in all() {
        let record = Record::decode(event.encode(26_000)).unwrap();
        assert_eq!(
            record,
            Record {
                time: 26_000,
                event
            }
        );
        assert_eq!(record.text(20_000_000).to_string(), text);
    }
}

#[test]
fn other_words_are_no_event() {
    for tag in [
        27 << 32,
        1 << 63,
        1 << 32 | 3,
        2 << 32 | 9,
        15 << 32 | 5,
        23 << 32 | 6 << 16,
    ] {
        assert_eq!(Record::decode([1, tag, 0, 0]), None, "{tag:#x}");
    }
}

#[test]
fn ticks_become_nanoseconds_at_any_rate() {
    assert_eq!(nanoseconds(20, 20_000), 1_000);
    assert_eq!(nanoseconds(u64::MAX, 1_000_000), u64::MAX);
    assert_eq!(nanoseconds(u64::MAX, 1), u64::MAX);
    assert_eq!(nanoseconds(3, 0), 3_000_000);
}
