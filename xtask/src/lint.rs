//! `cargo xtask lint`: the dependency directions and house rules that no compiler checks,
//! then rustfmt and clippy, for the image and the guest's programs with their own flags.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::compile::{GUEST_FLAGS, IMAGE_FLAGS, TARGET, TEST_GUEST_FLAGS};
use crate::paths;
use crate::progress::{say, step};

/// Check formatting, clippy, and the workspace's own rules.
#[derive(Args)]
pub struct LintArgs {}

/// What each crate is, and which of the workspace's crates it may depend on.
struct Rule {
    package: &'static str,
    kind: CrateKind,
    may_use: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CrateKind {
    /// `no_std` and free of `unsafe`; tested on the host.
    Library,
    /// May use `unsafe`, with its reasons.
    Metal,
    /// Runs on the host: free of `unsafe`.
    Host,
}

/// The arrows of the design: they point one way, and none points at the hypervisor.
const RULES: [Rule; 12] = [
    Rule {
        package: "stillpoint",
        kind: CrateKind::Metal,
        may_use: &[
            "stillpoint-abi",
            "stillpoint-core",
            "stillpoint-quiesce",
            "stillpoint-trace",
            "stillpoint-utpm",
            "gdb-stub",
            "vmcs-inspect",
        ],
    },
    Rule {
        package: "stillpoint-abi",
        kind: CrateKind::Library,
        may_use: &[],
    },
    Rule {
        package: "stillpoint-core",
        kind: CrateKind::Library,
        may_use: &["stillpoint-abi", "vmcs-inspect"],
    },
    Rule {
        package: "stillpoint-quiesce",
        kind: CrateKind::Library,
        may_use: &[],
    },
    Rule {
        package: "stillpoint-trace",
        kind: CrateKind::Library,
        may_use: &["stillpoint-quiesce", "vmcs-inspect"],
    },
    Rule {
        package: "stillpoint-utpm",
        kind: CrateKind::Library,
        may_use: &["stillpoint-abi"],
    },
    Rule {
        package: "stillpoint-explore",
        kind: CrateKind::Host,
        may_use: &["stillpoint-core", "stillpoint-quiesce", "vmcs-inspect"],
    },
    Rule {
        package: "gdb-stub",
        kind: CrateKind::Library,
        may_use: &["stillpoint-quiesce", "vmcs-inspect"],
    },
    Rule {
        package: "vmcs-inspect",
        kind: CrateKind::Library,
        may_use: &[],
    },
    Rule {
        package: "pal-demo",
        kind: CrateKind::Metal,
        may_use: &["stillpoint-abi"],
    },
    Rule {
        package: "test-guest",
        kind: CrateKind::Metal,
        may_use: &["stillpoint-abi"],
    },
    Rule {
        package: "xtask",
        kind: CrateKind::Host,
        may_use: &["stillpoint-abi"],
    },
];

/// A source file longer than this holds more than one idea.
const MAX_LINES: usize = 650;

/// `cargo xtask lint`.
pub fn command(_: &LintArgs) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(paths::root());
    let mut complaints = Vec::new();
    step("checking the workspace's own rules", || {
        let crates = crates(&shell)?;
        complaints = directions(&crates);
        for one in &crates {
            complaints.extend(sources(one)?);
        }
        Ok(())
    })?;
    for complaint in &complaints {
        eprintln!("  {complaint}");
    }
    step("cargo fmt --check", || {
        Ok(cmd!(shell, "cargo fmt --all --check").quiet().run()?)
    })?;
    step("clippy, host crates", || {
        clippy(&shell, None, &[], "", &["--all-targets"])
    })?;
    step("clippy, the exploration", || {
        let package = ["--package", "stillpoint-explore", "--all-features"];
        clippy(&shell, None, &package, "", &["--all-targets"])
    })?;
    for (folder, features) in [("hv", &[][..]), ("hv-test", &["--features", "test-hooks"])] {
        step(&format!("clippy, the image ({folder})"), || {
            clippy(&shell, Some("stillpoint"), features, IMAGE_FLAGS, &[])
        })?;
    }
    step("clippy, the guest's programs", || {
        clippy(
            &shell,
            Some("pal-demo"),
            &[],
            GUEST_FLAGS,
            &["--all-targets"],
        )?;
        clippy(&shell, Some("test-guest"), &[], TEST_GUEST_FLAGS, &[])
    })?;
    if !complaints.is_empty() {
        bail!(
            "{} breaches of the workspace's rules, above",
            complaints.len()
        );
    }
    say("lint: passed");
    Ok(())
}

fn clippy(
    shell: &Shell,
    package: Option<&str>,
    features: &[&str],
    flags: &str,
    targets: &[&str],
) -> Result<()> {
    let mut arguments: Vec<String> = Vec::new();
    if let Some(package) = package {
        let folder = paths::target().join("lint").join(package);
        let folder = folder.to_string_lossy().into_owned();
        for argument in [
            "--package",
            package,
            "--release",
            "--target",
            TARGET,
            "--target-dir",
        ] {
            arguments.push(argument.into());
        }
        arguments.push(folder);
    }
    let _flags = package.map(|_| shell.push_env("RUSTFLAGS", flags));
    cmd!(
        shell,
        "cargo clippy --quiet {arguments...} {features...} {targets...} -- --deny warnings"
    )
    .quiet()
    .run()?;
    Ok(())
}

/// A crate of the workspace, as cargo sees it.
struct Crate {
    name: String,
    folder: PathBuf,
    /// The workspace's crates that it depends on, in any way.
    uses: Vec<String>,
}

fn crates(shell: &Shell) -> Result<Vec<Crate>> {
    let text = cmd!(shell, "cargo metadata --format-version 1 --no-deps")
        .quiet()
        .read()?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    packages
        .iter()
        .map(|package| {
            let manifest = package["manifest_path"].as_str().context("no manifest")?;
            let uses = package["dependencies"]
                .as_array()
                .context("no dependencies")?;
            Ok(Crate {
                name: package["name"].as_str().context("no name")?.to_owned(),
                folder: Path::new(manifest)
                    .parent()
                    .context("no folder")?
                    .to_owned(),
                uses: uses
                    .iter()
                    .filter(|dependency| dependency["path"].is_string())
                    .filter_map(|dependency| dependency["name"].as_str())
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect()
}

/// Dependencies that point the wrong way.
fn directions(crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    for one in crates {
        let Some(rule) = rule(&one.name) else {
            complaints.push(format!(
                "{}: a crate that the design does not know; add it to xtask/src/lint.rs",
                one.name
            ));
            continue;
        };
        for used in &one.uses {
            if !rule.may_use.contains(&used.as_str()) {
                complaints.push(format!("{} must not depend on {used}", one.name));
            }
        }
    }
    complaints
}

fn rule(package: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.package == package)
}

/// Breaches of the house rules in a crate's sources.
fn sources(one: &Crate) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let Some(rule) = rule(&one.name) else {
        return Ok(complaints);
    };
    let src = one.folder.join("src");
    let root = ["lib.rs", "main.rs"]
        .map(|name| src.join(name))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{} has no lib.rs or main.rs", one.name))?;
    let attributes = fs::read_to_string(&root)?;
    let required: &[&str] = match rule.kind {
        CrateKind::Library => &["#![no_std]", "#![forbid(unsafe_code)]"],
        CrateKind::Host => &["#![forbid(unsafe_code)]"],
        CrateKind::Metal => &[],
    };
    for attribute in required {
        if !attributes.lines().any(|line| line == *attribute) {
            complaints.push(format!("{} lacks {attribute}", shown(&root)));
        }
    }
    let mut folders = vec![src, one.folder.join("tests")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                complaints.extend(source(&path, &fs::read_to_string(&path)?));
            }
        }
    }
    Ok(complaints)
}

/// Breaches of the house rules in one source file.
fn source(path: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        return Some(format!(
            "{}: {lines} lines, at most {MAX_LINES}",
            shown(path)
        ));
    }
    if !text.starts_with("//!") {
        return Some(format!(
            "{}: does not open with what it is for (//!)",
            shown(path)
        ));
    }
    None
}

fn shown(path: &Path) -> String {
    path.strip_prefix(paths::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Crate, MAX_LINES, RULES, directions, source};

    fn one(name: &str, uses: &[&str]) -> Crate {
        Crate {
            name: name.into(),
            folder: PathBuf::new(),
            uses: uses.iter().map(|&name| name.into()).collect(),
        }
    }

    #[test]
    fn arrows_point_one_way() {
        assert!(directions(&[one("stillpoint-core", &["vmcs-inspect"])]).is_empty());
        assert_eq!(
            directions(&[one("vmcs-inspect", &["stillpoint-core"])]),
            ["vmcs-inspect must not depend on stillpoint-core"]
        );
        assert_eq!(directions(&[one("newcomer", &[])]).len(), 1);
    }

    #[test]
    fn nothing_may_use_the_hypervisor() {
        assert!(
            RULES
                .iter()
                .all(|rule| !rule.may_use.contains(&"stillpoint"))
        );
    }

    #[test]
    fn files_are_short_and_say_what_they_are_for() {
        let path = Path::new("a.rs");
        assert_eq!(source(path, "//! What it is.\n"), None);
        assert!(source(path, "fn main() {}\n").is_some());
        let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
        assert!(source(path, &long).is_some());
    }
}
