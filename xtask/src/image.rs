//! `cargo xtask image`, and the two disks of a run: the hypervisor's, with GRUB and
//! the image, and the light guest's, with GRUB, Debian's kernel and an initramfs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use xshell::{Shell, cmd};

use crate::compile::{self, Flavour};
use crate::cpio::Archive;
use crate::disk::{self, DiskFile};
use crate::full_debian::FullDebian;
use crate::kernel::{Debian, Kernel};
use crate::own_files::{self, OwnFile};
use crate::progress::{say, step};
use crate::{paths, setup, tools};

/// Make the two disk images, target/hv.img and target/guest.img.
///
/// The guest's disk has a full Debian: a system installed by debootstrap, with systemd, GRUB in the
/// first sector, Debian's general kernel, and the demo programs in /root. On the serial line root logs
/// in without a password. Making one needs root (sudo is used), Debian's archive and 2.5 GB, once.
#[derive(Args)]
pub struct ImageArgs {
    /// The hypervisor's command line, after `boot_drive=0x81`.
    #[arg(long, default_value = "debug=com2 log=com1")]
    cmdline: String,
    /// Words to add to the guest kernel's command line.
    #[arg(long, default_value = "")]
    guest_cmdline: String,
    /// The architecture of the guest's Debian: 13 for amd64, 12 for i386.
    #[arg(long, value_enum, default_value_t, value_name = "ARCHITECTURE")]
    debian: Debian,
    /// Only Debian's kernel and an initramfs with a shell, as `run` has it. Needs no root.
    #[arg(long)]
    light: bool,
}

/// The BIOS's number of the guest's disk when the hypervisor's disk is the first.
pub const GUEST_DRIVE: &str = "boot_drive=0x81";

/// Needed by every run: a console on COM1; no MWAIT idling, which the emulator does very slowly;
/// reboot by the chipset's reset control register, since the emulator's keyboard controller resets
/// the CPUs without unlocking IA32_FEATURE_CONTROL, and its BIOS faults on that, bare as well;
/// patience with what keeps interrupts off: a PAL that makes the micro-TPM's key, which takes the
/// emulator half a minute, and a debugger.
const GUEST_BASE: &str = "console=ttyS0,115200 idle=halt reboot=pci \
                          watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300";

/// What every run of a Debian needs on its kernel's command line.
///
/// On amd64 also no vDSO for 32-bit programs, whose system calls would end in SYSRET: the emulator's
/// leaves the attributes of SS as they are, after an interrupt those of a null selector, and the
/// program goes on with a 16-bit stack. Bare as well, as soon as two threads wait for each other.
pub fn guest_base(debian: Debian) -> String {
    match debian {
        Debian::Amd64 => format!("{GUEST_BASE} vdso32=0"),
        Debian::I386 => GUEST_BASE.into(),
    }
}

/// What makes a boot light on an emulator: work at start-up that a run here does not need.
const GUEST_QUICK: &str = "quiet mitigations=off nokaslr tsc=reliable cryptomgr.notests=1 rodata=off \
                           initcall_blacklist=x509_key_init,trace_eval_init,init_kprobes";

/// What the guest's disk boots.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// Which kernel.
    pub kernel: Kernel,
    /// As Debian ships it: no shortcuts on the kernel's command line, KASLR on.
    pub plain: bool,
    /// Words to add to the kernel's command line.
    pub cmdline: String,
    /// Put the demo programs in.
    pub programs: bool,
    /// Files of one's own.
    pub own: Vec<OwnFile>,
}

impl Guest {
    /// The whole command line of the guest's kernel.
    pub fn kernel_cmdline(&self) -> String {
        let quick = if self.plain { "" } else { GUEST_QUICK };
        let base = guest_base(self.kernel.debian());
        [&base, quick, &self.cmdline]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Writes the guest's disk.
    pub fn write_disk(&self, shell: &Shell, path: &Path) -> Result<()> {
        let kernel = fs::read(self.kernel.folder(shell)?.join("vmlinuz"))?;
        let config = format!(
            "set timeout=0\nset default=0\nmenuentry guest {{\n  linux /boot/vmlinuz {}\n  initrd /boot/initramfs\n}}\n",
            self.kernel_cmdline()
        );
        let files = [
            DiskFile {
                path: "boot/vmlinuz".into(),
                contents: kernel,
            },
            DiskFile {
                path: "boot/initramfs".into(),
                contents: self.initramfs(shell)?,
            },
        ];
        disk::write_grub_disk(shell, path, &config, &files)
    }

    fn initramfs(&self, shell: &Shell) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "root", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", 5, 1);
        archive.character_device("dev/ttyS0", 4, 64);
        let debian = self.kernel.debian();
        let busybox = fs::read(tools::guest_busybox(shell, debian)?)?;
        archive.file("bin/busybox", 0o755, &busybox);
        // The same version for every architecture, so the one that runs here knows the applets.
        let here = tools::busybox();
        for applet in cmd!(shell, "{here} --list").quiet().read()?.lines() {
            if applet != "busybox" {
                archive.link(&format!("bin/{applet}"), "busybox");
            }
        }
        archive.file("init", 0o755, include_bytes!("guest/init"));
        for (name, contents) in self.kernel.modules(shell)? {
            archive.file(&format!("root/{name}"), 0o644, &contents);
        }
        if self.programs {
            for program in compile::guest_programs(shell, debian)? {
                let path = format!("root/{}", program.name);
                archive.file(&path, 0o755, &fs::read(&program.path)?);
            }
        }
        let folder = own_files::FOLDER.trim_start_matches('/');
        archive.folder(folder);
        for OwnFile { name, mode, source } in &self.own {
            archive.file(&format!("{folder}/{name}"), *mode, &fs::read(source)?);
        }
        Ok(archive.finish())
    }
}

/// Writes the hypervisor's disk: GRUB boots `image` by multiboot2 with `cmdline`, and the
/// first sector of the second disk as a module.
pub fn write_hypervisor_disk(
    shell: &Shell,
    path: &Path,
    image: &Path,
    cmdline: &str,
) -> Result<()> {
    let contents = fs::read(image).with_context(|| format!("{}", image.display()))?;
    let config = format!(
        "set timeout=0\nset default=0\nmenuentry Stillpoint {{\n  multiboot2 /boot/stillpoint {cmdline}\n  module2 (hd1)+1\n}}\n"
    );
    let files = [DiskFile {
        path: "boot/stillpoint".into(),
        contents,
    }];
    disk::write_grub_disk(shell, path, &config, &files)
}

/// `cargo xtask image`.
pub fn command(args: &ImageArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    let (hypervisor, guest) = disk_paths(&paths::target());
    let image = compile::image(&shell, Flavour::Release)?;
    step("writing the hypervisor's disk", || {
        let cmdline = format!("{GUEST_DRIVE} {}", args.cmdline);
        write_hypervisor_disk(&shell, &hypervisor, &image, &cmdline)
    })?;
    step("writing the guest's disk", || {
        let cmdline = args.guest_cmdline.clone();
        if args.light {
            let kernel = args.debian.light_kernel();
            let spec = Guest {
                kernel,
                cmdline,
                programs: true,
                ..Guest::default()
            };
            spec.write_disk(&shell, &guest)
        } else {
            let debian = args.debian;
            let full = FullDebian {
                debian,
                cmdline,
                ..FullDebian::default()
            };
            full.write_disk(&shell, &guest)
        }
    })?;
    say(format!("{}", hypervisor.display()));
    say(format!("{}", guest.display()));
    Ok(())
}

/// The names of the two disks in a folder.
pub fn disk_paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("hv.img"), folder.join("guest.img"))
}
