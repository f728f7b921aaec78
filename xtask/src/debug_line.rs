//! COM2 for whoever comes and goes: a TCP port to which gdb connects as often as it likes,
//! while the emulator keeps its one connection. Counts what passes, for the benchmarks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

use crate::serial::Line;

/// What has passed since the last [`DebugLine::reset_count`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCount {
    /// Bytes from gdb to the stub.
    pub bytes_up: u64,
    /// Bytes from the stub to gdb.
    pub bytes_down: u64,
    /// How often the stub began to answer after gdb had sent something.
    pub round_trips: u64,
}

/// The bridge between COM2 and a TCP port.
pub struct DebugLine {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    client: Mutex<Option<TcpStream>>,
    count: Mutex<(WireCount, Direction)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Direction {
    #[default]
    Down,
    Up,
}

impl DebugLine {
    /// Bridges `com2` to `listener`; logs what the stub sends to the file `log`.
    pub fn new(com2: TcpStream, listener: TcpListener, log: &Path) -> Result<Self> {
        let port = listener.local_addr()?.port();
        let line = Line::new(com2, log)?;
        let shared = Arc::new(Shared::default());
        let (from_stub, to_client) = (line.clone(), Arc::clone(&shared));
        thread::spawn(move || pump_down(&from_stub, &to_client));
        let (to_stub, clients) = (line, Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accept(client, &to_stub, &clients);
            }
        });
        Ok(Self { port, shared })
    }

    /// Where gdb connects: `target remote localhost:PORT`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What has passed.
    pub fn count(&self) -> WireCount {
        lock(&self.shared.count).0
    }

    /// Counts from zero again.
    pub fn reset_count(&self) {
        *lock(&self.shared.count) = Default::default();
    }
}

/// Stub to client. Without a client the bytes fall to the ground, as on a bare line.
fn pump_down(line: &Line, shared: &Shared) {
    let mut position = 0;
    loop {
        let far = std::time::Instant::now() + std::time::Duration::from_secs(3600);
        let (news, closed) = line.wait_beyond(position, far);
        position += news.len();
        if news.is_empty() && closed {
            if let Some(client) = lock(&shared.client).take() {
                let _ = client.shutdown(Shutdown::Both);
            }
            return;
        }
        {
            let mut count = lock(&shared.count);
            count.0.bytes_down += news.len() as u64;
            if count.1 == Direction::Up {
                count.0.round_trips += 1;
                count.1 = Direction::Down;
            }
        }
        if let Some(client) = lock(&shared.client).as_mut() {
            // A client that is gone is noticed by its own thread.
            let _ = client.write_all(&news);
        }
    }
}

/// A new client takes the line; an older one that is still there loses it.
fn accept(client: TcpStream, line: &Line, shared: &Arc<Shared>) {
    let _ = client.set_nodelay(true);
    let Ok(mut reader) = client.try_clone() else {
        return;
    };
    if let Some(old) = lock(&shared.client).replace(client) {
        let _ = old.shutdown(Shutdown::Both);
    }
    let (line, shared) = (line.clone(), Arc::clone(shared));
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            {
                let mut count = lock(&shared.count);
                count.0.bytes_up += length as u64;
                count.1 = Direction::Up;
            }
            if line.send(&buffer[..length]).is_err() {
                break;
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
