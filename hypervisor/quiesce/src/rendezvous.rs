//! Stopping and releasing the machine. Called by the hypervisor on every CPU:
//! [`Rendezvous::stop`] and [`Rendezvous::release`] by the one that wants the
//! machine, [`Rendezvous::look`] by every CPU before it enters the guest,
//! [`Rendezvous::on_nmi`] from wherever an NMI is taken.

use core::sync::atomic::Ordering::SeqCst;

use crate::steps::{Look, LookStep, Release, Stop, StopStep};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, spin_loop};
use crate::word::{GUEST, LOOK};
use crate::{CpuWord, Ledger, LedgerCounts, NmiMeaning};

#[cfg(feature = "snapshot")]
mod snapshot;
#[cfg(feature = "snapshot")]
pub use snapshot::Snapshot;

/// How the CPU that stops the machine reaches the others.
pub trait Kicker {
    /// Called again and again while some CPU that has been asked is still in the
    /// guest; true when there is no point in waiting any longer: whatever NMI was
    /// sent to it before has arrived by now. Never true if no NMI can be sent; then
    /// the CPU joins when it next leaves the guest.
    fn patience_is_over(&mut self) -> bool;

    /// Sends one NMI to a CPU by its index, never to the caller's own.
    fn send_nmi(&mut self, cpu: usize);
}

/// What a CPU does while it stands in somebody else's stop.
pub trait Waiter {
    /// Called once before each acknowledgement: publishes what the owner may read.
    fn joined(&mut self);

    /// Called again and again until the release: serves the owner's requests.
    fn wait(&mut self);
}

const NOBODY: u32 = u32::MAX;

/// The state of the protocol, shared by all CPUs.
///
/// Every access is sequentially consistent, which is more than is needed: where two
/// sides could miss each other, both change the same word. The owner writes the
/// generation and then asks a CPU by its word, while that CPU changes its word
/// (enters, parks, unparks, takes an NMI) and then reads the generation; whichever
/// change is second sees the first.
pub struct Rendezvous<const N: usize> {
    /// Odd while a stop is in force; each stop is a new odd number, each release
    /// the next even one. It only grows, so nobody can mistake the stop that it
    /// has left for the one that it is to join.
    generation: AtomicU64,
    /// The CPU that holds or is taking the machine, or [`NOBODY`].
    owner: AtomicU32,
    /// One more than the highest index that has joined.
    joined: AtomicUsize,
    cpus: [Slot; N],
}

struct Slot {
    word: AtomicU32,
    /// The last stop that this CPU has joined.
    acked: AtomicU64,
    ledger: Ledger,
}

impl Slot {
    #[cfg(not(feature = "loom"))]
    const fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            acked: AtomicU64::new(0),
            ledger: Ledger::new(),
        }
    }

    fn word(&self) -> CpuWord {
        CpuWord::from_bits(self.word.load(SeqCst))
    }

    /// Applies a pure transition; `None` leaves the word as it is.
    fn apply<T>(&self, mut step: impl FnMut(CpuWord) -> Option<(CpuWord, T)>) -> Option<T> {
        let mut old = self.word.load(SeqCst);
        loop {
            let (new, out) = step(CpuWord::from_bits(old))?;
            match self
                .word
                .compare_exchange_weak(old, new.to_bits(), SeqCst, SeqCst)
            {
                Ok(_) => return Some(out),
                Err(now) => old = now,
            }
        }
    }
}

impl<const N: usize> Default for Rendezvous<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Rendezvous<N> {
    /// A machine on which no CPU takes part yet.
    #[cfg(not(feature = "loom"))]
    pub const fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            owner: AtomicU32::new(NOBODY),
            joined: AtomicUsize::new(0),
            cpus: [const { Slot::new() }; N],
        }
    }

    /// The generation: odd while a stop is in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// The last stop that a CPU has joined.
    pub fn acknowledged(&self, cpu: usize) -> u64 {
        self.cpus[cpu].acked.load(SeqCst)
    }

    /// The CPU that holds the machine or is taking it.
    pub fn owner(&self) -> Option<usize> {
        match self.owner.load(SeqCst) {
            NOBODY => None,
            cpu => Some(cpu as usize),
        }
    }

    /// CPU `me` takes part from now on.
    pub fn join(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.join(), ())));
        self.joined.fetch_max(me + 1, SeqCst);
    }

    /// Whether a CPU is parked; see [`CpuWord`].
    pub fn parked(&self, cpu: usize) -> bool {
        self.cpus[cpu].word().parked()
    }

    /// CPU `me` is about to enter wait-for-SIPI. What the owner of a stop may
    /// want to know of it has to be published before. False while a kick is on its
    /// way: the caller lets it arrive, and tries again.
    pub fn try_park(&self, me: usize) -> bool {
        self.cpus[me]
            .apply(|word| Some((word.park()?, ())))
            .is_some()
    }

    /// CPU `me` has left wait-for-SIPI.
    pub fn unpark(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.unpark(), ())));
    }

    /// CPU `me` is about to turn its local APIC off: no kick is sent to it any more.
    /// False while one is on its way: the caller lets it arrive, and tries again.
    pub fn try_deafen(&self, me: usize) -> bool {
        self.cpus[me]
            .apply(|word| Some((word.deafen()?, ())))
            .is_some()
    }

    /// CPU `me` has its local APIC on.
    pub fn hear(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.hear(), ())));
    }

    /// CPU `me` has failed and will never look again: it counts as stopped.
    pub fn give_up(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.give_up(), ())));
    }

    /// CPU `cpu` looks before it next enters the guest. Of a CPU that is in the
    /// guest this says nothing about when.
    pub fn ask(&self, cpu: usize) {
        self.cpus[cpu].word.fetch_or(LOOK, SeqCst);
    }

    /// Whether CPU `me` is to look.
    pub fn must_look(&self, me: usize) -> bool {
        self.cpus[me].word().must_look()
    }

    /// CPU `me` begins to look.
    pub fn begin_look(&self, me: usize) {
        self.cpus[me].word.fetch_and(!LOOK, SeqCst);
    }

    /// CPU `me` is about to enter the guest. False if it has to look first: then it
    /// has to [`leave`](Self::leave) again. On the metal these two are one
    /// instruction each of the entry and the exit; see [`word`](Self::word).
    pub fn enter(&self, me: usize) -> bool {
        !CpuWord::from_bits(self.cpus[me].word.fetch_or(GUEST, SeqCst)).must_look()
    }

    /// CPU `me` has left the guest, or given up its entry.
    pub fn leave(&self, me: usize) {
        self.cpus[me].word.fetch_and(!GUEST, SeqCst);
    }

    /// The word of a CPU, for its entry sequence, which sets and clears [`GUEST`].
    pub fn word(&self, cpu: usize) -> &AtomicU32 {
        &self.cpus[cpu].word
    }

    /// An NMI was taken on CPU `me`; `in_guest` says that it caused a VM exit.
    /// Changes the word and counts, and does nothing else, so it may run at any point
    /// of the hypervisor. The CPU looks before it enters the guest; if it was about to,
    /// the caller takes it back.
    pub fn on_nmi(&self, me: usize, in_guest: bool) -> NmiMeaning {
        let slot = &self.cpus[me];
        Ledger::add(
            if in_guest {
                &slot.ledger.in_guest
            } else {
                &slot.ledger.in_hypervisor
            },
            1,
        );
        let meaning = slot
            .apply(|word| Some(word.nmi()))
            .unwrap_or(NmiMeaning::Merged);
        match meaning {
            NmiMeaning::Kick => Ledger::add(&slot.ledger.kicks_consumed, 1),
            NmiMeaning::Merged => Ledger::add(&slot.ledger.merged, 1),
            NmiMeaning::Owed => {}
        }
        meaning
    }

    /// A person owes the guest an NMI on `cpu`. The CPU finds it at its next look;
    /// the caller holds the machine, and asks the CPU.
    pub fn owe(&self, cpu: usize) -> NmiMeaning {
        let slot = &self.cpus[cpu];
        Ledger::add(&slot.ledger.asked, 1);
        let meaning = slot
            .apply(|word| Some(word.owe()))
            .unwrap_or(NmiMeaning::Merged);
        if meaning == NmiMeaning::Merged {
            Ledger::add(&slot.ledger.merged, 1);
        }
        meaning
    }

    /// Whether CPU `me` owes its guest an NMI.
    pub fn owes(&self, me: usize) -> bool {
        self.cpus[me].word().owed() != 0
    }

    /// How many NMIs CPU `me` owes its guest, after merging what a processor
    /// would have merged; `blocked` is the guest's virtual-NMI blocking.
    pub fn settle(&self, me: usize, blocked: bool) -> u32 {
        let slot = &self.cpus[me];
        if slot.word().owed() == 0 {
            return 0;
        }
        let change = slot.apply(|word| Some(word.settle(blocked)));
        let Some(change) = change else { return 0 };
        Ledger::add(&slot.ledger.merged, u64::from(change.merged));
        change.owed
    }

    /// CPU `me` injects one owed NMI. Returns how many stay owed, or `None` if
    /// none was owed.
    pub fn inject(&self, me: usize) -> Option<u32> {
        let slot = &self.cpus[me];
        let change = slot.apply(CpuWord::inject)?;
        Ledger::add(&slot.ledger.injected, 1);
        Ledger::add(&slot.ledger.merged, u64::from(change.merged));
        Some(change.owed)
    }

    /// Joins whatever stop is in force, and returns when none is.
    pub fn look(&self, me: usize, waiter: &mut impl Waiter) {
        let mut look = Look::new(me);
        loop {
            match look.step(self) {
                LookStep::Again => {}
                LookStep::Joining => waiter.joined(),
                LookStep::Standing => waiter.wait(),
                LookStep::Done => return,
            }
        }
    }

    /// Takes the machine for CPU `me`: returns when every other CPU stands in
    /// [`look`](Self::look) or is parked. CPUs that ask at the same time are
    /// served one after the other, and join each other's stops meanwhile.
    /// Does nothing if `me` holds the machine already.
    pub fn stop(&self, me: usize, kicker: &mut impl Kicker, waiter: &mut impl Waiter) {
        if self.owner() == Some(me) {
            return;
        }
        let mut stop = Stop::new(me);
        loop {
            match stop.step(self) {
                StopStep::Again => {}
                StopStep::Taken => {
                    self.look(me, waiter);
                    spin_loop();
                }
                StopStep::Asked => {
                    if kicker.patience_is_over() {
                        stop.kick();
                    } else {
                        spin_loop();
                    }
                }
                StopStep::Send(cpu) => kicker.send_nmi(cpu),
                StopStep::Waiting => spin_loop(),
                StopStep::Done => return,
            }
        }
    }

    /// Whether `cpu` stands in [`look`](Self::look) for the stop in force, and so
    /// serves requests. A parked one does not.
    pub fn serves(&self, cpu: usize) -> bool {
        let generation = self.generation();
        generation & 1 == 1 && self.cpus[cpu].acked.load(SeqCst) == generation
    }

    /// Gives the machine back. Called by the CPU that holds it; waits for
    /// nobody: a CPU that is slow to leave finds either no stop or a new one.
    pub fn release(&self, me: usize) {
        debug_assert_eq!(self.owner(), Some(me));
        let mut release = Release::new();
        while !release.step(self) {}
    }

    /// The ledger of a CPU.
    pub fn ledger(&self, cpu: usize) -> LedgerCounts {
        let slot = &self.cpus[cpu];
        let word = slot.word();
        slot.ledger.counts(word.owed(), word.kick_outstanding())
    }

    // The accesses that the steps are made of.

    /// Makes CPU `me` the owner, if there is none.
    pub(crate) fn own(&self, me: usize) -> bool {
        self.owner
            .compare_exchange(NOBODY, me as u32, SeqCst, SeqCst)
            .is_ok()
    }

    /// The owner puts a stop in force, and gets its number. Nobody but the owner
    /// changes the generation.
    pub(crate) fn begin_stop(&self) -> u64 {
        let generation = self.generation() + 1;
        self.generation.store(generation, SeqCst);
        generation
    }

    pub(crate) fn end_stop(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    pub(crate) fn disown(&self) {
        self.owner.store(NOBODY, SeqCst);
    }

    pub(crate) fn acknowledge(&self, me: usize, generation: u64) {
        self.cpus[me].acked.store(generation, SeqCst);
    }

    pub(crate) fn comes_by_itself(&self, cpu: usize) -> bool {
        self.cpus[cpu].word().comes_by_itself()
    }

    /// True: the NMI is to be sent.
    pub(crate) fn announce_kick(&self, cpu: usize) -> bool {
        let slot = &self.cpus[cpu];
        let announced = slot.apply(|word| Some((word.announce_kick()?, ())));
        if announced.is_some() {
            Ledger::add(&slot.ledger.kicks_sent, 1);
        }
        announced.is_some()
    }

    /// Whether a CPU counts as stopped for the stop `generation`. Either of the two
    /// reads is enough to say yes, so it does not matter that they are two.
    pub(crate) fn stands(&self, cpu: usize, generation: u64) -> bool {
        let slot = &self.cpus[cpu];
        let word = slot.word();
        !word.online() || word.parked() || slot.acked.load(SeqCst) == generation
    }

    /// The first CPU from `cpu` on that is not `me`. CPUs join before the first stop.
    pub(crate) fn next_other(&self, me: usize, cpu: usize) -> Option<usize> {
        let cpu = if cpu == me { cpu + 1 } else { cpu };
        (cpu < self.joined.load(SeqCst)).then_some(cpu)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::vec::Vec;

    /// A machine of threads: a kick is a message that the target takes as an
    /// NMI when it gets to it.
    struct Threads(Vec<mpsc::Sender<()>>);

    impl Kicker for Threads {
        fn patience_is_over(&mut self) -> bool {
            true
        }

        fn send_nmi(&mut self, cpu: usize) {
            self.0[cpu].send(()).unwrap();
        }
    }

    /// Sends nothing, and waits for as long as it takes.
    struct NoApic;

    impl Kicker for NoApic {
        fn patience_is_over(&mut self) -> bool {
            false
        }

        fn send_nmi(&mut self, _: usize) {
            unreachable!();
        }
    }

    /// Waits and does nothing else.
    struct Quiet;

    impl Waiter for Quiet {
        fn joined(&mut self) {}
        fn wait(&mut self) {
            thread::yield_now();
        }
    }

    /// Says in `running` that it stands still.
    struct Standing<'a>(&'a AtomicBool);

    impl Waiter for Standing<'_> {
        fn joined(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
        fn wait(&mut self) {
            thread::yield_now();
        }
    }

    #[test]
    fn one_cpu_stops_itself_at_once() {
        let machine = Rendezvous::<4>::new();
        machine.join(0);
        machine.stop(0, &mut Threads(Vec::new()), &mut Quiet);
        assert_eq!(machine.generation(), 1);
        // Again is no other stop.
        machine.stop(0, &mut Threads(Vec::new()), &mut Quiet);
        assert_eq!(machine.generation(), 1);
        machine.release(0);
        assert_eq!((machine.generation(), machine.owner()), (2, None));
    }

    #[test]
    fn a_parked_cpu_is_counted_in_and_not_kicked() {
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        machine.enter(1);
        assert!(machine.try_park(1));
        // No sender for CPU 1: a kick would fail here.
        machine.stop(0, &mut Threads(Vec::new()), &mut Quiet);
        assert!(!machine.serves(1));
        machine.unpark(1);
        assert!(machine.must_look(1));
    }

    #[test]
    fn a_cpu_in_the_hypervisor_is_asked_and_not_kicked() {
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                machine.stop(0, &mut NoApic, &mut Quiet);
                machine.release(0);
            });
            while machine.enter(1) {
                // In the guest without having been asked; back without a kick.
                machine.leave(1);
            }
            machine.leave(1);
            machine.begin_look(1);
            machine.look(1, &mut Quiet);
        });
        assert_eq!(machine.ledger(1), LedgerCounts::default());
        assert_eq!(machine.generation(), 2);
    }

    #[test]
    fn without_an_apic_the_next_exit_has_to_do() {
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        assert!(machine.enter(1));
        thread::scope(|scope| {
            scope.spawn(|| machine.stop(0, &mut NoApic, &mut Quiet));
            while !machine.must_look(1) {
                thread::yield_now();
            }
            // An exit for a reason of its own.
            machine.leave(1);
            let mut look = Look::new(1);
            while look.step(&machine) != LookStep::Standing {}
        });
        assert_eq!(machine.ledger(1), LedgerCounts::default());
    }

    #[test]
    fn a_guest_nmi_and_a_late_kick_are_told_apart_by_count() {
        // Race 3 of the design's list: the kick arrives after the release, a
        // guest's NMI came before it.
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        assert!(machine.enter(1));
        let (first, _unused) = mpsc::channel();
        let (send, receive) = mpsc::channel();
        let mut threads = Threads(std::vec![first, send]);
        thread::scope(|scope| {
            scope.spawn(|| {
                machine.stop(0, &mut threads, &mut Quiet);
                machine.release(0);
            });
            // The kick is on its way, and the CPU exits for a reason of its own.
            receive.recv().unwrap();
            machine.leave(1);
            machine.begin_look(1);
            machine.look(1, &mut Quiet);
        });
        // One kick is outstanding; two NMIs arrive: one of them is the guest's.
        assert_eq!(machine.on_nmi(1, false), NmiMeaning::Kick);
        assert_eq!(machine.on_nmi(1, true), NmiMeaning::Owed);
        assert_eq!(machine.ledger(1).imbalance(), None);
        assert_eq!(machine.inject(1), Some(0));
        assert_eq!(machine.ledger(1).imbalance(), None);
    }

    #[test]
    fn all_ask_at_once_and_each_is_alone() {
        const CPUS: usize = 4;
        const ROUNDS: usize = 300;
        let machine = Rendezvous::<CPUS>::new();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..CPUS).map(|_| mpsc::channel()).unzip();
        let nmi = Threads(senders);
        let running: Vec<AtomicBool> = (0..CPUS).map(|_| AtomicBool::new(true)).collect();
        let finished = AtomicUsize::new(0);
        (0..CPUS).for_each(|cpu| machine.join(cpu));
        thread::scope(|scope| {
            for (me, inbox) in receivers.into_iter().enumerate() {
                let (machine, running, finished, nmi) = (&machine, &running, &finished, &nmi);
                let mut nmi = Threads(nmi.0.clone());
                scope.spawn(move || {
                    // One trip into the guest, where NMIs come.
                    let step = |_| {
                        while !machine.enter(me) {
                            machine.leave(me);
                            machine.begin_look(me);
                            machine.look(me, &mut Standing(&running[me]));
                        }
                        running[me].store(true, Ordering::SeqCst);
                        while inbox.try_recv().is_ok() {
                            machine.on_nmi(me, true);
                        }
                        machine.leave(me);
                    };
                    for round in 0..ROUNDS {
                        step(round);
                        machine.stop(me, &mut nmi, &mut Standing(&running[me]));
                        for (other, running) in running.iter().enumerate() {
                            assert!(other == me || !running.load(Ordering::SeqCst));
                        }
                        machine.release(me);
                    }
                    finished.fetch_add(1, Ordering::SeqCst);
                    while finished.load(Ordering::SeqCst) < CPUS {
                        step(0);
                        thread::yield_now();
                    }
                    step(0);
                    let ledger = machine.ledger(me);
                    assert_eq!(ledger.imbalance(), None, "{ledger:?}");
                    assert_eq!(ledger.owed, 0);
                });
            }
        });
        assert_eq!(machine.generation(), 2 * (CPUS * ROUNDS) as u64);
    }
}
