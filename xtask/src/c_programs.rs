//! Builds the C side of `pal-demo`, in both widths: the library `libtrustvisor.a` and the
//! programs made with it. Used by `compile`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::paths;

/// How wide a program's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// For i386, and for amd64 with IA-32 emulation.
    Bits32,
    /// For amd64.
    Bits64,
}

/// The library's source in `pal-demo/c`; each other `.c` file there is a program.
const LIBRARY: &str = "trustvisor.c";

/// Builds everything of `width`: the programs' paths. The library lies beside them.
pub fn build(shell: &Shell, width: Width) -> Result<Vec<PathBuf>> {
    let (flag, folder) = match width {
        Width::Bits32 => ("-m32", "32"),
        Width::Bits64 => ("-m64", "64"),
    };
    let sources = paths::root().join("pal-demo/c");
    let into = paths::target().join("guest-c").join(folder);
    fs::create_dir_all(&into)?;
    let flags = [flag, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"];

    let (object, library) = (into.join("trustvisor.o"), into.join("libtrustvisor.a"));
    let source = sources.join(LIBRARY);
    cmd!(
        shell,
        "cc {flags...} -ffreestanding -c -o {object} {source}"
    )
    .quiet()
    .run()?;
    cmd!(shell, "ar rcsD {library} {object}").quiet().run()?;

    let mut programs = Vec::new();
    for source in programs_in(&sources)? {
        let program = into.join(source.file_stem().unwrap_or_default());
        cmd!(
            shell,
            "cc {flags...} -static -s -o {program} {source} {library}"
        )
        .quiet()
        .run()?;
        programs.push(program);
    }
    Ok(programs)
}

/// The programs' sources, in the order of their names.
fn programs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") && !path.ends_with(LIBRARY) {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}
