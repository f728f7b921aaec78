//! Fresh TCP ports for the emulator's serial lines and for gdb.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// How long to wait before asking again whether something has come.
pub const PAUSE: Duration = Duration::from_millis(20);

/// A listener on a fresh local port.
pub fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Waits for a client; `check` fails when waiting makes no sense any more.
pub fn accept(listener: &TcpListener, mut check: impl FnMut() -> Result<()>) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                check()?;
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
