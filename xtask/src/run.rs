//! `cargo xtask run`: boots Debian under Stillpoint with the guest's console on this terminal.

use std::io::{IsTerminal, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use regex::Regex;
use rustix::termios::{self, OptionalActions, Termios};
use xshell::Shell;

use crate::colour::Colour;
use crate::compile::{self, Flavour};
use crate::emulator::Hardware;
use crate::full_debian::FullDebian;
use crate::image::Guest;
use crate::kernel::KernelArgs;
use crate::machine::{GuestDisk, Hypervisor, Machine};
use crate::progress::say;
use crate::serial::Line;
use crate::test_guest::TestGuest;
use crate::{own_files, process, setup};

/// Boot Debian under Stillpoint; the guest's console is this terminal. Ctrl-A x ends.
#[derive(Args)]
pub struct RunArgs {
    /// Number of CPUs.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// RAM in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..=4096))]
    memory: u32,
    /// Stop before the guest's first instruction until gdb lets it go on.
    #[arg(long)]
    wait_gdb: bool,
    /// The hypervisor's command line, after `boot_drive=0x81`.
    #[arg(long, default_value = "debug=com2 log=com1")]
    cmdline: String,
    /// Words to add to the guest kernel's command line.
    #[arg(long, default_value = "")]
    guest_cmdline: String,
    #[command(flatten)]
    kernel: KernelArgs,
    /// The kernel as Debian ships it: no shortcuts on its command line, KASLR on. The full Debian's is that.
    #[arg(long, conflicts_with = "full")]
    plain: bool,
    /// Without the hypervisor: the guest's disk alone.
    #[arg(long)]
    bare: bool,
    /// Boot this image instead of building one.
    #[arg(long, value_name = "ELF")]
    image: Option<PathBuf>,
    /// The image with the test-only hypercalls.
    #[arg(long)]
    test_hooks: bool,
    /// Boot this disk image (boot sector and payload) instead of Debian.
    #[arg(long, value_name = "FILE")]
    guest_disk: Option<PathBuf>,
    /// Boot the bare-metal test guest instead of Debian, with these words of configuration,
    /// such as "suite=basic" or "suite=smp cpus=2".
    #[arg(long, value_name = "WORDS", conflicts_with = "guest_disk")]
    suite: Option<String>,
    /// Put this file, a program perhaps, into the guest's /root/own. May be given several times.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suite", "guest_disk"])]
    put: Vec<PathBuf>,
    /// The emulator's CPU model.
    #[arg(long, default_value = "broadwell_ult")]
    model: String,
    /// Instructions per emulated second.
    #[arg(long, default_value_t = 20_000_000)]
    ips: u32,
    /// The TCP port for gdb; a fresh one when not given.
    #[arg(long)]
    gdb_port: Option<u16>,
    /// Run this command in the guest's shell, print what it prints, and end after the last.
    #[arg(long, value_name = "COMMAND")]
    sh: Vec<String>,
    /// End after so many seconds, with status 1.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The run's folder under target/runs.
    #[arg(long, default_value = "run")]
    name: String,
}

/// `cargo xtask run`.
pub fn command(args: &RunArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    let machine = start(&shell, args)?;
    let terminal = args.sh.is_empty() && std::io::stdin().is_terminal();
    say(format!("files in {}", machine.folder().display()));
    if !args.bare {
        let port = machine.debug.port();
        say(format!(
            "gdb: `cargo xtask gdb`, or `target remote localhost:{port}` in gdb"
        ));
    }
    if !args.sh.is_empty() {
        return run_script(machine, args);
    }
    if terminal {
        say("the guest's console; Ctrl-A x ends");
    }
    interact(machine, args, terminal)
}

fn start(shell: &Shell, args: &RunArgs) -> Result<Machine> {
    let hypervisor = if args.bare {
        None
    } else {
        let flavour = if args.test_hooks {
            Flavour::TestHooks
        } else {
            Flavour::Release
        };
        let image = match &args.image {
            Some(image) => image.clone(),
            None => compile::image(shell, flavour)?,
        };
        let wait = if args.wait_gdb { " wait" } else { "" };
        Some(Hypervisor {
            image,
            cmdline: format!("{}{wait}", args.cmdline),
        })
    };
    let own = own_files::find(&args.put)?;
    let guest = match (&args.guest_disk, &args.suite) {
        (Some(path), _) => GuestDisk::Flat(std::fs::read(path)?),
        (None, Some(words)) => GuestDisk::Flat(TestGuest::build(shell)?.disk(words)?),
        (None, None) => match args.kernel.full(&args.guest_cmdline) {
            Some(full) => GuestDisk::Full(FullDebian { own, ..full }),
            None => GuestDisk::Debian(Guest {
                kernel: args.kernel.kernel(),
                plain: args.plain,
                cmdline: args.guest_cmdline.clone(),
                programs: true,
                own,
            }),
        },
    };
    let hardware = Hardware {
        cpus: args.cpus,
        memory: args.memory,
        model: args.model.clone(),
        ips: args.ips,
        // The suites look at how bad MSRs fault; Debian reads some.
        ignore_bad_msrs: args.suite.is_none(),
        ..Hardware::default()
    };
    let listener = match args.gdb_port {
        Some(port) => Some(
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("cannot listen on port {port}"))?,
        ),
        None => None,
    };
    Machine::start(
        shell,
        &args.name,
        hardware,
        hypervisor.as_ref(),
        &guest,
        listener,
    )
}

/// Runs the commands of `--sh`, one after the other.
fn run_script(machine: Machine, args: &RunArgs) -> Result<()> {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(args.timeout.unwrap_or(300));
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut console = machine.console();
    if args.kernel.full("").is_some() {
        console.log_in(left())?;
    } else {
        console.wait_for_shell(left())?;
    }
    let seconds = start.elapsed().as_secs_f32();
    say(format!("the guest's shell is there after {seconds:.1} s"));
    for command in &args.sh {
        println!("guest# {command}");
        let output = console.run(command, left())?;
        print!("{}", output.text);
        if output.status != 0 {
            bail!("`{command}` ended with {}", output.status);
        }
    }
    Ok(())
}

/// Copies the console to stdout and stdin to the console, until the machine or the person ends it.
fn interact(mut machine: Machine, args: &RunArgs, terminal: bool) -> Result<()> {
    let _raw = terminal.then(RawTerminal::enter).transpose()?;
    let line = machine.com1.clone();
    let (ended_by_person, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        if send_input(&line, terminal) {
            let _ = ended_by_person.send(());
        }
    });
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut stdout = std::io::stdout();
    let mut colour = Colour::for_stdout();
    let mut position = 0;
    loop {
        let soon = Instant::now() + Duration::from_millis(100);
        let (news, closed) = machine.com1.wait_beyond(position, soon);
        position += news.len();
        stdout.write_all(&colour.pass(&news))?;
        stdout.flush()?;
        if ended.try_recv().is_ok() {
            return Ok(());
        }
        if news.is_empty() && (closed || machine.emulator.ended()?) {
            let all = machine.com1.since(0);
            return match &args.suite {
                Some(_) => suite_passed(&String::from_utf8_lossy(&all)),
                None => Ok(()),
            };
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            bail!("ended by --timeout");
        }
    }
}

/// The test guest's last line must say that nothing failed.
fn suite_passed(output: &str) -> Result<()> {
    if !Regex::new(r"[1-9]\d* passed, 0 failed")?.is_match(output) {
        bail!("the suite did not pass");
    }
    Ok(())
}

/// Sends what is typed. True when the person asked to end, false at the end of the input.
fn send_input(line: &Line, terminal: bool) -> bool {
    const ESCAPE: u8 = 1; // Ctrl-A
    let mut escaped = false;
    for byte in std::io::stdin().lock().bytes() {
        let Ok(byte) = byte else { return false };
        if terminal && escaped {
            escaped = false;
            match byte {
                b'x' | b'X' => return true,
                ESCAPE => {}
                _ => continue,
            }
        } else if terminal && byte == ESCAPE {
            escaped = true;
            continue;
        }
        if line.send(&[byte]).is_err() {
            return false;
        }
    }
    false
}

/// The terminal in raw mode, until dropped.
struct RawTerminal;

static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let cooked = termios::tcgetattr(&stdin)?;
        let mut raw = cooked.clone();
        raw.make_raw();
        if let Ok(mut slot) = COOKED.lock() {
            *slot = Some(cooked);
        }
        process::at_signal(restore_terminal);
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore_terminal();
    }
}

fn restore_terminal() {
    if let Ok(slot) = COOKED.lock()
        && let Some(cooked) = slot.as_ref()
    {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, cooked);
    }
}
