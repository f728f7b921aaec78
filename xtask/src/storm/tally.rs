//! What storms add up to: NMIs by path, and what else was done.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use regex::Regex;

/// NMIs that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nmis {
    /// Sent.
    pub sent: u64,
    /// Seen by the guest's handlers.
    pub seen: u64,
    /// Sent without a pause, and merged by the processor.
    pub merged: u64,
    /// Not seen, while stops were about: a stop's NMI can meet the guest's in the processor, which
    /// delivers one of them.
    pub met_a_stop: u64,
    /// Not seen, and nothing excuses it.
    pub lost: u64,
    /// Seen, and never sent.
    pub invented: u64,
}

impl std::ops::AddAssign for Nmis {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.seen += other.seen;
        self.merged += other.merged;
        self.met_a_stop += other.met_a_stop;
        self.lost += other.lost;
        self.invented += other.invented;
    }
}

/// Sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    paths: BTreeMap<&'static str, Nmis>,
    counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// NMIs of one path.
    pub fn nmis(&mut self, path: &'static str, nmis: Nmis) {
        *self.paths.entry(path).or_default() += nmis;
    }

    /// Something else that was done `n` times.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// How often something was done.
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// All NMIs.
    pub fn total(&self) -> Nmis {
        let mut total = Nmis::default();
        for nmis in self.paths.values() {
            total += *nmis;
        }
        total
    }

    /// NMIs that met a stop, beyond what is to be expected of the NMIs that were counted one by one.
    /// A kick can meet an NMI only while it is on its way, which is rare: 6 of 61,200 with 4 CPUs.
    pub fn too_many_met_a_stop(&self) -> Option<u64> {
        let counted = self.paths.values().filter(|nmis| nmis.merged == 0);
        let allowed = 2 + counted.map(|nmis| nmis.sent).sum::<u64>() / 1000;
        Some(self.total().met_a_stop).filter(|&met| met > allowed)
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        for (path, nmis) in &other.paths {
            self.nmis(path, *nmis);
        }
        for (what, n) in &other.counts {
            self.count(what, *n);
        }
    }

    /// Adds the lines `storm …` of the test guest.
    pub fn add_test_guest(&mut self, output: &str) -> Result<()> {
        let line = Regex::new(r"(?m)^storm (\w+) pattern=\S+ (.*)$")?;
        let mut lines = 0;
        for found in line.captures_iter(output) {
            lines += 1;
            let fields = fields(&found[2]);
            let field = |name| fields.get(name).copied().unwrap_or(0);
            let flood = found[1].starts_with("flood");
            let mut nmis = Nmis {
                sent: field("sent"),
                seen: field("seen"),
                lost: field("lost"),
                invented: field("invented"),
                ..Nmis::default()
            };
            if flood {
                nmis.merged = field("merged");
            } else {
                nmis.met_a_stop = field("merged");
            }
            let path = match &found[1] {
                name if name.starts_with("acknowledged") => "test guest, acknowledged",
                name if name.starts_with("pairs") => "test guest, pairs",
                name if name.starts_with("flood") => "test guest, flood",
                _ => "test guest, CPUs restarting",
            };
            self.nmis(path, nmis);
            self.count("quiesces", field("quiesces"));
            self.count("TEST hypercalls", field("hypercalls"));
        }
        ensure!(lines > 0, "the test guest reports no storm:\n{output}");
        Ok(())
    }

    /// Adds a line of `nmi_storm`, run while `stops` were about or not.
    pub fn add_nmi_storm(&mut self, path: &'static str, output: &str, stops: bool) -> Result<()> {
        let line = output.lines().find(|line| line.contains("nmi_storm by="));
        let fields = fields(line.unwrap_or_default());
        let field = |name| fields.get(name).copied().unwrap_or(0);
        let lost = field("lost");
        let nmis = Nmis {
            sent: field("sent"),
            seen: field("seen"),
            merged: field("merged"),
            met_a_stop: if stops { lost } else { 0 },
            lost: if stops { 0 } else { lost },
            invented: field("invented"),
        };
        ensure!(nmis.sent > 0, "nmi_storm sent nothing:\n{output}");
        self.nmis(path, nmis);
        Ok(())
    }
}

/// The words `name=number` of a line.
fn fields(line: &str) -> BTreeMap<&str, u64> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28} {:>9} {:>9} {:>9} {:>11} {:>6} {:>9}",
            "NMIs", "sent", "seen", "merged", "met a stop", "lost", "invented"
        )?;
        let total = self.total();
        for (path, nmis) in self.paths.iter().chain([(&"all", &total)]) {
            let Nmis {
                sent,
                seen,
                merged,
                met_a_stop,
                lost,
                invented,
            } = nmis;
            writeln!(
                f,
                "{path:<28} {sent:>9} {seen:>9} {merged:>9} {met_a_stop:>11} {lost:>6} {invented:>9}"
            )?;
        }
        for (what, n) in &self.counts {
            writeln!(f, "{what:<28} {n:>9}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Nmis, Tally};

    #[test]
    fn the_test_guests_lines_are_added_up() -> anyhow::Result<()> {
        let mut tally = Tally::default();
        tally.add_test_guest(
            "storm pairs_amid_exits pattern=pairs sent=4 seen=3 merged=1 lost=0 invented=0 quiesces=2 hypercalls=5 exits=6\n\
             test pairs_amid_exits ... ok\n\
             storm flood_amid_exits pattern=next sent=40 seen=8 merged=32 lost=0 invented=0 quiesces=1 hypercalls=1 exits=1\n",
        )?;
        let expected = Nmis {
            sent: 44,
            seen: 11,
            merged: 32,
            met_a_stop: 1,
            ..Nmis::default()
        };
        assert_eq!(tally.total(), expected);
        assert_eq!(tally.counted("quiesces"), 3);
        assert!(tally.add_test_guest("nothing").is_err());
        Ok(())
    }

    #[test]
    fn few_may_meet_a_stop() {
        let met = |met_a_stop| {
            let mut tally = Tally::default();
            let counted = Nmis {
                sent: 3000,
                met_a_stop,
                ..Nmis::default()
            };
            tally.nmis("counted", counted);
            // A flood merges, and says nothing of this.
            let flood = Nmis {
                sent: 1_000_000,
                merged: 1,
                ..Nmis::default()
            };
            tally.nmis("flood", flood);
            tally.too_many_met_a_stop()
        };
        assert_eq!(met(5), None);
        assert_eq!(met(6), Some(6));
    }

    #[test]
    fn only_a_stop_excuses_an_nmi_that_does_not_come() -> anyhow::Result<()> {
        let line = "nmi_storm by=apic sent=9 seen=8 merged=0 lost=1 invented=0\n";
        let mut tally = Tally::default();
        tally.add_nmi_storm("a", line, true)?;
        assert_eq!((tally.total().met_a_stop, tally.total().lost), (1, 0));
        tally.add_nmi_storm("a", line, false)?;
        assert_eq!((tally.total().met_a_stop, tally.total().lost), (1, 1));
        assert!(
            tally
                .add_nmi_storm("a", "nmi_storm: no /dev/mem", false)
                .is_err()
        );
        Ok(())
    }
}
