//! One storm: everything that it depends on and that is ours to choose. What it is called on the
//! command line replays it.

use std::fmt;

use clap::ValueEnum;

/// What storms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The test guest's suite `storm`.
    Suite,
    /// The same, while a debugger attaches, steps, looks and detaches.
    SuiteDebugged,
    /// Debian with programs that make hypercalls, NMIs of its own and of the debugger's.
    Debian,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Suite, Self::SuiteDebugged, Self::Debian];

    /// How much of it is one round of `cargo xtask storm`.
    pub fn usual_size(self) -> u32 {
        match self {
            Self::Suite => 200,
            Self::SuiteDebugged => 100,
            Self::Debian => 150,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Suite => "suite",
            Self::SuiteDebugged => "suite-debugged",
            Self::Debian => "debian",
        }
    }
}

/// A storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combination {
    /// What storms.
    pub kind: Kind,
    /// CPUs.
    pub cpus: u32,
    /// Instructions that a CPU executes before the next one has its turn.
    pub quantum: u32,
    /// What is random follows from it.
    pub seed: u64,
    /// NMIs that each CPU sends in each pattern; of Debian, runs of `test` in a loop.
    pub size: u32,
}

impl Combination {
    /// The one that follows from `seed`.
    pub fn random(kind: Kind, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            kind,
            // Start-up with one CPU has no storm between CPUs in it.
            cpus: [2, 2, 3, 4][random.usize(..4)],
            quantum: [1, 2, 5, 8, 16, 31][random.usize(..6)],
            seed,
            size: kind.usual_size(),
        }
    }

    /// A name for its folder.
    pub fn folder(&self) -> String {
        let Self {
            cpus,
            quantum,
            seed,
            ..
        } = self;
        format!("storm-{}-{cpus}-{quantum}-{seed}", self.kind.name())
    }
}

/// The command that runs it.
impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            cpus,
            quantum,
            seed,
            size,
        } = self;
        write!(
            f,
            "cargo xtask storm --rounds 1 --only {} --cpus {cpus} --quantum {quantum} --seed {seed} --size {size}",
            kind.name()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Combination, Kind};

    #[test]
    fn a_seed_stands_for_one_combination() {
        let one = Combination::random(Kind::Debian, 7);
        assert_eq!(one, Combination::random(Kind::Debian, 7));
        assert!((2..=8).contains(&one.cpus) && (1..=32).contains(&one.quantum));
        assert!((0..20).any(|seed| Combination::random(Kind::Debian, seed).quantum != one.quantum));
    }
}
