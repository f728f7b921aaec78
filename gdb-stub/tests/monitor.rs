//! What the monitor commands print, and what the few that change something change.

mod support;

use gdb_stub::machine::{CpuActivity, CpuIndex};
use stillpoint_quiesce::LedgerCounts;
use support::client::{Bench, console, monitor};
use support::guest::guest;

/// What one command prints.
fn run(bench: &mut Bench, command: &str) -> String {
    let answers = bench.converse(&[&monitor(command), "D"]);
    assert_eq!(answers[answers.len() - 2..], ["OK", "OK"], "{command}");
    console(&answers)
}

fn run_new(command: &str) -> String {
    run(&mut Bench::new(2), command)
}

#[test]
fn help_lists_every_command_and_an_empty_line_is_help() {
    let text = run_new("help");
    assert_eq!(run_new(""), text);
    assert_eq!(run_new("  "), text);
    let expected = "\
help         lists the commands, or explains one
vmcs         shows VMCSs, NMI state first; sets and checks fields
cpus         why the machine is stopped, and what each CPU was doing
log          the hypervisor's last N log lines (40)
trace        the last N things that happened to the CPUs (40)
regs         the hypervisor's own registers on a CPU
xp           dumps guest physical memory: xp /16xb 0x7c00
wp           writes guest physical memory: wp /b 0x7c00 0x90
gva2gpa      the guest physical address of a virtual one
msr          reads or writes an MSR by number or name: msr lstar
nmi          what became of every NMI; owes the guest on a CPU one
pal          isolated programs, whose memory is whose; ends one
exits        VM exits so far, by reason and CPU
breakpoints  what the stub has set, and where
arch         how to look at 16-bit and 32-bit code
version      which Stillpoint this is
`monitor help COMMAND` says more. CPU is a number from 0; without it,
the CPU of GDB's current thread is meant (thread N is CPU N-1).
";
    assert_eq!(text, expected);
    for line in text.lines().take(16) {
        let name = line.split(' ').next().unwrap();
        let help = run_new(&format!("help {name}"));
        assert!(help.starts_with(&format!("monitor {name} ")), "{help}");
        assert!(help.lines().count() >= 2, "{help}");
    }
    assert!(run_new("help vmcs").contains("vmcs check [CPU]"));
    assert_eq!(run_new("help rdmsr"), run_new("help msr"));
    assert_eq!(run_new("help arch16"), run_new("help arch"));
}

#[test]
fn what_cannot_be_done_names_cause_and_remedy() {
    let cases = [
        (
            "frobnicate",
            "error: there is no command `frobnicate`; `monitor help` lists them\n",
        ),
        (
            "xp",
            "error: ADDR is missing\nusage: monitor xp [/NFS] ADDR\n",
        ),
        (
            "xp 7c00h",
            "error: `7c00h` is not a number; write 123, or 0x7b in hexadecimal\n\
             usage: monitor xp [/NFS] ADDR\n",
        ),
        (
            "xp /16q 0",
            "error: `/16q` does not belong there\nusage: monitor xp [/NFS] ADDR\n",
        ),
        ("xp 0 1", "00000000"),
        (
            "xp 0x100000000",
            "error: 0x100000000: nothing is mapped there\n",
        ),
        (
            "wp 0x100",
            "error: VALUE is missing\nusage: monitor wp [/S] ADDR VALUE…\n",
        ),
        ("wp /b 0x100 0x123", "error: `0x123` is not a number"),
        ("nmi 2", "error: there is no such CPU; CPUs are 0 to 1\n"),
        ("exits 7", "error: there is no such CPU; CPUs are 0 to 1\n"),
        (
            "regs guest",
            "error: `guest` does not belong there\nusage: monitor regs host [CPU]\n",
        ),
        ("msr 0x123", "error: 0x123: the processor answers #GP\n"),
        ("msr lstra", "error: `lstra` does not belong there\n"),
        ("gva2gpa 0x10", "error: 0x10: nothing is mapped there\n"),
        ("help me", "error: `me` does not belong there\n"),
    ];
    for (command, expected) in cases {
        let text = run_new(command);
        assert!(text.contains(expected), "{command}: {text}");
    }
}

#[test]
fn physical_memory_is_dumped_and_written() {
    let mut bench = Bench::new(1);
    assert_eq!(
        run(&mut bench, "wp /b 0x7c00 0xeb 0x3c 144"),
        "3 bytes written at 0x7c00\n"
    );
    assert_eq!(bench.machine.memory[0x7c00..0x7c04], [0xeb, 0x3c, 0x90, 0]);
    assert_eq!(
        run(&mut bench, "xp /18xb 0x7c00"),
        "0000000000007c00: 0xeb 0x3c 0x90 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 \
         0x00 0x00\n0000000000007c10: 0x00 0x00\n"
    );
    assert_eq!(
        run(&mut bench, "xp 0x7c00"),
        "0000000000007c00: 0x00903ceb\n"
    );
    // The end of memory is inside this dump.
    let text = run(&mut bench, "xp /4xg 0x7fff0");
    assert!(text.starts_with("000000000007fff0: 0x0000000000000000 0x0000000000000000\n"));
    assert!(
        text.ends_with("error: 0x80000: nothing is mapped there\n"),
        "{text}"
    );
}

#[test]
fn msrs_are_read_and_written_by_name_and_number_on_any_cpu() {
    let mut bench = Bench::new(2);
    let lstar = guest().work;
    assert_eq!(
        run(&mut bench, "msr lstar"),
        format!("CPU 0: MSR 0xc0000082 lstar = {lstar:#018x}\n")
    );
    assert_eq!(
        run(&mut bench, "msr 0x10 0x1234 @1"),
        "CPU 1: MSR 0x10 tsc = 0x0000000000001234\n"
    );
    assert_eq!(bench.machine.cpus[1].msrs[&0x10], 0x1234);
    assert_eq!(bench.machine.cpus[0].msrs[&0x10], 1);
    // One that has no name here.
    bench.machine.cpus[0].msrs.insert(0x8b, 5);
    assert_eq!(
        run(&mut bench, "msr 0x8b"),
        "CPU 0: MSR 0x8b = 0x0000000000000005\n"
    );
}

#[test]
fn an_msr_that_can_only_be_written_is() {
    let mut bench = Bench::new(1);
    assert_eq!(
        run(&mut bench, "wrmsr 0x49 1"),
        "CPU 0: MSR 0x49 is written; it cannot be read\n"
    );
    assert_eq!(bench.machine.cpus[0].msrs[&0x49], 1);
    assert!(run(&mut bench, "rdmsr 0x49").starts_with("error: 0x49: "));
}

#[test]
fn a_command_with_an_error_changes_nothing() {
    let mut bench = Bench::new(2);
    let state = |bench: &Bench| {
        let cpus: Vec<_> = bench.machine.cpus.iter().collect();
        let cpus = cpus.iter().map(|cpu| (&cpu.vmcs, cpu.ledger, &cpu.msrs));
        (
            bench.machine.memory.clone(),
            format!("{:?}", cpus.collect::<Vec<_>>()),
        )
    };
    let before = state(&bench);
    for command in [
        "nmi 0 1",
        "nmi 0 x",
        "wp /b 0x100 1 2 zz",
        "wp /b 0x100 1 0x100",
        // Memory ends after the first.
        "wp /g 0x7fff8 1 2",
        "msr lstar 1 2",
        "msr lstar 1 @1 @2",
        "wrmsr lstar 1 x",
        "vmcs set guest_rip 1 0 0",
        "vmcs set guest_rip 1 x",
        "vmcs set guest_rip 1 2",
        "vmcs set pin_based_controls 0",
    ] {
        let text = run(&mut bench, command);
        assert!(text.starts_with("error: "), "{command}: {text}");
        assert!(state(&bench) == before, "{command} changes something");
    }
}

#[test]
fn an_nmi_is_owed_to_the_cpu_that_was_named() {
    let mut bench = Bench::new(2);
    assert_eq!(run(&mut bench, "nmi 1"), "CPU 1: the guest is owed 1 NMI\n");
    assert_eq!(
        run(&mut bench, "nmi 1"),
        "CPU 1: the guest is owed 2 NMIs\n"
    );
    assert_eq!(
        (
            bench.machine.cpus[0].ledger.owed,
            bench.machine.cpus[1].ledger.owed
        ),
        (0, 2)
    );
    // Owed, a kick out, merged, the stop it has joined.
    assert!(run(&mut bench, "vmcs 1").contains(" 2     0     0      13\n"));
}

#[test]
fn the_ledger_of_nmis_adds_up_or_says_what_does_not() {
    let mut bench = Bench::new(2);
    let ledger = LedgerCounts {
        in_guest: 100_000,
        in_hypervisor: 20,
        asked: 1,
        kicks_sent: 12,
        kicks_consumed: 11,
        kick_outstanding: true,
        owed: 2,
        injected: 100_007,
        merged: 1,
    };
    bench.machine.cpus[0].ledger = ledger;
    let expected = "\
cpu  taken in  taken in      NMIs     kicks     kicks     kicks      NMIs      NMIs      NMIs
        guest   hyperv.     asked      sent  consumed       out      owed  injected    merged
  0    100000        20         1        12        11         1         2    100007         1
  1         0         0         0         0         0         0         0         0         0
all    100000        20         1        12        11         1         2    100007         1
balances: each NMI and each kick is accounted for, once
";
    assert_eq!(run(&mut bench, "nmi"), expected);

    type Change = fn(&mut LedgerCounts);
    // Each number is in one of the sums: one more of it does not go unseen.
    let changes: [(Change, &str); 9] = [
        (
            |l| l.in_guest += 1,
            "100022 NMIs came (in guest, in hypervisor, asked), and there went \
            (kicks consumed, owed, injected, merged) 100021: 1 lost",
        ),
        (|l| l.in_hypervisor += 1, "1 lost"),
        (|l| l.asked += 1, "1 lost"),
        (|l| l.owed -= 1, "1 lost"),
        (|l| l.injected += 3, "3 invented"),
        (|l| l.merged += 1, "1 invented"),
        (|l| l.kicks_consumed -= 1, "1 lost"),
        (
            |l| l.kicks_sent += 1,
            "13 kicks were sent, and there are consumed or out 12: 1 lost",
        ),
        (|l| l.kick_outstanding = false, "1 lost"),
    ];
    for (change, verdict) in changes {
        bench.machine.cpus[1].ledger = ledger;
        change(&mut bench.machine.cpus[1].ledger);
        let text = run(&mut bench, "nmi");
        assert!(text.contains("\nCPU 1 does not balance: "), "{text}");
        assert!(text.ends_with(&format!("{verdict}\n")), "{verdict}: {text}");
        assert!(!text.contains("balances:"), "{text}");
    }
}

#[test]
fn cpus_says_why_and_where() {
    let mut bench = Bench::new(3);
    bench.machine.cpus[1].activity = CpuActivity::Halted;
    assert_eq!(
        run(&mut bench, "cpus"),
        format!(
            "CPU 0: stopped from the debug line\n\
             * CPU 0  rip {0:016x}  cr3 000001000000  guest 64-bit CPL 0\n\
             \x20 CPU 1  rip {0:016x}  cr3 000001000000  guest halted\n\
             \x20 CPU 2  wait-for-SIPI\n",
            guest().entry
        )
    );
}

#[test]
fn the_log_shows_its_end_unless_told() {
    let text = run_new("log");
    assert!(
        text.starts_with("(20 earlier lines: `monitor log all`)\nline 21\n"),
        "{text}"
    );
    assert!(text.ends_with("line 60\n"));
    assert_eq!(
        run_new("log 2"),
        "(58 earlier lines: `monitor log all`)\nline 59\nline 60\n"
    );
    assert_eq!(run_new("log all").lines().count(), 60);
}

#[test]
fn the_trace_shows_its_end_of_one_cpu_or_all() {
    let mut bench = Bench::new(2);
    bench.machine.trace = (0..50)
        .map(|n| {
            (
                n * 1_000_001,
                CpuIndex(u16::from(n % 5 == 0)),
                format!("event {n}"),
            )
        })
        .collect();
    let text = run(&mut bench, "trace");
    assert!(
        text.starts_with(
            "(10 earlier events: `monitor trace all all`)\n\
             \x20          us  cpu  event\n\
             \x20   10000.010    1  event 10\n\
             \x20   11000.011    0  event 11\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("   49000.049    0  event 49\n"), "{text}");
    assert_eq!(run(&mut bench, "trace all all").lines().count(), 51);
    assert_eq!(
        run(&mut bench, "trace 1 2"),
        "(8 earlier events: `monitor trace 1 all`)\n\
         \x20          us  cpu  event\n\
         \x20   40000.040    1  event 40\n\
         \x20   45000.045    1  event 45\n"
    );
    assert_eq!(run(&mut bench, "trace 1").lines().count(), 11);
    assert!(run(&mut bench, "trace 2").contains("there is no such CPU"));
    assert!(run(&mut bench, "trace all x").contains("is not a number"));
}

#[test]
fn exits_are_counted_by_reason_and_cpu() {
    let text = run_new("exits");
    assert!(
        text.starts_with("CPU 0: 107 VM exits\n           100  10 CPUID\n"),
        "{text}"
    );
    assert!(text.contains("CPU 1: 108 VM exits"));
    assert!(!run_new("exits 0").contains("CPU 1"));
}

#[test]
fn the_vmcs_is_shown_set_and_compared() {
    let mut bench = Bench::new(2);
    assert!(run(&mut bench, "vmcs").lines().count() >= 3);
    assert!(run(&mut bench, "vmcs guest_rip 1").contains("GUEST_RIP"));
    run(&mut bench, "vmcs set guest_rip 0x1234 1");
    let text = run(&mut bench, "vmcs guest_rip 1");
    assert!(text.contains("1234"), "{text}");
    assert!(!run(&mut bench, "vmcs guest_rip 0").contains("1234"));
    // Against what it was when the machine last went on.
    run(&mut bench, "vmcs");
    let answers = bench.converse(&[
        &monitor("vmcs set guest_rip 0x5678 1"),
        &monitor("vmcs diff 1"),
        &monitor("vmcs set guest_rip 0x9abc"),
        "D",
    ]);
    let text = console(&answers);
    assert!(text.contains("1234") && text.contains("5678"), "{text}");
    // What would break VM entry is refused.
    let text = run(&mut bench, "vmcs set pin_based_controls 0");
    assert!(text.contains("error"), "{text}");
    assert!(run(&mut bench, "vmcs check").contains("cpu 0"));
}

#[test]
fn output_ends_when_the_client_asks_something_else() {
    let mut bench = Bench::new(2);
    // The next packet is on the line before the answer to this one is out.
    let mut both = support::client::packet(&monitor("xp /4096xg 0"));
    both.extend(support::client::packet("qC"));
    bench.wire.borrow_mut().later.push_back(both);
    let answers = {
        bench.send(&support::client::packet("qSupported"));
        bench.send(b"+");
        bench.send(&support::client::packet("QStartNoAckMode"));
        bench.send(b"+");
        bench
            .wire
            .borrow_mut()
            .later
            .push_back(support::client::packet("D"));
        bench.stopped(gdb_stub::StopReason {
            cpu: gdb_stub::CpuIndex(0),
            kind: gdb_stub::StopKind::DebugLine,
        });
        support::client::bodies(&bench.received())
    };
    let after: Vec<_> = answers
        .iter()
        .skip(2)
        .filter(|body| !body.starts_with("O2"))
        .collect();
    assert!(answers.len() < 12, "{} packets", answers.len());
    assert_eq!(after[after.len() - 2..], ["QC1", "OK"], "{answers:?}");
}
