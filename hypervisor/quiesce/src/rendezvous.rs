//! Stopping and releasing the machine. Called by the hypervisor on every CPU:
//! [`Rendezvous::stop`] and [`Rendezvous::release`] by the one that wants the
//! machine, [`Rendezvous::look`] by every CPU before it enters the guest,
//! [`Rendezvous::on_nmi`] from wherever an NMI is taken.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::{CpuWord, Ledger, LedgerCounts, NmiMeaning};

/// Sends the NMI of a kick. One method, so that tests can watch it.
pub trait NmiSender {
    /// Sends one NMI to a CPU by its index. Never to the caller's own.
    fn send_nmi(&self, cpu: usize);
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
/// Every access is sequentially consistent. The protocol rests on two pairs of
/// "write mine, then read yours": the owner writes the generation and then
/// reads a CPU's word, while that CPU changes its word (takes a kick, leaves the
/// parked state) and then reads the generation. At least one of the two sees the
/// other, which acquire and release alone would not promise.
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
    /// want to know of it has to be published before; the caller looks once more
    /// after this, before it enters.
    pub fn park(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.parked_as(true), ())));
    }

    /// CPU `me` has left wait-for-SIPI, and has to [`look`](Self::look) before
    /// it does anything that a stop forbids.
    pub fn unpark(&self, me: usize) {
        self.cpus[me].apply(|word| Some((word.parked_as(false), ())));
    }

    /// An NMI was taken on CPU `me`; `in_guest` says that it caused a VM exit.
    /// Moves counters and does nothing else, so it may run at any point of the
    /// hypervisor. The caller sees to it that the CPU looks before it enters the
    /// guest.
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

    /// A person owes the guest an NMI on `cpu`. The CPU finds it at its next
    /// look; the caller holds the machine, so that look is still to come.
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

    /// Whether CPU `me` has a stop to join. Cheap; for the look on every entry.
    pub fn stop_in_force(&self, me: usize) -> bool {
        self.generation() & 1 == 1 && self.owner() != Some(me)
    }

    /// Joins whatever stop is in force, and returns when none is.
    pub fn look(&self, me: usize, waiter: &mut impl Waiter) {
        loop {
            let generation = self.generation();
            if generation & 1 == 0 || self.owner() == Some(me) {
                return;
            }
            waiter.joined();
            self.cpus[me].acked.store(generation, SeqCst);
            while self.generation() == generation {
                waiter.wait();
            }
        }
    }

    /// Takes the machine for CPU `me`: returns when every other CPU stands in
    /// [`look`](Self::look) or is parked. CPUs that ask at the same time are
    /// served one after the other, and join each other's stops meanwhile.
    /// Returns false, having done nothing, if `me` holds the machine already.
    pub fn stop(&self, me: usize, nmi: &impl NmiSender, waiter: &mut impl Waiter) -> bool {
        if self.owner() == Some(me) {
            return false;
        }
        while self
            .owner
            .compare_exchange(NOBODY, me as u32, SeqCst, SeqCst)
            .is_err()
        {
            self.look(me, waiter);
            core::hint::spin_loop();
        }
        let generation = self.generation() + 1;
        self.generation.store(generation, SeqCst);
        for (cpu, slot) in self.others(me) {
            let announced = slot.apply(|word| Some((word.announce_kick()?, ())));
            if announced.is_some() {
                Ledger::add(&slot.ledger.kicks_sent, 1);
                nmi.send_nmi(cpu);
            }
        }
        for (_, slot) in self.others(me) {
            while slot.word().online()
                && !slot.word().parked()
                && slot.acked.load(SeqCst) != generation
            {
                core::hint::spin_loop();
            }
        }
        true
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
        self.generation.fetch_add(1, SeqCst);
        self.owner.store(NOBODY, SeqCst);
    }

    /// The ledger of a CPU.
    pub fn ledger(&self, cpu: usize) -> LedgerCounts {
        let slot = &self.cpus[cpu];
        let word = slot.word();
        slot.ledger.counts(word.owed(), word.kick_outstanding())
    }

    fn others(&self, me: usize) -> impl Iterator<Item = (usize, &Slot)> {
        self.cpus
            .iter()
            .take(self.joined.load(SeqCst))
            .enumerate()
            .filter(move |(cpu, _)| *cpu != me)
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

    impl NmiSender for Threads {
        fn send_nmi(&self, cpu: usize) {
            self.0[cpu].send(()).unwrap();
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
        assert!(machine.stop(0, &Threads(Vec::new()), &mut Quiet));
        assert_eq!(machine.generation(), 1);
        assert!(!machine.stop(0, &Threads(Vec::new()), &mut Quiet));
        machine.release(0);
        assert_eq!((machine.generation(), machine.owner()), (2, None));
    }

    #[test]
    fn a_parked_cpu_is_counted_in_and_not_kicked() {
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        machine.park(1);
        // No sender for CPU 1: a kick would fail here.
        assert!(machine.stop(0, &Threads(Vec::new()), &mut Quiet));
        assert!(!machine.serves(1));
        machine.unpark(1);
        assert!(machine.stop_in_force(1));
    }

    #[test]
    fn a_guest_nmi_and_a_late_kick_are_told_apart_by_count() {
        // Race 3 of the design's list: the kick arrives after the release, a
        // guest's NMI came before it.
        let machine = Rendezvous::<2>::new();
        machine.join(0);
        machine.join(1);
        let (send, _receive) = mpsc::channel();
        let (first, _unused) = mpsc::channel();
        let threads = Threads(std::vec![first, send]);
        thread::scope(|scope| {
            scope.spawn(|| {
                machine.stop(0, &threads, &mut Quiet);
                machine.release(0);
            });
            while !machine.stop_in_force(1) {
                thread::yield_now();
            }
            machine.look(1, &mut Quiet);
        });
        // One kick is outstanding; two NMIs arrive: one of them is the guest's.
        assert_eq!(machine.on_nmi(1, false), NmiMeaning::Kick);
        assert_eq!(machine.on_nmi(1, true), NmiMeaning::Owed);
        assert!(machine.ledger(1).balances());
        assert_eq!(machine.inject(1), Some(0));
        assert!(machine.ledger(1).balances());
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
                let nmi = Threads(nmi.0.clone());
                scope.spawn(move || {
                    let step = |_| {
                        while inbox.try_recv().is_ok() {
                            machine.on_nmi(me, true);
                        }
                        machine.look(me, &mut Standing(&running[me]));
                        running[me].store(true, Ordering::SeqCst);
                    };
                    for round in 0..ROUNDS {
                        step(round);
                        machine.stop(me, &nmi, &mut Standing(&running[me]));
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
                    assert!(ledger.balances(), "{ledger:?}");
                    assert_eq!(ledger.owed, 0);
                });
            }
        });
        assert_eq!(machine.generation(), 2 * (CPUS * ROUNDS) as u64);
    }
}
