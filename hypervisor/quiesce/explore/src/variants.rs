//! Mistakes put back, one at a time, to see that the exploration finds each: those of
//! the system whose debugging notes Stillpoint started from, and those that its own
//! rules are there against. The program calls these in place of the crate's; nothing
//! here is compiled into the hypervisor.

use stillpoint_quiesce::{CpuWord, NmiMeaning, Release, Stop, StopStep};

use crate::model::{Machine, State};
use crate::program::{At, Handler, Intent, Then};

/// The protocol as built, or one mistake in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No mistake.
    AsBuilt,
    /// Race 1: two flags in place of the number; "go on" is set before "stop" is
    /// cleared.
    ResumeBeforeClear,
    /// Race 2: the NMI handler reads its word and stores it in two steps.
    CheckThenSet,
    /// Race 3: an NMI is a kick if a stop is on.
    WhoseNmi,
    /// Race 4: a loop tests what is owed and takes one in two steps, and the NMI handler
    /// runs the same loop.
    LostCount,
    /// The print lock is taken around the asking for a stop, and inside it.
    PrintLock,
    /// A stop kicks CPUs that are in the hypervisor, too.
    NoGuestBit,
    /// A CPU parks with a kick on its way.
    ParkWithKick,
    /// An NMI in the entry sequence does not send it back to its start.
    NoRestart,
    /// Kicks are counted.
    KickCount,
    /// A release leaves the owner's place before it ends the stop.
    DisownFirst,
    /// A stop kicks at once.
    NoPatience,
    /// The look bit is tested before the guest bit is set, and not again.
    LookTestedEarly,
    /// An asked CPU that is not in the guest counts as stopped.
    AskedIsEnough,
    /// An NMI that goes in with the next entry is not taken for one being handled.
    SettledEarly,
    /// Nobody tells the injection that a PAL runs.
    PalUnknown,
}

/// What the variants keep besides the protocol's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VariantState<const N: usize> {
    /// "Go on", of [`Variant::ResumeBeforeClear`].
    pub resume: bool,
    /// Who has gone on.
    pub left: [bool; N],
    /// Who has the print lock.
    pub printing: Option<usize>,
    /// Kicks beyond the first, of [`Variant::KickCount`].
    pub more_kicks: [u8; N],
}

impl<const N: usize> VariantState<N> {
    pub(crate) const fn new() -> Self {
        Self {
            resume: false,
            left: [false; N],
            printing: None,
            more_kicks: [0; N],
        }
    }
}

/// A look with two flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldLook {
    /// Is "stop" set?
    Check,
    /// Says that it stands.
    Join,
    /// Waits for "go on".
    Wait,
}

/// A release with two flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldRelease {
    /// Sets "go on".
    Resume,
    /// Waits until all have gone on.
    Await,
    /// Clears "stop".
    Clear,
    /// Clears "go on".
    ClearResume,
    /// Gives the machine back.
    Disown,
}

/// Where a CPU is with the print lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Print {
    /// Takes it, then asks for the stop.
    Before,
    /// Drops it: the stop is there.
    Drop,
    /// Takes it while holding the machine.
    Inside,
    /// Drops it again.
    DropInside,
}

/// The bits of a word that hold what is owed.
const OWED: u32 = 3;

/// The kick bit of a word, as found in it.
fn kick_bit() -> u32 {
    let word = CpuWord::default().join().enter();
    let kicked = word.announce_kick().unwrap_or(word);
    kicked.to_bits() & !word.to_bits()
}

fn without_kick(word: CpuWord) -> CpuWord {
    CpuWord::from_bits(word.to_bits() & !kick_bit())
}

fn with_kick(word: CpuWord) -> CpuWord {
    CpuWord::from_bits(word.to_bits() | kick_bit())
}

impl<const N: usize> Machine<N> {
    /// [`Stop::step`]
    pub(crate) fn step_stop(&self, state: &mut State<N>, stop: &mut Stop) -> StopStep {
        let before = state.shared.words;
        match self.variant {
            Variant::NoGuestBit => {
                for word in &mut state.shared.words {
                    *word = word.enter();
                }
            }
            Variant::KickCount => {
                for word in &mut state.shared.words {
                    *word = without_kick(*word);
                }
            }
            _ => {}
        }
        let mut outcome = state.with(|machine| stop.step(machine));
        let asked = || before.iter().all(|word| word.comes_by_itself());
        if self.variant == Variant::AskedIsEnough && outcome == StopStep::Waiting && asked() {
            outcome = StopStep::Done;
        }
        for (cpu, old) in before.into_iter().enumerate() {
            let word = &mut state.shared.words[cpu];
            match self.variant {
                Variant::NoGuestBit if !old.in_guest() => *word = word.leave(),
                Variant::KickCount if old.kick_outstanding() => {
                    state.variant.more_kicks[cpu] += u8::from(word.kick_outstanding());
                    *word = with_kick(*word);
                }
                _ => {}
            }
        }
        outcome
    }

    /// [`Release::step`]
    pub(crate) fn release(&self, state: &mut State<N>, me: usize, mut release: Release) -> At {
        if self.variant == Variant::DisownFirst {
            if state.shared.owner == Some(me) {
                state.shared.owner = None;
                return At::Release(release);
            }
            state.shared.generation += 1;
            return At::Enter;
        }
        if state.with(|machine| release.step(machine)) {
            At::Enter
        } else {
            At::Release(release)
        }
    }

    /// [`Rendezvous::try_park`](stillpoint_quiesce::Rendezvous::try_park)
    pub(crate) fn try_park(&self, state: &mut State<N>, me: usize) -> bool {
        let word = state.shared.words[me];
        if self.variant != Variant::ParkWithKick || !word.kick_outstanding() {
            return state.with(|machine| machine.try_park(me));
        }
        state.shared.words[me] = without_kick(word);
        let parked = state.with(|machine| machine.try_park(me));
        state.shared.words[me] = with_kick(state.shared.words[me]);
        parked
    }

    /// The first part of the NMI handler.
    pub(crate) fn count_nmi(
        &self,
        state: &mut State<N>,
        me: usize,
        in_guest: bool,
    ) -> Option<Handler> {
        let old = state.shared.words[me];
        match self.variant {
            Variant::CheckThenSet => return Some(Handler::Store(old.nmi().0)),
            Variant::WhoseNmi => {
                let cleared = without_kick(old);
                state.shared.words[me] = if state.stop_in_force() {
                    cleared.leave().ask()
                } else {
                    cleared.leave().ask().owe().0
                };
                return Some(Handler::Iret);
            }
            _ => {}
        }
        let meaning = state.with(|machine| machine.on_nmi(me, in_guest));
        if self.variant == Variant::KickCount
            && meaning == NmiMeaning::Kick
            && state.variant.more_kicks[me] > 0
        {
            state.variant.more_kicks[me] -= 1;
            let word = &mut state.shared.words[me];
            *word = with_kick(*word);
        }
        if self.variant == Variant::LostCount
            && !in_guest
            && !state.cpus[me].processor.virtual_blocking
        {
            while state.with(|machine| machine.inject(me)).is_some() {
                state.cpus[me].processor.injecting = true;
            }
        }
        Some(Handler::Iret)
    }

    /// The body of the loop over what is owed, behind its test.
    pub(crate) fn drain(&self, state: &mut State<N>, me: usize) -> At {
        let word = &mut state.shared.words[me];
        let fewer = word.owed().wrapping_sub(1) & OWED;
        *word = CpuWord::from_bits(word.to_bits() & !OWED | fewer);
        state.cpus[me].processor.injecting = true;
        At::Settle
    }

    /// A look with two flags.
    pub(crate) fn old_look(
        &self,
        state: &mut State<N>,
        me: usize,
        step: OldLook,
        then: Then,
    ) -> At {
        match step {
            OldLook::Check if state.stop_in_force() && state.shared.owner != Some(me) => {
                At::OldLook(OldLook::Join, then)
            }
            OldLook::Check => Self::looked(state, me, then),
            OldLook::Join => {
                state.shared.acknowledged[me] = state.shared.generation;
                state.cpus[me].woken = false;
                At::OldLook(OldLook::Wait, then)
            }
            OldLook::Wait if state.variant.resume => {
                state.variant.left[me] = true;
                Self::looked(state, me, then)
            }
            OldLook::Wait => At::OldLook(step, then),
        }
    }

    /// A release with two flags.
    pub(crate) fn old_release(&self, state: &mut State<N>, me: usize, step: OldRelease) -> At {
        let next = match step {
            OldRelease::Resume => {
                state.variant.left = [false; N];
                state.variant.resume = true;
                OldRelease::Await
            }
            OldRelease::Await => {
                let gone = |cpu: usize| cpu == me || state.variant.left[cpu];
                if !(0..N).all(gone) {
                    return At::OldRelease(step);
                }
                OldRelease::Clear
            }
            OldRelease::Clear => {
                state.shared.generation += 1;
                OldRelease::ClearResume
            }
            OldRelease::ClearResume => {
                state.variant.resume = false;
                OldRelease::Disown
            }
            OldRelease::Disown => {
                state.shared.owner = None;
                return At::Enter;
            }
        };
        At::OldRelease(next)
    }

    /// The print lock.
    pub(crate) fn print(&self, state: &mut State<N>, me: usize, print: Print) -> At {
        let lock = &mut state.variant.printing;
        match print {
            Print::Before | Print::Inside if lock.is_some() => return At::Print(print),
            Print::Before | Print::Inside => *lock = Some(me),
            Print::Drop | Print::DropInside => *lock = None,
        }
        match print {
            Print::Before => At::Stop(Stop::new(me), Intent::Work),
            Print::Drop => At::Hold,
            Print::Inside => At::Print(Print::DropInside),
            Print::DropInside => At::Release(Release::new()),
        }
    }
}
