//! One PAL's place and three CPUs that want something of it: the table of
//! steps, and every interleaving of them.

extern crate std;

use super::*;
use std::collections::{BTreeSet, HashSet};
use std::string::String;
use std::vec;

const HERE: CallSite = CallSite {
    cr3: 0x1000,
    rsp: 0x7000,
};
const ELSEWHERE: CallSite = CallSite {
    cr3: 0x1000,
    rsp: 0x8000,
};

const EVERY_LIFE: [Life; 8] = [
    Life::Free,
    Life::Registering,
    Life::Idle,
    Life::Returning,
    Life::Ending,
    Life::Running(0),
    Life::Running(1),
    Life::Running(u16::MAX),
];

#[test]
fn words_round_trip() {
    for life in EVERY_LIFE {
        assert_eq!(Life::from_bits(life.to_bits()), life);
    }
    assert_eq!(Life::Free.to_bits(), 0);
    for bits in [6, 1 << 16, 0x1_0002, u32::MAX] {
        assert_eq!(Life::from_bits(bits), Life::Ending, "{bits:#x}");
    }
}

/// The table in full: what each step makes of each state, CPU 1 taking it.
#[test]
fn steps_are_possible_where_they_make_sense() {
    let mine = Life::Running(1);
    let ends: &[_] = &[(Life::Idle, Life::Ending), (Life::Returning, Life::Ending)];
    let steps: [(Step, &[(Life, Life)]); 10] = [
        (Step::Claim, &[(Life::Free, Life::Registering)]),
        (Step::Abandon, &[(Life::Registering, Life::Free)]),
        (Step::Publish, &[(Life::Registering, Life::Idle)]),
        (Step::Enter, &[(Life::Idle, mine)]),
        (Step::Leave, &[(mine, Life::Idle)]),
        (Step::Suspend, &[(mine, Life::Returning)]),
        (Step::Resume, &[(Life::Returning, mine)]),
        (Step::End, &[(mine, Life::Ending)]),
        (Step::Unregister, ends),
        (Step::Free, &[(Life::Ending, Life::Free)]),
    ];
    for (step, possible) in steps {
        for life in EVERY_LIFE {
            let expected = possible.iter().find(|(from, _)| *from == life);
            let expected = expected.map(|&(_, to)| to);
            assert_eq!(step.of(life, 1), expected, "{step:?} of {life:?}");
        }
    }
    for life in EVERY_LIFE {
        assert_eq!(life.resume(1, HERE, ELSEWHERE), None);
        let other = CallSite { cr3: 0, ..HERE };
        assert_eq!(life.resume(1, HERE, other), None);
        assert_eq!(life.is_used(), life != Life::Free);
        let cpu = match life {
            Life::Running(cpu) => Some(cpu),
            _ => None,
        };
        assert_eq!(life.cpu(), cpu);
    }
}

/// What a CPU can do in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    // In a VM exit.
    Find,
    Look,
    GoBack,
    // In a VM exit, with the word that it has looked at.
    Claim,
    Abandon,
    Publish,
    Enter,
    Leave,
    Suspend,
    Resume,
    Unregister,
    // With the machine stopped.
    MakeRecord,
    End,
    Kill,
    Free,
}

impl Step {
    const ALL: [Self; 15] = [
        Self::Find,
        Self::Look,
        Self::GoBack,
        Self::Claim,
        Self::Abandon,
        Self::Publish,
        Self::Enter,
        Self::Leave,
        Self::Suspend,
        Self::Resume,
        Self::Unregister,
        Self::MakeRecord,
        Self::End,
        Self::Kill,
        Self::Free,
    ];

    /// What it makes of a life.
    fn of(self, life: Life, cpu: u16) -> Option<Life> {
        match self {
            Self::Find | Self::Look | Self::GoBack | Self::MakeRecord => Some(life),
            Self::Claim => life.claim(),
            Self::Abandon => life.abandon(),
            Self::Publish => life.publish(),
            Self::Enter => life.enter(cpu),
            Self::Leave => life.leave(cpu),
            Self::Suspend => life.suspend(cpu),
            Self::Resume => life.resume(cpu, HERE, HERE),
            Self::End => life.end(cpu),
            Self::Unregister | Self::Kill => life.unregister(),
            Self::Free => life.free(),
        }
    }

    /// What the CPU must hold for it, and holds afterwards.
    fn hold(self, holds: Holds) -> Option<Holds> {
        let (before, after) = match self {
            Self::Look | Self::GoBack => (holds, holds),
            Self::Find => (Holds::Nothing, Holds::Nothing),
            Self::Claim => (Holds::Nothing, Holds::Making),
            Self::MakeRecord => (Holds::Making, Holds::Making),
            Self::Abandon | Self::Publish => (Holds::Making, Holds::Nothing),
            Self::Enter | Self::Resume => (Holds::Nothing, Holds::Inside),
            Self::Leave | Self::Suspend => (Holds::Inside, Holds::Nothing),
            Self::End => (Holds::Inside, Holds::Wiping),
            Self::Unregister | Self::Kill => (Holds::Nothing, Holds::Wiping),
            Self::Free => (Holds::Wiping, Holds::Nothing),
        };
        (before == holds).then_some(after)
    }

    fn needs_a_stop(self) -> bool {
        self >= Self::MakeRecord
    }

    /// Does it mean one PAL, which the CPU has found before?
    fn means_one(self) -> bool {
        matches!(self, Self::Enter | Self::Resume | Self::Unregister)
    }
}

/// What a CPU does with the PAL, as it knows by its own steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holds {
    Nothing,
    /// It registers the PAL.
    Making,
    /// It runs the PAL.
    Inside,
    /// It wipes the PAL.
    Wiping,
}

/// Which PAL a CPU has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Found {
    None,
    ThisOne,
    /// One that has gone since.
    Another,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cpu {
    holds: Holds,
    found: Found,
    looked: Option<Life>,
}

impl Cpu {
    /// Not in an exit, so that a stop can be had.
    fn stands(&self) -> bool {
        self.found == Found::None && self.looked.is_none()
    }

    fn go_back(&mut self) {
        (self.found, self.looked) = (Found::None, None);
    }
}

const CPUS: usize = 3;

/// The place, and the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Machine {
    life: Life,
    /// By which a CPU finds the PAL.
    record: bool,
    cpus: [Cpu; CPUS],
}

impl Machine {
    const FIRST: Self = Self {
        life: Life::Free,
        record: false,
        cpus: [Cpu {
            holds: Holds::Nothing,
            found: Found::None,
            looked: None,
        }; CPUS],
    };

    /// What a step of a CPU leads to; `None` where it is not one. `stops` is false
    /// for a machine in which nothing needs a stop.
    fn after(mut self, me: usize, step: Step, stops: bool) -> Option<Self> {
        let cpu = self.cpus[me];
        let holds = step.hold(cpu.holds)?;
        let others = (0..CPUS).filter(|&other| other != me);
        let possible = match step {
            Step::Find => self.record && cpu.stands(),
            Step::Look => cpu.looked.is_none(),
            Step::GoBack => !cpu.stands(),
            Step::MakeRecord => !self.record,
            Step::Abandon => !self.record,
            Step::Publish => self.record,
            _ => true,
        };
        if !possible || step.means_one() && cpu.found == Found::None {
            return None;
        }
        if step.needs_a_stop() {
            let all_stand = others.clone().all(|other| self.cpus[other].stands());
            if !cpu.stands() || stops && !all_stand {
                return None;
            }
            self.life = step.of(self.life, me as u16)?;
        } else if step >= Step::Claim {
            let after = step.of(cpu.looked?, me as u16);
            if after.is_none() || cpu.looked != Some(self.life) {
                // The exit goes on, and something else can be tried.
                self.cpus[me].looked = None;
                return Some(self);
            }
            self.life = after?;
        }
        self.cpus[me].holds = holds;
        match step {
            Step::Find => self.cpus[me].found = Found::ThisOne,
            Step::Look => self.cpus[me].looked = Some(self.life),
            Step::MakeRecord => self.record = true,
            Step::Free => {
                self.record = false;
                for other in others {
                    if self.cpus[other].found == Found::ThisOne {
                        self.cpus[other].found = Found::Another;
                    }
                }
            }
            // The word has changed, and the exit is over.
            _ => self.cpus[me].go_back(),
        }
        Some(self)
    }

    /// Does at most one CPU hold the PAL, the one that the word tells? Is there a
    /// record where there must be one?
    fn is_sound(&self) -> bool {
        let holding = (0u16..).zip(self.cpus);
        let holding = holding.filter(|(_, cpu)| cpu.holds != Holds::Nothing);
        let holding: Vec<_> = holding.map(|(n, cpu)| (n, cpu.holds)).collect();
        match (self.life, holding.as_slice()) {
            (Life::Free, []) => !self.record,
            (Life::Registering, [(_, Holds::Making)]) => true,
            (Life::Idle | Life::Returning, []) => self.record,
            (Life::Running(cpu), [(holder, Holds::Inside)]) => self.record && cpu == *holder,
            (Life::Ending, [(_, Holds::Wiping)]) => self.record,
            _ => false,
        }
    }
}

/// Goes to every state that can be reached, shortest way first.
///
/// # Errors
/// What went wrong first.
fn explore(stops: bool) -> Result<(), String> {
    let mut known = HashSet::from([Machine::FIRST]);
    let mut reached = vec![Machine::FIRST];
    let mut happened = BTreeSet::new();
    while !reached.is_empty() {
        let mut next = vec![];
        for before in reached {
            for (me, step) in (0..CPUS).flat_map(|me| Step::ALL.map(|step| (me, step))) {
                let Some(after) = before.after(me, step, stops) else {
                    continue;
                };
                let changes = after.life != before.life;
                if changes && step.means_one() && before.cpus[me].found != Found::ThisOne {
                    return Err(std::format!("{step:?} meant another PAL: {before:?}"));
                }
                if !after.is_sound() {
                    return Err(std::format!("{step:?} by CPU {me}: {after:?}"));
                }
                if changes || step < Step::Claim || step == Step::MakeRecord {
                    happened.insert(step);
                }
                if known.insert(after) {
                    next.push(after);
                }
            }
        }
        reached = next;
    }
    assert_eq!(happened, BTreeSet::from(Step::ALL), "all else is no test");
    Ok(())
}

#[test]
fn nobody_shares_a_pal() {
    assert_eq!(explore(true), Ok(()));
}

/// What the word leaves to the stops.
#[test]
fn without_stops_one_pal_would_be_taken_for_another() {
    let wrong = explore(false).unwrap_err();
    assert!(wrong.contains("Enter meant another PAL"), "{wrong}");
}
