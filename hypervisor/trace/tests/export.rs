//! `gdb-scripts/stillpoint_trace.py` on what this crate writes: the text of the events
//! that it looks for, and the picture that it makes of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use stillpoint_trace::{Event, PalEnd, TraceRing};

/// A tick is a nanosecond.
const TICKS_PER_MS: u64 = 1_000_000;

/// Prints a line for each slice and instant: thread, name, begin, duration, arguments.
const PRINT: &str = "
import sys
sys.path.insert(0, sys.argv[1])
import stillpoint_trace
trace = stillpoint_trace.to_chrome(stillpoint_trace.parse(sys.stdin.read()))
for event in trace['traceEvents']:
    if event['ph'] == 'M':
        print(event.get('tid'), event['name'], event['args']['name'])
    else:
        print(event['tid'], event['name'], event['ts'], event.get('dur'), event.get('args'))
";

/// What the script makes of these events of one CPU, as lines of [`PRINT`].
fn exported(events: &[(u64, Event)]) -> Vec<String> {
    let ring = TraceRing::default();
    let mut text = String::new();
    for &(time, event) in events {
        ring.event(time, event);
    }
    for number in ring.numbers() {
        let record = ring.event_at(number).unwrap();
        let (us, ns) = (record.time / 1000, record.time % 1000);
        let event = record.text(TICKS_PER_MS);
        // As `monitor trace` puts a line together.
        writeln!(text, "{us:>9}.{ns:03}  {:>3}  {event}", 1).unwrap();
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gdb-scripts");
    let mut python = Command::new("python3")
        .args(["-c", PRINT])
        .arg(scripts)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}

fn exit(reason: u16, entered: u64) -> Event {
    Event::Exit {
        reason,
        rip: 0x40_1000,
        entered,
    }
}

#[test]
fn each_time_in_a_pal_is_a_slice_of_a_thread_of_its_own() {
    let lines = exported(&[
        (1_000, exit(48, 500)),
        (2_000, Event::PalEntered { id: 3 }),
        // The timer's exit does not end it.
        (5_000, exit(52, 2_500)),
        (8_000, exit(48, 6_000)),
        (9_000, Event::PalLeft { id: 3 }),
        (10_000, Event::PalEntered { id: 0 }),
        (
            12_000,
            Event::PalEnded {
                id: 0,
                end: PalEnd::Killed,
                rip: 4,
            },
        ),
        (13_000, Event::PalEntered { id: 3 }),
        (15_000, Event::PalRegistered { id: 5 }),
    ]);
    let pals: Vec<_> = lines.iter().filter(|l| l.starts_with("1001 ")).collect();
    assert_eq!(
        pals,
        [
            "1001 thread_name CPU 1: PALs",
            "1001 PAL 3 2.0 7.0 {'ended': 'returned'}",
            "1001 PAL 0 10.0 2.0 {'ended': 'killed by the debugger'}",
            "1001 PAL 3 13.0 2.0 {'ended': 'not yet'}",
        ]
    );
    // On the CPU's own thread they are there as instants, with the rest.
    for line in [
        "1 PAL 3 entered 2.0 None None",
        "1 PAL 5 registered 15.0 None None",
        "1 guest 2.5 2.5 {}",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}: {lines:#?}");
    }
}

#[test]
fn exits_and_stops_are_slices() {
    let lines = exported(&[
        (1_000, exit(10, 500)),
        (3_000, exit(52, 2_500)),
        (4_000, Event::StopAsked),
        (5_000, Event::StopOwned { generation: 7 }),
        (6_000, Event::StopReleased { generation: 7 }),
        (7_000, Event::StopJoined { generation: 8 }),
        (9_000, Event::StopLeft),
        (9_500, exit(10, 9_400)),
    ]);
    assert_eq!(
        lines,
        [
            "None process_name Stillpoint",
            "1 thread_name CPU 1",
            "1 guest 0.5 0.5 {}",
            "1 exit: CPUID 1.0 1.5 {'rip': '0x401000'}",
            "1 guest 2.5 0.5 {}",
            "1 exit: VMX-preemption timer expired 3.0 6.4 {'rip': '0x401000'}",
            "1 stopping 4.0 1.0 {'stop': 7}",
            "1 stop owned 5.0 1.0 {'stop': 7}",
            "1 stop joined 7.0 2.0 {'stop': 8}",
            "1 guest 9.4 0.1 {}",
            "1 exit: CPUID 9.5 0.0 {'rip': '0x401000'}",
        ]
    );
}
