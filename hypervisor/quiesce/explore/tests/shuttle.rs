//! The protocol's driver as the metal calls it, `stop`, `look`, `release` and `on_nmi`, on
//! threads whose every access to shared memory is scheduled at random by shuttle. For
//! what the steps one by one do not show: the loops that drive them.
//!
//! An NMI is a thread of its own. Its handler is one change of its CPU's word and some
//! counters, so to run it beside the CPU is to run it between any two of the CPU's
//! instructions.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use shuttle::thread;
use stillpoint_quiesce::{Kicker, NmiMeaning, Rendezvous, Waiter};

const CPUS: usize = 3;
const STOPS: usize = 2;

/// The machine, and what the test knows of it.
struct Machine {
    protocol: Rendezvous<CPUS>,
    /// Runs the guest, or holds the machine.
    running: [AtomicBool; CPUS],
    /// NMI handlers that have not run to their end.
    handlers: AtomicUsize,
    /// NMIs that were taken for a kick.
    kicks: AtomicUsize,
    /// CPUs that want no more stops.
    finished: AtomicUsize,
}

impl Machine {
    fn new() -> Arc<Self> {
        let machine = Self {
            protocol: Rendezvous::new(),
            running: std::array::from_fn(|_| AtomicBool::new(false)),
            handlers: AtomicUsize::new(0),
            kicks: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        };
        (0..CPUS).for_each(|cpu| machine.protocol.join(cpu));
        Arc::new(machine)
    }

    /// An NMI comes to a CPU.
    fn nmi(self: &Arc<Self>, cpu: usize) {
        self.handlers.fetch_add(1, SeqCst);
        let machine = Arc::clone(self);
        thread::spawn(move || {
            if machine.protocol.on_nmi(cpu, true) == NmiMeaning::Kick {
                machine.kicks.fetch_add(1, SeqCst);
            }
            machine.handlers.fetch_sub(1, SeqCst);
        });
    }

    /// Goes to the guest, runs it a little, and comes back.
    fn enter_and_exit(self: &Arc<Self>, me: usize) {
        loop {
            if self.protocol.must_look(me) {
                self.protocol.begin_look(me);
                self.protocol.look(me, &mut Stands { machine: self, me });
                self.protocol.settle(me, false);
                self.protocol.inject(me);
            }
            if self.protocol.enter(me) {
                break;
            }
            self.protocol.leave(me);
        }
        // An NMI from here on is an exit: the handler has cleared the guest bit.
        self.running[me].store(true, SeqCst);
        thread::yield_now();
        self.running[me].store(false, SeqCst);
        self.protocol.leave(me);
    }
}

struct Stands<'a> {
    machine: &'a Arc<Machine>,
    me: usize,
}

impl Waiter for Stands<'_> {
    fn joined(&mut self) {
        assert!(!self.machine.running[self.me].load(SeqCst));
    }

    fn wait(&mut self) {
        thread::yield_now();
    }
}

struct Kicks<'a> {
    machine: &'a Arc<Machine>,
    patience: usize,
}

impl Kicker for Kicks<'_> {
    fn patience_is_over(&mut self) -> bool {
        thread::yield_now();
        self.patience = self.patience.saturating_sub(1);
        self.patience == 0
    }

    fn send_nmi(&mut self, cpu: usize) {
        self.machine.nmi(cpu);
    }
}

/// One CPU: the guest, stops of its own, an NMI for a neighbour; and the guest until all
/// are finished.
fn cpu(machine: &Arc<Machine>, me: usize) {
    for _ in 0..STOPS {
        machine.enter_and_exit(me);
        machine.nmi((me + 1) % CPUS);
        let mut kicks = Kicks {
            machine,
            patience: 2,
        };
        machine
            .protocol
            .stop(me, &mut kicks, &mut Stands { machine, me });
        assert_eq!(machine.protocol.owner(), Some(me));
        machine.running[me].store(true, SeqCst);
        for other in (0..CPUS).filter(|&other| other != me) {
            assert!(!machine.running[other].load(SeqCst));
        }
        machine.running[me].store(false, SeqCst);
        machine.protocol.release(me);
    }
    machine.finished.fetch_add(1, SeqCst);
    while machine.finished.load(SeqCst) < CPUS || machine.handlers.load(SeqCst) > 0 {
        machine.enter_and_exit(me);
        thread::yield_now();
    }
}

fn all_ask() {
    let machine = Machine::new();
    let cpus: Vec<_> = (0..CPUS)
        .map(|me| {
            let machine = Arc::clone(&machine);
            thread::spawn(move || cpu(&machine, me))
        })
        .collect();
    for cpu in cpus {
        cpu.join().unwrap();
    }
    let stops = (CPUS * STOPS) as u64;
    assert_eq!(machine.protocol.generation(), 2 * stops);
    assert_eq!(machine.protocol.owner(), None);
    let mut kicks = 0;
    let mut guests = 0;
    for cpu in 0..CPUS {
        let ledger = machine.protocol.ledger(cpu);
        assert!(
            ledger.imbalance().is_none() && !ledger.kick_outstanding,
            "{ledger:?}"
        );
        kicks += ledger.kicks_consumed as usize;
        guests += ledger.injected + ledger.merged + u64::from(ledger.owed);
    }
    assert_eq!(kicks, machine.kicks.load(SeqCst));
    assert_eq!(guests, stops);
}

#[test]
fn all_ask_at_random() {
    shuttle::check_random(all_ask, 2000);
}

#[test]
fn all_ask_with_few_preemptions() {
    shuttle::check_pct(all_ask, 2000, 4);
}
