//! A real GDB against the stub, over TCP, with a fake machine behind: what a person
//! does, and what it costs on the wire.

mod support;

use std::thread;
use std::time::Duration;

use support::client::{monitor, packet};
use support::tcp::{Cost, Server, cost, cut_at, finish_gdb, kill};

#[track_caller]
fn assert_shows(text: &str, expected: &str) {
    assert!(
        text.contains(expected),
        "expected {expected:?} in what gdb printed:\n{text}"
    );
}

#[track_caller]
fn assert_lacks(text: &str, unexpected: &str) {
    assert!(
        !text.contains(unexpected),
        "{unexpected:?} in what gdb printed:\n{text}"
    );
}

#[test]
fn threads_are_cpus_and_say_what_each_was_doing() {
    let server = Server::start(4);
    let text = server.gdb(&["info threads", "thread 2", "p/x $gs_base", "detach"]);
    assert_shows(&text, "Thread 1 \"cpu0\" (guest 64-bit CPL 0)");
    assert_shows(&text, "Thread 4 \"cpu3\" (wait-for-SIPI)");
    // GS base tells the CPUs apart.
    assert_shows(&text, "$1 = 0xffff888000000001");
    assert!(server.guest_lives());
    server.finish();
}

#[test]
fn every_register_is_shown_and_the_writable_ones_are_written() {
    let server = Server::start(1);
    let text = server.gdb(&[
        "info all-registers",
        "set $r9 = 0x123456789abcdef0",
        "set $xmm3.v2_int64[1] = -2",
        "set $st0 = 1.5",
        "set $k_gs_base = 0x7777",
        "set $cs = 0x33",
        "set $mxcsr = 0x1f80",
        "printf \"%#lx %ld %.1f %#lx %#x %#x\\n\", $r9, $xmm3.v2_int64[1], $st0, $k_gs_base, $cs, $mxcsr",
        "set $cr0 = 0x80000000",
        "set $vmx_pin = 0",
        "flushregs",
        "p/x $r9",
        "detach",
    ]);
    assert_lacks(&text, "warning");
    for shown in [
        "cr3            0x1000000",
        "efer           0xd01",
        "vmx_pin        0x3e",
    ] {
        assert_shows(&text, shown);
    }
    assert_shows(&text, "0x123456789abcdef0 -2 1.5 0x7777 0x33 0x1f80");
    assert_shows(&text, "Could not write register \"cr0\"");
    assert_shows(&text, "Could not write register \"vmx_pin\"");
    assert_shows(&text, "= 0x123456789abcdef0");
    let machine = server.finish();
    let registers = &machine.cpus[0].registers;
    assert_eq!(registers.kernel_gs_base, 0x7777);
    assert_eq!(
        registers.cr0, 0x8005_0033,
        "what would break VM entry is not written"
    );
    assert_eq!(
        i64::from_le_bytes(registers.fxsave.xmm(3)[8..].try_into().unwrap()),
        -2
    );
}

#[test]
fn memory_is_read_and_written_across_pages_and_a_bad_address_is_an_error() {
    let server = Server::start(1);
    let text = server.gdb(&[
        "set {long}0xffffffff81003ffc = 0x1122334455667788",
        "x/2xw 0xffffffff81003ffc",
        "x/xb 0xffffffff81004003",
        "x/xb 0x10",
        "set {char}0x10 = 1",
        "x/20xb 0xffffffff8100fff8",
        "p counter",
        "detach",
    ]);
    assert_shows(&text, "0x55667788\t0x11223344");
    assert_shows(&text, "0xffffffff81004003:\t0x11");
    assert_shows(&text, "Cannot access memory at address 0x10");
    assert_shows(&text, "Cannot access memory at address 0xffffffff81010000");
    server.finish();
}

#[test]
fn a_breakpoint_is_hit_on_each_cpu_and_is_not_seen_in_memory() {
    let server = Server::start(2);
    let text = server.gdb(&[
        "set breakpoint always-inserted on",
        "break work",
        "continue",
        "bt",
        "x/4xb work",
        "monitor xp /1xb 0x2e000",
        "monitor breakpoints",
        "break work thread 2",
        "delete 1",
        "continue",
        "info threads",
        "delete",
        "detach",
    ]);
    assert_shows(&text, "hit Breakpoint 1, work ()");
    assert_shows(&text, "#0  work () at");
    assert_shows(&text, "#1  0xffffffff81000015 in _start () at");
    assert_shows(&text, "<work>:\t0x48\t0xff\t0xc0\t0x48");
    assert_shows(&text, "INT3  gva 0xffffffff8100");
    assert_shows(&text, "hit Breakpoint 2, work ()");
    assert_shows(&text, "* 2    Thread 2");
    assert!(server.guest_lives());
    let machine = server.finish();
    assert!(!machine.int3_exits && machine.guest_breakpoints == 0);
}

#[test]
fn stepping_goes_into_over_and_out_of_a_call() {
    let server = Server::start(2);
    let text = server.gdb(&[
        "hbreak again",
        "continue",
        "delete",
        // Neither the first nor the last round.
        "set $rcx = 3",
        "x/i $pc",
        "stepi",
        "x/i $pc",
        "finish",
        "next",
        "next",
        "next",
        "stepi 20",
        "p 1234",
        "detach",
    ]);
    assert_shows(&text, "=> 0xffffffff81000010 <_start+5>:\tcall");
    assert_shows(&text, "<work>:\tinc    %rax");
    // `stepi` goes into the call, `finish` out of it, and `next` over it.
    let over = ["22\t", "23\t", "21\t", "22\t"];
    let lines: Vec<&str> = text
        .split("Run till exit")
        .last()
        .unwrap()
        .lines()
        .filter_map(|l| l.get(..3))
        .collect();
    assert!(lines.windows(4).any(|window| window == over), "{text}");
    assert_shows(&text, "= 1234");
    assert!(server.guest_lives());
    assert!(server.finish().steps > 20);
}

#[test]
fn watchpoints_stop_after_the_write() {
    let server = Server::start(2);
    let text = server.gdb(&[
        "watch counter",
        "continue",
        "continue",
        "delete",
        "awatch *(char*)&counter",
        "continue",
        "delete",
        "detach",
    ]);
    assert_shows(&text, "Hardware watchpoint 1: counter");
    assert_shows(&text, "Old value = ");
    assert_shows(&text, "hit Hardware access (read/write) watchpoint 2");
    // The instruction after the one that writes.
    assert_shows(&text, "asm volatile(\"nop\");");
    assert!(server.guest_lives());
    assert!(server.finish().hardware.is_empty());
}

#[test]
fn a_fifth_hardware_breakpoint_is_refused() {
    let server = Server::start(1);
    let text = server.gdb(&[
        "set breakpoint always-inserted on",
        "hbreak *0xffffffff81000000",
        "hbreak *0xffffffff81000005",
        "hbreak *0xffffffff8100000a",
        "hbreak *0xffffffff8100000d",
        "hbreak *0xffffffff8100000f",
        "delete",
        "detach",
    ]);
    assert_shows(&text, "Cannot insert hardware breakpoint 5");
    assert_lacks(&text, "Cannot insert hardware breakpoint 4");
    assert!(server.finish().hardware.is_empty());
}

#[test]
fn attaches_and_detaches_again_and_again() {
    let server = Server::start(2);
    for _ in 0..5 {
        assert_lacks(&server.gdb(&["break work", "continue", "detach"]), "rror");
        assert!(server.guest_lives());
    }
    assert!(!server.finish().int3_exits);
}

#[test]
fn ctrl_c_stops_a_running_guest() {
    let server = Server::start(2);
    let gdb = server.spawn_gdb(&["continue", "info threads", "detach"]);
    // `vCont;c` has gone up: GDB waits for the machine.
    wait_for(&server, "vCont;c");
    kill("INT", gdb.id());
    let text = finish_gdb(gdb);
    assert_shows(&text, "received signal SIGINT");
    assert_shows(&text, "Thread 2 \"cpu1\"");
    assert!(server.guest_lives());
    server.finish();
}

#[test]
fn the_next_client_finds_nothing_of_one_that_was_killed() {
    let server = Server::start(2);
    // Killed while the machine runs, with breakpoints in it.
    let mut gdb = server.spawn_gdb(&["break _start if 0", "continue"]);
    wait_for(&server, "vCont;c");
    gdb.kill().unwrap();
    gdb.wait().unwrap();
    let text = server.gdb(&["monitor breakpoints", "x/xb _start", "detach"]);
    assert_shows(&text, "none now");
    assert_shows(&text, "<_start>:\t0xb9");
    assert!(server.guest_lives());

    // Killed while the machine is stopped: it waits for the next one. What the one before it sent is
    // not to be taken for its own.
    server.take_record();
    let mut gdb = server.spawn_gdb(&["hbreak work", "continue", "shell sleep 5"]);
    wait_for(&server, "qXfer:threads:read::0,1000");
    thread::sleep(Duration::from_millis(300));
    gdb.kill().unwrap();
    gdb.wait().unwrap();
    assert_shows(&server.gdb(&["bt", "detach"]), "#0 ");
    assert!(server.guest_lives());
    assert!(server.finish().hardware.is_empty());
}

/// Waits until this packet has gone up the line.
fn wait_for(server: &Server, body: &str) {
    let mark = packet(body);
    let mut seen = Vec::new();
    for _ in 0..1000 {
        seen.extend(
            server
                .take_record()
                .into_iter()
                .filter(|(up, _)| *up)
                .map(|(_, byte)| byte),
        );
        if seen.windows(mark.len()).any(|window| window == mark) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("gdb never sent {body}; it sent {}", seen.escape_ascii());
}

#[test]
fn monitor_commands_print_through_gdb() {
    let server = Server::start(2);
    let text = server.gdb(&["monitor", "monitor help xp", "monitor nonsense", "detach"]);
    assert_shows(&text, "exits        VM exits so far");
    assert_shows(&text, "monitor xp [/NFS] ADDR");
    assert_shows(&text, "error: there is no command `nonsense`");
    server.finish();
}

/// What each of these commands costs, measured between two marks.
#[test]
fn the_wire_budgets_hold() {
    const MARK: &str = "monitor mark";
    let server = Server::start(4);
    let text = server.gdb(&[
        MARK,
        "hbreak again",
        "continue",
        "delete",
        MARK,
        "stepi",
        MARK,
        "stepi",
        MARK,
        "info threads",
        MARK,
        "dump binary memory /dev/null 0xffffffff81001000 0xffffffff81002000",
        MARK,
        "advance again",
        MARK,
        "next",
        MARK,
        "detach",
    ]);
    let record = server.take_record();
    let parts = cut_at(&record, &monitor("mark"));
    let [connect, _, stepi, stepi_again, threads, memory, _, next, _] = &parts[..] else {
        panic!("{} parts in\n{text}", parts.len());
    };
    // Each of the rest begins with the answer to the mark before it: 110 bytes or so.
    println!(
        "{}{}{}",
        support::tcp::listing(connect),
        support::tcp::listing(stepi),
        support::tcp::listing(threads)
    );
    println!("connect {:?}", cost(connect));
    println!("stepi   {:?} {:?}", cost(stepi), cost(stepi_again));
    println!("threads {:?}", cost(threads));
    println!("memory  {:?}", cost(memory));
    println!("next    {:?}", cost(next));
    let within = |part: &[(bool, u8)], round_trips| {
        let Cost {
            round_trips: measured,
            ..
        } = cost(part);
        assert!(
            measured <= round_trips,
            "{measured} round trips, {round_trips} allowed:\n{text}"
        );
    };
    let total = |cost: Cost| cost.up + cost.down;
    within(connect, 20);
    assert!(total(cost(connect)) <= 4000, "{:?}", cost(connect));
    within(stepi, 5);
    within(stepi_again, 5);
    within(next, 22);
    within(threads, 18);
    within(memory, 2);
    server.finish();
}
