//! Debian's kernels, untouched, out of their packages, and what they say when something is wrong. Used by
//! `image` and `vmlinux`; the words by the scenarios, `storm` and `matrix`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use xshell::Shell;

use crate::apt::PrivateApt;
use crate::full_debian::FullDebian;
use crate::progress::step;
use crate::tools;

/// An architecture of Debian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Debian {
    /// 64-bit.
    #[default]
    Amd64,
    /// 32-bit.
    I386,
}

impl Debian {
    /// What Debian's archive calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::I386 => "i386",
        }
    }

    /// The kernel of the guest that is only a kernel and an initramfs: the quickest to boot.
    pub fn light_kernel(self) -> Kernel {
        match self {
            Self::Amd64 => Kernel::Cloud12,
            Self::I386 => Kernel::Pae12,
        }
    }
}

/// The options with which a command lets a person choose the guest.
#[derive(Args)]
pub struct KernelArgs {
    /// The architecture of the guest's Debian.
    #[arg(long, value_enum, default_value_t, value_name = "ARCHITECTURE")]
    debian: Debian,
    /// The full Debian of that architecture, with systemd and a login, instead of its kernel and a shell.
    #[arg(long)]
    full: bool,
    /// Which of Debian's amd64 kernels; cloud12 if none is named.
    #[arg(long, value_enum, conflicts_with_all = ["debian", "full"])]
    kernel: Option<Kernel>,
}

impl KernelArgs {
    /// The kernel chosen.
    pub fn kernel(&self) -> Kernel {
        self.kernel.unwrap_or(if self.full {
            FullDebian::kernel_of(self.debian)
        } else {
            self.debian.light_kernel()
        })
    }

    /// The full Debian chosen, if one is, with words for its kernel's command line.
    pub fn full(&self, cmdline: &str) -> Option<FullDebian> {
        self.full.then(|| FullDebian {
            debian: self.debian,
            cmdline: cmdline.to_owned(),
            ..FullDebian::default()
        })
    }
}

/// Which of Debian's kernels the guest boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Kernel {
    /// Debian 12's 6.1 for virtual machines: LZ4, the quickest to boot here.
    #[default]
    Cloud12,
    /// Debian 13's 6.12 for virtual machines.
    Cloud13,
    /// Debian 12's general 6.1.
    Amd12,
    /// Debian 13's general 6.12.
    Amd13,
    /// Debian 12's 6.1 for 32-bit processors with PAE, the one of `--debian i386`. Debian 13 has none.
    #[value(skip)]
    Pae12,
}

/// What a kernel's log has when something is wrong with the kernel, for `grep -E`. None of these can be the name of a
/// function: such names are in the backtraces that SysRq-l asks for.
pub const TROUBLE: &str = "BUG:|kernel BUG|WARNING:|Oops:|Kernel panic|soft lockup|hard LOCKUP|detected stall|\
                           self-detected|double fault|blocked for more";

/// The same of what is wrong with a program.
pub const FAULTS: &str = "general protection|unable to handle|segfault at|invalid opcode";

/// What 6.1 says, once, of a #GP in a copy to a program's memory: `attack` has the kernel write to a
/// lent page, and this is how that is refused. It taints the kernel as a warning, 512.
pub const REFUSED_WRITE: &str = "WARNING: .* at arch/x86/mm/extable.c:";

/// Modules worth having in the initramfs.
const MODULES: [&str; 2] = ["msr.ko", "cpuid.ko"];

impl Kernel {
    /// The release and the metapackage that it comes from.
    pub fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Cloud12 => ("bookworm", "linux-image-cloud-amd64"),
            Self::Cloud13 => ("trixie", "linux-image-cloud-amd64"),
            Self::Amd12 => ("bookworm", "linux-image-amd64"),
            Self::Amd13 => ("trixie", "linux-image-amd64"),
            Self::Pae12 => ("bookworm", "linux-image-686-pae"),
        }
    }

    /// The architecture whose programs it runs natively.
    pub fn debian(self) -> Debian {
        match self {
            Self::Cloud12 | Self::Cloud13 | Self::Amd12 | Self::Amd13 => Debian::Amd64,
            Self::Pae12 => Debian::I386,
        }
    }

    /// The folder with `vmlinuz`, `config`, `release` and some modules, fetched when new.
    pub fn folder(self, shell: &Shell) -> Result<PathBuf> {
        let (suite, metapackage) = self.source();
        tools::once(&format!("kernel-{metapackage}-{suite}"), |into| {
            step(&format!("fetching {metapackage} of {suite}"), || {
                let apt = PrivateApt::open(shell, suite, self.debian())?;
                let package = apt.first_dependency(shell, metapackage)?;
                let unpacked = into.join("unpacked");
                apt.unpack(shell, &[&package], false, &unpacked)?;
                let release = package.trim_start_matches("linux-image-").to_owned();
                fs::write(into.join("release"), &release)?;
                for name in ["vmlinuz", "config"] {
                    let source = unpacked.join("boot").join(format!("{name}-{release}"));
                    fs::copy(&source, into.join(name))
                        .with_context(|| format!("{}", source.display()))?;
                }
                for module in MODULES {
                    let folder = ["lib/modules", "usr/lib/modules"]
                        .map(|lib| unpacked.join(lib).join(&release))
                        .into_iter()
                        .find(|folder| folder.exists())
                        .context("the kernel package has no modules")?;
                    let source = folder.join("kernel/arch/x86/kernel").join(module);
                    // Debian 13 compresses its modules; those are left out.
                    if source.exists() {
                        fs::copy(source, into.join(module))?;
                    }
                }
                fs::remove_dir_all(&unpacked)?;
                Ok(())
            })
        })
    }

    /// The modules of [`Kernel::folder`] that go into the initramfs: name and contents.
    pub fn modules(self, shell: &Shell) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let folder = self.folder(shell)?;
        let mut modules = Vec::new();
        for module in MODULES {
            if let Ok(contents) = fs::read(folder.join(module)) {
                modules.push((module, contents));
            }
        }
        Ok(modules)
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn complaints_are_found_and_backtraces_are_none() {
        let complaints = Regex::new(&format!("{TROUBLE}|{FAULTS}")).unwrap();
        for line in [
            "[    9.1] BUG: unable to handle page fault for address: 0000000000001000",
            "[    9.1] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    9.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            "[    9.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    9.1] test[90]: segfault at 0 ip 0000000000401136 sp 00007ffc0c5a0c50 error 4 in test",
        ] {
            assert!(complaints.is_match(line), "{line}");
        }
        // What is left on a stack can be any function's name.
        for line in [
            "[   71.742371]  ? rcu_panic+0x20/0x20",
            "[   71.742371]  ? __die_body.cold+0x1a/0x1f",
        ] {
            assert!(!complaints.is_match(line), "{line}");
        }
        let is_no_name = |word: &str| word.contains([' ', ':', '-']);
        let mut words = TROUBLE.split('|').chain(FAULTS.split('|'));
        assert!(words.all(is_no_name));
    }
}
