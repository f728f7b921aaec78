//! `cargo xtask gdb`: gdb for a person, attached to the machine that `cargo xtask run` started.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use xshell::Shell;

use crate::compile::{self, Flavour};
use crate::kernel::KernelArgs;
use crate::{gdb, paths, setup, vmlinux};

/// Attach gdb to the running `cargo xtask run`, with the scripts and the kernel's symbols loaded.
#[derive(Args)]
pub struct GdbArgs {
    /// The run to attach to, as given to `run --name`.
    #[arg(long, default_value = "run")]
    name: String,
    #[command(flatten)]
    kernel: KernelArgs,
    /// The hypervisor's own symbols instead of the kernel's.
    #[arg(long)]
    host: bool,
    /// More arguments for gdb.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// `cargo xtask gdb`: becomes gdb.
pub fn command(args: &GdbArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    let port = running_port(&args.name)?;
    let program = if args.host {
        compile::image(&shell, Flavour::Release)?
    } else {
        vmlinux::path(&shell, args.kernel.kernel())?
    };
    let mut gdb = Command::new("gdb");
    gdb.arg("--quiet")
        .arg("-x")
        .arg(gdb::scripts())
        .arg(program)
        .args(["-ex", &format!("stillpoint-attach localhost:{port}")]);
    // Ctrl-C is gdb's from here on.
    Err(gdb.args(&args.arguments).exec()).context("cannot start gdb")
}

fn running_port(name: &str) -> Result<u16> {
    let file = paths::runs().join(name).join("debug-port");
    let advice = "start one with `cargo xtask run`";
    let port: u16 = fs::read_to_string(&file)
        .with_context(|| format!("no run called {name}; {advice}"))?
        .trim()
        .parse()
        .with_context(|| format!("{}", file.display()))?;
    // Whoever listens there keeps others from listening; a connection would stop the machine.
    if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
        bail!("the run called {name} has ended; {advice}");
    }
    Ok(port)
}
