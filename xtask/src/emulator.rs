//! One run of the emulator: its configuration, its process, its log. Used by `run` and the scenarios.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::net;
use crate::process::Guarded;
use crate::progress::say;
use crate::tools;

/// What machine to emulate.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub memory: u32,
    /// The emulator's name of the CPU model.
    pub model: String,
    /// A feature that the CPU model lacks, by the emulator's name for it.
    pub without: Option<&'static str>,
    /// Instructions per emulated second.
    pub ips: u32,
    /// Instructions that a CPU executes before the next one has its turn, 1 to 32: it decides how the
    /// CPUs' instructions interleave.
    pub quantum: u32,
    /// Several CPUs do the same each time, if nothing comes from outside: with the emulator at the
    /// same addresses, and in its debugger, which executes one instruction at a time. About half
    /// as fast.
    pub exact: bool,
    /// A triple fault resets the machine instead of ending the emulator: after a reset by the keyboard
    /// controller its BIOS faults for good once before it boots.
    pub reset_on_triple_fault: bool,
    /// Unknown MSRs read as 0 instead of raising #GP.
    pub ignore_bad_msrs: bool,
    /// The disks, in the order of the BIOS.
    pub disks: Vec<PathBuf>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 512,
            // Has VMX with EPT, and no CPUID leaf 15h to make Linux believe in a TSC of GHz.
            model: "broadwell_ult".into(),
            without: None,
            ips: 20_000_000,
            quantum: 16,
            exact: false,
            reset_on_triple_fault: false,
            ignore_bad_msrs: true,
            disks: Vec::new(),
        }
    }
}

/// A running emulator. Dropping it ends it.
pub struct Emulator {
    process: Guarded,
    folder: PathBuf,
}

/// The two serial lines of a run, connected.
pub struct Lines {
    /// COM1: the guest's console.
    pub com1: TcpStream,
    /// COM2: the debugger's.
    pub com2: TcpStream,
}

impl Emulator {
    /// Starts the emulator with its files in `folder`, and connects to its serial lines.
    pub fn start(folder: &Path, hardware: &Hardware) -> Result<(Self, Lines)> {
        fs::create_dir_all(folder)?;
        let ports = [net::fresh_port()?, net::fresh_port()?];
        let rc = folder.join("bochsrc");
        fs::write(&rc, configuration(folder, hardware, ports))?;
        let bochs = tools::bochs();
        if let Some(warning) = tools::warning(hardware.cpus) {
            say(warning);
        }
        let output = File::create(folder.join("bochs.out"))?;
        let loader = bochs.foreign.loader.to_string_lossy();
        let program = if hardware.exact { "setarch" } else { &loader };
        let mut exact = Vec::new();
        if hardware.exact {
            // Its debugger is told to go on, and no more.
            let commands = folder.join("debugger");
            fs::write(&commands, "c\n")?;
            exact = vec!["-debugger".into(), "-rc".into(), commands.into_os_string()];
        }
        let process = Guarded::spawn(program, |command| {
            if hardware.exact {
                command.arg("--addr-no-randomize").arg(&*loader);
            }
            command
                .arg("--library-path")
                .arg(&bochs.foreign.libraries)
                .arg(&bochs.foreign.program)
                .args(["-q", "-unlock", "-f"])
                .arg(&rc)
                .args(exact)
                .env("LTDL_LIBRARY_PATH", &bochs.plugins)
                .env("BXSHARE", &bochs.share)
                .stdin(Stdio::null())
                .stdout(Stdio::from(output))
                .stderr(Stdio::null());
        })?;
        let mut emulator = Self {
            process,
            folder: folder.to_owned(),
        };
        // The emulator waits for each of its clients in turn.
        let com1 = net::connect_when_up(ports[0], || emulator.check_alive())?;
        let com2 = net::connect_when_up(ports[1], || emulator.check_alive())?;
        Ok((emulator, Lines { com1, com2 }))
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<()> {
        match self.process.wait_until(Instant::now() + timeout)? {
            Some(_) => Ok(()),
            None => bail!("the machine still runs after {} s", timeout.as_secs()),
        }
    }

    /// The emulator's log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("bochs.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn check_alive(&mut self) -> Result<()> {
        if self.ended()? {
            let output = fs::read_to_string(self.folder.join("bochs.out")).unwrap_or_default();
            bail!("the emulator ended at its start:\n{output}{}", self.log());
        }
        Ok(())
    }
}

/// The emulator's configuration file.
fn configuration(folder: &Path, hardware: &Hardware, [com1, com2]: [u16; 2]) -> String {
    let share = tools::bochs().share;
    let share = share.display();
    let Hardware {
        cpus,
        memory,
        model,
        ips,
        quantum,
        ..
    } = hardware;
    // The emulator takes no more of the host's; the rest it fetches when it is used.
    let host_memory = (*memory).min(2048);
    let on_triple_fault = u8::from(hardware.reset_on_triple_fault);
    let ignore_bad_msrs = u8::from(hardware.ignore_bad_msrs);
    let without = hardware.without.map_or(String::new(), |feature| {
        format!(", exclude_features=\"{feature}\"")
    });
    let time0 = if hardware.exact { "946681200" } else { "local" };
    let mut text = format!(
        "cpu: model={model}, count={cpus}, ips={ips}, quantum={quantum}, reset_on_triple_fault={on_triple_fault}, ignore_bad_msrs={ignore_bad_msrs}{without}
clock: sync=none, time0={time0}
memory: guest={memory}, host={host_memory}
romimage: file={share}/BIOS-bochs-latest, options=fastboot
vgaromimage: file={share}/VGABIOS-lgpl-latest
display_library: rfb, options=\"timeout=0\"
boot: disk
com1: enabled=1, mode=socket-server, dev=localhost:{com1}
com2: enabled=1, mode=socket-server, dev=localhost:{com2}
plugin_ctrl: unmapped=1
log: {}
panic: action=fatal
error: action=report
info: action=report
",
        folder.join("bochs.log").display()
    );
    for (disk, place) in hardware.disks.iter().zip(["master", "slave"]) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "ata0-{place}: type=disk, path={}, mode=flat, cylinders=0",
            disk.display()
        );
    }
    text
}

/// A folder for the run `name`, emptied, and the lock that keeps it.
///
/// # Errors
/// Another run has the name.
pub fn run_folder(name: &str) -> Result<(PathBuf, File)> {
    let folder = crate::paths::runs().join(name);
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    let lock = crate::paths::runs().join(format!("{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("{}", lock.display()))?;
    if lock.try_lock().is_err() {
        bail!("a run called {name} is going on; end it, or give this one another --name");
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    Ok((folder, lock))
}
