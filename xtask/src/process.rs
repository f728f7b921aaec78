//! Child processes that must not outlive xtask: a registry of their ids, a guard
//! that kills and reaps on drop, and the signal handler that does the same
//! when xtask is interrupted. Used by the emulator and the gdb driver.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static AT_EXIT: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// A child process that is killed, by its id, when this is dropped.
pub struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts `command`. The kernel kills the child too should xtask itself be
    /// killed: `setpriv` (util-linux) sets the parent-death signal and becomes the program.
    pub fn spawn(program: &str, configure: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        configure(&mut command);
        // The lock is held across the start so that a signal in between does not miss the child.
        let mut children = lock(&CHILDREN);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program} (through setpriv of util-linux)"))?;
        children.push(child.id());
        Ok(Self { child })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard streams, for the caller to take.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the end, at most until `deadline`.
    pub fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let id = self.child.id();
        // Killing and reaping can only fail when it is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        lock(&CHILDREN).retain(|&other| other != id);
    }
}

/// Runs `action` when xtask is ended by a signal, before it exits.
pub fn at_signal(action: fn()) {
    lock(&AT_EXIT).push(action);
}

/// From now on SIGINT, SIGTERM and SIGHUP kill the registered children and end
/// xtask with the usual status, 128 + signal.
pub fn install_signal_handler() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Kept locked: no further child is started.
            let children = lock(&CHILDREN);
            for &id in children.iter() {
                if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            for action in lock(&AT_EXIT).iter() {
                action();
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn lock<T>(mutex: &'static Mutex<T>) -> std::sync::MutexGuard<'static, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
