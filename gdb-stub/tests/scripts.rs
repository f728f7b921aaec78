//! The commands of `gdb-scripts`, in a real GDB.

mod support;

use std::path::Path;

use gdb_stub::machine::{CpuActivity, GuestMode};
use support::guest::guest;
use support::tcp::Server;

/// Runs GDB with the scripts loaded.
fn scripted(server: &Server, commands: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gdb-scripts/stillpoint.py");
    let source = format!("source {}", script.display());
    let mut all = vec![source.as_str()];
    all.extend(commands);
    server.gdb(&all)
}

#[track_caller]
fn assert_shows(text: &str, expected: &str) {
    assert!(
        text.contains(expected),
        "expected {expected:?} in what gdb printed:\n{text}"
    );
}

#[test]
fn symbols_follow_the_kernel_wherever_it_is() {
    let server = Server::start(2);
    let work = guest().work;
    let (moved, again) = (work + 0x1240_0000, work + 0x60_0000);
    let text = scripted(
        &server,
        &[
            "p/x (long)&work",
            "stillpoint-symbols",
            &format!("monitor msr lstar {moved}"),
            "stillpoint-symbols",
            "p/x (long)&work",
            "stillpoint-symbols",
            "p/x (long)&work",
            &format!("monitor msr lstar {again}"),
            "stillpoint-symbols",
            "p/x (long)&work",
            &format!("monitor msr lstar {}", again + 8),
            "stillpoint-symbols",
            "monitor msr lstar 0",
            "stillpoint-symbols",
            &format!("stillpoint-symbols {}", guest().elf.display()),
            "symbol-file",
            "stillpoint-symbols",
            "detach",
        ],
    );
    assert_shows(&text, &format!("$1 = {work:#x}"));
    assert_shows(&text, "The kernel is 0x0 above");
    assert_shows(&text, "The kernel is 0x12400000 above");
    assert_shows(&text, &format!("$2 = {moved:#x}"));
    assert_shows(&text, &format!("$3 = {moved:#x}"));
    assert_shows(&text, &format!("$4 = {again:#x}"));
    assert_shows(&text, "does not fit the kernel that runs");
    assert_shows(&text, "the kernel has not set up its system calls yet");
    assert_shows(&text, "no symbol entry_SYSCALL_64");
    server.finish();
}

#[test]
fn code_and_registers_are_shown_in_sixteen_and_thirty_two_bits_and_back() {
    let server = Server::start(1);
    let text = scripted(
        &server,
        &[
            "p sizeof($pc)",
            "set $rax = 0x1111222233334444",
            "stillpoint-arch 16",
            "p sizeof($pc)",
            "p/x $eax",
            "set $ebx = 0x87654321",
            "show architecture",
            "monitor wp /b 0x7c00 0xb8 0x34 0x12 0xeb 0xfe 0xcd 0x13",
            "x/2i 0x7c00",
            "stillpoint-arch 32",
            "p/x $rax",
            "p/x $ebx",
            "show architecture",
            "x/i 0x7c00",
            "stillpoint-arch 64",
            "p/x $rbx",
            "p sizeof($pc)",
            "show architecture",
            "stepi",
            "bt 1",
            "stillpoint-symbols",
            "stillpoint-arch 8",
            "detach",
        ],
    );
    for shown in [
        "$1 = 8",
        "$2 = 4",
        "$3 = 0x33334444",
        "(currently \"i8086\")",
        "mov    $0x1234,%ax",
        "$4 = 0x1111222233334444",
        "$5 = 0x87654321",
        "(currently \"i386\")",
        "mov    $0xfeeb1234,%eax",
        // A write to the lower half clears the upper, as the processor does it.
        "$6 = 0x87654321",
        "$7 = 8",
        "(currently \"i386:x86-64\")",
        "The kernel is 0x0 above",
        "stillpoint-arch takes 16, 32 or 64",
    ] {
        assert_shows(&text, shown);
    }
    assert!(
        !text.contains("too long") && !text.contains("warning"),
        "{text}"
    );
    assert!(server.guest_lives());
    server.finish();
}

#[test]
fn files_may_have_spaces_and_quotes_in_their_names() {
    let folder = std::env::temp_dir().join(format!("still \"point\" {}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let image = folder.join("an image");
    std::fs::copy(&guest().elf, &image).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gdb-scripts");
    for name in ["stillpoint.py", "stillpoint_trace.py", "stillpoint-16.xml"] {
        std::fs::copy(scripts.join(name), folder.join(name)).unwrap();
    }
    // In Python, for `source` and the arguments of commands have quoting of their own.
    let script = format!(
        "python gdb.execute('source ' + r'{}')",
        folder.join("stillpoint.py").display()
    );
    let name = image.display().to_string().replace('"', "\\\"");
    let server = Server::start(1);
    let moved = guest().work + 0x1240_0000;
    let text = server.gdb(&[
        &script,
        &format!("monitor msr lstar {moved}"),
        &format!("stillpoint-symbols \"{name}\""),
        "p/x (long)&work",
        &format!("stillpoint-host \"{name}\""),
        "stillpoint-arch 16",
        "show architecture",
        "stillpoint-arch 64",
        "detach",
    ]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_shows(&text, "The kernel is 0x12400000 above");
    assert_shows(&text, &format!("$1 = {moved:#x}"));
    assert_shows(&text, "The hypervisor's symbols are loaded.");
    assert_shows(&text, "(currently \"i8086\")");
    server.finish();
}

#[test]
fn attach_brings_the_symbols_along() {
    let server = Server::start(1);
    let text = scripted(
        &server,
        &[
            "disconnect",
            &format!("stillpoint-attach localhost:{}", server.port),
            "bt 1",
            "detach",
        ],
    );
    assert_shows(&text, "The kernel is 0x0 above");
    assert_shows(&text, "#0  ");
    assert!(!text.contains("PAL"), "{text}");
    server.finish();
}

#[test]
fn attach_names_the_cpus_inside_a_pal() {
    let server = Server::start_with(2, |machine| {
        machine.cpus[1].activity = CpuActivity::Pal {
            id: 7,
            mode: GuestMode::Compatibility,
        };
    });
    let text = scripted(
        &server,
        &[
            "disconnect",
            &format!("stillpoint-attach localhost:{}", server.port),
            "detach",
        ],
    );
    assert_shows(&text, "CPU 1 is inside PAL 7, whose memory stays closed");
    server.finish();
}
