//! `cargo xtask doctor`, and the set-up that every other command begins with.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use xshell::Shell;

use crate::kernel::Kernel;
use crate::{apt, paths, tools};

/// Say what is missing and the command that brings it.
#[derive(Args)]
pub struct DoctorArgs {
    /// Fetch and install it too.
    #[arg(long)]
    fix: bool,
}

/// Brings everything needed to build images and run them.
pub fn ensure(shell: &Shell) -> Result<()> {
    apt::install_missing(shell)?;
    tools::ensure(shell)
}

/// `cargo xtask doctor`.
pub fn doctor(args: &DoctorArgs) -> Result<()> {
    let shell = Shell::new()?;
    if args.fix {
        ensure(&shell)?;
        Kernel::default().folder(&shell)?;
    }
    let mut complete = true;
    let mut report = |what: &str, present: bool, remedy: &str| {
        println!("{:<8}{what}", if present { "ok" } else { "missing" });
        if !present {
            println!("        -> {remedy}");
            complete = false;
        }
    };
    let debian = Path::new("/etc/debian_version").exists();
    report(
        "Debian, or a relative of it with apt",
        debian,
        "run on Debian 12 or later",
    );
    let missing = apt::missing_packages();
    let what = if missing.is_empty() {
        "system packages".to_owned()
    } else {
        format!("system packages: {}", missing.join(" "))
    };
    report(&what, missing.is_empty(), &apt::install_command(&missing));
    let fetched = "cargo xtask doctor --fix (any other command brings it too)";
    report(
        "emulator, GRUB, busybox (target/tools/debian-*)",
        tools::are_there(),
        fetched,
    );
    report(
        "Debian's kernel (target/tools/kernel-*)",
        paths::tools()
            .join("kernel-linux-image-cloud-amd64-bookworm")
            .exists(),
        fetched,
    );
    if !complete {
        bail!("something is missing: see above");
    }
    Ok(())
}
