//! `cargo xtask storm`: storms of NMIs, hypercalls, stops and debuggers, as long as wanted, each
//! with CPUs, an interleaving and a seed of its own. The scenarios run some of the same.

pub mod combination;
mod debian;
pub mod debugger;
mod suite;
pub mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use xshell::Shell;

use crate::progress::say;
use crate::scenarios::{self, Workshop};
use crate::setup;
use combination::{Combination, Kind};
use tally::Tally;

/// Storm Stillpoint with NMIs, hypercalls, stops and debuggers; count what was lost or invented.
///
/// Each round boots a machine of its own. What a round is follows from its seed: SEED, SEED + 1,
/// and so on. A round that fails prints the command that repeats it: exactly, if the test guest is
/// alone. When a debugger attaches is decided by the host's clock, so a round with one repeats what
/// it does, not the exact moment.
#[derive(Args)]
pub struct StormArgs {
    /// Begin no round after so many minutes.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Begin no more than so many rounds.
    #[arg(long)]
    rounds: Option<u64>,
    /// The first round's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of CPUs; from the seed when not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=8))]
    cpus: Option<u32>,
    /// Instructions that an emulated CPU executes before the next one has its turn; from the seed
    /// when not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=32))]
    quantum: Option<u32>,
    /// How much a round does: NMIs a CPU and pattern in the test guest, runs of `test` in a loop in
    /// Debian.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    size: Option<u32>,
    /// Only this kind of storm; all in turn when not given.
    #[arg(long, value_enum)]
    only: Option<Kind>,
}

/// `cargo xtask storm`.
pub fn command(args: &StormArgs) -> Result<ExitCode> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    scenarios::prepare(&shell)?;
    let start = Instant::now();
    let end = start + Duration::from_secs(60 * args.minutes);
    let mut tally = Tally::default();
    let mut failures: Vec<Combination> = Vec::new();
    for round in 0.. {
        if Instant::now() >= end || args.rounds.is_some_and(|rounds| round >= rounds) {
            break;
        }
        let storm = args.round(round);
        say(format!("{:>5} s  {storm}", start.elapsed().as_secs()));
        let mut one = Tally::default();
        if let Err(error) = run(&storm, &mut one) {
            eprintln!("{error:#}");
            failures.push(storm);
        }
        tally.count("rounds", 1);
        tally.add(&one);
    }
    println!("{tally}");
    for storm in &failures {
        println!("FAILED: {storm}");
    }
    if failures.is_empty() {
        println!("ok: nothing lost, nothing invented, every round ended as it should");
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

impl StormArgs {
    fn round(&self, round: u64) -> Combination {
        let seed = self.seed + round;
        let kind = self
            .only
            .unwrap_or(Kind::ALL[(seed % Kind::ALL.len() as u64) as usize]);
        let random = Combination::random(kind, seed);
        Combination {
            cpus: self.cpus.unwrap_or(random.cpus),
            quantum: self.quantum.unwrap_or(random.quantum),
            size: self.size.unwrap_or(random.size),
            ..random
        }
    }
}

/// Runs one storm in a folder of its own; adds what was seen to `tally`. The error says how to
/// repeat it.
pub fn run(storm: &Combination, tally: &mut Tally) -> Result<()> {
    let workshop = Workshop::new(&storm.folder())?;
    let result = match storm.kind {
        Kind::Suite | Kind::SuiteDebugged => suite::run(&workshop, storm, tally),
        Kind::Debian => debian::run(&workshop, storm, tally),
    }
    .and_then(|()| {
        let total = tally.total();
        ensure!(
            total.lost == 0 && total.invented == 0,
            "NMIs were lost or invented:\n{tally}"
        );
        if let Some(met) = tally.too_many_met_a_stop() {
            bail!("{met} NMIs met a stop, too many to be chance:\n{tally}");
        }
        ensure!(
            storm.kind == Kind::Suite || tally.counted("attaches") != 0,
            "no debugger came"
        );
        Ok(())
    });
    let report = workshop.report();
    workshop.tidy();
    if let Err(error) = result {
        bail!("{error:#}\n{report}\nto repeat it: {storm}");
    }
    Ok(())
}
