//! What the second sector of the disk says: words `key=value`, apart by
//! blanks, zero bytes to the sector's end. `cargo xtask` writes it.
//!
//! - `suite=NAME`: one of suites.rs. Without it: `basic`.
//! - `cpus=N`: how many CPUs the machine has. Without it: 1.
//! - `com2=hidden`: the debugger owns COM2; `com2=uart`, the default: it is
//!   the guest's.
//! - `test=NAME`: only the tests whose name contains NAME.
//! - `end=halt`: stay, when done, instead of ending the emulator.

use crate::boot::MAX_CPUS;

unsafe extern "C" {
    /// Sector 1 as the MBR read it (asm/boot.s).
    static config_text: [u8; 512];
}

/// The parsed configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Name of the suite to run.
    pub suite: &'static str,
    /// Part of the names of the tests to run; empty for all.
    pub filter: &'static str,
    /// Number of CPUs, 1 to [`MAX_CPUS`].
    pub cpus: usize,
    /// Whether COM2 should be the debugger's.
    pub com2_hidden: bool,
    /// Whether to end the emulator when done.
    pub shut_down: bool,
}

/// Why a configuration is refused: the word at fault.
pub struct BadWord(pub &'static str);

/// Reads the configuration.
pub fn read() -> Result<Config, BadWord> {
    // SAFETY: nothing writes the sector after the MBR read it.
    let bytes = unsafe { &config_text };
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = core::str::from_utf8(&bytes[..end]).map_err(|_| BadWord("(not text)"))?;
    let mut config = Config {
        suite: "basic",
        filter: "",
        cpus: 1,
        com2_hidden: false,
        shut_down: true,
    };
    for word in text.split_ascii_whitespace() {
        let bad = BadWord(word);
        match word.split_once('=') {
            Some(("suite", name)) => config.suite = name,
            Some(("test", name)) => config.filter = name,
            Some(("cpus", number)) => {
                let valid = |n: &usize| (1..=MAX_CPUS).contains(n);
                config.cpus = number.parse().ok().filter(valid).ok_or(bad)?;
            }
            Some(("com2", "hidden")) => config.com2_hidden = true,
            Some(("com2", "uart")) => config.com2_hidden = false,
            Some(("end", "halt")) => config.shut_down = false,
            _ => return Err(bad),
        }
    }
    Ok(config)
}
