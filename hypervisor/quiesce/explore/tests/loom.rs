//! The pairs of accesses on which one CPU's data becomes another's, under every order
//! that the memory model allows. loom gives SeqCst accesses no more than acquire and
//! release; what holds here holds with less than the protocol asks for.
//!
//! The data is in cells that loom watches: two CPUs in one of them at once, or with no
//! order between them, is a failure.

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use stillpoint_quiesce::{Look, LookStep, Rendezvous, Stop, StopStep, WorkSlot};

/// More switches between threads than these are not tried, where there is a bound.
const PREEMPTIONS: usize = 3;

/// What the two sides share.
struct Machine {
    protocol: Rendezvous<2>,
    /// Touched by CPU 1 in the guest or before it stands, by CPU 0 while it holds the machine.
    data: UnsafeCell<u32>,
}

impl Machine {
    fn new() -> Arc<Self> {
        let protocol = Rendezvous::new();
        protocol.join(0);
        protocol.join(1);
        Arc::new(Self {
            protocol,
            data: UnsafeCell::new(0),
        })
    }

    fn touch(&self) {
        self.data.with_mut(|_| ());
    }

    /// CPU `me` takes the machine, without kicks: the other one comes by itself.
    fn stop(&self, me: usize) {
        let mut stop = Stop::new(me);
        loop {
            match stop.step(&self.protocol) {
                StopStep::Again => {}
                StopStep::Done => return,
                StopStep::Taken => {
                    self.look(me);
                    thread::yield_now();
                }
                _ => thread::yield_now(),
            }
        }
    }

    /// CPU `me` looks.
    fn look(&self, me: usize) {
        let mut look = Look::new(me);
        loop {
            match look.step(&self.protocol) {
                LookStep::Again | LookStep::Joining => {}
                LookStep::Standing => thread::yield_now(),
                LookStep::Done => return,
            }
        }
    }

    /// CPU `me` runs the guest if it has not been asked, and counts as stopped from then
    /// on, so that a later stop of the other one's does not wait for it.
    fn run_guest_and_park(&self, me: usize) {
        if self.protocol.enter(me) {
            self.touch();
        }
        self.protocol.leave(me);
        self.protocol.begin_look(me);
        self.look(me);
        assert!(self.protocol.try_park(me));
    }
}

fn explore(preemptions: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(test);
}

/// The entry and the asking: either CPU 1 is seen in the guest, or it sees the stop.
#[test]
fn whoever_enters_is_seen_or_sees() {
    explore(None, || {
        let machine = Machine::new();
        let other = Arc::clone(&machine);
        let cpu_1 = thread::spawn(move || {
            if other.protocol.enter(1) {
                return true;
            }
            other.protocol.leave(1);
            other.protocol.begin_look(1);
            let mut look = Look::new(1);
            let mut seen = LookStep::Again;
            while seen == LookStep::Again {
                seen = look.step(&other.protocol);
            }
            assert_eq!(seen, LookStep::Joining);
            false
        });
        let mut stop = Stop::new(0);
        let mut end = StopStep::Again;
        while end == StopStep::Again {
            end = stop.step(&machine.protocol);
        }
        let in_guest = cpu_1.join().unwrap();
        assert!(!in_guest || end == StopStep::Asked);
    });
}

/// What a CPU has written before it stands is the owner's, and what the owner has
/// written is that CPU's after the release.
#[test]
fn a_stop_hands_the_data_over_and_back() {
    explore(Some(PREEMPTIONS), || {
        let machine = Machine::new();
        let other = Arc::clone(&machine);
        let cpu_1 = thread::spawn(move || {
            other.touch();
            other.look(1);
            other.run_guest_and_park(1);
        });
        machine.stop(0);
        machine.touch();
        machine.protocol.release(0);
        cpu_1.join().unwrap();
    });
}

/// What a CPU has published before it parks is the owner's; and when a SIPI wakes it
/// during the stop, it sees the stop before it runs anything.
#[test]
fn a_parked_cpu_is_seen_or_sees() {
    explore(Some(PREEMPTIONS), || {
        let machine = Machine::new();
        let other = Arc::clone(&machine);
        let cpu_1 = thread::spawn(move || {
            other.touch();
            assert!(other.protocol.try_park(1));
            other.protocol.unpark(1);
            other.protocol.begin_look(1);
            other.look(1);
            other.run_guest_and_park(1);
        });
        machine.stop(0);
        machine.touch();
        machine.protocol.release(0);
        cpu_1.join().unwrap();
    });
}

/// Who has the machine next has all that the one before wrote.
#[test]
fn owners_follow_each_other() {
    explore(Some(PREEMPTIONS), || {
        let machine = Machine::new();
        let own = |machine: &Machine, me| {
            machine.stop(me);
            machine.touch();
            machine.protocol.release(me);
            assert!(machine.protocol.try_park(me));
        };
        let other = Arc::clone(&machine);
        let cpu_1 = thread::spawn(move || own(&other, 1));
        own(&machine, 0);
        cpu_1.join().unwrap();
        assert_eq!(machine.protocol.generation(), 4);
    });
}

/// The request is the owner's before it is posted and after it is finished, and the
/// CPU's between.
#[test]
fn work_is_handed_over_and_back() {
    explore(None, || {
        // The pointer is not followed here: the cell stands for what it points to.
        let slot = Arc::new(WorkSlot::<()>::default());
        let request = Arc::new(UnsafeCell::new(0));
        let (its_slot, its_request) = (Arc::clone(&slot), Arc::clone(&request));
        let cpu_1 = thread::spawn(move || {
            while its_slot.posted().is_none() {
                thread::yield_now();
            }
            its_request.with_mut(|_| ());
            its_slot.finish();
        });
        request.with_mut(|_| ());
        slot.post(core::ptr::dangling_mut());
        while !slot.is_finished() {
            thread::yield_now();
        }
        request.with_mut(|_| ());
        slot.clear();
        cpu_1.join().unwrap();
    });
}
