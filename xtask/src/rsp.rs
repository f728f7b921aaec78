//! A client of the remote serial protocol reduced to its packets, for what no gdb does: noise,
//! packets cut off in the middle, wrong checksums. Used by the scenarios.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A connection to the stub, in acknowledged mode.
pub struct RawClient {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl RawClient {
    /// Connects to the debug line on `port`; nothing is sent.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self {
            stream,
            pending: Vec::new(),
        })
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a packet and returns the reply's contents, acknowledging it.
    pub fn request(&mut self, contents: &str, timeout: Duration) -> Result<String> {
        self.raw(packet(contents).as_bytes())?;
        self.reply(timeout)
    }

    /// Sends a packet to which no reply comes yet, such as `c`.
    pub fn send(&mut self, contents: &str) -> Result<()> {
        self.raw(packet(contents).as_bytes())
    }

    /// Runs a monitor command; returns what it prints.
    pub fn monitor(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut output = Vec::new();
        let mut answer = self.request(&format!("qRcmd,{hex}"), timeout)?;
        while answer != "OK"
            && let Some(text) = answer.strip_prefix('O')
        {
            output.extend(from_hex(text)?);
            answer = self.reply(timeout)?;
        }
        if answer != "OK" {
            output.extend(from_hex(&answer)?);
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The next packet from the stub, acknowledged.
    pub fn reply(&mut self, timeout: Duration) -> Result<String> {
        let contents = self.packet(timeout)?;
        self.raw(b"+")?;
        Ok(contents)
    }

    /// The next packet from the stub.
    pub fn packet(&mut self, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some((contents, length)) = parse(&self.pending) {
                self.pending.drain(..length);
                return Ok(contents);
            }
            if Instant::now() >= deadline {
                bail!(
                    "no reply in {} s, only {:?}",
                    timeout.as_secs(),
                    String::from_utf8_lossy(&self.pending)
                );
            }
            self.fill()?;
        }
    }

    /// The next byte from the stub: an acknowledgement, `+` or `-`.
    pub fn byte(&mut self, timeout: Duration) -> Result<u8> {
        let deadline = Instant::now() + timeout;
        while self.pending.is_empty() {
            if Instant::now() >= deadline {
                bail!("not a byte in {} s", timeout.as_secs());
            }
            self.fill()?;
        }
        Ok(self.pending.remove(0))
    }

    fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the debug line was closed"),
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Bytes of which two digits each were sent.
fn from_hex(text: &str) -> Result<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| Ok(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?))
        .collect()
}

/// `contents` with its frame and checksum.
pub fn packet(contents: &str) -> String {
    let sum = contents.bytes().fold(0u8, u8::wrapping_add);
    format!("${contents}#{sum:02x}")
}

/// The first whole packet in `bytes`, run-length encoding undone, and how many bytes it took with
/// what came before it.
fn parse(bytes: &[u8]) -> Option<(String, usize)> {
    let start = bytes.iter().position(|&byte| byte == b'$')?;
    let length = bytes[start..].iter().position(|&byte| byte == b'#')?;
    let end = start + length + 3;
    if bytes.len() < end {
        return None;
    }
    let mut contents: Vec<u8> = Vec::new();
    let mut rest = bytes[start + 1..start + length].iter();
    while let Some(&byte) = rest.next() {
        match (byte, contents.last()) {
            (b'*', Some(&last)) => {
                let count = rest.next().map_or(0, |count| count.saturating_sub(29));
                contents.extend(std::iter::repeat_n(last, usize::from(count)));
            }
            _ => contents.push(byte),
        }
    }
    Some((String::from_utf8_lossy(&contents).into_owned(), end))
}

#[cfg(test)]
mod tests {
    use super::{from_hex, packet, parse};

    #[test]
    fn packets_have_their_sum() {
        assert_eq!(packet("OK"), "$OK#9a");
        assert_eq!(packet(""), "$#00");
    }

    #[test]
    fn hexadecimal_text() -> anyhow::Result<()> {
        assert_eq!(from_hex("4f4B0a")?, b"OK\n");
        assert!(from_hex("E!").is_err());
        Ok(())
    }

    #[test]
    fn replies_are_found_and_expanded() {
        assert_eq!(parse(b"+$OK#9a+"), Some(("OK".into(), 7)));
        assert_eq!(parse(b"$OK#9"), None);
        // "0* " is 0 and three more.
        assert_eq!(parse(b"$0* 1#xx"), Some(("00001".into(), 8)));
    }
}
