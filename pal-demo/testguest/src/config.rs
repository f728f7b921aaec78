//! What the second sector of the disk says: words `key=value`, apart by
//! blanks, zero bytes to the sector's end. `cargo xtask` writes it.
//!
//! - `suite=NAME`: one of suites.rs. Without it: `basic`.
//! - `cpus=N`: how many CPUs the machine has. Without it: 1.
//! - `com2=hidden`: the debugger owns COM2; `com2=uart`, the default: it is
//!   the guest's.
//! - `test=NAME`: only the tests whose name contains NAME.
//! - `end=halt`: stay, when done, instead of ending the emulator.
//!
//! For `suite=storm` alone:
//! - `rounds=N`: NMIs that each CPU sends in each pattern. Without it: 50.
//! - `seed=N`: what is random follows from it. Without it: 1.
//! - `pattern=NAME`: one of storm/traffic.rs. Without it: each in turn.
//! - `stops=outside`: a debugger stops the machine now and then.
//! - `pause=N`: at most N exits between two NMIs of a CPU. Without it: 4.

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
    /// What a storm is made of.
    pub storm: Storm,
}

/// The words for `suite=storm`.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// NMIs that each CPU sends in each pattern.
    pub rounds: u64,
    /// What is random follows from it.
    pub seed: u64,
    /// Name of the only pattern to run; empty for all.
    pub pattern: &'static str,
    /// At most so many exits between two NMIs of a CPU.
    pub pause: u64,
    /// Whether a debugger stops the machine now and then.
    pub debugger: bool,
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
        storm: Storm {
            rounds: 50,
            seed: 1,
            pattern: "",
            pause: 4,
            debugger: false,
        },
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
            Some(("rounds", n)) => config.storm.rounds = n.parse().map_err(|_| bad)?,
            Some(("seed", n)) => config.storm.seed = n.parse().map_err(|_| bad)?,
            Some(("pause", n)) => config.storm.pause = n.parse().map_err(|_| bad)?,
            Some(("stops", "outside")) => config.storm.debugger = true,
            Some(("pattern", name)) => config.storm.pattern = name,
            _ => return Err(bad),
        }
    }
    Ok(config)
}
