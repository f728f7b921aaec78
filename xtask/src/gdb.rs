//! Drives a real gdb by its command line: send a command, get what it prints; interrupt it as
//! Ctrl-C does. Used by `demo`, `bench`, and the scenarios.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::console::tail;
use crate::paths;
use crate::process::Guarded;

/// A running gdb. Dropping it kills it, which on a serial line is a client that goes without a word.
pub struct Gdb {
    process: Guarded,
    stdin: ChildStdin,
    output: Arc<Output>,
    position: usize,
    commands: u32,
    transcript: String,
}

#[derive(Default)]
struct Output {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

/// How long a command may take unless it says otherwise: a stop, a step, a few packets.
pub const SHORT: Duration = Duration::from_secs(60);

impl Gdb {
    /// Starts gdb on the symbols of `program`, with the scripts of `gdb-scripts` loaded.
    pub fn start(program: &Path) -> Result<Self> {
        let (mut reader, writer) = std::io::pipe()?;
        let mut process = Guarded::spawn("gdb", |command| {
            command
                .args(["--quiet", "--nx", "--nh"])
                // No tests of capabilities, no questions, no colours, no network.
                .args(["-ex", "set confirm off"])
                .args(["-ex", "set pagination off"])
                .args(["-ex", "set width 0"])
                .args(["-ex", "set style enabled off"])
                .args(["-ex", "set debuginfod enabled off"])
                .args(["-ex", "set remotetimeout 30"])
                .args(["-ex", "set prompt"])
                // Expressions are written in C here, whatever the program was written in.
                .args(["-ex", "set language c"])
                .arg("-x")
                .arg(scripts())
                .arg(program)
                .stdin(Stdio::piped())
                .stdout(writer.try_clone().expect("a pipe can be duplicated"))
                .stderr(writer);
        })?;
        let stdin = process.child().stdin.take().context("gdb has a stdin")?;
        let output = Arc::new(Output::default());
        let shared = Arc::clone(&output);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                lock(&shared.state).0.extend_from_slice(&buffer[..count]);
                shared.changed.notify_all();
            }
            lock(&shared.state).1 = true;
            shared.changed.notify_all();
        });
        let mut gdb = Self {
            process,
            stdin,
            output,
            position: 0,
            commands: 0,
            transcript: String::new(),
        };
        gdb.command("echo")?;
        Ok(gdb)
    }

    /// Attaches to the stub on `port`.
    pub fn attach(&mut self, port: u16) -> Result<String> {
        let answer = self.command(&format!("target remote localhost:{port}"))?;
        ensure!(
            answer.contains("Remote debugging using"),
            "gdb did not attach:\n{answer}"
        );
        Ok(answer)
    }

    /// Runs a command that ends by itself; returns what it prints.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.begin(command)?;
        self.finish(SHORT)
    }

    /// Runs a command that must not print an error; a person reads the answer in the failure.
    pub fn expect(&mut self, command: &str, pattern: &str) -> Result<String> {
        let answer = self.command(command)?;
        ensure!(
            regex::Regex::new(pattern)?.is_match(&answer),
            "gdb: `{command}` should answer /{pattern}/, but:\n{answer}"
        );
        Ok(answer)
    }

    /// Begins a command that may take long, such as `continue`.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        self.commands += 1;
        self.transcript.push_str(&format!("(gdb) {command}\n"));
        // Printed when the command is done, whether it failed or not.
        let mark = mark(self.commands);
        Ok(write!(self.stdin, "{command}\necho {mark}\\n\n").and_then(|()| self.stdin.flush())?)
    }

    /// Waits for the end of the command begun last; returns what it printed.
    pub fn finish(&mut self, timeout: Duration) -> Result<String> {
        // With the end of its line, which may come later: it is no part of the next answer.
        let mark = mark(self.commands) + "\n";
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.output.state);
        loop {
            let text = String::from_utf8_lossy(&state.0[self.position..]).into_owned();
            if let Some(at) = text.find(&mark) {
                self.position = state.0.len();
                drop(state);
                let answer = text[..at].replace('\r', "");
                self.transcript.push_str(&answer);
                return Ok(answer);
            }
            let left = deadline.checked_duration_since(Instant::now());
            let (Some(left), false) = (left, state.1) else {
                let why = if state.1 { "gdb ended" } else { "no answer" };
                bail!(
                    "{why} within {} s; gdb said:\n{}",
                    timeout.as_secs(),
                    tail(&format!("{}{text}", self.transcript), 25)
                );
            };
            state = self
                .output
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What Ctrl-C does: gdb sends 0x03 and waits for the stop. The command begun is to be finished after.
    pub fn interrupt(&self) -> Result<()> {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id")?;
        Ok(kill_process(pid, Signal::INT)?)
    }

    /// `continue`, for `time`, then Ctrl-C; returns what the stop printed.
    pub fn continue_for(&mut self, time: Duration) -> Result<String> {
        self.begin("continue")?;
        thread::sleep(time);
        self.interrupt()?;
        self.finish(SHORT)
    }

    /// The number that an expression has.
    pub fn number(&mut self, expression: &str) -> Result<u64> {
        let answer = self.command(&format!("output/x (unsigned long)({expression})"))?;
        let digits = answer.trim().trim_start_matches("0x");
        u64::from_str_radix(digits, 16)
            .with_context(|| format!("gdb: {expression} is not a number: {answer}"))
    }
}

/// The script that a person would load: it brings the others.
pub fn scripts() -> std::path::PathBuf {
    paths::root().join("gdb-scripts/stillpoint.py")
}

fn mark(number: u32) -> String {
    format!("<<done {number}>>")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
