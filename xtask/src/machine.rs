//! A whole run: disks, emulator, console, debug line. Used by `run`, `demo`, and the scenarios.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::Shell;

use crate::console::Console;
use crate::debug_line::DebugLine;
use crate::emulator::{Emulator, Hardware};
use crate::full_debian::FullDebian;
use crate::image::{self, GUEST_DRIVE, Guest};
use crate::serial::Line;
use crate::{emulator, net};

/// What is on the second disk, or on the first when there is no hypervisor.
pub enum GuestDisk {
    /// Debian's kernel and an initramfs, as given.
    Debian(Guest),
    /// A full Debian.
    Full(FullDebian),
    /// The bytes of a disk of one's own: a boot sector and what it loads.
    Flat(Vec<u8>),
}

/// The hypervisor and its command line.
pub struct Hypervisor {
    /// The image's ELF file.
    pub image: PathBuf,
    /// Its command line, after `boot_drive=0x81`.
    pub cmdline: String,
}

/// A machine that runs. Dropping it ends it.
pub struct Machine {
    /// The emulator's process.
    pub emulator: Emulator,
    /// COM1.
    pub com1: Line,
    /// COM2.
    pub debug: DebugLine,
    folder: PathBuf,
    /// The folder is this run's; last, so that the emulator has ended when it is let go.
    _lock: File,
}

impl Machine {
    /// Makes the disks in `target/runs/NAME` and starts the machine. Disks that `hardware` has already come after
    /// these.
    pub fn start(
        shell: &Shell,
        name: &str,
        hardware: Hardware,
        hypervisor: Option<&Hypervisor>,
        guest: &GuestDisk,
        debug_listener: Option<TcpListener>,
    ) -> Result<Self> {
        let (folder, lock) = emulator::run_folder(name)?;
        let (first, second) = image::disk_paths(&folder);
        let mut hardware = hardware;
        let more = std::mem::take(&mut hardware.disks);
        if let Some(hypervisor) = hypervisor {
            let cmdline = format!("{GUEST_DRIVE} {}", hypervisor.cmdline);
            image::write_hypervisor_disk(shell, &first, &hypervisor.image, cmdline.trim_end())?;
            hardware.disks.push(first);
        }
        match guest {
            GuestDisk::Debian(guest) => guest.write_disk(shell, &second)?,
            GuestDisk::Full(debian) => debian.write_disk(shell, &second)?,
            GuestDisk::Flat(contents) => crate::disk::write_flat_disk(&second, contents)?,
        }
        hardware.disks.push(second);
        hardware.disks.extend(more);
        let (emulator, lines) = Emulator::start(&folder, &hardware)?;
        let com1 = Line::new(lines.com1, &folder.join("com1.log"))?;
        let listener = match debug_listener {
            Some(listener) => listener,
            None => net::listen()?,
        };
        let debug = DebugLine::new(lines.com2, listener, &folder.join("com2.log"))?;
        // What `cargo xtask gdb` reads.
        fs::write(folder.join("debug-port"), debug.port().to_string())?;
        Ok(Self {
            emulator,
            com1,
            debug,
            folder,
            _lock: lock,
        })
    }

    /// A console on COM1, from its beginning.
    pub fn console(&self) -> Console {
        Console::new(self.com1.clone())
    }

    /// The run's folder: disks, logs, the emulator's configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
