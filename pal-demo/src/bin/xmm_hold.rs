//! `xmm_hold EXITS` or `xmm_hold SECONDSs`: keeps every vector and x87
//! register loaded across VM exits, and compares.
//!
//! Prints `xmm ok exits=N`, or `xmm FAILED after exits=N: …` with the first
//! difference and exits 1. The exits are CPUID, and the TEST hypercall too
//! where Stillpoint answers. Under another hypervisor, or none, it is still a
//! valid test of that.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pal_demo::hold::{Exit, State, Vectors};
use pal_demo::{TrustVisor, args};

/// Rounds between two comparisons. Each comparison changes the pattern, so
/// that registers left over from the last one are found out.
const ROUNDS: u64 = 10_000;

/// When to stop.
enum Limit {
    Exits(u64),
    Time(Duration),
}

fn parse(text: &str) -> Option<Limit> {
    match text.strip_suffix('s') {
        Some(seconds) => args::number(seconds).map(|s| Limit::Time(Duration::from_secs(s))),
        None => args::number(text).map(Limit::Exits),
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let limit = arguments.next().as_deref().and_then(parse);
    let (Some(limit), None) = (limit, arguments.next()) else {
        eprintln!("usage: xmm_hold EXITS | xmm_hold SECONDSs");
        return ExitCode::from(2);
    };
    let (exit, exits_a_round) = match TrustVisor::detect() {
        Some(_) => (Exit::CpuidAndVmcall, 2),
        None => (Exit::Cpuid, 1),
    };
    let vectors = Vectors::widest();
    let start = Instant::now();
    let mut exits = 0;
    // Two of these side by side must not load the same values.
    let mut seed = u64::from(std::process::id()) << 32;
    loop {
        let rounds = match limit {
            Limit::Exits(wanted) if exits >= wanted => break,
            Limit::Exits(wanted) => (wanted - exits).div_ceil(exits_a_round).min(ROUNDS),
            Limit::Time(duration) if start.elapsed() >= duration => break,
            Limit::Time(_) => ROUNDS,
        };
        let state = State::pattern(seed);
        let found = state.hold(vectors, exit, rounds);
        exits += rounds * exits_a_round;
        if let Some(difference) = state.difference(&found, vectors) {
            println!("xmm FAILED after exits={exits}: {difference}");
            return ExitCode::FAILURE;
        }
        seed += 1;
    }
    println!("xmm ok exits={exits}");
    ExitCode::SUCCESS
}
