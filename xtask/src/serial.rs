//! One end of an emulated serial line: everything received is kept and logged, and can be
//! waited for; bytes can be sent. Used by the console and, for COM2, by `debug_line`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use rustix::net::sockopt::set_tcp_quickack;

/// A connected serial line. The clones are the same line.
#[derive(Clone)]
pub struct Line {
    writer: Arc<Mutex<TcpStream>>,
    received: Arc<Received>,
}

struct Received {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
}

impl Line {
    /// Takes over `stream`; what comes in goes to the file `log` too.
    ///
    /// The emulator sends each byte by itself, and its kernel holds the next one back until this is
    /// acknowledged, which takes 40 ms unless it is done at once. The kernel's promise to do so does not last:
    /// it is asked for again after each read.
    pub fn new(stream: TcpStream, log: &Path) -> Result<Self> {
        let mut reader = stream.try_clone()?;
        set_tcp_quickack(&reader, true)?;
        let mut log = File::create(log)?;
        let received = Arc::new(Received {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let line = Self {
            writer: Arc::new(Mutex::new(stream)),
            received: Arc::clone(&received),
        };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A reset connection is the emulator's end, like an orderly close.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                // A connection that has just gone cannot do it; the next read sees that.
                let _ = set_tcp_quickack(&reader, true);
                let _ = log.write_all(&buffer[..count]);
                lock(&received.state)
                    .bytes
                    .extend_from_slice(&buffer[..count]);
                received.changed.notify_all();
            }
            lock(&received.state).closed = true;
            received.changed.notify_all();
        });
        Ok(line)
    }

    /// Sends `bytes`.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        Ok(lock(&self.writer).write_all(bytes)?)
    }

    /// What came from position `from` on.
    pub fn since(&self, from: usize) -> Vec<u8> {
        let state = lock(&self.received.state);
        state.bytes.get(from..).unwrap_or_default().to_vec()
    }

    /// Waits until there is more than `from` bytes, the line is closed, or `deadline`;
    /// returns what came from position `from` on, and whether the line is closed.
    pub fn wait_beyond(&self, from: usize, deadline: Instant) -> (Vec<u8>, bool) {
        let mut state = lock(&self.received.state);
        while state.bytes.len() <= from && !state.closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            state = self
                .received
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let news = state.bytes.get(from..).unwrap_or_default().to_vec();
        (news, state.closed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
