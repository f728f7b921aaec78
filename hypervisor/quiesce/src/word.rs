//! One CPU's NMI state as a value with pure transitions. [`crate::Rendezvous`]
//! applies them to shared memory; tests and model checkers apply them to values.

/// The most NMIs that a processor holds for its software: one being handled,
/// one latched behind it (Intel SDM vol. 3, 6.7.1 "Handling Multiple NMIs").
pub const MAX_OWED: u32 = 2;

const OWED: u32 = 0b11;
const KICK: u32 = 1 << 2;
const PARKED: u32 = 1 << 3;
const ONLINE: u32 = 1 << 4;

/// The bit that says "in the guest". The VM-entry sequence sets it, with the look
/// bit as the answer; see [`CpuWord::enter`].
pub const GUEST: u32 = 1 << 5;

const DEAF: u32 = 1 << 6;

/// The bit that asks the CPU to look. It is the sign bit, so that the instruction
/// which sets [`GUEST`] tells in the sign flag whether the CPU has to look first.
pub const LOOK: u32 = 1 << 31;

/// What an NMI turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiMeaning {
    /// The kick that another CPU had announced.
    Kick,
    /// The guest's: this CPU now owes it one more.
    Owed,
    /// The guest's, while as many were owed as a processor can hold: it merged
    /// into the latched one, as it would have on the bare machine.
    Merged,
}

/// What [`CpuWord::settle`] or [`CpuWord::inject`] did to the NMIs owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwedChange {
    /// How many are owed now (0..=2).
    pub owed: u32,
    /// How many merged into the one that stays latched.
    pub merged: u32,
}

/// One CPU's NMI state, packed so that every transition is one atomic exchange.
///
/// - *owed* (0..=2): NMIs that the hardware delivered for the guest and that the
///   guest has not been given yet;
/// - *kick*: a kick was announced and its NMI has not been seen yet. A bit and
///   not a count: two NMIs sent to a CPU that blocks NMIs arrive as one, and a
///   count of two would then swallow a later NMI of the guest's;
/// - *parked*: the CPU is in, or irrevocably about to enter, the wait-for-SIPI
///   activity state, runs nothing, and looks before it leaves;
/// - *online*: the CPU takes part;
/// - *guest*: the CPU is in the guest, or will be without another look. Only such a
///   CPU needs a kick;
/// - *deaf*: the CPU's local APIC is off, and no NMI reaches it. It is not kicked, and
///   joins when it next leaves the guest;
/// - *look*: something came up. The CPU looks before it enters the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuWord(u32);

impl CpuWord {
    /// The state as stored in shared memory.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The inverse of [`CpuWord::to_bits`].
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// NMIs owed to the guest (0..=2).
    pub const fn owed(self) -> u32 {
        self.0 & OWED
    }

    /// Whether a kick was announced whose NMI has not been seen yet.
    pub const fn kick_outstanding(self) -> bool {
        self.0 & KICK != 0
    }

    /// Whether the CPU counts as stopped without being asked.
    pub const fn parked(self) -> bool {
        self.0 & PARKED != 0
    }

    /// Whether the CPU takes part in stops at all.
    pub const fn online(self) -> bool {
        self.0 & ONLINE != 0
    }

    /// Whether the CPU is in the guest, or will be without another look.
    pub const fn in_guest(self) -> bool {
        self.0 & GUEST != 0
    }

    /// Whether the CPU's local APIC is off.
    pub const fn deaf(self) -> bool {
        self.0 & DEAF != 0
    }

    /// Whether the CPU is to look before it enters the guest.
    pub const fn must_look(self) -> bool {
        self.0 & LOOK != 0
    }

    /// The CPU joins.
    #[must_use]
    pub const fn join(self) -> Self {
        Self(self.0 | ONLINE)
    }

    /// Asks the CPU to look before it next enters the guest.
    #[must_use]
    pub const fn ask(self) -> Self {
        Self(self.0 | LOOK)
    }

    /// The CPU begins to look: it has been asked no more.
    #[must_use]
    pub const fn begin_look(self) -> Self {
        Self(self.0 & !LOOK)
    }

    /// The CPU is about to enter the guest. In the same step it learns whether it
    /// has to look first ([`CpuWord::must_look`] of the result); then it leaves
    /// again, having run nothing.
    #[must_use]
    pub const fn enter(self) -> Self {
        Self(self.0 | GUEST)
    }

    /// The CPU has left the guest.
    #[must_use]
    pub const fn leave(self) -> Self {
        Self(self.0 & !GUEST)
    }

    /// Whether an asked CPU will come to look without a kick, or counts as stopped.
    pub const fn comes_by_itself(self) -> bool {
        !self.online() || self.parked() || !self.in_guest()
    }

    /// Announces a kick. `None` means that no NMI is to be sent: the CPU comes
    /// without, none would reach it, or one that it will take for a kick is on its
    /// way.
    pub const fn announce_kick(self) -> Option<Self> {
        if self.comes_by_itself() || self.deaf() || self.kick_outstanding() {
            None
        } else {
            Some(Self(self.0 | KICK))
        }
    }

    /// The hardware delivered an NMI. It takes the CPU out of the guest, or out of
    /// its entry; and it leaves NMIs blocked for a while, in which nobody may send
    /// a kick: so the kick bit and the guest bit go in one step.
    #[must_use]
    pub const fn nmi(self) -> (Self, NmiMeaning) {
        let out = self.leave().ask();
        if out.kick_outstanding() {
            (Self(out.0 & !KICK), NmiMeaning::Kick)
        } else {
            out.owe()
        }
    }

    /// The guest is owed one more NMI, whether hardware or a person sent it.
    #[must_use]
    pub const fn owe(self) -> (Self, NmiMeaning) {
        if self.owed() < MAX_OWED {
            (Self(self.0 + 1), NmiMeaning::Owed)
        } else {
            (self, NmiMeaning::Merged)
        }
    }

    /// Brings the count down to what a processor would hold while the guest
    /// handles an NMI (`blocked`): one latched.
    #[must_use]
    pub const fn settle(self, blocked: bool) -> (Self, OwedChange) {
        let owed = self.owed();
        if blocked && owed > 1 {
            let merged = owed - 1;
            (Self((self.0 & !OWED) | 1), OwedChange { owed: 1, merged })
        } else {
            (self, OwedChange { owed, merged: 0 })
        }
    }

    /// One owed NMI is being injected; from now on the guest blocks NMIs, so no
    /// more than one stays latched. `None` if none is owed.
    pub const fn inject(self) -> Option<(Self, OwedChange)> {
        if self.owed() == 0 {
            return None;
        }
        Some(Self(self.0 - 1).settle(true))
    }

    /// The CPU enters the parked state, and looks once more before it does. `None`
    /// while a kick is on its way: in wait-for-SIPI it would stay in the processor,
    /// and a guest's NMI would merge with it.
    pub const fn park(self) -> Option<Self> {
        if self.kick_outstanding() {
            None
        } else {
            Some(Self(self.0 | PARKED | LOOK))
        }
    }

    /// The CPU leaves the parked state, and looks before it runs anything.
    #[must_use]
    pub const fn unpark(self) -> Self {
        Self(self.0 & !PARKED | LOOK)
    }

    /// The CPU is about to turn its local APIC off. `None` while a kick is on its
    /// way: it would never arrive, and the guest's next NMI be taken for it.
    pub const fn deafen(self) -> Option<Self> {
        if self.kick_outstanding() {
            None
        } else {
            Some(Self(self.0 | DEAF))
        }
    }

    /// The CPU's local APIC is on.
    #[must_use]
    pub const fn hear(self) -> Self {
        Self(self.0 & !DEAF)
    }

    /// The CPU has failed and never looks again: it counts as stopped.
    #[must_use]
    pub const fn give_up(self) -> Self {
        Self(self.0 | PARKED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online() -> CpuWord {
        CpuWord::default().join()
    }

    fn in_guest() -> CpuWord {
        online().enter()
    }

    #[test]
    fn an_nmi_is_the_kick_that_was_announced_and_only_one() {
        let word = in_guest().announce_kick().unwrap();
        assert!(word.kick_outstanding());
        let (word, meaning) = word.nmi();
        assert_eq!(meaning, NmiMeaning::Kick);
        let (word, meaning) = word.nmi();
        assert_eq!(meaning, NmiMeaning::Owed);
        assert_eq!(word.owed(), 1);
    }

    #[test]
    fn a_second_kick_is_not_announced_while_one_is_on_its_way() {
        let word = in_guest().announce_kick().unwrap();
        assert_eq!(word.announce_kick(), None);
    }

    #[test]
    fn only_a_cpu_in_the_guest_is_kicked() {
        assert_eq!(online().announce_kick(), None);
        assert_eq!(in_guest().leave().announce_kick(), None);
        assert_eq!(in_guest().park().unwrap().announce_kick(), None);
        assert_eq!(CpuWord::default().enter().announce_kick(), None);
    }

    #[test]
    fn an_nmi_takes_the_cpu_out_and_makes_it_look() {
        let (word, _) = in_guest().nmi();
        assert!(!word.in_guest() && word.must_look());
        // While NMIs are blocked after it, no kick is sent.
        assert_eq!(word.announce_kick(), None);
    }

    #[test]
    fn whoever_was_asked_finds_out_as_it_enters() {
        assert!(!online().enter().must_look());
        assert!(online().ask().enter().must_look());
        assert!(!online().ask().begin_look().enter().must_look());
    }

    #[test]
    fn a_cpu_does_not_park_with_a_kick_on_its_way() {
        let word = in_guest().announce_kick().unwrap().leave();
        assert_eq!(word.park(), None);
        let (word, _) = word.nmi();
        assert!(word.park().is_some_and(CpuWord::must_look));
    }

    #[test]
    fn a_deaf_cpu_is_not_kicked_but_does_not_count_as_stopped() {
        let word = in_guest().deafen().unwrap();
        assert_eq!(word.announce_kick(), None);
        assert!(!word.comes_by_itself());
        assert!(word.hear().announce_kick().is_some());
    }

    #[test]
    fn a_cpu_hears_the_kick_on_its_way_before_it_goes_deaf() {
        let word = in_guest().announce_kick().unwrap().leave();
        assert_eq!(word.deafen(), None);
        assert!(word.nmi().0.deafen().is_some_and(CpuWord::deaf));
    }

    #[test]
    fn a_third_nmi_merges() {
        let (word, _) = online().nmi();
        let (word, _) = word.nmi();
        let (word, meaning) = word.nmi();
        assert_eq!(meaning, NmiMeaning::Merged);
        assert_eq!(word.owed(), MAX_OWED);
    }

    #[test]
    fn injecting_leaves_at_most_one_latched() {
        let (word, _) = online().nmi();
        let (word, _) = word.nmi();
        let (word, change) = word.inject().unwrap();
        assert_eq!(change, OwedChange { owed: 1, merged: 0 });
        // Another arrives while the guest handles the first: two are owed until
        // the next look, which merges one.
        let (word, _) = word.nmi();
        let (word, change) = word.settle(true);
        assert_eq!(change, OwedChange { owed: 1, merged: 1 });
        assert_eq!(word.owed(), 1);
        assert_eq!(word.settle(false).1.merged, 0);
    }

    #[test]
    fn nothing_owed_is_nothing_to_inject() {
        assert_eq!(online().inject(), None);
    }

    #[test]
    fn counts_and_flags_do_not_touch_each_other() {
        let (word, _) = online().park().unwrap().owe();
        assert!(word.parked() && word.online() && !word.kick_outstanding());
        assert_eq!(word.owed(), 1);
        let word = word.unpark();
        assert!(!word.parked() && word.online() && word.must_look());
        assert_eq!(CpuWord::from_bits(word.to_bits()), word);
    }
}
