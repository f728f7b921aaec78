//! How much longer Debian's boot is under Stillpoint than without, in ticks. Used by `bench`.
//!
//! One CPU, so a tick is an instruction, or the time that one takes while the machine stands idle;
//! the host's speed is not in it. The boot lasts from the guest's first sector to the
//! login prompt of a full Debian. `ticks` says before the prompt how far the time-stamp counter has come,
//! which Stillpoint leaves alone. What firmware, the first GRUB and Stillpoint's own start take is
//! not the guest's: the test guest, booted by the same path, says how far the counter is then.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use regex::Regex;
use serde_json::{Value, json};
use xshell::Shell;

use crate::compile::{self, Flavour};
use crate::emulator::Hardware;
use crate::full_debian::FullDebian;
use crate::image::GUEST_DRIVE;
use crate::machine::{GuestDisk, Hypervisor, Machine};
use crate::progress::step;
use crate::test_guest::TestGuest;
use crate::{image, paths};

const PATIENCE: Duration = Duration::from_secs(1800);

/// Ticks of one way to boot.
struct Boot {
    /// At the guest's first sector, nearly: the test guest has been read from the disk.
    first_sector: u64,
    /// At the login prompt.
    login: u64,
}

impl Boot {
    fn length(&self) -> u64 {
        self.login.saturating_sub(self.first_sector)
    }

    fn value(&self) -> Value {
        json!({ "first_sector": self.first_sector, "login": self.login })
    }
}

/// Boots both ways; the ratio, and what it is made of. The machines have the same two disks: without
/// Stillpoint its disk is the second one, and nothing but a disk. Without the debug line, as the other
/// figures: with one, a look at it every millisecond is a tick or two of a hundred at the emulated speed.
pub fn measure(shell: &Shell) -> Result<[(&'static str, Value); 3]> {
    let hypervisor = Hypervisor {
        image: compile::image(shell, Flavour::Release)?,
        cmdline: "log=com1".into(),
    };
    let disk = paths::target().join("boot-ratio.img");
    image::write_hypervisor_disk(shell, &disk, &hypervisor.image, GUEST_DRIVE)?;
    let bare = step("Debian's boot without Stillpoint", || {
        boot(shell, None, vec![disk])
    })?;
    let under = step("Debian's boot under Stillpoint", || {
        boot(shell, Some(&hypervisor), vec![])
    })?;
    // Four digits say more than enough.
    let ratio = (under.length() * 10_000).div_ceil(bare.length().max(1)) as f64 / 10_000.0;
    Ok([
        ("boot_ratio", json!(ratio)),
        ("boot_bare", bare.value()),
        ("boot_stillpoint", under.value()),
    ])
}

/// Boots a machine that has these disks after its others.
fn boot(shell: &Shell, hypervisor: Option<&Hypervisor>, disks: Vec<PathBuf>) -> Result<Boot> {
    let test_guest = GuestDisk::Flat(TestGuest::build(shell)?.disk("suite=basic cpus=1")?);
    let read = |guest: &GuestDisk, pattern: &str| -> Result<u64> {
        let hardware = Hardware {
            cpus: 1,
            disks: disks.clone(),
            ..Hardware::default()
        };
        let machine = Machine::start(shell, "boot-ratio", hardware, hypervisor, guest, None)?;
        let output = machine.console().expect(pattern, PATIENCE)?;
        let found = Regex::new(pattern)?
            .captures(&output)
            .with_context(|| format!("no ticks in {output}"))?;
        Ok(found[1].parse()?)
    };
    Ok(Boot {
        first_sector: read(&test_guest, r"test guest: [^\n]* at tick (\d+)\D")?,
        login: read(&GuestDisk::Full(FullDebian::default()), r"ticks=(\d+)\r?\n")?,
    })
}
