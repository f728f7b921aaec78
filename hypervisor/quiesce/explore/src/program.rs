//! What each CPU does, one access to shared memory at a time: the run loop of
//! `hypervisor/src/vmx`, the NMI handler, and what the exits do with the protocol.
//! Called by the model for the CPU whose turn it is.

use stillpoint_core::events::{NmiAction, NmiState, owed_nmi};
use stillpoint_quiesce::{CpuWord, Look, LookStep, Release, Stop, StopStep};
use vmcs_inspect::{ActivityState, GuestInterruptibility};

use crate::model::{Machine, State};
use crate::variants::{OldLook, OldRelease, Print, Variant};

/// Why a CPU left the guest, or what else it has to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An NMI.
    Nmi,
    /// The NMI window is open.
    Window,
    /// INIT
    Init,
    /// SIPI
    Sipi,
    /// Something that concerns nobody else.
    Own,
    /// The debugger, or a change that every CPU has to see.
    Stop,
    /// A PAL begins.
    PalBegins,
    /// The PAL ends.
    PalEnds,
    /// The hypervisor fails: no exit.
    Failure,
}

/// What a CPU wants the machine for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// To do something and go on.
    Work,
    /// To show a failure, for good.
    Panic,
}

/// What follows a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// The way to the guest.
    Deliver,
    /// Another try at taking the machine.
    Stop(Stop, Intent),
}

/// Where a CPU's program is: what its next step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// In the guest.
    Guest,
    /// Behind a VM exit: says that it has left.
    Exited(Reason),
    /// Handles an exit.
    Handle(Reason),
    /// Takes the machine.
    Stop(Stop, Intent),
    /// Holds the machine.
    Hold,
    /// Owes another CPU's guest an NMI.
    Owe(usize),
    /// Asks that CPU to look.
    AskOwed(usize),
    /// Gives the machine back.
    Release(Release),
    /// Begins to look.
    BeginLook,
    /// Looks.
    Look {
        /// How far it is.
        look: Look,
        /// What follows.
        then: Then,
    },
    /// Settles what is owed, and decides.
    Settle,
    /// Injects; afterwards the NMI window is as told.
    Inject {
        /// "NMI-window exiting"
        window: bool,
    },
    /// The first instruction of the entry sequence.
    Enter,
    /// In the rest of the entry sequence. The step is VMRESUME.
    Sequence,
    /// On the way back from the entry sequence.
    Leave,
    /// Failed while another had failed before.
    Failed,
    /// The first to fail: holds the machine for good.
    Panicked,
    /// A variant's look.
    OldLook(OldLook, Then),
    /// A variant's release.
    OldRelease(OldRelease),
    /// A variant's print lock.
    Print(Print),
    /// A variant's loop over what is owed, behind its test.
    Drain,
    /// A variant's entry, behind its test of the look bit.
    EnterAnyway,
}

/// The NMI handler: what its next step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// Counts the NMI.
    Count {
        /// It caused a VM exit.
        in_guest: bool,
    },
    /// A variant stores what it made of the word that it had read.
    Store(CpuWord),
    /// IRET
    Iret,
}

impl<const N: usize> Machine<N> {
    /// The next step of CPU `me`. Leaves the state as it is where the CPU waits.
    pub(crate) fn step(&self, state: &mut State<N>, me: usize) {
        if let Some(handler) = state.cpus[me].handler {
            return self.handle_nmi(state, me, handler);
        }
        let at = state.cpus[me].at;
        let next = match at {
            At::Guest | At::Failed | At::Panicked => at,
            At::Exited(reason) => {
                state.with(|machine| machine.leave(me));
                match reason {
                    Reason::Nmi => {
                        state.cpus[me].handler = Some(Handler::Count { in_guest: true });
                        At::BeginLook
                    }
                    // No access of their own.
                    Reason::Own | Reason::Stop | Reason::Window => {
                        self.handle_exit(state, me, reason)
                    }
                    _ => At::Handle(reason),
                }
            }
            At::Handle(reason) => self.handle_exit(state, me, reason),
            At::Stop(stop, intent) => self.stop(state, me, stop, intent),
            At::Hold => match self.variant {
                Variant::PrintLock => At::Print(Print::Inside),
                Variant::ResumeBeforeClear => At::OldRelease(OldRelease::Resume),
                _ => At::Release(Release::new()),
            },
            At::Owe(target) => {
                state.with(|machine| machine.owe(target));
                state.cpus[target].accounts.nmi_arrives();
                At::AskOwed(target)
            }
            At::AskOwed(target) => {
                state.with(|machine| machine.ask(target));
                At::Hold
            }
            At::Release(release) => self.release(state, me, release),
            At::BeginLook => {
                state.with(|machine| machine.begin_look(me));
                self.look(me, Then::Deliver)
            }
            At::Look { mut look, then } => {
                if state.with(|machine| look.step(machine)) == LookStep::Done {
                    Self::looked(state, me, then)
                } else {
                    state.cpus[me].woken &= !state.acknowledged(me);
                    At::Look { look, then }
                }
            }
            At::Settle => self.settle(state, me),
            At::Inject { window } => {
                if state.with(|machine| machine.inject(me)).is_some() {
                    state.cpus[me].processor.injecting = true;
                }
                state.cpus[me].processor.window = window;
                At::Enter
            }
            At::Enter if self.variant == Variant::LookTestedEarly => {
                if state.shared.words[me].must_look() {
                    At::Leave
                } else {
                    At::EnterAnyway
                }
            }
            At::Enter => {
                if state.with(|machine| machine.enter(me)) {
                    At::Sequence
                } else {
                    At::Leave
                }
            }
            At::EnterAnyway => {
                state.with(|machine| machine.enter(me));
                At::Sequence
            }
            At::Sequence => {
                let cpu = &mut state.cpus[me];
                if cpu.processor.vm_entry() {
                    cpu.accounts.delivered += 1;
                    cpu.accounts.delivered_in_pal |= cpu.in_pal;
                }
                At::Guest
            }
            At::Leave => {
                state.with(|machine| machine.leave(me));
                At::BeginLook
            }
            At::OldLook(step, then) => self.old_look(state, me, step, then),
            At::OldRelease(step) => self.old_release(state, me, step),
            At::Print(print) => self.print(state, me, print),
            At::Drain => self.drain(state, me),
        };
        state.cpus[me].at = next;
    }

    /// The NMI handler: counts, then IRET. In the entry sequence it goes back to the
    /// start. Its first part also runs after an exit that an NMI caused.
    fn handle_nmi(&self, state: &mut State<N>, me: usize, handler: Handler) {
        state.cpus[me].handler = match handler {
            Handler::Count { in_guest } => self.count_nmi(state, me, in_guest),
            Handler::Store(word) => {
                state.shared.words[me] = word;
                Some(Handler::Iret)
            }
            Handler::Iret => {
                let cpu = &mut state.cpus[me];
                cpu.processor.iret();
                if cpu.at == At::Sequence && self.variant != Variant::NoRestart {
                    cpu.at = At::Leave;
                }
                None
            }
        };
    }

    fn handle_exit(&self, state: &mut State<N>, me: usize, reason: Reason) -> At {
        match reason {
            Reason::Nmi | Reason::Own => {}
            Reason::Window => {
                state.cpus[me].processor.window = false;
                return At::BeginLook;
            }
            Reason::Stop if self.variant == Variant::PrintLock => {
                return At::Print(Print::Before);
            }
            Reason::Stop => return At::Stop(Stop::new(me), Intent::Work),
            Reason::Init => {
                if !self.try_park(state, me) {
                    return At::Handle(reason);
                }
                let held = u8::try_from(state.held(me)).unwrap_or(0);
                let lost = u8::try_from(state.lost(me)).unwrap_or(0);
                let cpu = &mut state.cpus[me];
                cpu.processor.waits_for_sipi = true;
                cpu.processor.virtual_blocking = false;
                cpu.in_pal = false;
                let delivered = cpu.accounts.delivered + lost;
                cpu.accounts.bare.init(delivered, held);
            }
            Reason::Sipi => {
                state.with(|machine| machine.unpark(me));
                let cpu = &mut state.cpus[me];
                cpu.processor.waits_for_sipi = false;
                cpu.woken = true;
                cpu.accounts.bare.start();
            }
            Reason::PalBegins | Reason::PalEnds => {
                state.cpus[me].in_pal = reason == Reason::PalBegins;
                state.with(|machine| machine.ask(me));
            }
            Reason::Failure => {
                if core::mem::replace(&mut state.failed, true) {
                    state.with(|machine| machine.give_up(me));
                    return At::Failed;
                }
                if state.shared.owner == Some(me) {
                    return At::Panicked;
                }
                return At::Stop(Stop::new(me), Intent::Panic);
            }
        }
        At::Enter
    }

    fn stop(&self, state: &mut State<N>, me: usize, mut stop: Stop, intent: Intent) -> At {
        let generation = state.shared.generation;
        let outcome = self.step_stop(state, &mut stop);
        if state.shared.generation != generation {
            for other in (0..N).filter(|&other| other != me) {
                let cpu = &mut state.cpus[other];
                cpu.accounts.stop_begins();
                let [before, since] = cpu.processor.nmis_coming;
                cpu.processor.nmis_coming = [before + since, 0];
            }
        }
        match outcome {
            StopStep::Taken => return self.look(me, Then::Stop(stop, intent)),
            StopStep::Asked if self.patience_is_over(state, me) => stop.kick(),
            StopStep::Send(cpu) => {
                state.cpus[cpu].processor.kicks_coming += 1;
                state.cpus[cpu].accounts.kick_sent();
            }
            StopStep::Done => {
                return match intent {
                    Intent::Panic => At::Panicked,
                    Intent::Work if self.variant == Variant::PrintLock => At::Print(Print::Drop),
                    Intent::Work => At::Hold,
                };
            }
            StopStep::Again | StopStep::Asked | StopStep::Waiting => {}
        }
        At::Stop(stop, intent)
    }

    /// Whoever is going to leave the guest because of something sent before the stop
    /// began has left. This is what the time that the metal waits stands for.
    fn patience_is_over(&self, state: &State<N>, me: usize) -> bool {
        let gone_or_stays = |other: usize| {
            let cpu = &state.cpus[other];
            other == me
                || state.shared.words[other].comes_by_itself()
                || (cpu.at == At::Guest && cpu.processor.nmis_coming[0] == 0)
        };
        self.variant == Variant::NoPatience || (0..N).all(gone_or_stays)
    }

    fn look(&self, me: usize, then: Then) -> At {
        if self.variant == Variant::ResumeBeforeClear {
            At::OldLook(OldLook::Check, then)
        } else {
            let look = Look::new(me);
            At::Look { look, then }
        }
    }

    /// What follows a look.
    pub(crate) fn looked(state: &mut State<N>, me: usize, then: Then) -> At {
        state.cpus[me].woken = false;
        match then {
            Then::Deliver => At::Settle,
            Then::Stop(stop, intent) => At::Stop(stop, intent),
        }
    }

    fn settle(&self, state: &mut State<N>, me: usize) -> At {
        let blocked = state.cpus[me].processor.virtual_blocking;
        // One that goes in with the next entry is being handled already.
        let injecting = state.cpus[me].processor.injecting;
        let handling = blocked || injecting && self.variant != Variant::SettledEarly;
        let owed = state.with(|machine| machine.settle(me, handling));
        let cpu = &mut state.cpus[me];
        let action = owed_nmi(&NmiState {
            owed,
            interruptibility: if blocked {
                GuestInterruptibility::BLOCKING_BY_NMI
            } else {
                GuestInterruptibility::empty()
            },
            activity: if cpu.processor.waits_for_sipi {
                ActivityState::WaitForSipi
            } else {
                ActivityState::Active
            },
            injecting: cpu.processor.injecting,
            stepping: false,
            in_pal: cpu.in_pal && self.variant != Variant::PalUnknown,
        });
        match action {
            NmiAction::Inject { .. } if self.variant == Variant::LostCount => At::Drain,
            NmiAction::Inject { window } => At::Inject { window },
            _ => {
                cpu.processor.window = action.window();
                At::Enter
            }
        }
    }
}
