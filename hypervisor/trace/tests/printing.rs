//! Every interleaving of CPUs that print their lines on one console: the source of
//! `printing.rs` and `ring.rs` over a model checker's atomics.
//!
//! Each of these is found here: a turn that ends without looking at what was announced
//! meanwhile, one that anybody can take, one that is not taken back, a cursor that steps
//! over a line that is still being written, or that waits for one that never will be.

#[path = "../src/printing.rs"]
mod printing;
#[path = "../src/ring.rs"]
mod ring;

/// What the sources find in their crate.
mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::sync::atomic::AtomicBool;
use loom::sync::{Arc, Mutex};
use loom::thread;
use printing::{Printed, Turn};
use ring::Ring;
use sync::{AtomicU64, Ordering};

/// Every execution in which CPUs are interrupted at most twice each: more
/// takes too long.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// Two CPUs, each with a ring of lines that are numbers, and the console.
struct Machine {
    turn: Turn,
    logs: [(Ring<4, 1>, Printed); 2],
    /// Somebody is at the console.
    busy: AtomicBool,
    /// What was printed: CPU and line.
    console: Mutex<Vec<(usize, u64)>>,
}

impl Machine {
    fn new() -> Self {
        Self {
            turn: Turn::new(AtomicU64::new(0)),
            logs: Default::default(),
            busy: AtomicBool::new(false),
            console: Mutex::new(Vec::new()),
        }
    }

    fn log(&self, cpu: usize, line: u64) {
        self.log_with(cpu, line, &|| {});
    }

    /// `meanwhile` happens in the middle of each line on the console.
    fn log_with(&self, cpu: usize, line: u64, meanwhile: &dyn Fn()) {
        self.logs[cpu].0.record([line]);
        self.announce(cpu, meanwhile);
    }

    fn announce(&self, cpu: usize, meanwhile: &dyn Fn()) {
        self.turn.announce(cpu as u32, || {
            for (cpu, (ring, printed)) in self.logs.iter().enumerate() {
                printed.print(ring, |[line]| {
                    assert!(!self.busy.swap(true, Ordering::Relaxed), "two lines in one");
                    meanwhile();
                    self.console.lock().unwrap().push((cpu, line));
                    self.busy.store(false, Ordering::Relaxed);
                });
            }
        });
    }

    /// Each CPU's lines on the console.
    fn printed(&self, cpu: usize) -> Vec<u64> {
        let console = self.console.lock().unwrap();
        let lines = console.iter().filter(|(of, _)| *of == cpu);
        lines.map(|(_, line)| *line).collect()
    }
}

#[test]
fn every_line_is_printed_once_in_its_cpus_order() {
    explore(|| {
        let machine = Arc::new(Machine::new());
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.log(1, 11))
        };
        machine.log(0, 1);
        machine.log(0, 2);
        other.join().unwrap();
        assert_eq!(machine.printed(0), [1, 2]);
        assert_eq!(machine.printed(1), [11]);
    });
}

#[test]
fn an_interrupt_in_the_middle_of_a_line_waits_for_nobody() {
    explore(|| {
        let machine = Arc::new(Machine::new());
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.log(1, 11))
        };
        // An NMI's handler logs while this CPU prints, whosever line that is.
        let taken = AtomicBool::new(false);
        machine.log_with(0, 1, &|| {
            if !taken.swap(true, Ordering::Relaxed) {
                machine.log(0, 2);
            }
        });
        other.join().unwrap();
        if !taken.load(Ordering::Relaxed) {
            machine.log(0, 2);
        }
        assert_eq!(machine.printed(0), [1, 2]);
        assert_eq!(machine.printed(1), [11]);
    });
}

#[test]
fn a_cpu_that_fails_in_the_middle_of_a_line_still_gets_its_last_words_out() {
    explore(|| {
        let machine = Arc::new(Machine::new());
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.log(1, 11))
        };
        // The fault never returns to the line that it interrupted.
        let failed = catch_unwind(AssertUnwindSafe(|| {
            machine.log_with(0, 1, &|| resume_unwind(Box::new("fault")));
        }));
        if failed.is_err() {
            machine.busy.store(false, Ordering::Relaxed);
        }
        assert_eq!(machine.turn.take_back(0), failed.is_err());
        machine.logs[0].1.abandon(&machine.logs[0].0);
        machine.log(0, 2);
        other.join().unwrap();
        assert_eq!(machine.printed(0), [1, 2]);
        assert_eq!(machine.printed(1), [11]);
    });
}

#[test]
fn a_line_that_was_being_written_is_printed_when_it_is_complete() {
    explore(|| {
        let machine = Arc::new(Machine::new());
        // Two contexts of one CPU: any of them may print while the other is writing.
        let other = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.log(0, 2))
        };
        machine.log(0, 1);
        other.join().unwrap();
        let mut lines = machine.printed(0);
        lines.sort_unstable();
        assert_eq!(lines, [1, 2]);
    });
}

#[test]
fn a_line_that_never_will_be_complete_holds_up_nobody() {
    explore(|| {
        let machine = Machine::new();
        // Half of a record: its number is taken, and no more.
        machine.logs[0].0.begin();
        machine.log(0, 2);
        assert_eq!(machine.printed(0), [0; 0]);
        machine.logs[0].1.abandon(&machine.logs[0].0);
        machine.log(0, 3);
        assert_eq!(machine.printed(0), [2, 3]);
    });
}

#[test]
fn what_was_overwritten_is_stepped_over() {
    explore(|| {
        let machine = Machine::new();
        (1..=7).for_each(|line| {
            machine.logs[0].0.record([line]);
        });
        machine.announce(0, &|| {});
        assert_eq!(machine.printed(0), [4, 5, 6, 7]);
        let none = AtomicU64::new(0);
        machine.logs[0].1.print(&machine.logs[0].0, |_| {
            none.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(none.load(Ordering::Relaxed), 0);
    });
}
