//! Builds the C side of `pal-demo`, in both widths: the library `libtrustvisor.a`, the PAL code,
//! and the programs made with both. Used by `compile`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::paths;

/// How wide a program's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// For i386, and for amd64 with IA-32 emulation.
    Bits32,
    /// For amd64.
    Bits64,
}

/// For all that is built.
const FLAGS: [&str; 5] = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"];

/// For PAL code, which may use nothing outside of its section: no tables of jumps or constants in
/// `.rodata`, no calls of a C library's functions or into `.text`, no canary in thread-local
/// memory. docs/pal-guide.md has the same list.
pub const PAL_FLAGS: [&str; 8] = [
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-jump-tables",
    "-fno-tree-vectorize",
    "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none",
    "-mgeneral-regs-only",
];

/// Builds everything of `width`: the programs' paths. The library lies beside them. Several xtasks
/// may come here at once: the lock lets one build, and what it replaces is whole at any time.
pub fn build(shell: &Shell, width: Width) -> Result<Vec<PathBuf>> {
    let (flag, name) = match width {
        Width::Bits32 => ("-m32", "32"),
        Width::Bits64 => ("-m64", "64"),
    };
    let sources = paths::root().join("pal-demo/c");
    let folder = paths::target().join("guest-c").join(name);
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    let into = folder.with_extension("unfinished");
    if into.exists() {
        fs::remove_dir_all(&into)?;
    }
    fs::create_dir_all(&into)?;
    let object = |source: &Path, more: &[&str]| -> Result<PathBuf> {
        let object = into.join(source.file_stem().unwrap_or_default());
        let object = object.with_extension("o");
        cmd!(
            shell,
            "cc {flag} {FLAGS...} {more...} -I {sources} -c -o {object} {source}"
        )
        .quiet()
        .run()?;
        Ok(object)
    };
    let archive = |name: &str, folder: &str, more: &[&str]| -> Result<PathBuf> {
        let archive = into.join(name);
        let objects = c_files(&sources.join(folder))?
            .iter()
            .map(|source| object(source, more))
            .collect::<Result<Vec<_>>>()?;
        cmd!(shell, "ar rcsD {archive} {objects...}")
            .quiet()
            .run()?;
        Ok(archive)
    };
    let pals = archive("libpals.a", "pal", &PAL_FLAGS)?;
    let library = archive("libtrustvisor.a", "lib", &[])?;

    let mut programs = Vec::new();
    for source in c_files(&sources)? {
        let name = source.file_stem().unwrap_or_default();
        let program = into.join(name);
        // A program of several files has the others in a folder of its name.
        let parts = match source.with_extension("") {
            folder if folder.is_dir() => c_files(&folder)?,
            _ => Vec::new(),
        };
        cmd!(
            shell,
            "cc {flag} {FLAGS...} -static -s -I {sources} -o {program} {source} {parts...} {pals} {library}"
        )
        .quiet()
        .run()?;
        programs.push(folder.join(name));
    }
    for built in fs::read_dir(&into)? {
        let built = built?;
        fs::rename(built.path(), folder.join(built.file_name()))?;
    }
    Ok(programs)
}

/// The `.c` files of a folder, in the order of their names. In `pal-demo/c` itself each is a program.
fn c_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}
