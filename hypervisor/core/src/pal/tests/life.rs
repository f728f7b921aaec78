//! One PAL and several CPUs that want something of it, in any interleaving.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec;

const HERE: CallSite = CallSite {
    cr3: 0x1000,
    rsp: 0x7000,
};
const ELSEWHERE: CallSite = CallSite {
    cr3: 0x1000,
    rsp: 0x8000,
};

fn every_state() -> Vec<State> {
    let mut states = vec![
        State::Free,
        State::Registering,
        State::Idle,
        State::Returning,
        State::Ending,
    ];
    for cpu in [0, 1, Life::MAX_CPUS - 1] {
        for killed in [false, true] {
            states.push(State::Running { cpu, killed });
        }
    }
    states
}

#[test]
fn words_round_trip() {
    for state in every_state() {
        for generation in [0, 1, u16::MAX] {
            let life = Life { state, generation };
            assert_eq!(Life::from_bits(life.to_bits()), life);
        }
    }
    assert_eq!(Life::FREE.to_bits(), 0);
    assert_eq!(Life::from_bits(u32::MAX).state, State::Ending);
}

/// A step of CPU 1.
type Step = fn(Life) -> Option<Life>;

/// The table in full: what each step makes of each state, CPU 1 taking it.
#[test]
fn steps_are_possible_where_they_make_sense() {
    let running = |cpu, killed| State::Running { cpu, killed };
    let mine = running(1, false);
    let steps: [(Step, &[(State, State)]); 10] = [
        (Life::claim, &[(State::Free, State::Registering)]),
        (Life::abandon, &[(State::Registering, State::Free)]),
        (Life::publish, &[(State::Registering, State::Idle)]),
        (|life| life.enter(1), &[(State::Idle, mine)]),
        (|life| life.leave(1), &[(mine, State::Idle)]),
        (|life| life.suspend(1), &[(mine, State::Returning)]),
        (
            |life| life.end(1),
            &[(mine, State::Ending), (running(1, true), State::Ending)],
        ),
        (
            Life::unregister,
            &[
                (State::Idle, State::Ending),
                (State::Returning, State::Ending),
            ],
        ),
        (
            Life::kill,
            &[
                (State::Idle, State::Ending),
                (State::Returning, State::Ending),
                (running(0, false), running(0, true)),
                (running(0, true), running(0, true)),
                (mine, running(1, true)),
                (running(1, true), running(1, true)),
                (running(4095, false), running(4095, true)),
                (running(4095, true), running(4095, true)),
            ],
        ),
        (Life::free, &[(State::Ending, State::Free)]),
    ];
    for (n, (step, possible)) in steps.into_iter().enumerate() {
        for state in every_state() {
            let life = Life {
                state,
                generation: 7,
            };
            let expected = possible.iter().find(|(from, _)| *from == state);
            let after = step(life);
            assert_eq!(
                after.map(|life| life.state),
                expected.map(|e| e.1),
                "step {n}"
            );
            let generation = if state == State::Free { 8 } else { 7 };
            assert!(after.is_none_or(|life| life.generation == generation));
        }
    }
    for state in every_state() {
        let life = Life {
            state,
            generation: 7,
        };
        let resumes = state == State::Returning;
        let resumed = life.resume(1, HERE, HERE);
        assert_eq!(resumed.map(|life| life.state), resumes.then_some(mine));
        assert_eq!(life.resume(1, HERE, ELSEWHERE), None);
        let other = CallSite { cr3: 0, ..HERE };
        assert_eq!(life.resume(1, HERE, other), None);
        assert_eq!(life.is_used(), state != State::Free);
    }
}

/// What a CPU can try with the word that it read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    Look,
    Claim,
    Abandon,
    Publish,
    Enter,
    Leave,
    Suspend,
    Resume,
    End,
    Unregister,
    Kill,
    Free,
}

/// What a CPU does with the PAL, as it knows by its own steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    /// It registers the PAL.
    Making,
    /// It runs the PAL.
    Inside,
    /// It wipes the PAL.
    Wiping,
}

impl Try {
    const ALL: [Self; 12] = [
        Self::Look,
        Self::Claim,
        Self::Abandon,
        Self::Publish,
        Self::Enter,
        Self::Leave,
        Self::Suspend,
        Self::Resume,
        Self::End,
        Self::Unregister,
        Self::Kill,
        Self::Free,
    ];

    /// What the CPU must hold to try this. Everybody may try to kill.
    fn needs(self) -> Option<Holds> {
        Some(match self {
            Self::Look | Self::Kill => return None,
            Self::Claim | Self::Enter | Self::Resume | Self::Unregister => Holds::Nothing,
            Self::Abandon | Self::Publish => Holds::Making,
            Self::Leave | Self::Suspend | Self::End => Holds::Inside,
            Self::Free => Holds::Wiping,
        })
    }

    fn make(self, life: Life, cpu: u16) -> Option<Life> {
        match self {
            Self::Look => None,
            Self::Claim => life.claim(),
            Self::Abandon => life.abandon(),
            Self::Publish => life.publish(),
            Self::Enter => life.enter(cpu),
            Self::Leave => life.leave(cpu),
            Self::Suspend => life.suspend(cpu),
            Self::Resume => life.resume(cpu, HERE, HERE),
            Self::End => life.end(cpu),
            Self::Unregister => life.unregister(),
            Self::Kill => life.kill(),
            Self::Free => life.free(),
        }
    }

    fn gives(self, after: State, before: Holds) -> Holds {
        match self {
            Self::Look => before,
            Self::Claim => Holds::Making,
            Self::Enter | Self::Resume => Holds::Inside,
            Self::Abandon | Self::Publish | Self::Leave | Self::Suspend | Self::Free => {
                Holds::Nothing
            }
            Self::End | Self::Unregister => Holds::Wiping,
            Self::Kill if after == State::Ending => Holds::Wiping,
            Self::Kill => before,
        }
    }
}

const CPUS: u16 = 3;

proptest! {
    #[test]
    fn nobody_shares_a_pal(
        steps in prop::collection::vec(
            (0..CPUS, prop::sample::select(Try::ALL.to_vec())),
            0..400,
        ),
    ) {
        let mut word = Life::FREE.to_bits();
        // How many PALs there have been: what the generation stands for.
        let mut registered = 0;
        let mut seen = [(word, registered); CPUS as usize];
        let mut holds = [Holds::Nothing; CPUS as usize];
        for (cpu, step) in steps {
            let me = cpu as usize;
            if step == Try::Look {
                seen[me] = (word, registered);
                continue;
            }
            if step.needs().is_some_and(|needed| needed != holds[me]) {
                continue;
            }
            let (bits, pal) = seen[me];
            let Some(after) = step.make(Life::from_bits(bits), cpu) else {
                continue;
            };
            if word != bits {
                continue;
            }
            prop_assert_eq!(pal, registered, "another PAL was meant");
            word = after.to_bits();
            registered += u32::from(step == Try::Claim);
            seen[me] = (word, registered);
            holds[me] = step.gives(after.state, holds[me]);

            let busy: Vec<_> = (0..CPUS).filter(|&c| holds[c as usize] != Holds::Nothing).collect();
            prop_assert!(busy.len() <= 1, "{holds:?}");
            let expected = match after.state {
                State::Free | State::Idle | State::Returning => vec![],
                State::Running { cpu, .. } => vec![(cpu, Holds::Inside)],
                State::Registering => vec![(busy[0], Holds::Making)],
                State::Ending => vec![(busy[0], Holds::Wiping)],
            };
            let busy: Vec<_> = busy.into_iter().map(|c| (c, holds[c as usize])).collect();
            prop_assert_eq!(busy, expected);
        }
    }
}
