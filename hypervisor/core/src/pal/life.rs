//! Who may do what with a PAL now.
//!
//! The hypervisor keeps one [`Life`] for each PAL that there can be, in an
//! atomic word. It changes it by compare-exchange, with the word that it has
//! looked at and what a method here makes of it; `None` is a step that isn't
//! possible. So of two CPUs that want the same PAL, one gets it.
//!
//! ```text
//! Free -> Registering -> Idle <-> Running <-> Returning
//!  ^           |           |         |            |
//!  +-----------+        Ending <-----+------------+
//!  +-----------------------+
//! ```

/// A PAL's state, and how often its place has been taken. A CPU that looked
/// for a PAL and found it here does not enter another one that took the place
/// meanwhile: the word differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    /// The state.
    pub state: State,
    /// Counts the PALs that were registered here, and wraps.
    pub generation: u16,
}

/// What happens with the PAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// There is none.
    Free,
    /// REG is at work; nobody else has anything to do with it.
    Registering,
    /// It can be called.
    Idle,
    /// A CPU has it, and runs it, or copies for it.
    Running {
        /// The CPU, below [`Life::MAX_CPUS`].
        cpu: u16,
        /// It is to end: the CPU sees to that as soon as it looks.
        killed: bool,
    },
    /// It is through, but its caller's memory was not there to take what it
    /// points to. The caller has got a #PF at the entry; when it comes back,
    /// the copy goes on.
    Returning,
    /// It is being wiped, by whoever brought it here. Nobody else has anything
    /// to do with it.
    Ending,
}

/// A call as its caller can repeat it: where the tables are that it uses, and
/// where its return address is. The entry is the PAL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallSite {
    /// The address in CR3, without the bits that aren't of it.
    pub cr3: u64,
    /// RSP, at the entry's first instruction.
    pub rsp: u64,
}

const KILLED: u32 = 1 << 3;
const CPU_SHIFT: u32 = 4;
const GENERATION_SHIFT: u32 = 16;

impl Life {
    /// CPUs have numbers below this one.
    pub const MAX_CPUS: u16 = 1 << (GENERATION_SHIFT - CPU_SHIFT);

    /// A place that no PAL has had yet. It is 0 in [`to_bits`](Self::to_bits).
    pub const FREE: Self = Self {
        state: State::Free,
        generation: 0,
    };

    /// The word for shared memory.
    pub const fn to_bits(self) -> u32 {
        let state = match self.state {
            State::Free => 0,
            State::Registering => 1,
            State::Idle => 2,
            State::Running { cpu, killed } => {
                let killed = if killed { KILLED } else { 0 };
                let cpu = cpu % Self::MAX_CPUS;
                3 | killed | (cpu as u32) << CPU_SHIFT
            }
            State::Returning => 4,
            State::Ending => 5,
        };
        state | (self.generation as u32) << GENERATION_SHIFT
    }

    /// The inverse of [`to_bits`](Self::to_bits). A word that it does not give
    /// is taken for a PAL that nobody can use.
    pub const fn from_bits(bits: u32) -> Self {
        let state = match bits & 7 {
            0 => State::Free,
            1 => State::Registering,
            2 => State::Idle,
            3 => State::Running {
                cpu: (bits >> CPU_SHIFT) as u16 % Self::MAX_CPUS,
                killed: bits & KILLED != 0,
            },
            4 => State::Returning,
            _ => State::Ending,
        };
        Self {
            state,
            generation: (bits >> GENERATION_SHIFT) as u16,
        }
    }

    /// Is there a PAL, in whatever state?
    pub const fn is_used(self) -> bool {
        !matches!(self.state, State::Free)
    }

    /// The CPU that has it.
    pub const fn cpu(self) -> Option<u16> {
        match self.state {
            State::Running { cpu, .. } => Some(cpu),
            _ => None,
        }
    }

    /// REG takes the place.
    pub const fn claim(self) -> Option<Self> {
        match self.state {
            State::Free => Some(Self {
                state: State::Registering,
                generation: self.generation.wrapping_add(1),
            }),
            _ => None,
        }
    }

    /// REG refuses after all, and nothing is left of what it did.
    pub const fn abandon(self) -> Option<Self> {
        match self.state {
            State::Registering => Some(self.with(State::Free)),
            _ => None,
        }
    }

    /// REG is done.
    pub const fn publish(self) -> Option<Self> {
        match self.state {
            State::Registering => Some(self.with(State::Idle)),
            _ => None,
        }
    }

    /// The entry is called on this CPU, which has the PAL from now on. While
    /// another one has it, the caller tries again.
    pub const fn enter(self, cpu: u16) -> Option<Self> {
        match self.state {
            State::Idle => Some(self.with(State::Running { cpu, killed: false })),
            _ => None,
        }
    }

    /// The CPU is through, or could not enter after all.
    pub const fn leave(self, cpu: u16) -> Option<Self> {
        self.step_of(cpu, State::Idle)
    }

    /// The CPU is through, and could not copy to the caller.
    pub const fn suspend(self, cpu: u16) -> Option<Self> {
        self.step_of(cpu, State::Returning)
    }

    /// The entry is called on this CPU while the PAL waits for its caller. Only
    /// the call that `held` was kept of goes on.
    pub fn resume(self, cpu: u16, held: CallSite, now: CallSite) -> Option<Self> {
        match self.state {
            State::Returning if held == now => {
                Some(self.with(State::Running { cpu, killed: false }))
            }
            _ => None,
        }
    }

    /// The CPU that has the PAL ends it, for a fault or because it was killed.
    pub const fn end(self, cpu: u16) -> Option<Self> {
        match self.state {
            State::Running { cpu: owner, .. } if owner == cpu => Some(self.with(State::Ending)),
            _ => None,
        }
    }

    /// UNREG. A PAL that runs is refused. One that waits for its caller is not:
    /// its result is lost.
    pub const fn unregister(self) -> Option<Self> {
        match self.state {
            State::Idle | State::Returning => Some(self.with(State::Ending)),
            _ => None,
        }
    }

    /// Ends a PAL from outside. Where the answer is [`State::Ending`], who asked
    /// wipes it; where it is [`State::Running`], its CPU does.
    pub const fn kill(self) -> Option<Self> {
        match self.state {
            State::Idle | State::Returning => Some(self.with(State::Ending)),
            State::Running { cpu, .. } => Some(self.with(State::Running { cpu, killed: true })),
            _ => None,
        }
    }

    /// It is wiped, and its pages are the guest's again.
    pub const fn free(self) -> Option<Self> {
        match self.state {
            State::Ending => Some(self.with(State::Free)),
            _ => None,
        }
    }

    /// A step of the CPU that has the PAL. One that was killed can only
    /// [`end`](Self::end).
    const fn step_of(self, cpu: u16, next: State) -> Option<Self> {
        match self.state {
            State::Running {
                cpu: owner,
                killed: false,
            } if owner == cpu => Some(self.with(next)),
            _ => None,
        }
    }

    const fn with(self, state: State) -> Self {
        Self { state, ..self }
    }
}
