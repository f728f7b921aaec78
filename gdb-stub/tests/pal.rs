//! The guest's isolated programs: what `monitor pal` shows of them, and that their
//! memory is closed to the client until it asks for it.

mod support;

use gdb_stub::machine::{
    CpuActivity, CpuIndex, GuestMode, PageOwner, PalInfo, PalPaging, PalParameter, PalSection,
    PalState, SectionKind,
};
use gdb_stub::{StopKind, StopReason};
use support::client::{Bench, bodies, console, monitor, packet};
use support::guest::BASE;
use support::machine::FakeMachine;
use support::tcp::Server;

/// The physical page behind a page of the fake guest, counted from [`BASE`].
fn physical(page: u64) -> u64 {
    0x1_0000 + (15 - page) * 0x2000
}

/// The page that the tests give a PAL: the guest's data.
const DATA: u64 = 2;

/// Where a secret of the PAL's lies in it, and what it is.
const SECRET_AT: u64 = 0x800;
const SECRET: [u8; 4] = [0x5e, 0xc2, 0xe7, 0x11];

fn parts<T: Copy>(listed: &[T]) -> [Option<T>; 10] {
    core::array::from_fn(|n| listed.get(n).copied())
}

/// PALs 0 and 2. CPU 1 is inside the first, whose data is the guest's counter.
fn add_pals(machine: &mut FakeMachine) {
    let section = |kind, start, pages| PalSection { kind, start, pages };
    let first = PalInfo {
        id: 0,
        owner_cr3: 0x2a1_0005,
        mode: GuestMode::Long64,
        paging: PalPaging::Level4,
        entry: 0x40_1000,
        state: PalState::Running(CpuIndex(1)),
        sections: parts(&[
            section(SectionKind::Code, 0x40_1000, 1),
            section(SectionKind::Data, BASE + 0x1000 * DATA, 1),
            section(SectionKind::Stack, 0x7fff_0000, 16),
        ]),
        parameters: parts(&[PalParameter::Integer, PalParameter::Pointer { bytes: 32 }]),
        pcrs: core::array::from_fn(|n| [n as u8 + 0xa0; 20]),
        calls: 12,
        decoy_reads: 3,
        refused_writes: 1,
    };
    let second = PalInfo {
        id: 2,
        mode: GuestMode::Compatibility,
        paging: PalPaging::Pae,
        state: PalState::Registering,
        ..first
    };
    machine.pals = vec![Some(first), None, Some(second)];
    machine.cpus[1].activity = CpuActivity::Pal {
        id: 0,
        mode: GuestMode::Long64,
    };
    let data = PageOwner::Pal {
        id: 0,
        kind: SectionKind::Data,
        gva: BASE + 0x1000 * DATA,
    };
    machine.owners.insert(physical(DATA), data);
    machine
        .owners
        .insert(physical(9), PageOwner::PalTables { id: 0 });
    machine.owners.insert(0x6000, PageOwner::Hypervisor);
    machine.memory[(physical(DATA) + SECRET_AT) as usize..][..4].copy_from_slice(&SECRET);
}

fn bench() -> Bench {
    let mut bench = Bench::new(2);
    add_pals(&mut bench.machine);
    bench
}

/// What one command prints, in a stop of its own.
fn run(bench: &mut Bench, command: &str) -> String {
    let answers = bench.converse(&[&monitor(command), "D"]);
    console(&answers)
}

#[test]
fn pals_are_listed_and_shown_one_by_one() {
    let mut bench = bench();
    let digest = "a0".repeat(20);
    assert_eq!(
        run(&mut bench, "pal"),
        format!(
            "\
PAL  owner CR3     code    paging   entry             pages  state        CPU  PCR0
  0  000002a10005  64-bit  4-level  0000000000401000     18  running        1  {digest}
  2  000002a10005  32-bit  PAE      0000000000401000     18  registering    -  {digest}
"
        )
    );
    let text = run(&mut bench, "pal 0");
    let expected = "\
PAL 0: running on CPU 1, 64-bit code, 4-level paging, entry 0x401000, owner's CR3 0x2a10005
calls: 12; from outside: 3 reads of a decoy, 1 refused writes
section      pages  start
code             1  0000000000401000
data             1  ffffffff81002000
stack           16  000000007fff0000
parameters: integer, pointer to 32 bytes
PCR 0        a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0
PCR 1        a1a1";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(text.lines().count(), 15);
    assert_eq!(run(&mut Bench::new(1), "pal"), "no PAL is registered\n");
    assert!(run(&mut bench, "cpus").contains("PAL 0 64-bit\n"));
    assert!(run(&mut bench, "help pal").contains("pal kill N"));
}

#[test]
fn a_page_has_an_owner() {
    let mut bench = bench();
    for (page, owner) in [
        (0x7000, "the guest's"),
        (0x6000, "the hypervisor's own"),
        (physical(9), "PAL 0's: page tables"),
        (
            physical(DATA),
            "PAL 0's: data, gva 0xffffffff81002000 there",
        ),
    ] {
        assert_eq!(
            run(&mut bench, &format!("pal page {:#x}", page + 0xfff)),
            format!("page {page:#x}: {owner}\n")
        );
    }
}

#[test]
fn what_cannot_be_done_to_a_pal_is_an_error_that_changes_nothing() {
    let mut bench = bench();
    for (command, error) in [
        ("pal 1", "there is no PAL 1; `monitor pal` lists them\n"),
        ("pal kill 0x100000002", "there is no PAL 4294967298;"),
        ("pal kill 2", "PAL 2 is being registered; let it finish\n"),
        ("pal kill", "N is missing\nusage: monitor pal [N|"),
        ("pal kill 0 1", "`1` does not belong there\n"),
        ("pal unlock 0", "`0` does not belong there\n"),
        ("pal page", "ADDR is missing\n"),
        ("pal frob", "`frob` is not a number"),
    ] {
        let text = run(&mut bench, command);
        assert!(
            text.starts_with(&format!("error: {error}")),
            "{command}: {text}"
        );
    }
    assert_eq!(bench.machine.pals.iter().flatten().count(), 2);
    let read = format!("m{:x},1", BASE + 0x1000 * DATA);
    assert_eq!(bench.converse(&[&read, "D"])[0], "E01");
}

#[test]
fn a_pal_is_killed_and_its_pages_are_the_guests() {
    let mut bench = bench();
    assert_eq!(
        run(&mut bench, "pal kill 0"),
        "PAL 0 is ended, its memory wiped; its caller on CPU 1 gets a fault\n"
    );
    assert!(run(&mut bench, "pal 0").starts_with("error: there is no PAL 0"));
    assert!(run(&mut bench, "pal page 0x2a000").ends_with("the guest's\n"));
}

#[test]
fn a_pals_memory_is_closed_until_it_is_unlocked_and_again_after() {
    let mut bench = bench();
    let secret = BASE + 0x1000 * DATA + SECRET_AT;
    let gpa = physical(DATA) + SECRET_AT;
    let accesses = [
        format!("m{secret:x},4"),
        format!("x{secret:x},4"),
        format!("M{secret:x},1:5e"),
        format!("X{secret:x},1:A"),
        format!("Z0,{secret:x},1"),
        monitor(&format!("xp /4xb {gpa:#x}")),
        monitor(&format!("wp /b {gpa:#x} 0x5e")),
    ];
    let refused = format!("error: {gpa:#x}: PAL 0's memory, closed until `monitor pal unlock`\n");
    let before = bench.machine.memory.clone();
    for access in &accesses {
        let answers = bench.converse(&[access, "D"]);
        if access.starts_with("qRcmd") {
            assert_eq!(console(&answers), refused, "{access}");
        } else {
            assert_eq!(answers[0], "E01", "{access}");
        }
    }
    assert!(bench.machine.memory == before, "something was written");

    let unlock = monitor("pal unlock");
    let (lock, z0) = (monitor("pal lock"), format!("z0,{secret:x},1"));
    let read = &accesses[0];
    let answers = bench.converse(&[
        &unlock,
        read,
        &accesses[2],
        &accesses[4],
        &z0,
        &accesses[5],
        &lock,
        read,
        &unlock,
        "D",
    ]);
    let replies: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.starts_with('O') || *answer == "OK")
        .collect();
    assert_eq!(
        replies,
        [
            "OK", "5ec2e711", "OK", "OK", "OK", "OK", "OK", "E01", "OK", "OK"
        ]
    );
    assert!(console(&answers).contains(": 0x5e 0xc2 0xe7 0x11\n"));
    // The client that unlocked has gone, and with it what it was allowed.
    assert_eq!(bench.converse(&[read, "D"])[0], "E01");
    // Nor does a client inherit it from one that never left.
    bench.converse(&[&unlock, "c"]);
    assert_eq!(bench.converse(&[read, "D"])[0], "E01");
}

#[test]
fn what_lies_before_a_closed_page_is_read_and_what_crosses_into_it_is_not_written() {
    let mut bench = bench();
    let data = BASE + 0x1000 * DATA;
    let start = physical(DATA) as usize;
    let page = bench.machine.memory[start..][..0x1000].to_vec();
    let answers = bench.converse(&[
        &format!("m{:x},8", data - 4),
        &format!("M{:x},8:0102030405060708", data - 4),
        &format!("m{:x},8", data + 0xffc),
        "D",
    ]);
    // GDB asks for the rest by itself.
    assert_eq!(answers[0].len(), 8, "{answers:?}");
    assert_eq!(answers[1..3], ["E0e", "E01"]);
    // Physical neighbours: the second page is the closed one.
    bench.machine.memory[start - 1] = 0x77;
    let text = run(&mut bench, &format!("xp /2xb {:#x}", start - 1));
    assert!(
        text.contains(": 0x77\nerror: 0x2a000: PAL 0's memory"),
        "{text}"
    );
    let text = run(&mut bench, &format!("wp /b {:#x} 1 2", start - 1));
    assert!(text.contains("PAL 0's memory"), "{text}");
    assert_eq!(bench.machine.memory[start - 1], 0x77);
    assert_eq!(bench.machine.memory[start..][..0x1000], page);
    // A PAL's page tables are its memory, too.
    let text = run(&mut bench, &format!("xp {:#x}", physical(9)));
    assert!(text.contains("PAL 0's memory"), "{text}");
}

#[test]
fn a_stop_inside_a_pal_says_that_its_memory_is_closed() {
    let mut bench = bench();
    let stopped = |bench: &mut Bench, cpu, kind| {
        // Somebody is attached and has let the machine run.
        bench.converse(&["c"]);
        bench.send(b"\x03");
        let later = &bench.wire;
        later.borrow_mut().later.push_back(packet("D"));
        bench.stopped(StopReason {
            cpu: CpuIndex(cpu),
            kind,
        });
        bodies(&bench.received())
    };
    // Whichever CPU the stop arose on.
    for cpu in [0, 1] {
        let told = stopped(&mut bench, cpu, StopKind::DebugLine);
        assert_eq!(
            console(&told[..1]),
            "CPU 1 is inside PAL 0, whose memory stays closed until `monitor pal unlock`\n"
        );
        assert!(told[1].starts_with("T02"), "{told:?}");
    }
    // Not after each step, and not with nobody inside.
    let told = stopped(&mut bench, 1, StopKind::Step);
    assert!(told[0].starts_with("T05"), "{told:?}");
    bench.machine.cpus[1].activity = CpuActivity::Halted;
    let told = stopped(&mut bench, 0, StopKind::DebugLine);
    assert!(told[0].starts_with("T02"), "{told:?}");
}

#[test]
fn gdb_shows_who_is_inside_and_is_refused_its_memory() {
    let server = Server::start_with(2, add_pals);
    let text = server.gdb(&[
        "info threads",
        "p counter",
        "set breakpoint always-inserted on",
        "break *&counter",
        "delete",
        "monitor pal unlock",
        "x/4xb 0xffffffff81002800",
        "monitor pal lock",
        "x/4xb 0xffffffff81002800",
        "detach",
    ]);
    for shown in [
        "Thread 2 \"cpu1\" (PAL 0 64-bit)",
        "Cannot access memory at address 0xffffffff81002000",
        "Cannot insert breakpoint 1.",
        "0xffffffff81002800:\t0x5e\t0xc2\t0xe7\t0x11",
        "Cannot access memory at address 0xffffffff81002800",
    ] {
        assert!(text.contains(shown), "expected {shown:?} in:\n{text}");
    }
    server.finish();
}
