//! The guest's console as a script sees it: wait for a line, send a command, get its output
//! and exit status. Used by the scenarios, `demo`, `storm`, `matrix`, and `run --sh`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::serial::Line;

/// COM1 with a reading position.
pub struct Console {
    line: Line,
    position: usize,
    commands: u32,
}

/// What a command of the guest did.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// What it printed, lines ending in `\n`.
    pub text: String,
    /// Its exit status.
    pub status: i32,
}

impl Console {
    /// Reads `line` from its beginning.
    pub fn new(line: Line) -> Self {
        Self {
            line,
            position: 0,
            commands: 0,
        }
    }

    /// Waits for `pattern`; returns everything up to the match's end, and goes on after it.
    pub fn expect(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        let regex = Regex::new(pattern)?;
        let deadline = Instant::now() + timeout;
        let mut seen = self.position;
        loop {
            let (news, closed) = self.line.wait_beyond(seen, deadline);
            seen += news.len();
            let bytes = self.line.since(self.position);
            let text = String::from_utf8_lossy(&bytes);
            if let Some(found) = regex.find(&text) {
                // Positions count bytes; the console is ASCII but for noise, which is rare enough
                // to look for the match's end again in the bytes.
                let end = position_in_bytes(&bytes, &text, found.end());
                self.position += end;
                return Ok(text[..found.end()].replace('\r', ""));
            }
            // A console that never falls silent has its limit, too.
            if news.is_empty() || Instant::now() >= deadline {
                let why = if closed {
                    "the console was closed".to_owned()
                } else {
                    format!("it did not come in {} s", timeout.as_secs())
                };
                bail!(
                    "waiting for /{pattern}/: {why}; the last lines:\n{}",
                    tail(&text, 15)
                );
            }
        }
    }

    /// Waits for the guest's shell.
    pub fn wait_for_shell(&mut self, timeout: Duration) -> Result<String> {
        self.expect(r"guest ready: [^\n]*\n(?s:.*?)guest# ", timeout)
    }

    /// Waits for the login prompt of a full Debian, logs root in, and has the shell's prompt that
    /// [`Console::run`] knows. Returns what came up to the login prompt.
    pub fn log_in(&mut self, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let boot = self.expect("login: ", left())?;
        self.send("root\n")?;
        self.expect("root@[^\n]*# ", left())?;
        // The echo of this must not look like the prompt itself.
        self.send("exec env PS1='guest''# ' sh\n")?;
        self.expect("guest# ", left())?;
        Ok(boot)
    }

    /// Sends `text` as it is.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.line.send(text.as_bytes())
    }

    /// Runs `command` in the guest's shell; returns its output and exit status.
    pub fn run(&mut self, command: &str, timeout: Duration) -> Result<Output> {
        self.commands += 1;
        let number = self.commands;
        // The echo of the command has `$?` where the answer has a number.
        let then = if command.ends_with('&') { "" } else { ";" };
        self.send(&format!("{command}{then} echo \"<$?:{number}>\"\n"))?;
        let seen = self.expect(&format!(r"<(\d+):{number}>\r?\n"), timeout)?;
        let (echo, rest) = seen.split_once('\n').unwrap_or(("", &seen));
        let text = if echo.contains("<$?:") { rest } else { &seen };
        let Some((text, mark)) = text.trim_end().rsplit_once('<') else {
            bail!("no status of `{command}` in {seen:?}");
        };
        let status = mark.split(':').next().unwrap_or_default().parse()?;
        self.expect("guest# ", timeout)?;
        Ok(Output {
            text: text.to_owned(),
            status,
        })
    }

    /// Runs `command` and demands exit status 0; returns what it printed.
    pub fn check(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let output = self.run(command, timeout)?;
        if output.status != 0 {
            bail!(
                "`{command}` in the guest ended with {}:\n{}",
                output.status,
                output.text
            );
        }
        Ok(output.text)
    }

    /// Keeps what the kernel reports off the console, where it could stand in the middle of the very line that
    /// is waited for. `dmesg` has it.
    pub fn silence_kernel(&mut self, timeout: Duration) -> Result<()> {
        // NMIs that nobody claims are reported at the highest level: 0 lets nothing through.
        self.check("echo 0 >/proc/sys/kernel/printk", timeout)?;
        Ok(())
    }

    /// Turns Linux's detectors of soft lockups and hung tasks off, for a time in which a PAL keeps interrupts
    /// off for long, or on again. They are left on everywhere else.
    ///
    /// They complain after 120 s of the guest (see `image`). The first `utpm` of a boot makes the micro-TPM's RSA key in
    /// one call: some 800 million instructions, 40 s, but how many primes have to be tried is left to chance,
    /// and now and then it is three times as many. A kernel without a detector has not its file.
    pub fn detect_lockups(&mut self, on: bool, timeout: Duration) -> Result<()> {
        let settings = [("watchdog", 1), ("hung_task_timeout_secs", 120)];
        let commands = settings.map(|(name, usual)| {
            let value = if on { usual } else { 0 };
            let file = format!("/proc/sys/kernel/{name}");
            format!("{{ [ ! -e {file} ] || echo {value} >{file}; }}")
        });
        self.check(&commands.join(" && "), timeout)?;
        Ok(())
    }

    /// How many NMIs the guest's kernel has handled, by CPU.
    pub fn nmis(&mut self, timeout: Duration) -> Result<Vec<u64>> {
        let row = self.check("grep NMI: /proc/interrupts", timeout)?;
        // Unless the kernel is silenced, its own words on an NMI may stand around it.
        Ok(row
            .lines()
            .find_map(|line| line.trim().strip_prefix("NMI:"))
            .context("no row of NMIs")?
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect())
    }
}

/// The byte offset in `bytes` of the offset `end` in `text`, its lossy form.
fn position_in_bytes(bytes: &[u8], text: &str, end: usize) -> usize {
    if bytes.len() == text.len() {
        return end;
    }
    let mut in_text = 0;
    let mut in_bytes = 0;
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().len();
        if in_text + valid >= end {
            return in_bytes + (end - in_text);
        }
        in_text += valid;
        in_bytes += valid;
        if !chunk.invalid().is_empty() {
            in_text += char::REPLACEMENT_CHARACTER.len_utf8();
            in_bytes += chunk.invalid().len();
            if in_text >= end {
                return in_bytes;
            }
        }
    }
    in_bytes
}

/// The last `count` lines of `text`.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{position_in_bytes, tail};

    #[test]
    fn positions_survive_noise() {
        let bytes = b"ab\xff\xfecd";
        let text = String::from_utf8_lossy(bytes);
        let end = text.find('c').map(|at| at + 1);
        assert_eq!(end.map(|end| position_in_bytes(bytes, &text, end)), Some(5));
        assert_eq!(position_in_bytes(b"abc", "abc", 2), 2);
    }

    #[test]
    fn tail_takes_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
