//! `cargo xtask test`: the lints, the host's tests, the exploration of the quiesce
//! protocol, then the scenarios on the emulator.
//! This is what CI runs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use libtest_mimic::{Arguments, Failed, Trial};
use xshell::{Shell, cmd};

use crate::lint::{self, LintArgs};
use crate::progress::{say, step};
use crate::scenarios::{self, Workshop};
use crate::{paths, setup};

/// Run the lints, the host tests, and the emulator scenarios.
#[derive(Args)]
pub struct TestArgs {
    /// Run only the scenarios whose name contains this; then no lints and no host tests.
    filter: Option<String>,
    /// The filter is the whole name.
    #[arg(long)]
    exact: bool,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
    /// How many scenarios at once; each keeps one CPU of the host busy.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Without the lints and the host's tests.
    #[arg(long)]
    scenarios_only: bool,
}

/// `cargo xtask test`.
pub fn command(args: &TestArgs) -> Result<ExitCode> {
    let shell = Shell::new()?;
    let arguments = Arguments {
        filter: args.filter.clone(),
        exact: args.exact,
        list: args.list,
        test_threads: Some(args.threads),
        ..Arguments::default()
    };
    if !args.list {
        setup::ensure(&shell)?;
        if args.filter.is_none() && !args.scenarios_only {
            lint::command(&LintArgs {})?;
            host_tests(&shell)?;
            explore(&shell)?;
        }
        if args.filter.is_none() {
            scenarios::prepare(&shell)?;
        }
    }
    if let Some(filter) = &args.filter {
        let known = |scenario: &&scenarios::Scenario| scenario.name.contains(filter.as_str());
        if !scenarios::ALL.iter().any(|scenario| known(&scenario)) {
            bail!("no scenario has `{filter}` in its name; --list shows them");
        }
    }
    let trials = scenarios::ALL
        .iter()
        .map(|scenario| {
            Trial::test(scenario.name, move || {
                run(scenario).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    Ok(conclusion.exit_code())
}

/// The tests that need no emulator.
fn host_tests(shell: &Shell) -> Result<()> {
    step("tests on the host", || {
        let _here = shell.push_dir(paths::root());
        // The guest's programs are no default member, since only the guest runs them.
        for package in [&[][..], &["--package", "pal-demo"]] {
            let test = cmd!(shell, "cargo test --quiet {package...}");
            if test.quiet().run().is_err() {
                bail!("tests on the host failed, above");
            }
        }
        Ok(())
    })
}

/// The quiesce protocol explored: millions of states, so optimised.
fn explore(shell: &Shell) -> Result<()> {
    let _here = shell.push_dir(paths::root());
    for (what, arguments) in [
        ("every state", &[][..]),
        ("shuttle", &["--features", "shuttle", "--test", "shuttle"]),
        ("loom", &["--features", "loom", "--test", "loom"]),
    ] {
        step(&format!("exploring the quiesce protocol: {what}"), || {
            let test = cmd!(
                shell,
                "cargo test --quiet --release --package stillpoint-explore {arguments...}"
            );
            if test.quiet().run().is_err() {
                bail!("the exploration found something, above");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Runs one scenario; says where its logs lie when it fails, and shows their ends.
fn run(scenario: &scenarios::Scenario) -> Result<()> {
    let workshop = Workshop::new(scenario.name)?;
    match (scenario.run)(&workshop) {
        Ok(()) => {
            workshop.tidy();
            Ok(())
        }
        Err(error) => {
            let report = workshop.report();
            workshop.tidy();
            say(format!("{} failed", scenario.name));
            Err(anyhow::anyhow!("{error:#}\n{report}"))
        }
    }
}
