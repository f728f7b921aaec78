//! One run of the emulator: its configuration, its process, its log. Used by `run` and the scenarios.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
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

/// The name of the emulator's log.
const LOG: &str = "bochs.log";
/// What the emulator's log says when its display has a port.
const LISTENS: &str = "listening for connections on port";
/// What it says when there is none to have.
pub const NO_PORT: &str = "could not bind any port";

/// How long a start may take, or be tried again.
const START: Duration = Duration::from_secs(60);

impl Emulator {
    /// Starts the emulator with its files in `folder`, and takes the connections of its serial lines.
    ///
    /// It serves its display on a TCP port (5900 to 5949), which it binds first and listens on a moment later. Of
    /// two emulators that start together, the one that listens last finds every further port refused, and ends:
    /// that one is started again.
    pub fn start(folder: &Path, hardware: &Hardware) -> Result<(Self, Lines)> {
        fs::create_dir_all(folder)?;
        if let Some(warning) = tools::warning(hardware.cpus) {
            say(warning);
        }
        let deadline = Instant::now() + START;
        loop {
            let listeners = [net::listen()?, net::listen()?];
            let mut emulator = Self::spawn(folder, hardware, &listeners)?;
            match emulator.wait_until_up(&listeners, deadline) {
                Ok(lines) => return Ok((emulator, lines)),
                Err(error) if !emulator.log().contains(NO_PORT) => return Err(error),
                Err(_) if Instant::now() < deadline => {
                    say("the emulator found no port for its display; starting it again");
                    thread::sleep(Duration::from_millis(250));
                }
                Err(_) => bail!(
                    "the emulator finds no TCP port for its display: 5900 to 5949 are all taken; end some of the emulators or VNC servers that run here"
                ),
            }
        }
    }

    /// Starts the process. Its serial lines connect to `listeners`.
    fn spawn(folder: &Path, hardware: &Hardware, listeners: &[TcpListener; 2]) -> Result<Self> {
        let rc = folder.join("bochsrc");
        fs::write(&rc, configuration(folder, hardware, listeners)?)?;
        // What an emulator before it said is not its own; there may be none.
        let _ = fs::remove_file(folder.join(LOG));
        let bochs = tools::bochs();
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
        Ok(Self {
            process,
            folder: folder.to_owned(),
        })
    }

    /// Waits for its serial lines, and for its display, which a thread of its own starts.
    fn wait_until_up(
        &mut self,
        [com1, com2]: &[TcpListener; 2],
        deadline: Instant,
    ) -> Result<Lines> {
        let lines = Lines {
            com1: net::accept(com1, || self.check_start(deadline))?,
            com2: net::accept(com2, || self.check_start(deadline))?,
        };
        while !self.log().contains(LISTENS) {
            self.check_start(deadline)?;
            thread::sleep(net::PAUSE);
        }
        Ok(lines)
    }

    /// Whether waiting for its start still makes sense.
    fn check_start(&mut self, deadline: Instant) -> Result<()> {
        let log = self.log();
        let what = if log.contains(NO_PORT) {
            // Its display's thread says so, and may hang instead of ending the process.
            "has no port for its display"
        } else if Instant::now() >= deadline {
            "is not up after a minute"
        } else if self.ended()? {
            "ended at its start"
        } else {
            return Ok(());
        };
        let output = fs::read_to_string(self.folder.join("bochs.out")).unwrap_or_default();
        bail!("the emulator {what}:\n{output}{}", self.log())
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
        let bytes = fs::read(self.folder.join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The emulator's configuration file.
fn configuration(
    folder: &Path,
    hardware: &Hardware,
    [com1, com2]: &[TcpListener; 2],
) -> Result<String> {
    let (com1, com2) = (com1.local_addr()?, com2.local_addr()?);
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
com1: enabled=1, mode=socket-client, dev={com1}
com2: enabled=1, mode=socket-client, dev={com2}
plugin_ctrl: unmapped=1
log: {}
panic: action=fatal
error: action=report
info: action=report
",
        folder.join(LOG).display()
    );
    for (disk, place) in hardware.disks.iter().zip(["master", "slave"]) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "ata0-{place}: type=disk, path={}, mode=flat, cylinders=0",
            disk.display()
        );
    }
    Ok(text)
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
