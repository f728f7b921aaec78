//! `cargo xtask demo`: the whole path once, as a transcript: boot, shell, hypercall, gdb stops
//! everything and looks inside, detach, shell; gdb stops in a PAL and ends it. Then how to go on
//! by hand.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use regex::Regex;
use xshell::Shell;

use crate::compile::{self, Flavour};
use crate::console::Console;
use crate::emulator::Hardware;
use crate::gdb::Gdb;
use crate::image::Guest;
use crate::kernel::Kernel;
use crate::machine::{GuestDisk, Hypervisor, Machine};
use crate::progress::{say, step};
use crate::{paths, setup, vmlinux};

/// Show the whole path: Debian boots, gdb stops it and looks inside, Debian goes on.
#[derive(Args)]
pub struct DemoArgs {
    /// Number of CPUs.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// Which of Debian's kernels.
    #[arg(long, value_enum, default_value_t)]
    kernel: Kernel,
}

const BOOT: Duration = Duration::from_secs(600);
const COMMAND: Duration = Duration::from_secs(120);

/// What is shown, on stdout and in a file.
struct Transcript {
    file: File,
}

impl Transcript {
    fn show(&mut self, text: &str) -> Result<()> {
        let text = text.trim_end();
        println!("{text}");
        Ok(writeln!(self.file, "{text}")?)
    }

    fn title(&mut self, text: &str) -> Result<()> {
        self.show(&format!("\n== {text}"))
    }

    /// Runs a command in the guest's shell.
    fn guest(&mut self, console: &mut Console, command: &str) -> Result<String> {
        let output = console.check(command, COMMAND)?;
        self.show(&format!("guest# {command}\n{output}"))?;
        Ok(output)
    }

    /// Runs a command in gdb; its answer must match.
    fn gdb(&mut self, gdb: &mut Gdb, command: &str, pattern: &str) -> Result<String> {
        let answer = gdb.command(command)?;
        self.show(&format!(
            "(gdb) {command}\n{}",
            answer.trim_start_matches('\n')
        ))?;
        ensure!(
            Regex::new(pattern)?.is_match(&answer),
            "`{command}` should have answered /{pattern}/"
        );
        Ok(answer)
    }
}

/// `cargo xtask demo`.
pub fn command(args: &DemoArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    let image = compile::image(&shell, Flavour::Release)?;
    let symbols = vmlinux::path(&shell, args.kernel)?;
    fs::create_dir_all(paths::runs())?;
    let transcript = paths::runs().join("demo.txt");
    let mut out = Transcript {
        file: File::create(&transcript)?,
    };

    out.title(&format!(
        "Debian boots under Stillpoint, {} CPUs",
        args.cpus
    ))?;
    let machine = step("making the disks", || {
        Machine::start(
            &shell,
            "demo",
            Hardware {
                cpus: args.cpus,
                ..Hardware::default()
            },
            Some(&Hypervisor {
                image,
                cmdline: "debug=com2 log=com1".into(),
            }),
            &GuestDisk::Debian(Guest {
                kernel: args.kernel,
                plain: true,
                programs: true,
                ..Guest::default()
            }),
            None,
        )
    })?;
    let mut console = machine.console();
    say("booting: GRUB, Stillpoint, GRUB on the guest's disk, Debian's kernel (half a minute)");
    let boot = console.wait_for_shell(BOOT)?;
    out.show(&shortened(&boot))?;
    let online = out.guest(&mut console, "nproc")?;
    ensure!(
        online.trim() == args.cpus.to_string(),
        "not all CPUs are there"
    );
    let answer = out.guest(&mut console, "./test 7")?;
    ensure!(answer.contains("0 = vmcall(TV_HC_TEST, 7)"), "no hypercall");

    out.title("gdb attaches to COM2: every CPU halts")?;
    let mut gdb = Gdb::start(&symbols)?;
    let port = machine.debug.port();
    let attach = format!("target remote localhost:{port}");
    out.gdb(&mut gdb, &attach, "Remote debugging using")?;
    out.gdb(&mut gdb, "stillpoint-symbols", "")?;
    let threads = out.gdb(&mut gdb, "info threads", "Thread ")?;
    let count = threads
        .lines()
        .filter(|line| line.contains("Thread "))
        .count();
    ensure!(count == args.cpus as usize, "{count} threads");

    out.title("the kernel's stack, by symbols from the kernel's own tables")?;
    out.gdb(&mut gdb, "thread 1", "Switching to thread 1")?;
    out.gdb(&mut gdb, "backtrace", r"#1 .* in \w+")?;

    out.title("each CPU's VMCS, NMI state first")?;
    out.gdb(&mut gdb, "monitor vmcs", "(?i)nmi")?;
    out.gdb(&mut gdb, "monitor vmcs check", ".")?;

    out.title("detach: Debian goes on")?;
    out.gdb(&mut gdb, "detach", "detached")?;
    drop(gdb);
    let alive = out.guest(&mut console, "./test 8; uptime")?;
    ensure!(alive.contains("load average"), "the shell is not alive");
    // A PAL that does not end takes its CPU from the guest: one has to be left.
    if args.cpus > 1 {
        inside_a_pal(&mut out, &machine, &symbols, &mut console)?;
    }

    out.title("by hand")?;
    out.show(
        "cargo xtask run                  boot it on this terminal (Ctrl-A x ends)\n\
         cargo xtask gdb                  in another: gdb with the symbols, attached\n\
         (gdb) monitor help               what the stub can show",
    )?;
    say(format!("transcript: {}", transcript.display()));
    Ok(())
}

/// A program calls a PAL that does not end; gdb shows who is inside, and whose the memory is.
fn inside_a_pal(
    out: &mut Transcript,
    machine: &Machine,
    symbols: &Path,
    console: &mut Console,
) -> Result<()> {
    out.title("a program on CPU 1 calls a PAL that does not end; gdb stops inside")?;
    out.guest(console, "taskset 2 ./spin > spin.txt &")?;
    let mut gdb = stop_inside(machine, symbols)?;
    out.gdb(&mut gdb, "info threads", r#""cpu1" \(PAL 0 "#)?;
    out.gdb(&mut gdb, "monitor pal", "running +1 ")?;
    out.gdb(&mut gdb, "monitor pal 0", "PCR 7")?;

    out.title("its memory is closed, even to gdb, until one asks for it")?;
    out.gdb(&mut gdb, "thread 2", "Switching to thread 2")?;
    out.gdb(&mut gdb, "x/2i $rip", "Cannot access memory")?;
    let rip = gdb.number("$rip")?;
    let found = out.gdb(&mut gdb, &format!("monitor gva2gpa {rip:#x}"), "is gpa 0x")?;
    let gpa = found.trim().rsplit(' ').next().unwrap_or_default();
    let page = format!("monitor pal page {gpa}");
    out.gdb(&mut gdb, &page, "PAL 0's: code")?;
    out.gdb(
        &mut gdb,
        &format!("monitor xp {gpa}"),
        "PAL 0's memory, closed",
    )?;
    out.gdb(&mut gdb, "monitor pal unlock", "open")?;
    out.gdb(&mut gdb, "x/2i $rip", "jmp|pause")?;

    out.title("gdb ends it, and its program is told")?;
    out.gdb(&mut gdb, "monitor pal kill 0", "ended")?;
    out.gdb(&mut gdb, &page, "the guest's")?;
    out.gdb(&mut gdb, "detach", "detached")?;
    let told = out.guest(console, "wait; cat spin.txt")?;
    ensure!(told.contains("the PAL was ended"), "spin was not told");
    Ok(())
}

/// A gdb that has found a CPU inside a PAL.
fn stop_inside(machine: &Machine, symbols: &Path) -> Result<Gdb> {
    let deadline = Instant::now() + COMMAND;
    while Instant::now() < deadline {
        let mut gdb = Gdb::start(symbols)?;
        gdb.attach(machine.debug.port())?;
        if gdb.command("info threads")?.contains("(PAL ") {
            gdb.command("stillpoint-symbols")?;
            return Ok(gdb);
        }
        gdb.command("detach")?;
    }
    bail!("the program does not come into its PAL")
}

/// The boot's lines, the kernel's many left out.
fn shortened(boot: &str) -> String {
    let (kernel, others): (Vec<&str>, Vec<&str>) = boot
        .lines()
        .filter(|line| !line.trim().is_empty())
        .partition(|line| line.starts_with('['));
    let first_kernel_line = kernel.first().copied().unwrap_or_default();
    let mut lines = Vec::new();
    let mut shown = false;
    for line in boot.lines().filter(|line| !line.trim().is_empty()) {
        if others.contains(&line) {
            lines.push(line.to_owned());
        } else if !shown {
            shown = true;
            lines.push(first_kernel_line.to_owned());
            lines.push(format!(
                "[...] {} more lines of the kernel",
                kernel.len() - 1
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn the_kernels_lines_are_counted() {
        let boot = "stillpoint: a\n[    0.0] b\n[    0.1] c\n\nguest ready\n";
        assert_eq!(
            shortened(boot),
            "stillpoint: a\n[    0.0] b\n[...] 1 more lines of the kernel\nguest ready"
        );
    }
}
