//! Storms: NMIs while everything else goes on too. `cargo xtask storm` runs more of the same.

use anyhow::{Result, ensure};

use crate::storm;
use crate::storm::combination::{Combination, Kind};
use crate::storm::tally::Tally;

/// Interleavings that differ.
const QUANTA: [u32; 3] = [1, 5, 16];

/// The test guest's storm on `cpus` CPUs: NMIs counted one by one.
pub fn test_guest(cpus: u32) -> Result<()> {
    QUANTA.into_iter().try_for_each(|quantum| {
        let seed = u64::from(100 * cpus + quantum);
        run(Kind::Suite, cpus, quantum, seed, 60)
    })
}

/// The command that a failing round prints repeats it: all counts are the same again, of floods and
/// loads too, and other ones from another seed.
pub fn repeats() -> Result<()> {
    let counts = |seed| -> Result<Tally> {
        let mut tally = Tally::default();
        let storm = combination(Kind::Suite, 4, 16, seed, 10);
        storm::run(&storm, &mut tally)?;
        Ok(tally)
    };
    let first = counts(3)?;
    let (again, other) = (counts(3)?, counts(4)?);
    ensure!(first == again, "{first}\nand again:\n{again}");
    ensure!(first != other, "the seed changes nothing:\n{first}");
    Ok(())
}

/// The same while a debugger comes and goes.
pub fn test_guest_debugged(cpus: u32) -> Result<()> {
    run(Kind::SuiteDebugged, cpus, 16, u64::from(cpus), 30)
}

/// Debian, with programs, NMIs and debuggers.
pub fn debian(cpus: u32, quantum: u32) -> Result<()> {
    run(Kind::Debian, cpus, quantum, u64::from(cpus), 25)
}

fn run(kind: Kind, cpus: u32, quantum: u32, seed: u64, size: u32) -> Result<()> {
    let storm = combination(kind, cpus, quantum, seed, size);
    storm::run(&storm, &mut Tally::default())
}

fn combination(kind: Kind, cpus: u32, quantum: u32, seed: u64, size: u32) -> Combination {
    Combination {
        kind,
        cpus,
        quantum,
        seed,
        size,
    }
}
