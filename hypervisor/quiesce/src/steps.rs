//! The protocol one step at a time. Each step makes one access to shared memory
//! that others could tell from no access, so whoever runs the steps of several
//! CPUs in every order has seen every interleaving. [`Rendezvous`] runs them one
//! after the other; a model checker runs them as it likes.

use crate::Rendezvous;

/// Where a CPU is in joining the stops of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    me: usize,
    at: LookAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LookAt {
    Generation,
    Owner(u64),
    Acknowledge(u64),
    Stand(u64),
}

/// What a step of [`Look`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookStep {
    /// Go on.
    Again,
    /// The next step says to the owner that this CPU stands.
    Joining,
    /// The stop is still in force.
    Standing,
    /// No stop is in force that is not this CPU's own.
    Done,
}

impl Look {
    /// CPU `me` begins to look.
    pub const fn new(me: usize) -> Self {
        Self {
            me,
            at: LookAt::Generation,
        }
    }

    /// Does the next step.
    pub fn step<const N: usize>(&mut self, machine: &Rendezvous<N>) -> LookStep {
        match self.at {
            LookAt::Generation => {
                let generation = machine.generation();
                if generation & 1 == 0 {
                    return LookStep::Done;
                }
                self.at = LookAt::Owner(generation);
                LookStep::Again
            }
            LookAt::Owner(generation) => {
                if machine.owner() == Some(self.me) {
                    return LookStep::Done;
                }
                self.at = LookAt::Acknowledge(generation);
                LookStep::Joining
            }
            LookAt::Acknowledge(generation) => {
                machine.acknowledge(self.me, generation);
                self.at = LookAt::Stand(generation);
                LookStep::Again
            }
            LookAt::Stand(generation) => {
                if machine.generation() == generation {
                    return LookStep::Standing;
                }
                self.at = LookAt::Generation;
                LookStep::Again
            }
        }
    }
}

/// Where a CPU is in taking the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stop {
    me: usize,
    at: StopAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StopAt {
    Own,
    Publish,
    /// The loops over the other CPUs, each with the CPU that is next.
    Ask(u64, usize),
    Patience(u64, usize),
    Kick(u64, usize),
    Await(u64, usize),
}

/// What a step of [`Stop`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// Go on.
    Again,
    /// Another CPU has the machine: look, then go on.
    Taken,
    /// All are asked, and some are still in the guest. Go on, or [`Stop::kick`].
    Asked,
    /// Send an NMI to this CPU, then go on.
    Send(usize),
    /// Some CPU does not stand yet.
    Waiting,
    /// Every other CPU stands.
    Done,
}

impl Stop {
    /// CPU `me` wants the machine.
    pub const fn new(me: usize) -> Self {
        Self {
            me,
            at: StopAt::Own,
        }
    }

    /// Patience is over: the CPUs that are still in the guest are kicked. For use
    /// after [`StopStep::Asked`].
    pub const fn kick(&mut self) {
        if let StopAt::Patience(generation, _) = self.at {
            self.at = StopAt::Kick(generation, 0);
        }
    }

    /// Does the next step.
    pub fn step<const N: usize>(&mut self, machine: &Rendezvous<N>) -> StopStep {
        let me = self.me;
        let other = |cpu| machine.next_other(me, cpu);
        match self.at {
            StopAt::Own => {
                if !machine.own(me) {
                    return StopStep::Taken;
                }
                self.at = StopAt::Publish;
            }
            StopAt::Publish => self.at = StopAt::Ask(machine.begin_stop(), 0),
            StopAt::Ask(generation, cpu) => {
                self.at = if let Some(cpu) = other(cpu) {
                    machine.ask(cpu);
                    StopAt::Ask(generation, cpu + 1)
                } else {
                    StopAt::Patience(generation, 0)
                };
            }
            StopAt::Patience(generation, cpu) => {
                self.at = match other(cpu) {
                    Some(cpu) if !machine.comes_by_itself(cpu) => return StopStep::Asked,
                    Some(cpu) => StopAt::Patience(generation, cpu + 1),
                    None => StopAt::Await(generation, 0),
                };
            }
            StopAt::Kick(generation, cpu) => {
                if let Some(cpu) = other(cpu) {
                    self.at = StopAt::Kick(generation, cpu + 1);
                    if machine.announce_kick(cpu) {
                        return StopStep::Send(cpu);
                    }
                } else {
                    self.at = StopAt::Await(generation, 0);
                }
            }
            StopAt::Await(generation, cpu) => match other(cpu) {
                Some(cpu) if !machine.stands(cpu, generation) => return StopStep::Waiting,
                Some(cpu) => self.at = StopAt::Await(generation, cpu + 1),
                None => return StopStep::Done,
            },
        }
        StopStep::Again
    }
}

/// Where a CPU is in giving the machine back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    ended: bool,
}

impl Release {
    /// The CPU that holds the machine gives it back.
    #[expect(clippy::new_without_default, reason = "like `Look` and `Stop`")]
    pub const fn new() -> Self {
        Self { ended: false }
    }

    /// Does the next step; true when there is none left.
    ///
    /// The stop ends before the machine has no owner: the next owner's stop then
    /// has a number of its own. In the other order it could be one with this.
    pub fn step<const N: usize>(&mut self, machine: &Rendezvous<N>) -> bool {
        if self.ended {
            machine.disown();
        } else {
            machine.end_stop();
        }
        core::mem::replace(&mut self.ended, true)
    }
}
