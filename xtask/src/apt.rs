//! Debian's package tools, two ways: packages installed on this system (sudo
//! when not root), and packages of any release fetched into a private state
//! under `target/`, which touches nothing of the system. Used by `setup` and `tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::kernel::Debian;
use crate::paths;
use crate::progress::say;

/// The package that brings the release keys, and where it puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How often something is fetched before it counts as failed, and what lies between.
const ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_secs(10);

/// An option of every `apt-get` that fetches.
const PATIENT: &str = "Acquire::Retries=3";

/// Runs what fetches `what`, and again after a pause if it fails: an archive has its bad moments.
pub fn persist(what: &str, fetch: impl Fn() -> Result<()>) -> Result<()> {
    for attempt in 1..ATTEMPTS {
        if fetch().is_ok() {
            return Ok(());
        }
        say(format!(
            "attempt {attempt} of {ATTEMPTS} to fetch {what} failed; the next in {} s",
            PAUSE.as_secs()
        ));
        thread::sleep(PAUSE);
    }
    fetch().with_context(|| format!("cannot fetch {what}"))
}

/// What must be installed on the system: package, and a file that shows that it is.
const SYSTEM_PACKAGES: [(&str, &[&str]); 11] = [
    ("gdb", &["/usr/bin/gdb"]),
    ("debootstrap", &["/usr/sbin/debootstrap"]),
    ("e2fsprogs", &["/usr/sbin/mke2fs", "/sbin/mke2fs"]),
    ("util-linux", &["/usr/bin/setpriv"]),
    ("python3", &["/usr/bin/python3"]),
    ("openssl", &["/usr/bin/openssl"]),
    ("xz-utils", &["/usr/bin/xz"]),
    ("debian-archive-keyring", &[KEYRING]),
    ("gcc", &["/usr/bin/cc"]),
    // For 32-bit programs: a C library and headers of that width.
    ("gcc-multilib", &["/usr/include/asm"]),
    ("libc6-dev", &["/usr/lib/x86_64-linux-gnu/libc.a"]),
];

/// The packages of [`SYSTEM_PACKAGES`] that are missing.
pub fn missing_packages() -> Vec<&'static str> {
    SYSTEM_PACKAGES
        .iter()
        .filter(|(_, files)| !files.iter().any(|file| Path::new(file).exists()))
        .map(|(package, _)| *package)
        .collect()
}

/// The command that installs `packages`, as a person would type it.
pub fn install_command(packages: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!(
        "{sudo}apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Installs what is missing on the system, having printed the exact list.
pub fn install_missing(shell: &Shell) -> Result<()> {
    let packages = missing_packages();
    if packages.is_empty() {
        return Ok(());
    }
    say(format!("system packages missing: {}", packages.join(" ")));
    say(install_command(&packages));
    let sudo = [as_root(), &["env", "DEBIAN_FRONTEND=noninteractive"]].concat();
    let sudo = &sudo;
    // Something else of the system's may be at it, such as its daily upgrade.
    let options = &["-o", PATIENT, "-o", "DPkg::Lock::Timeout=600"];
    let list = &packages;
    let install = || -> Result<()> {
        Ok(cmd!(
            shell,
            "env {sudo...} apt-get {options...} -qq -y install --no-install-recommends {list...}"
        )
        .quiet()
        .run()?)
    };
    if install().is_err() {
        // A fresh container has no package lists yet.
        persist("the system's package lists", || {
            Ok(cmd!(shell, "env {sudo...} apt-get {options...} -qq update")
                .quiet()
                .run()?)
        })?;
        persist("system packages", install)
            .with_context(|| format!("run `{}` by hand", install_command(&packages)))?;
    }
    let still = missing_packages();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

/// What to put before a command that needs root.
pub fn as_root() -> &'static [&'static str] {
    if is_root() { &[] } else { &["sudo"] }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An apt state of its own for one Debian release and architecture.
pub struct PrivateApt {
    folder: PathBuf,
    debian: Debian,
}

impl PrivateApt {
    /// The state for `suite` (a release name such as `trixie`), made when new, and updated.
    pub fn open(shell: &Shell, suite: &str, debian: Debian) -> Result<Self> {
        let name = format!("{suite}-{}", debian.name());
        let folder = paths::target().join("apt").join(&name);
        let apt = Self { folder, debian };
        for sub in ["state/lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(apt.folder.join(sub))?;
        }
        // An empty list of installed packages: everything needed is fetched.
        fs::write(apt.folder.join("status"), "")?;
        fs::write(
            apt.folder.join("sources.list"),
            format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n"),
        )?;
        say(format!("fetching the package lists of {name}"));
        let options = &apt.options();
        persist(&format!("the package lists of {name}"), || {
            Ok(cmd!(shell, "apt-get {options...} -qq update")
                .quiet()
                .ignore_stderr()
                .run()?)
        })?;
        Ok(apt)
    }

    /// The package that `package` (a metapackage) depends on first.
    pub fn first_dependency(&self, shell: &Shell, package: &str) -> Result<String> {
        let options = self.options();
        let text = cmd!(shell, "apt-cache {options...} depends {package}")
            .env("LC_ALL", "C")
            .quiet()
            .ignore_stderr()
            .read()?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on nothing"))
    }

    /// Fetches `packages`, with all that they depend on if `closure`, and unpacks them
    /// into `into`. Signatures are checked against Debian's keys.
    pub fn unpack(
        &self,
        shell: &Shell,
        packages: &[&str],
        closure: bool,
        into: &Path,
    ) -> Result<()> {
        let options = &self.options();
        let debs = self.folder.join("cache/archives");
        let names = packages.join(" ");
        persist(&names, || {
            let fetch = if closure {
                cmd!(
                    shell,
                    "apt-get {options...} -qq -y --download-only install {packages...}"
                )
                .ignore_stdout()
            } else {
                cmd!(shell, "apt-get {options...} -qq download {packages...}")
            };
            // Where `download` puts what it fetches.
            let _here = shell.push_dir(&debs);
            Ok(fetch.quiet().ignore_stderr().run()?)
        })?;
        fs::create_dir_all(into)?;
        for entry in fs::read_dir(&debs)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                let archive = cmd!(shell, "dpkg-deb --fsys-tarfile {deb}")
                    .quiet()
                    .output()?
                    .stdout;
                cmd!(
                    shell,
                    "tar -x --keep-directory-symlink --no-same-owner -C {into}"
                )
                .quiet()
                .stdin(archive)
                .run()?;
                fs::remove_file(&deb)?;
            }
        }
        Ok(())
    }

    fn options(&self) -> Vec<String> {
        let folder = self.folder.display();
        [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc={folder}/etc"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            "Dir::Etc::preferences=-".into(),
            "Dir::Etc::preferencesparts=-".into(),
            "APT::Install-Recommends=false".into(),
            format!("APT::Architecture={}", self.debian.name()),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            PATIENT.into(),
            // Otherwise an update of which a part is missing counts as good.
            "APT::Update::Error-Mode=any".into(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }
}
