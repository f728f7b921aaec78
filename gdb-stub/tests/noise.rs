//! Whatever comes on the line, the stub does not panic, the machine is not altered,
//! and the next client finds everything as it should be.

mod support;

use gdb_stub::machine::CpuIndex;
use gdb_stub::{Poll, StopKind, StopReason};
use proptest::prelude::*;
use support::client::{Bench, monitor, packet_bytes};
use support::guest::guest;

const LINE: StopReason = StopReason {
    cpu: CpuIndex(0),
    kind: StopKind::DebugLine,
};

/// Packets that ask a lot and change nothing.
fn harmless() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = [
        "qSupported:multiprocess+;swbreak+",
        "QStartNoAckMode",
        "?",
        "g",
        "p10",
        "Hg2",
        "Hc-1",
        "qC",
        "qfThreadInfo",
        "qXfer:features:read:target.xml:0,1000",
        "qXfer:threads:read::0,1000",
        "qThreadExtraInfo,1",
        "mffffffff81000000,40",
        "vCont?",
        "T2",
        "qAttached",
        "z0,ffffffff81000000,1",
        "z2,ffffffff81002000,8",
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .chain(
        [
            "help",
            "vmcs",
            "vmcs all",
            "cpus",
            "xp /16xb 0x7c00",
            "msr lstar",
            "exits",
        ]
        .map(|command| monitor(command).into_bytes()),
    )
    .collect();
    proptest::sample::select(seeds)
}

/// A packet with a few bytes replaced, and a sum that is right for what it now says.
/// What would write or move the machine is left out.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (harmless(), changes, 0_usize..40).prop_map(|(mut body, changes, cut)| {
        for (index, byte) in changes {
            let n = index.index(body.len());
            body[n] = byte;
        }
        if cut < 8 {
            body.truncate(body.len().saturating_sub(cut));
        }
        if cut > 36 {
            body.extend(std::iter::repeat_n(b'0', 9000));
        }
        let moves = matches!(
            body.first(),
            Some(b'X' | b'M' | b'G' | b'P' | b'Z' | b'c' | b'C' | b's' | b'S' | b'k' | b'D')
        ) || body.starts_with(b"vCont;")
            || body.starts_with(b"vKill")
            || body.starts_with(b"qRcmd");
        let raw = body.iter().any(|byte| matches!(byte, b'$' | b'#'));
        if moves || raw {
            packet_bytes(b"?")
        } else {
            packet_bytes(&body)
        }
    })
}

/// Packets of every kind, writes and moves included, with any numbers in them. Range
/// steps are left out: they may have no end.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        Just(String::new()),
        Just("-1".to_owned()),
        any::<u64>().prop_map(|n| format!("{n:x}")),
        (0_u64..0x100).prop_map(|n| format!("{n:x}")),
        (0_u64..0x1_0000).prop_map(|n| format!("{:x}", 0xffff_ffff_8100_0000 + n)),
        Just("ffffffffffffffff".to_owned()),
        "[0-9a-f]{0,40}",
    ];
    let name = prop::sample::select(vec![
        "m",
        "M",
        "X",
        "p",
        "P",
        "G",
        "g",
        "H",
        "Hg",
        "Hc",
        "T",
        "Z0,",
        "Z1,",
        "Z2,",
        "Z3,",
        "Z4,",
        "z0,",
        "z1,",
        "z2,",
        "z4,",
        "vCont;s:",
        "vCont;c:",
        "vCont;S05:",
        "vCont;t:",
        "vCont;",
        "c",
        "s",
        "C",
        "S",
        "qThreadExtraInfo,",
        "qXfer:threads:read::",
        "qXfer:features:read:target.xml:",
        "qRcmd,",
        "vKill;",
        "D;",
        "k",
        "D",
        "qAttached:",
        "?",
        "QStartNoAckMode",
        "vAttach;",
        "vRun;",
        "bc",
        "bs",
        "qCRC:",
        "qSearch:memory:",
        "!",
        "R",
    ]);
    let separator = prop::sample::select(vec!["", ",", ":", ";", "=", ",,", "p", "."]);
    (name, proptest::collection::vec((number, separator), 0..4)).prop_map(|(name, parts)| {
        let mut body = name.to_owned();
        for (number, separator) in parts {
            body.push_str(&number);
            body.push_str(separator);
        }
        packet_bytes(body.as_bytes())
    })
}

/// Bytes as a bad line would make them: few of them look like a packet.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => any::<u8>(),
        1 => prop::sample::select(b"$#+-\x03".to_vec()),
    ];
    proptest::collection::vec(byte, 0..200)
}

/// What the machine is, as far as a client could have changed it.
fn state(bench: &Bench) -> (Vec<u8>, Vec<gdb_stub::Registers>, bool, bool) {
    let machine = &bench.machine;
    (
        machine.memory.clone(),
        machine.cpus.iter().map(|cpu| cpu.registers).collect(),
        machine.int3_exits,
        machine.hardware.is_empty(),
    )
}

/// Attaches as GDB does and looks around.
fn a_client_can_work(bench: &mut Bench) -> Result<(), TestCaseError> {
    let work = guest().work;
    let answers = bench.converse(&[
        "?",
        "qXfer:threads:read::0,1000",
        &format!("m{work:x},4"),
        &format!("Z0,{work:x},1"),
        &format!("z0,{work:x},1"),
        "D",
    ]);
    prop_assert!(answers[0].starts_with("T05"), "{:?}", answers);
    prop_assert!(answers[1].starts_with("l<threads>"), "{:?}", answers);
    prop_assert_eq!(&answers[2..], ["48ffc048", "OK", "OK", "OK"]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn garbage_on_an_idle_line_leaves_no_trace(bytes in garbage()) {
        let mut bench = Bench::new(2);
        let before = state(&bench);
        bench.send(&bytes);
        if bench.session.poll() == Poll::Stop {
            // A garbled line that happens to open a session is left by hand.
            bench.wire.borrow_mut().later.push_back(packet_bytes(b"qSupported"));
            bench.wire.borrow_mut().later.push_back(packet_bytes(b"D"));
            bench.stopped(LINE);
        }
        bench.wire.borrow_mut().up.clear();
        bench.wire.borrow_mut().later.clear();
        prop_assert!(!bench.session.is_attached());
        prop_assert_eq!(state(&bench), before);
        a_client_can_work(&mut bench)?;
    }

    #[test]
    fn mutated_packets_are_answered_and_change_nothing(
        packets in proptest::collection::vec(mutated(), 1..12),
        between in garbage(),
    ) {
        let mut bench = Bench::new(2);
        let before = state(&bench);
        bench.send(&packet_bytes(b"qSupported"));
        bench.send(b"+");
        // Between packets: what stays short of a whole one.
        let between: Vec<u8> = between.into_iter().filter(|byte| *byte != b'#').collect();
        {
            let mut wire = bench.wire.borrow_mut();
            for packet in packets {
                wire.later.push_back(between.clone());
                wire.later.push_back(packet);
                wire.later.push_back(b"+".to_vec());
            }
            wire.later.push_back(packet_bytes(b"D"));
        }
        bench.stopped(LINE);
        prop_assert!(!bench.session.is_attached());
        prop_assert_eq!(state(&bench), before);
        bench.wire.borrow_mut().up.clear();
        a_client_can_work(&mut bench)?;
    }

    #[test]
    fn whatever_a_client_asks_it_gets_answers(
        packets in proptest::collection::vec(anything(), 1..12),
    ) {
        let mut bench = Bench::new(2);
        bench.send(&packet_bytes(b"qSupported"));
        bench.send(b"+");
        bench.send(&packet_bytes(b"QStartNoAckMode"));
        bench.send(b"+");
        bench.wire.borrow_mut().later.extend(packets);
        // Some of those let the machine go; then a client comes anew.
        for body in ["qSupported", "?", "D"] {
            bench.wire.borrow_mut().later.push_back(packet_bytes(body.as_bytes()));
        }
        while !bench.wire.borrow().later.is_empty() {
            bench.stopped(LINE);
        }
        bench.wire.borrow_mut().up.clear();
        let answers = bench.converse(&["?", "qC", "D"]);
        prop_assert!(answers[0].starts_with("T0"), "{:?}", answers);
        prop_assert_eq!(&answers[1..], ["QC1", "OK"]);
        prop_assert!(!bench.machine.int3_exits && bench.machine.hardware.is_empty());
    }

    #[test]
    fn every_monitor_line_ends_and_harms_nothing(words in proptest::collection::vec(
        prop_oneof![
            prop::sample::select(vec![
                "help", "vmcs", "cpus", "log", "regs", "host", "xp", "/16xb", "/4096xg", "gva2gpa",
                "msr", "lstar", "exits", "breakpoints", "arch", "version", "all", "diff", "check",
                "0", "1", "99", "@1", "@9", "0xffffffffffffffff", "0x7fff0", "18446744073709551616",
                "guest_", "guest_rip",
            ]).prop_map(str::to_owned),
            "[ -~]{0,12}",
        ],
        0..5,
    )) {
        let command = words.join(" ");
        // Those that write are tested with what they write.
        let writes = ["wp", "nmi", "wrmsr", "set"];
        prop_assume!(!writes.iter().any(|word| command.contains(word)));
        let mut bench = Bench::new(2);
        let before = state(&bench);
        let answers = bench.converse(&[&monitor(&command), "D"]);
        prop_assert!(answers.len() >= 3, "`{}` prints nothing: {:?}", command, answers);
        prop_assert_eq!(&answers[answers.len() - 2..], ["OK", "OK"]);
        prop_assert_eq!(state(&bench), before);
    }
}
