//! The full Debian: a system installed by debootstrap on a disk of its own, with systemd, a login on
//! the serial line, ext4, GRUB in the first sector and Debian's general kernel. Making one takes
//! root and some minutes, once; each run gets a copy with the guest's programs put in, which takes
//! neither. Used by `image`, `run`, `matrix` and `bench`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::compile;
use crate::console::tail;
use crate::disk::{self, PARTITION_OFFSET};
use crate::image::guest_base;
use crate::kernel::{Debian, Kernel};
use crate::own_files::{self, OwnFile};
use crate::process::Guarded;
use crate::progress::{say, step};
use crate::{apt, paths, tools};

/// What the system is made of besides debootstrap's smallest set.
const PACKAGES: &str = "systemd-sysv,udev,kmod,initramfs-tools,zstd,grub-pc-bin,procps";

const MIRROR: &str = "http://deb.debian.org/debian";

/// The partition, in bytes; what the system does not fill stays a hole in the image's file.
const PARTITION: u64 = 2 << 30;

/// What the making takes of the host's disk at most: the tree and the image.
const SPACE: u64 = 5 << 29;

/// A part of the name under which the disk is kept. The number goes up when what is in there changes.
const VERSION: &str = "full-debian-1";

/// A disk with a full Debian.
#[derive(Clone, Debug, Default)]
pub struct FullDebian {
    /// Its architecture.
    pub debian: Debian,
    /// Words to add to the kernel's command line.
    pub cmdline: String,
    /// Files of one's own.
    pub own: Vec<OwnFile>,
}

/// A file that is put on the disk, owned by root.
struct Added {
    /// The folder that it goes into; it exists.
    folder: &'static str,
    name: String,
    mode: u32,
    /// Where it lies on the host.
    source: PathBuf,
}

impl FullDebian {
    /// The release's name. Debian 12 is the last with a 32-bit kernel; 13's 64-bit kernel unpacks itself in
    /// a quarter of the time.
    fn release(&self) -> &'static str {
        Self::kernel_of(self.debian).source().0
    }

    /// The kernel that the full Debian of an architecture boots.
    pub fn kernel_of(debian: Debian) -> Kernel {
        match debian {
            Debian::Amd64 => Kernel::Amd13,
            Debian::I386 => Kernel::Pae12,
        }
    }

    /// The root file system's UUID, by which the kernel finds it on whichever disk.
    fn uuid(&self) -> &'static str {
        match self.debian {
            Debian::Amd64 => "5711a9e0-0000-4000-8000-000000000064",
            Debian::I386 => "5711a9e0-0000-4000-8000-000000000032",
        }
    }

    /// Writes the disk: a copy of the one that [`FullDebian::make`] made, with the guest's programs
    /// in `/root` and GRUB's menu.
    pub fn write_disk(&self, shell: &Shell, path: &Path) -> Result<()> {
        let base = self.make(shell)?;
        cmd!(shell, "cp --sparse=always --reflink=auto {base} {path}")
            .quiet()
            .run()?;
        let menu = path.with_extension("grub.cfg");
        fs::write(&menu, self.menu())?;
        let mut files = vec![Added {
            folder: "/boot/grub",
            name: "grub.cfg".into(),
            mode: 0o644,
            source: menu.clone(),
        }];
        for program in compile::guest_programs(shell, self.debian)? {
            files.push(Added {
                folder: "/root",
                name: program.name,
                mode: 0o755,
                source: program.path,
            });
        }
        for OwnFile { name, mode, source } in self.own.iter().cloned() {
            files.push(Added {
                folder: own_files::FOLDER,
                name,
                mode,
                source,
            });
        }
        add(shell, path, &files)?;
        Ok(fs::remove_file(menu)?)
    }

    fn menu(&self) -> String {
        format!(
            "set timeout=0\nset default=0\nmenuentry Debian {{\n  linux /vmlinuz root=UUID={} ro quiet {} {}\n  initrd /initrd.img\n}}\n",
            self.uuid(),
            guest_base(self.debian),
            self.cmdline
        )
    }

    /// The disk without programs and menu, made when new.
    fn make(&self, shell: &Shell) -> Result<PathBuf> {
        let name = self.debian.name();
        let folder = tools::once(&format!("{VERSION}-{name}"), |into| {
            step(
                &format!("installing Debian's {}, {name}, on a disk", self.release()),
                || {
                    ensure_root(shell)?;
                    ensure_space(into)?;
                    let tree = paths::target().join(format!("{VERSION}-{name}-tree"));
                    self.install(shell, &tree)?;
                    self.fill(shell, &tree, &into.join("disk.img"))?;
                    remove(shell, &tree)
                },
            )
        })?;
        Ok(folder.join("disk.img"))
    }

    /// Runs debootstrap into the folder `tree`, and then makes the system ready for the emulator. The
    /// log lies beside it.
    fn install(&self, shell: &Shell, tree: &Path) -> Result<()> {
        let kernel = Self::kernel_of(self.debian).source().1;
        let log = tree.with_extension("log");
        // What an earlier attempt said is not wanted; there may be none.
        let _ = fs::remove_file(&log);
        let include = format!("--include={PACKAGES},{kernel}");
        let architecture = format!("--arch={}", self.debian.name());
        let folder = tree.to_string_lossy();
        let run = |what: &str, command: &[&str]| -> Result<()> {
            if let Err(error) = logged(command, &log) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "{what} failed ({error}). It needs root and {MIRROR}. The end of {}:\n{}",
                    log.display(),
                    tail(&said, 8)
                );
            }
            Ok(())
        };
        let debootstrap = [
            "debootstrap",
            "--variant=minbase",
            &architecture,
            &include,
            self.release(),
            &folder,
            MIRROR,
        ];
        apt::persist("a Debian", || {
            remove(shell, tree)?;
            run("debootstrap", &debootstrap)
        })?;
        let set_up = [
            "chroot",
            &folder,
            "sh",
            "-c",
            SETUP,
            "debian-setup",
            self.uuid(),
        ];
        run("its set-up", &set_up)
    }

    /// Writes the disk image from the tree.
    fn fill(&self, shell: &Shell, tree: &Path, image: &Path) -> Result<()> {
        let grub = tree.join("boot/grub/i386-pc");
        let read = |name| {
            let path = grub.join(name);
            fs::read(&path).with_context(|| format!("{}", path.display()))
        };
        disk::write_boot_sectors(image, PARTITION, &read("boot.img")?, &read("core.img")?)?;
        let (sudo, mke2fs, uuid) = (apt::as_root(), disk::mke2fs(), self.uuid());
        // All tables are written here, not by a kernel thread in the guest.
        let options = format!("offset={PARTITION_OFFSET},lazy_itable_init=0,root_owner=0:0");
        let blocks = (PARTITION / 4096).to_string();
        // GRUB 2.06 does not read the newest features.
        cmd!(
            shell,
            "env {sudo...} {mke2fs} -q -F -t ext4 -O ^metadata_csum_seed,^orphan_file -b 4096 -m 0 -U {uuid}
                -E {options} -d {tree} {image} {blocks}"
        )
        .quiet()
        .ignore_stderr()
        .run()
        .context("cannot make the file system")
    }
}

/// What is done in the new system.
const SETUP: &str = include_str!("guest/debian-setup");

/// Puts files on the disk image.
fn add(shell: &Shell, image: &Path, files: &[Added]) -> Result<()> {
    let mut commands = format!("mkdir {}\n", own_files::FOLDER);
    for Added {
        folder,
        name,
        mode,
        source,
    } in files
    {
        let source = source.display();
        commands += &format!(
            "cd {folder}\nwrite \"{source}\" {name}\nsif {name} mode 0100{mode:o}\nsif {name} uid 0\nsif {name} gid 0\n"
        );
    }
    let script = image.with_extension("debugfs");
    fs::write(&script, commands)?;
    let device = format!("{}?offset={PARTITION_OFFSET}", image.display());
    let folder = Path::new(disk::mke2fs()).with_file_name("debugfs");
    let output = cmd!(shell, "{folder} -w -f {script} {device}")
        .env("LC_ALL", "C")
        .quiet()
        .output()?;
    // Its exit status is 0 whatever happened; the other stream has its version, and what went wrong.
    let [said, wrong] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let written = said.matches("Allocated inode").count();
    ensure!(
        written == files.len() && wrong.lines().count() <= 1,
        "cannot put the programs on the disk:\n{said}{wrong}"
    );
    Ok(fs::remove_file(script)?)
}

/// Removes a folder of root's. Nothing can be mounted in it: see [`logged`].
fn remove(shell: &Shell, folder: &Path) -> Result<()> {
    let sudo = apt::as_root();
    Ok(
        cmd!(shell, "env {sudo...} rm -rf --one-file-system {folder}")
            .quiet()
            .run()?,
    )
}

/// Runs a command as root with all that it prints in the file `log`, and says every ten seconds what
/// it is about. It may not mount anything, so that nothing of the host's can be left in what it makes.
fn logged(command: &[&str], log: &Path) -> Result<()> {
    let without_mounts = [
        // The new system has no other locale.
        "env",
        "LC_ALL=C",
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
        "--",
    ];
    let words = [apt::as_root(), &without_mounts, command].concat();
    let (program, arguments) = words.split_first().context("a command has a name")?;
    let file = File::options().create(true).append(true).open(log)?;
    let errors = file.try_clone()?;
    let mut child = Guarded::spawn(program, |command| {
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors));
    })?;
    let output = child.child().stdout.take().context("it has an output")?;
    let mut file = file;
    let mut shown = Instant::now();
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        if shown.elapsed() >= Duration::from_secs(10) {
            shown = Instant::now();
            say(format!("    {}", line.trim_start_matches("I: ")));
        }
    }
    let status = child.child().wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Asks for sudo's password at the beginning, not in the middle.
fn ensure_root(shell: &Shell) -> Result<()> {
    if apt::as_root().is_empty() {
        return Ok(());
    }
    cmd!(shell, "sudo --validate")
        .quiet()
        .run()
        .context("installing a full Debian takes root: be root, or have sudo")
}

/// Complains if the making would fill the host's disk.
fn ensure_space(folder: &Path) -> Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free >= SPACE,
        "{} MiB are free in {}, {} MiB are needed",
        free >> 20,
        folder.display(),
        SPACE >> 20
    );
    Ok(())
}
