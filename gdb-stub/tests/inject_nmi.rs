//! `gdb-scripts/inject_nmi.py`: through the stub on a debug line, and by QMP with a
//! server in the test.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use support::tcp::Server;

fn inject_nmi(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gdb-scripts/inject_nmi.py");
    Command::new("python3")
        .arg(script)
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_sent(output: &Output, count: u32) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(text.trim(), format!("{count} NMIs sent"));
}

#[track_caller]
fn assert_refused(output: &Output, why: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(why), "expected {why:?} in {errors}");
    // A line for a person, no stack of calls.
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

/// Speaks `script` to one client: lines beginning with `<` are expected from it, the
/// others are sent. True when it went like that and the client then left.
fn qmp_server(script: &'static [&'static str]) -> (String, JoinHandle<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(TcpStream::try_clone(&stream).unwrap()).lines();
        for line in script {
            match line.strip_prefix('<') {
                Some(expected) => {
                    let got = lines.next().and_then(Result::ok);
                    if got.as_deref() != Some(expected) {
                        return false;
                    }
                }
                None => writeln!(stream, "{line}").unwrap(),
            }
        }
        lines.next().is_none()
    });
    (address, thread)
}

const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
const CAPABILITIES: &str = r#"<{"execute": "qmp_capabilities"}"#;
const INJECT: &str = r#"<{"execute": "inject-nmi"}"#;
const DONE: &str = r#"{"return": {}}"#;

#[test]
fn each_nmi_reaches_the_machine_through_the_stub() {
    let server = Server::start(2);
    let port = server.port.to_string();
    let output = inject_nmi(&[
        "--port",
        &port,
        "--cpus",
        "1",
        "--count",
        "3",
        "--interval",
        "0",
    ]);
    assert_sent(&output, 3);
    assert!(server.guest_lives());
    let machine = server.finish();
    assert_eq!(machine.cpus[0].ledger.asked, 0);
    assert_eq!(machine.cpus[1].ledger.asked, 3);
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let server = Server::start(2);
    let port = server.port.to_string();
    let output = inject_nmi(&["--port", &port, "--cpus", "9", "--count", "2"]);
    assert_refused(&output, "there is no such CPU");
}

#[test]
fn qmp_is_spoken_as_qemu_wants_it() {
    const EVENT: &str = r#"{"event": "RESUME", "timestamp": {}}"#;
    let (address, server) = qmp_server(&[
        GREETING,
        CAPABILITIES,
        DONE,
        INJECT,
        EVENT,
        DONE,
        INJECT,
        DONE,
    ]);
    let output = inject_nmi(&["--qmp", &address, "--count", "2", "--interval", "0"]);
    assert_sent(&output, 2);
    assert!(server.join().unwrap());
}

#[test]
fn what_qemu_refuses_is_said() {
    const ERROR: &str = r#"{"error": {"class": "GenericError", "desc": "no NMI here"}}"#;
    let (address, server) = qmp_server(&[GREETING, CAPABILITIES, DONE, INJECT, ERROR]);
    assert_refused(&inject_nmi(&["--qmp", &address]), "no NMI here");
    assert!(server.join().unwrap());
}

#[test]
fn what_is_no_qmp_server_is_said() {
    let (address, server) = qmp_server(&["220 mail ready"]);
    assert_refused(&inject_nmi(&["--qmp", &address]), "no QMP server");
    assert!(server.join().unwrap());
    // Nobody listens there any more.
    assert_refused(&inject_nmi(&["--qmp", &address]), "cannot connect");
}
