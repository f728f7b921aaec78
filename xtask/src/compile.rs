//! `cargo xtask build`: the bare-metal image and the guest's programs, which need
//! compiler flags of their own.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use clap::Args;
use xshell::{Shell, cmd};

use crate::c_programs::{self, Width};
use crate::kernel::Debian;
use crate::progress::{say, step};
use crate::{image_code, pal_code, paths};

/// Build the image and the guest's programs.
#[derive(Args)]
pub struct BuildArgs {
    /// The image with the test-only hypercalls.
    #[arg(long)]
    test_hooks: bool,
}

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// What people run.
    Release,
    /// With hypercalls that tests and benchmarks need and nobody else may have.
    TestHooks,
}

/// The host's own target: naming it keeps the flags below away from build scripts.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Freestanding, linked at a fixed address in the top 2 GiB, unwound by frame pointers.
/// AES in software: the crate would use AVX, whose registers are the guest's.
pub const IMAGE_FLAGS: &str = "-C relocation-model=static -C code-model=kernel -C no-redzone=yes \
                               -C panic=abort -C force-frame-pointers=yes \
                               --cfg aes_backend=\"soft\"";

/// The guest's programs bring their own C library, and no symbols, which would be most of them.
/// The other flags keep PAL code's tables and constants out of `.rodata`, which PALs do not have.
pub const GUEST_FLAGS: &str = "-C target-feature=+crt-static -C strip=symbols -C jump-tables=no \
                               -C no-vectorize-loops -C no-vectorize-slp";

/// The test guest runs without an operating system, in the first 2 GiB.
pub const TEST_GUEST_FLAGS: &str =
    "-C relocation-model=static -C panic=abort -C force-frame-pointers=yes";

/// Builds the image, once; says where it lies.
pub fn image(shell: &Shell, flavour: Flavour) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<(Flavour, PathBuf)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, path)) = built.iter().find(|(other, _)| *other == flavour) {
        return Ok(path.clone());
    }
    let path = build_image(shell, flavour)?;
    built.push((flavour, path.clone()));
    Ok(path)
}

fn build_image(shell: &Shell, flavour: Flavour) -> Result<PathBuf> {
    let (folder, features): (&str, &[&str]) = match flavour {
        Flavour::Release => ("hv", &[]),
        Flavour::TestHooks => ("hv-test", &["--features", "test-hooks"]),
    };
    let target_dir = paths::target().join(folder);
    step(&format!("building the image ({folder})"), || {
        let _here = shell.push_dir(paths::root());
        let _flags = shell.push_env("RUSTFLAGS", IMAGE_FLAGS);
        cmd!(
            shell,
            "cargo build --quiet --package stillpoint --profile image --target {TARGET} --target-dir {target_dir} {features...}"
        )
        .quiet()
        .run()?;
        let image = target_dir.join(TARGET).join("image/stillpoint");
        image_code::ensure_no_avx(&image)?;
        Ok(image)
    })
}

/// A program for the guest.
#[derive(Clone, Debug)]
pub struct Program {
    /// What the guest calls it.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Builds the programs of a guest of the architecture `debian`, once.
///
/// amd64 has the Rust programs, 64-bit C, and 32-bit C with `32` behind the names; a 64-bit C
/// program whose name a Rust one has is called with `64` behind it. i386 has the 32-bit C programs.
pub fn guest_programs(shell: &Shell, debian: Debian) -> Result<Vec<Program>> {
    static BUILT: Mutex<Vec<(Debian, Vec<Program>)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, programs)) = built.iter().find(|(other, _)| *other == debian) {
        return Ok(programs.clone());
    }
    let mut programs = Vec::new();
    let mut add = |paths: Vec<PathBuf>, suffix: &str| {
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let taken = |name: &str| programs.iter().any(|other: &Program| other.name == name);
            let mut name = format!("{name}{suffix}");
            if taken(&name) {
                name.push_str("64");
            }
            programs.push(Program { name, path });
        }
    };
    match debian {
        Debian::Amd64 => {
            add(build_rust_programs(shell)?, "");
            add(c_programs::build(shell, Width::Bits64)?, "");
            add(c_programs::build(shell, Width::Bits32)?, "32");
        }
        Debian::I386 => add(c_programs::build(shell, Width::Bits32)?, ""),
    }
    for program in &programs {
        pal_code::ensure_self_contained(&program.path)?;
    }
    built.push((debian, programs.clone()));
    Ok(programs)
}

fn build_rust_programs(shell: &Shell) -> Result<Vec<PathBuf>> {
    let target_dir = paths::target().join("guest");
    let _here = shell.push_dir(paths::root());
    let _flags = shell.push_env("RUSTFLAGS", GUEST_FLAGS);
    let messages = cmd!(
        shell,
        "cargo build --quiet --package pal-demo --bins --release --target {TARGET} --target-dir {target_dir} --message-format=json"
    )
    .quiet()
    .read()?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if let Some(program) = message["executable"].as_str() {
            programs.push(program.into());
        }
    }
    Ok(programs)
}

/// Builds the bare-metal test guest, once; says where its ELF file lies.
pub fn test_guest(shell: &Shell) -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    Ok(built.insert(build_test_guest(shell)?).clone())
}

fn build_test_guest(shell: &Shell) -> Result<PathBuf> {
    let target_dir = paths::target().join("test-guest");
    let _here = shell.push_dir(paths::root());
    let _flags = shell.push_env("RUSTFLAGS", TEST_GUEST_FLAGS);
    cmd!(
        shell,
        "cargo build --quiet --package test-guest --release --target {TARGET} --target-dir {target_dir}"
    )
    .quiet()
    .run()?;
    Ok(target_dir.join(TARGET).join("release/test-guest"))
}

/// `cargo xtask build`.
pub fn command(args: &BuildArgs) -> Result<()> {
    let shell = Shell::new()?;
    let flavour = if args.test_hooks {
        Flavour::TestHooks
    } else {
        Flavour::Release
    };
    say(format!("{}", image(&shell, flavour)?.display()));
    for debian in [Debian::Amd64, Debian::I386] {
        for program in guest_programs(&shell, debian)? {
            let (debian, name) = (debian.name(), program.name);
            say(format!("{}, {name} on {debian}", program.path.display()));
        }
    }
    say(format!("{}", test_guest(&shell)?.display()));
    Ok(())
}
