//! The session against a client driven by hand: framing, acknowledgement, who is
//! attached, and what the machine is left as.

mod support;

use gdb_stub::machine::{CpuActivity, CpuIndex};
use gdb_stub::{Int3Owner, Poll, Resume, StopKind, StopReason};
use support::client::{Bench, bodies, console, monitor, packet};
use support::guest::guest;

const LINE: StopReason = StopReason {
    cpu: CpuIndex(0),
    kind: StopKind::DebugLine,
};

/// Opens in no-ack mode, does `packets`, and lets the machine run, attached.
fn attached(packets: &[&str]) -> Bench {
    let mut bench = Bench::new(2);
    let mut all = packets.to_vec();
    all.push("vCont;c");
    bench.converse(&all);
    bench
}

/// Sends these packets to a machine that stops for them (Ctrl-C first), the last of
/// which must let it go. Returns the answers, without that to the Ctrl-C.
fn interrupt(bench: &mut Bench, packets: &[&str]) -> Vec<String> {
    bench.send(b"\x03");
    for body in packets {
        bench.send(&packet(body));
    }
    bench.received();
    assert_eq!(bench.session.poll(), Poll::Stop);
    bench.stopped(LINE);
    bodies(&bench.received()).split_off(1)
}

#[test]
fn any_byte_on_an_idle_line_stops_the_machine_and_noise_lets_it_go_again() {
    for noise in [
        &b"x"[..],
        b"\x03",
        b"+",
        b"$garbage",
        b"$g#00",
        b"$#00",
        b"$m0,4#fd",
    ] {
        let mut bench = Bench::new(2);
        let memory = bench.machine.memory.clone();
        assert_eq!(bench.session.poll(), Poll::Quiet);
        bench.send(noise);
        assert_eq!(bench.session.poll(), Poll::Stop, "{}", noise.escape_ascii());
        assert_eq!(bench.stopped(LINE), Resume::Detached);
        assert!(!bench.session.is_attached());
        assert_eq!(bench.machine.memory, memory);
        assert_eq!(bench.session.poll(), Poll::Quiet);
        // No longer than for the first, though that may have been half a packet.
        let start = bench.wire.borrow().now_us;
        bench.send(b"x");
        assert_eq!(bench.session.poll(), Poll::Stop);
        bench.stopped(LINE);
        assert!(bench.wire.borrow().now_us - start < 4_000_000);
        assert_eq!(
            bench.converse(&["D"]),
            ["OK"],
            "after {}",
            noise.escape_ascii()
        );
    }
}

#[test]
fn packets_are_acknowledged_until_the_client_asks_not_to() {
    let mut bench = Bench::new(1);
    let mut bad = packet("g");
    *bad.last_mut().unwrap() ^= 1;
    bench.send(b"+");
    bench.send(&packet("qSupported"));
    bench.send(b"+");
    bench.send(&bad);
    bench.send(&packet("qC"));
    // Refused once, so sent twice.
    bench.send(b"-+");
    bench.send(&packet("QStartNoAckMode"));
    bench.send(b"+");
    bench.send(&bad);
    bench.send(b"-");
    bench.send(&packet("qC"));
    bench.send(&packet("D"));
    bench.stopped(LINE);
    let sent = String::from_utf8(bench.received()).unwrap();
    let after_open = &sent[sent.find('#').unwrap() + 3..];
    assert_eq!(after_open, "-+$QC1#c5$QC1#c5+$OK#9a$QC1#c5$OK#9a");
}

#[test]
fn the_acknowledgement_of_the_last_answer_does_not_stop_the_machine() {
    let mut bench = Bench::new(1);
    bench.send(&packet("qSupported"));
    bench.send(b"+");
    bench.send(&packet("D"));
    assert_eq!(bench.stopped(LINE), Resume::Detached);
    bench.send(b"+");
    assert_eq!(bench.session.poll(), Poll::Quiet);
    bench.send(b"+");
    assert_eq!(bench.session.poll(), Poll::Stop, "a second one is not due");
}

#[test]
fn a_new_client_drops_what_the_old_one_left() {
    let work = guest().work;
    let mut bench = attached(&[&format!("Z0,{work:x},1"), &format!("Z1,{work:x},1")]);
    assert!(bench.machine.int3_exits && !bench.machine.hardware.is_empty());
    // Killed in the middle of a packet, later another opens.
    bench.send(b"$m123");
    assert_eq!(bench.session.poll(), Poll::Stop);
    assert_eq!(
        bench.converse(&[&format!("m{work:x},1"), "D"]),
        ["48", "OK"]
    );
    assert!(!bench.machine.int3_exits && bench.machine.hardware.is_empty());
    let stops = bench.run(50);
    assert_eq!(stops, []);
    assert_eq!(bench.machine.guest_breakpoints, 0);
}

#[test]
fn a_new_client_is_acknowledged_whatever_the_old_one_agreed_on() {
    let mut bench = attached(&[]);
    bench.received();
    bench.send(&packet("qSupported"));
    bench.send(b"+");
    bench.send(&packet("D"));
    bench.stopped(LINE);
    let sent = bench.received();
    assert!(
        sent.starts_with(b"+$PacketSize="),
        "{}",
        sent.escape_ascii()
    );
    assert!(sent.ends_with(b"+$OK#9a"), "{}", sent.escape_ascii());
}

#[test]
fn a_running_client_does_not_notice_noise() {
    let mut bench = attached(&[]);
    bench.send(b"zz\xff+");
    assert_eq!(bench.session.poll(), Poll::Quiet);
    bench.send(b"$half a packet");
    assert_eq!(bench.session.poll(), Poll::Stop);
    bench.received();
    assert_eq!(bench.stopped(LINE), Resume::Continue);
    assert_eq!(bench.received(), b"", "nothing is reported");
    assert_eq!(interrupt(&mut bench, &["qC", "D"]), ["QC1", "OK"]);
}

#[test]
fn nothing_a_client_says_ends_the_session() {
    let packets = [
        "",
        "Hg-1",
        "Hg7",
        "vCont;t",
        "vCont;s",
        "vCont",
        "vCont;",
        "vCont;x",
        "Z9,0,0",
        "Z0,,",
        "m",
        "m,",
        "mzz,4",
        "m0,ffffffffffffffff",
        "p",
        "pffff",
        "P0=00",
        "Pzz",
        "G00",
        "G",
        "T",
        "T0",
        "qXfer:features:read:target.xml:zz,1",
        "qXfer:features:read:other:0,1",
        "qRcmd,zz",
        "qRcmd,0",
        "X0,4:a",
        "M0,4:0",
        "vMustReplyEmpty",
        "QStartNoAckMode",
        "vCont;c:1",
        "vCont;c:9;s",
        "H",
    ];
    for body in packets {
        let mut bench = Bench::new(2);
        let answers = bench.converse(&[body, "qC", "D"]);
        assert_eq!(answers.len(), 3, "{body:?}: {answers:?}");
        assert_eq!(answers[2], "OK", "{body:?}");
    }
}

#[test]
fn one_cpu_alone_can_be_stepped_but_not_run() {
    let mut bench = Bench::new(2);
    let answers = bench.converse(&["vCont;c:1", "vCont;s:2", "vCont;c:1;c:2"]);
    assert_eq!(answers[0], "E01");
    assert!(
        answers[1].starts_with("T05") && answers[1].contains("thread:2;"),
        "{}",
        answers[1]
    );
    assert_eq!(answers.len(), 2);
    assert_eq!(bench.machine.cpus[0].registers.rip, guest().entry);
    assert_eq!(bench.machine.cpus[1].registers.rip, guest().entry + 5);
}

#[test]
fn a_range_step_ends_outside_or_at_a_breakpoint_or_when_interrupted() {
    let (entry, work) = (guest().entry, guest().work);
    let mut bench = Bench::new(1);
    // Out of `mov` and `call` into `work`.
    let range = format!("vCont;r{:x},{:x}:1;c", entry, entry + 10);
    let answers = bench.converse(&[&range, "D"]);
    assert!(answers[0].contains(&swapped("10", work)), "{answers:?}");
    assert_eq!(bench.machine.steps, 2);

    // A breakpoint inside the range, of either kind.
    for (kind, name) in [("Z0", "swbreak:;"), ("Z1", "hwbreak:;")] {
        let mut bench = Bench::new(1);
        let set = format!("{kind},{:x},1", work + 3);
        let range = format!("vCont;r{:x},{:x}:1;c", work, entry + 0x100);
        let answers = bench.converse(&[&set, &range, "D"]);
        assert!(answers[1].contains(name), "{answers:?}");
        assert!(answers[1].contains(&swapped("10", work + 3)), "{answers:?}");
    }

    // A range that is never left.
    let mut bench = Bench::new(1);
    let range = format!("vCont;r{:x},{:x}:1;c", work, entry + 0x100);
    bench.send(&packet("qSupported"));
    bench.send(b"+");
    bench.send(&packet("QStartNoAckMode"));
    bench.send(b"+");
    bench.send(&packet(&range));
    bench.send(b"\x03");
    bench.wire.borrow_mut().later.push_back(packet("D"));
    bench.stopped(LINE);
    let answers = bodies(&bench.received());
    assert!(answers[2].starts_with("T02"), "{answers:?}");
}

#[test]
fn noise_in_a_range_step_takes_neither_the_interrupt_nor_the_step_away() {
    let (entry, work) = (guest().entry, guest().work);
    // A range that is never left.
    let range = format!("vCont;r{:x},{:x}:1;c", work, entry + 0x100);
    let step_through = |noise: &[&[u8]]| {
        let mut bench = Bench::new(1);
        bench.send(&packet("qSupported"));
        bench.send(b"+");
        bench.send(&packet("QStartNoAckMode"));
        bench.send(b"+");
        bench.send(&packet(&range));
        {
            let mut wire = bench.wire.borrow_mut();
            wire.later.extend(noise.iter().map(|bytes| bytes.to_vec()));
            wire.later.push_back(packet("qC"));
            wire.later.push_back(packet("D"));
        }
        bench.send(b"$");
        bench.stopped(LINE);
        bodies(&bench.received()).split_off(2)
    };
    for interrupt in [&b"\x03"[..], b"x\x03", b"#\x03", b"$\x03"] {
        let answers = step_through(&[interrupt]);
        assert!(answers[0].starts_with("T02"), "{answers:?}");
        assert_eq!(answers[1..], ["QC1", "OK"]);
    }
    // Nothing follows for 11 seconds: then the step ends where it is.
    let answers = step_through(&[&b""[..]; 11_000]);
    assert!(answers[0].starts_with("T05"), "{answers:?}");
    assert_eq!(answers[1..], ["QC1", "OK"]);
    // A new client wants to hear of no step.
    let opens = packet("qSupported");
    let answers = step_through(&[&opens, b"+"]);
    assert!(answers[0].starts_with("PacketSize="), "{answers:?}");
    assert_eq!(answers[1..], ["QC1", "OK"]);
}

#[test]
fn noise_before_a_running_client_s_interrupt_does_not_take_it_away() {
    let mut bench = attached(&[]);
    bench.received();
    bench.send(b"$");
    assert_eq!(bench.session.poll(), Poll::Stop);
    bench.wire.borrow_mut().later.push_back(b"\x03".to_vec());
    bench.wire.borrow_mut().later.push_back(packet("D"));
    assert_eq!(bench.stopped(LINE), Resume::Detached);
    let answers = bodies(&bench.received());
    assert!(answers[0].starts_with("T02"), "{answers:?}");
}

/// A register of a stop reply, as it is on the wire.
fn swapped(number: &str, value: u64) -> String {
    let digits: String = value
        .to_le_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{number}:{digits};")
}

#[test]
fn a_step_from_a_breakpoint_executes_what_is_under_it() {
    let entry = guest().entry;
    let mut bench = Bench::new(1);
    let answers = bench.converse(&[&format!("Z0,{entry:x},1"), "vCont;s:1", "vCont;c"]);
    assert!(
        answers[1].contains(&swapped("10", entry + 5)),
        "{answers:?}"
    );
    // The breakpoint is still there when the guest comes round.
    let stop = (0..10).find_map(|_| bench.machine.run_slice(&bench.session));
    assert_eq!(
        stop,
        Some(StopReason {
            kind: StopKind::SoftwareBreakpoint,
            ..LINE
        })
    );
}

#[test]
fn memory_is_read_and_written_under_breakpoints_and_across_pages() {
    let mut bench = Bench::new(1);
    // Two breakpoints either side of a page boundary, in data.
    let page = support::guest::BASE + 0x9000;
    let (before, after) = (page - 1, page);
    let answers = bench.converse(&[
        &format!("M{:x},4:11223344", page - 2),
        &format!("Z0,{before:x},1"),
        &format!("Z0,{after:x},1"),
        &format!("m{:x},4", page - 2),
        &format!("M{:x},4:55667788", page - 2),
        &format!("m{:x},4", page - 2),
        &monitor("breakpoints"),
        &format!("z0,{before:x},1"),
        &format!("z0,{after:x},1"),
        &format!("m{:x},4", page - 2),
        "D",
    ]);
    assert_eq!(answers[3], "11223344");
    assert_eq!(answers[5], "55667788");
    let text = console(&answers);
    assert!(
        text.contains("over 0x66") && text.contains("over 0x77"),
        "{text}"
    );
    assert_eq!(answers[answers.len() - 2], "55667788");
}

#[test]
fn a_packet_of_the_announced_size_is_taken_and_half_of_it_can_be_read() {
    use support::guest::BASE;

    let mut bench = Bench::new(1);
    bench.send(&packet("qSupported"));
    bench.send(&packet("D"));
    bench.stopped(LINE);
    let features = bodies(&bench.received()).remove(0);
    let size = features
        .strip_prefix("PacketSize=")
        .and_then(|rest| rest.split(';').next())
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .unwrap();

    let read = format!("m{BASE:x},{:x}", size / 2);
    let count = (size - "Mffffffff81009000,00000:".len()) / 2;
    let header = format!("M{:x},{count:05x}:", BASE + 0x9000);
    let write = format!("{header}{}", "5a".repeat(count));
    assert_eq!(write.len(), size);
    let answers = bench.converse(&[&read, &write, "D"]);
    assert_eq!(answers[0].len(), size, "{}", answers[0]);
    assert_eq!(answers[1..], ["OK", "OK"]);
}

#[test]
fn memory_can_be_had_in_binary() {
    let mut bench = Bench::new(1);
    let page = support::guest::BASE + 0x9000;
    let answers = bench.converse(&[
        &format!("M{:x},6:2a247d2341cc", page - 2),
        &format!("Z0,{:x},1", page + 2),
        &format!("x{:x},6", page - 2),
        &format!("x{:x},0", page),
        &format!("x{:x},1000", page + 0x100),
        "x10,4",
        &format!("x{:x},8", support::guest::BASE + 0xfffe),
        "x,",
        "D",
    ]);
    assert_eq!(answers[2], "b}\u{a}}\u{4}}\u{5d}}\u{3}A\u{cc}");
    assert_eq!(answers[3], "b");
    assert_eq!(answers[4], format!("b{}", "\0".repeat(0x1000)));
    assert_eq!(answers[5..8], ["E0e", "b\0\0", "E16"]);
}

#[test]
fn a_breakpoint_that_the_guest_overwrote_is_left_alone() {
    let work = guest().work;
    let mut bench = attached(&[&format!("Z0,{work:x},1")]);
    let at = bench
        .machine
        .memory
        .iter()
        .position(|&byte| byte == 0xcc)
        .unwrap();
    bench.machine.memory[at] = 0x90;
    let answers = interrupt(
        &mut bench,
        &[
            &format!("m{work:x},1"),
            &format!("z0,{work:x},1"),
            &monitor("breakpoints"),
            "D",
        ],
    );
    assert_eq!(answers[..2], ["90", "OK"]);
    assert!(console(&answers).contains("1 were overwritten by the guest"));
    assert_eq!(bench.machine.memory[at], 0x90);
}

#[test]
fn the_hypervisors_memory_is_shown_as_it_is() {
    let work = guest().work;
    let mut bench = attached(&[&format!("Z0,{work:x},1")]);
    // The fake has one memory: what matters is whose addresses these are.
    bench.machine.cpus[1].activity = CpuActivity::Hypervisor { rip: 0x1042 };
    let read = format!("m{work:x},1");
    let set = format!("Z0,{:x},1", work + 3);
    let answers = interrupt(&mut bench, &[&read, "Hg2", &read, &set, "D"]);
    // Nor is a breakpoint meant for it put into the guest's.
    assert_eq!(answers[..4], ["48", "OK", "cc", "E0e"]);
}

#[test]
fn an_int3_has_an_owner() {
    let work = guest().work;
    let mut bench = attached(&[&format!("Z0,{work:x},1")]);
    let ours = bench
        .machine
        .memory
        .iter()
        .position(|&byte| byte == 0xcc)
        .unwrap() as u64;
    bench.machine.memory[0x100] = 0xcc;
    let owner = |bench: &mut Bench, gpa| bench.session.int3_owner(&mut bench.machine, gpa);
    assert_eq!(owner(&mut bench, ours), Int3Owner::Client);
    assert_eq!(owner(&mut bench, 0x100), Int3Owner::Guest);
    interrupt(&mut bench, &["D"]);
    assert_eq!(owner(&mut bench, ours), Int3Owner::Gone);
}

#[test]
fn a_stop_that_outlived_its_client_ends_at_once() {
    let mut bench = Bench::new(2);
    for kind in [
        StopKind::SoftwareBreakpoint,
        StopKind::HardwareBreakpoint(0),
        StopKind::Watchpoint(1),
    ] {
        assert_eq!(bench.stopped(StopReason { kind, ..LINE }), Resume::Detached);
    }
}

#[test]
fn too_many_breakpoints_are_refused() {
    let mut bench = Bench::new(1);
    let packets: Vec<String> = (0..65)
        .map(|n| format!("Z0,{:x},1", support::guest::BASE + 0x8000 + n))
        .collect();
    let mut all: Vec<&str> = packets.iter().map(String::as_str).collect();
    all.extend(["Z0,10,1", "D"]);
    let answers = bench.converse(&all);
    assert_eq!(answers[63..66], ["OK", "E1c", "E0e"]);
    assert!(bench.machine.memory.iter().all(|&byte| byte != 0xcc));
}

#[test]
fn a_fault_in_the_hypervisor_is_told_to_the_client_and_waits_for_one() {
    let fault = StopKind::HostFault {
        vector: 14,
        error: 2,
        rip: 0x1042,
        cr2: 0xdead,
    };
    let mut bench = attached(&[]);
    bench.machine.cpus[1].activity = CpuActivity::Hypervisor { rip: 0x1042 };
    bench.send(&packet("D"));
    bench.received();
    bench.stopped(StopReason {
        cpu: CpuIndex(1),
        kind: fault,
    });
    let answers = bodies(&bench.received());
    assert_eq!(
        console(&answers),
        "CPU 1: exception 14 in the hypervisor, error code 0x2, at <core::fault>+0x42, \
         address 0xdead\n"
    );
    assert!(
        answers[1].starts_with("T0b") && answers[1].contains("thread:2;"),
        "{}",
        answers[1]
    );

    // Nobody is attached: noise does not let a panicked machine go, a client does.
    let mut bench = Bench::new(2);
    bench.machine.cpus[1].activity = CpuActivity::Hypervisor { rip: 0x1042 };
    bench.send(b"noise");
    let threads = "qXfer:threads:read::0,1000";
    bench.send(&packet("qSupported"));
    for body in ["?", threads, &monitor("cpus"), "D"] {
        bench.send(b"+");
        bench.send(&packet(body));
    }
    bench.stopped(StopReason {
        cpu: CpuIndex(1),
        kind: StopKind::HostPanic,
    });
    let answers = bodies(&bench.received());
    assert!(
        answers[1].starts_with("T06") && answers[1].contains("thread:2;"),
        "{}",
        answers[1]
    );
    assert_eq!(
        answers[2],
        "l<threads><thread id=\"2\" name=\"cpu1\">in hypervisor at &lt;core::fault&gt;+0x42\
         </thread><thread id=\"1\" name=\"cpu0\">guest 64-bit CPL 0</thread></threads>"
    );
    assert!(console(&answers).starts_with("CPU 1: the hypervisor panicked"));
}

#[test]
fn a_stuck_transmitter_does_not_hold_the_machine_for_ever() {
    let mut bench = Bench::new(1);
    bench.wire.borrow_mut().stuck = true;
    bench.send(&packet("qSupported"));
    bench.send(&packet("D"));
    assert_eq!(bench.stopped(LINE), Resume::Detached);
}

#[test]
fn a_cpu_without_a_context_has_no_registers_and_cannot_be_stepped() {
    let mut bench = Bench::new(3);
    let answers = bench.converse(&["Hg3", "p0", "p10", "vCont;s:3", "D"]);
    assert_eq!(answers[0], "OK");
    assert_eq!(answers[1], "xxxxxxxxxxxxxxxx");
    assert!(
        console(&answers).contains("error: CPU 2 cannot be stepped"),
        "{answers:?}"
    );
    assert!(answers[4].starts_with("T05thread:3;"), "{answers:?}");
}

#[test]
fn wait_for_the_first_client_has_no_end_but_one() {
    let mut bench = Bench::new(1);
    bench.send(&packet("qSupported"));
    bench.send(b"+");
    bench.send(&packet("vCont;c"));
    let resume = bench.stopped(StopReason {
        kind: StopKind::Wait,
        ..LINE
    });
    assert_eq!(resume, Resume::Continue);
    assert!(bench.session.is_attached());
}

#[test]
fn the_description_can_be_read_in_any_pieces() {
    let mut bench = Bench::new(1);
    let whole = bench
        .converse(&["qXfer:features:read:target.xml:0,1000", "D"])
        .remove(0);
    let mut joined = String::from("l");
    let mut more = true;
    while more {
        let ask = format!("qXfer:features:read:target.xml:{:x},1ff", joined.len() - 1);
        let piece = bench.converse(&[&ask, "D"]).remove(0);
        more = piece.starts_with('m');
        joined.push_str(&piece[1..]);
    }
    assert_eq!(joined, whole);
}

#[test]
fn kill_lets_the_machine_go_as_detach_does() {
    for (body, answers) in [("k", vec![]), ("vKill;a410", vec!["OK".to_owned()])] {
        let work = guest().work;
        let mut bench = Bench::new(1);
        let set = format!("Z0,{work:x},1");
        assert_eq!(bench.converse(&[&set, body]).split_off(1), answers);
        assert!(!bench.session.is_attached() && !bench.machine.int3_exits);
    }
}
