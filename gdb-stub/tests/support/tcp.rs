//! A serial line over TCP for a real GDB, with everything that passes written down.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gdb_stub::{CpuIndex, Poll, SerialPort, Session, StopKind, StopReason};

use super::guest::guest;
use super::machine::FakeMachine;

/// Sends a signal to a process. By the shell: a machine need not have the program `kill`.
pub fn kill(signal: &str, id: u32) {
    let command = format!("kill -{signal} {id}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success());
}

/// What passed on the line: bytes, each with whether it went up to the stub.
type Record = Arc<Mutex<Vec<(bool, u8)>>>;

/// The stub's end. Like a serial line it does not tell when a client goes.
struct TcpPort {
    listener: TcpListener,
    client: Option<TcpStream>,
    record: Record,
    start: Instant,
}

impl SerialPort for TcpPort {
    fn try_read(&mut self) -> Option<u8> {
        if let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            self.client = Some(stream);
        }
        let mut byte = [0];
        match self.client.as_mut()?.read(&mut byte) {
            Ok(1) => {
                self.record.lock().unwrap().push((true, byte[0]));
                Some(byte[0])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_micros(50));
                None
            }
            _ => {
                self.client = None;
                None
            }
        }
    }

    fn try_write(&mut self, byte: u8) -> bool {
        self.record.lock().unwrap().push((false, byte));
        if let Some(stream) = &mut self.client {
            // A byte to nobody is lost, as on a serial line.
            while let Err(error) = stream.write_all(&[byte])
                && error.kind() == ErrorKind::WouldBlock
            {}
        }
        true
    }

    fn now_us(&mut self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// A machine that runs in a thread of its own, with a debug line on a TCP port.
pub struct Server {
    pub port: u16,
    record: Record,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<FakeMachine>>,
    /// The guest's counter, as of late.
    counter: Arc<Mutex<u64>>,
}

impl Server {
    pub fn start(cpus: usize) -> Self {
        Self::start_with(cpus, |_| {})
    }

    /// The same with a machine that `change` has changed.
    pub fn start_with(cpus: usize, change: fn(&mut FakeMachine)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = Record::default();
        let end = Arc::new(AtomicBool::new(false));
        let counter = Arc::new(Mutex::new(0));
        let line = TcpPort {
            listener,
            client: None,
            record: Arc::clone(&record),
            start: Instant::now(),
        };
        let (ended, count) = (Arc::clone(&end), Arc::clone(&counter));
        let thread = thread::spawn(move || {
            let mut machine = FakeMachine::new(cpus);
            change(&mut machine);
            run(machine, line, &ended, &count)
        });
        Self {
            port,
            record,
            end,
            thread: Some(thread),
            counter,
        }
    }

    /// Whether the guest makes progress.
    pub fn guest_lives(&self) -> bool {
        let count = || *self.counter.lock().unwrap();
        let before = count();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if count() != before {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Takes down the machine, which must be running, and returns it.
    pub fn finish(mut self) -> FakeMachine {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    /// What passed on the line since the last call.
    pub fn take_record(&self) -> Vec<(bool, u8)> {
        std::mem::take(&mut self.record.lock().unwrap())
    }

    /// Starts GDB on this line with these commands.
    pub fn spawn_gdb(&self, commands: &[&str]) -> Child {
        let mut gdb = Command::new("gdb");
        gdb.args([
            "-nx",
            "-batch",
            "-ex",
            "set confirm off",
            "-ex",
            "set height 0",
            // Not 2 s: GDB would send its packet again to a stub that the host does not let run.
            "-ex",
            "set remotetimeout 30",
        ])
        .arg(&guest().elf)
        .args(["-ex", &format!("target remote localhost:{}", self.port)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        for command in commands {
            gdb.args(["-ex", command]);
        }
        gdb.spawn()
            .expect("gdb is needed for this test: apt-get install gdb")
    }

    /// Runs GDB to its end; what it printed, both streams.
    pub fn gdb(&self, commands: &[&str]) -> String {
        finish_gdb(self.spawn_gdb(commands))
    }
}

/// Waits for GDB, a minute at most.
pub fn finish_gdb(mut gdb: Child) -> String {
    let id = gdb.id();
    let watchdog_end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&watchdog_end);
    let (mut out, mut err) = (gdb.stdout.take().unwrap(), gdb.stderr.take().unwrap());
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).unwrap();
        text
    });
    let watchdog = thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ended.load(Ordering::Relaxed) {
            if Instant::now() > deadline {
                kill("KILL", id);
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let mut text = Vec::new();
    out.read_to_end(&mut text).unwrap();
    gdb.wait().unwrap();
    watchdog_end.store(true, Ordering::Relaxed);
    text.extend(errors.join().unwrap());
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        !watchdog.join().unwrap(),
        "gdb did not end within a minute; it printed:\n{text}"
    );
    text
}

fn run(
    mut machine: FakeMachine,
    line: TcpPort,
    end: &AtomicBool,
    counter: &Mutex<u64>,
) -> FakeMachine {
    let mut session = Box::new(Session::new(line));
    while !end.load(Ordering::Relaxed) {
        let mut stop = machine.run_slice(&session);
        if stop.is_none() && session.poll() == Poll::Stop {
            stop = Some(StopReason {
                cpu: CpuIndex(0),
                kind: StopKind::DebugLine,
            });
        }
        if let Some(reason) = stop {
            session.stopped(&mut machine, reason);
        }
        *counter.lock().unwrap() = machine.counter();
    }
    machine
}

/// What a stretch of the line cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub round_trips: u32,
    pub up: usize,
    pub down: usize,
}

/// Counts bytes, and packets of the client that were followed by an answer.
pub fn cost(record: &[(bool, u8)]) -> Cost {
    let mut cost = Cost::default();
    let mut open = false;
    for &(up, byte) in record {
        if up {
            cost.up += 1;
            open |= byte == b'$';
        } else {
            cost.down += 1;
            if open && byte == b'$' {
                cost.round_trips += 1;
                open = false;
            }
        }
    }
    cost
}

/// Cuts a record at the client's packets that have this body, which are left out.
pub fn cut_at(record: &[(bool, u8)], body: &str) -> Vec<Vec<(bool, u8)>> {
    let mark = super::client::packet(body);
    let ups: Vec<usize> = (0..record.len()).filter(|&n| record[n].0).collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for window in ups.windows(mark.len()) {
        if window
            .iter()
            .zip(&mark)
            .all(|(&n, &byte)| record[n].1 == byte)
        {
            parts.push(record[start..window[0]].to_vec());
            start = window[mark.len() - 1] + 1;
        }
    }
    parts.push(record[start..].to_vec());
    parts
}

/// The packets of a record, one a line with its size, for a person to read.
pub fn listing(record: &[(bool, u8)]) -> String {
    let mut text = String::new();
    let mut rest = record;
    while let Some(&(up, _)) = rest.first() {
        let length = rest
            .iter()
            .position(|&(other, _)| other != up)
            .unwrap_or(rest.len());
        let bytes: Vec<u8> = rest[..length].iter().map(|&(_, byte)| byte).collect();
        let shown = String::from_utf8_lossy(&bytes);
        let arrow = if up { ">" } else { "<" };
        text.push_str(&format!("{arrow}{length:5} {:.100}\n", shown));
        rest = &rest[length..];
    }
    text
}
