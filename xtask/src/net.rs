//! Fresh TCP ports for the emulator's serial lines and for gdb.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A port on which nobody listens now. The emulator binds it a moment later.
pub fn fresh_port() -> Result<u16> {
    Ok(listen()?.local_addr()?.port())
}

/// A listener on a fresh local port.
pub fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Connects to a server that is just starting; `alive` says whether waiting makes sense.
pub fn connect_when_up(port: u16, mut alive: impl FnMut() -> Result<()>) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => {
                bail!("nobody listens on port {port} after 30 s: {error}")
            }
            Err(_) => {
                alive()?;
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
