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
//!
//! The word does not tell one PAL from the next in its place. It need not: a
//! PAL goes with the machine stopped alone, and no stop comes between a CPU's
//! finding it and the CPU's step.

/// What happens with a PAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    /// There is none. It is 0 in [`to_bits`](Self::to_bits).
    Free,
    /// REG is at work; nobody else has anything to do with it.
    Registering,
    /// It can be called.
    Idle,
    /// This CPU has it, and runs it, or copies for it.
    Running(u16),
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

const CPU_SHIFT: u32 = 16;

impl Life {
    /// The word for shared memory.
    pub const fn to_bits(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Registering => 1,
            Self::Idle => 2,
            Self::Running(cpu) => 3 | (cpu as u32) << CPU_SHIFT,
            Self::Returning => 4,
            Self::Ending => 5,
        }
    }

    /// The inverse of [`to_bits`](Self::to_bits). A word that it does not give
    /// is taken for a PAL that nobody can use.
    pub const fn from_bits(bits: u32) -> Self {
        match (bits as u16, (bits >> CPU_SHIFT) as u16) {
            (0, 0) => Self::Free,
            (1, 0) => Self::Registering,
            (2, 0) => Self::Idle,
            (3, cpu) => Self::Running(cpu),
            (4, 0) => Self::Returning,
            _ => Self::Ending,
        }
    }

    /// Is there a PAL, in whatever state?
    pub const fn is_used(self) -> bool {
        !matches!(self, Self::Free)
    }

    /// The CPU that has it.
    pub const fn cpu(self) -> Option<u16> {
        match self {
            Self::Running(cpu) => Some(cpu),
            _ => None,
        }
    }

    /// REG takes the place.
    pub const fn claim(self) -> Option<Self> {
        match self {
            Self::Free => Some(Self::Registering),
            _ => None,
        }
    }

    /// REG refuses after all, and nothing is left of what it did.
    pub const fn abandon(self) -> Option<Self> {
        match self {
            Self::Registering => Some(Self::Free),
            _ => None,
        }
    }

    /// REG is done.
    pub const fn publish(self) -> Option<Self> {
        match self {
            Self::Registering => Some(Self::Idle),
            _ => None,
        }
    }

    /// The entry is called on this CPU, which has the PAL from now on. While
    /// another one has it, the caller tries again.
    pub const fn enter(self, cpu: u16) -> Option<Self> {
        match self {
            Self::Idle => Some(Self::Running(cpu)),
            _ => None,
        }
    }

    /// The CPU is through, or could not enter after all.
    pub const fn leave(self, cpu: u16) -> Option<Self> {
        self.step_of(cpu, Self::Idle)
    }

    /// The CPU is through, and could not copy to the caller.
    pub const fn suspend(self, cpu: u16) -> Option<Self> {
        self.step_of(cpu, Self::Returning)
    }

    /// The entry is called on this CPU while the PAL waits for its caller. Only
    /// the call that `held` was kept of goes on.
    pub fn resume(self, cpu: u16, held: CallSite, now: CallSite) -> Option<Self> {
        match self {
            Self::Returning if held == now => Some(Self::Running(cpu)),
            _ => None,
        }
    }

    /// The CPU that has the PAL ends it: for a fault, or because somebody else
    /// wants it ended and has asked this CPU, in a stop.
    pub const fn end(self, cpu: u16) -> Option<Self> {
        self.step_of(cpu, Self::Ending)
    }

    /// UNREG, and an end from outside, of a PAL that does not run. One that
    /// waits for its caller loses its result.
    pub const fn unregister(self) -> Option<Self> {
        match self {
            Self::Idle | Self::Returning => Some(Self::Ending),
            _ => None,
        }
    }

    /// It is wiped, and its pages are the guest's again.
    pub const fn free(self) -> Option<Self> {
        match self {
            Self::Ending => Some(Self::Free),
            _ => None,
        }
    }

    /// A step of the CPU that has the PAL.
    const fn step_of(self, cpu: u16, next: Self) -> Option<Self> {
        match self {
            Self::Running(owner) if owner == cpu => Some(next),
            _ => None,
        }
    }
}
