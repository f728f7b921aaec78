//! What is fetched from Debian into `target/tools`: the emulator, GRUB, a static
//! busybox. Each folder is pruned to what is used, and complete once it exists.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::apt::PrivateApt;
use crate::kernel::Debian;
use crate::progress::{say, step};
use crate::{bochs_fix, paths};

/// Bochs 3.0 is the one with what is needed here (12's 2.7 has no monitor trap flag).
const SUITE: &str = "trixie";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A program of another release, run with that release's own libraries.
pub struct Foreign {
    /// The dynamic loader to start it with.
    pub loader: PathBuf,
    /// The folder of its libraries.
    pub libraries: PathBuf,
    /// The program.
    pub program: PathBuf,
}

/// Where [`ensure`] puts it all. The number goes up when what is in there changes, such as the
/// repair of the emulator: an old copy is not taken for a new one.
const FOLDER: &str = "debian-2";

/// A file there that says why the emulator could not be repaired.
const UNREPAIRED: &str = "unrepaired";

fn root() -> PathBuf {
    paths::tools().join(FOLDER)
}

/// Whether [`ensure`] has run.
pub fn are_there() -> bool {
    root().exists()
}

/// What to expect of the emulator with `cpus` CPUs, if it could not be repaired.
pub fn warning(cpus: u32) -> Option<String> {
    let why = fs::read_to_string(root().join(UNREPAIRED)).ok()?;
    (cpus > 1).then(|| {
        format!("warning: the emulator is left as it is ({why}): expect the guest to crash with {cpus} CPUs")
    })
}

/// The emulator: its program and its data files.
pub struct Bochs {
    /// How to start it.
    pub foreign: Foreign,
    /// The folder of its plugins.
    pub plugins: PathBuf,
    /// The folder of its BIOS images.
    pub share: PathBuf,
}

/// Runs `fill` on a fresh folder that becomes `name` under `target/tools` when it succeeds;
/// does nothing when that is there. Several xtasks may come here at once: the lock lets one work.
pub fn once(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = paths::tools().join(name);
    if folder.exists() {
        return Ok(folder);
    }
    let parent = folder.parent().context("a tool has a folder")?;
    fs::create_dir_all(parent)?;
    let lock = File::create(paths::tools().join("lock"))?;
    lock.lock()?;
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        fill(&unfinished)?;
        fs::rename(&unfinished, &folder)?;
    }
    Ok(folder)
}

/// Makes sure that everything of this module is there.
pub fn ensure(shell: &Shell) -> Result<()> {
    once(FOLDER, |into| {
        step(
            "fetching the emulator, GRUB and busybox from Debian",
            || {
                let unpacked = paths::target().join("apt/unpacked");
                if unpacked.exists() {
                    fs::remove_dir_all(&unpacked)?;
                }
                let apt = PrivateApt::open(shell, SUITE, Debian::Amd64)?;
                say("fetching about 75 MB of packages");
                let packages = ["bochs", "grub-common", "grub-pc-bin", "busybox-static"];
                apt.unpack(shell, &packages, true, &unpacked)?;
                prune(shell, &unpacked, into)?;
                fs::remove_dir_all(&unpacked)?;
                Ok(())
            },
        )
    })?;
    Ok(())
}

/// The emulator, once [`ensure`] has run.
pub fn bochs() -> Bochs {
    let root = root();
    Bochs {
        foreign: foreign("usr/bin/bochs-bin"),
        plugins: root.join(LIBRARIES).join("bochs/plugins"),
        share: root.join("usr/share/bochs"),
    }
}

/// `grub-mkimage`, once [`ensure`] has run.
pub fn grub_mkimage() -> Foreign {
    foreign("usr/bin/grub-mkimage")
}

/// The folder of GRUB's modules for PC BIOS.
pub fn grub_modules() -> PathBuf {
    root().join("usr/lib/grub/i386-pc")
}

/// The static busybox that runs here.
pub fn busybox() -> PathBuf {
    root().join("usr/bin/busybox")
}

/// The static busybox for a guest of the architecture `debian`, fetched when new.
pub fn guest_busybox(shell: &Shell, debian: Debian) -> Result<PathBuf> {
    if debian == Debian::Amd64 {
        return Ok(busybox());
    }
    let name = debian.name();
    let folder = once(&format!("busybox-{name}"), |into| {
        step(&format!("fetching busybox for {name}"), || {
            let apt = PrivateApt::open(shell, SUITE, debian)?;
            let unpacked = into.join("unpacked");
            apt.unpack(shell, &["busybox-static"], false, &unpacked)?;
            fs::copy(unpacked.join("usr/bin/busybox"), into.join("busybox"))?;
            Ok(fs::remove_dir_all(&unpacked)?)
        })
    })?;
    Ok(folder.join("busybox"))
}

fn foreign(program: &str) -> Foreign {
    let root = root();
    Foreign {
        loader: root.join(LIBRARIES).join("ld-linux-x86-64.so.2"),
        libraries: root.join(LIBRARIES),
        program: root.join(program),
    }
}

/// Copies what is used from the unpacked packages.
fn prune(shell: &Shell, from: &Path, into: &Path) -> Result<()> {
    let libraries = from.join(LIBRARIES);
    let loader = libraries.join("ld-linux-x86-64.so.2");
    let mut keep: BTreeSet<PathBuf> = BTreeSet::new();
    for program in [
        "usr/bin/bochs-bin",
        "usr/bin/grub-mkimage",
        "usr/bin/busybox",
    ] {
        keep.insert(program.into());
    }
    for data in ["BIOS-bochs-latest", "VGABIOS-lgpl-latest"] {
        keep.insert(Path::new("usr/share/bochs").join(data));
    }
    keep.insert(Path::new(LIBRARIES).join("ld-linux-x86-64.so.2"));
    // The sound plugins would bring half a desktop.
    let plugins = Path::new(LIBRARIES).join("bochs/plugins");
    for name in names(&from.join(&plugins))? {
        let unwanted = [
            "soundalsa",
            "soundpulse",
            "soundoss",
            "gui_wx",
            "gui_sdl",
            "gui_x",
        ];
        if name.ends_with(".so") && !unwanted.iter().any(|sound| name.contains(sound)) {
            keep.insert(plugins.join(name));
        }
    }
    let modules = Path::new("usr/lib/grub/i386-pc");
    for name in names(&from.join(modules))? {
        keep.insert(modules.join(name));
    }

    let programs: Vec<PathBuf> = keep
        .iter()
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "so")
                || path.ends_with("bochs-bin")
                || path.ends_with("grub-mkimage")
        })
        .cloned()
        .collect();
    for program in programs {
        let path = from.join(&program);
        let text = cmd!(shell, "{loader} --library-path {libraries} --list {path}")
            .quiet()
            .ignore_stderr()
            .read()?;
        // "libm.so.6 => /…/libm.so.6 (0x…)"
        for library in text.lines().filter_map(|line| line.split(" => ").nth(1)) {
            let library = library.split(" (").next().unwrap_or(library);
            let name = Path::new(library)
                .file_name()
                .context("a library has a name")?;
            keep.insert(Path::new(LIBRARIES).join(name));
        }
    }
    for path in keep {
        let target = into.join(&path);
        fs::create_dir_all(target.parent().context("not the root")?)?;
        let source = from.join(&path);
        // `fs::copy` follows symbolic links, so each library is one file.
        fs::copy(&source, &target).with_context(|| format!("{}", source.display()))?;
    }
    let emulator = into.join("usr/bin/bochs-bin");
    match bochs_fix::repair(&fs::read(&emulator)?) {
        Ok(repaired) => fs::write(&emulator, repaired)?,
        Err(error) => fs::write(into.join(UNREPAIRED), error.to_string())?,
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
