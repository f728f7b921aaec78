//! What CPU 0 wants of a storm, for the jobs that every CPU runs; and how the
//! storm's tests start and end them.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::boot::MAX_CPUS;
use crate::config::Storm;
use crate::harness::{Context, Failure, Outcome};
use crate::tests::memory;
use crate::trap::{self, Handler, vector, with_handler};
use crate::{check, cpu, fail, smp};

use super::load::{self, Load, Mix};
use super::tally;
use super::traffic::{self, Pattern};

/// Ticks in which an NMI that should not come would have come.
const QUIET: u64 = 50_000;

/// How often a CPU looks for an NMI until it is taken for missing. Not a time: a
/// debugger may stop the machine meanwhile.
const LOOKS: u64 = 20_000;

/// What the jobs need to know, put here by CPU 0 before it gives them.
pub struct Orders {
    cpus: AtomicU64,
    rounds: AtomicU64,
    seed: AtomicU64,
    pause: AtomicU64,
    /// Index in [`Pattern::ALL`].
    pattern: AtomicU64,
    /// A [`Mix`].
    mix: AtomicU64,
    /// The hypervisor's range's first byte; 0 on the bare machine.
    hypervisor: AtomicU64,
    /// CPUs that have something left to send: the others keep their load up for
    /// them.
    busy: AtomicU64,
}

/// The orders.
pub static ORDERS: Orders = Orders {
    cpus: AtomicU64::new(0),
    rounds: AtomicU64::new(0),
    seed: AtomicU64::new(0),
    pause: AtomicU64::new(0),
    pattern: AtomicU64::new(0),
    mix: AtomicU64::new(0),
    hypervisor: AtomicU64::new(0),
    busy: AtomicU64::new(0),
};

impl Orders {
    /// CPUs that take part, from 0 up.
    pub fn cpus(&self) -> usize {
        self.cpus.load(SeqCst) as usize
    }

    /// Lets CPUs from 0 to below `cpus` take part.
    pub fn set_cpus(&self, cpus: usize) {
        self.cpus.store(cpus as u64, SeqCst);
    }

    /// NMIs that each CPU sends in each pattern.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(SeqCst)
    }

    /// Who sends to whom.
    pub fn pattern(&self) -> Pattern {
        Pattern::ALL[self.pattern.load(SeqCst) as usize].1
    }

    /// Whom CPU `me` sends to in this round, if it sends.
    pub fn target(&self, me: usize, round: u64, load: &mut Load) -> Option<usize> {
        self.pattern()
            .target(me, self.cpus(), round, &mut load.random)
    }

    /// The load of a CPU.
    pub fn load(&self, index: usize) -> Load {
        let mix = [Mix::Spin, Mix::Exits, Mix::Quiesces][self.mix.load(SeqCst) as usize];
        let hypervisor = self.hypervisor.load(SeqCst);
        let hypervisor = (hypervisor != 0).then_some(hypervisor);
        Load::new(index, mix, hypervisor, self.seed.load(SeqCst))
    }

    /// Makes some exits between two NMIs, at most as many as `pause=` says.
    pub fn pause(&self, load: &mut Load) {
        for _ in 0..load.random.below(self.pause.load(SeqCst) + 1) {
            load.step();
        }
    }

    /// A CPU has nothing left to send: keeps its load up until no CPU has.
    pub fn finish(&self, load: &mut Load) {
        self.busy.fetch_sub(1, SeqCst);
        while self.busy.load(SeqCst) != 0 {
            load.step();
        }
    }
}

/// Starts all CPUs and writes the orders for a storm with this load.
pub fn prepare(context: &Context, mix: Mix) -> Outcome {
    let Storm {
        rounds,
        seed,
        pause,
        ..
    } = context.config.storm;
    let cpus = context.config.cpus;
    check!(cpus > 1, "the configuration says cpus={cpus}");
    if mix == Mix::Quiesces {
        context.require_stillpoint()?;
        check!(load::quiesce(), "the image has no test hooks");
    }
    if let Err(index) = smp::start_all(cpus) {
        fail!("CPU {index} does not start");
    }
    let hypervisor = if context.stillpoint {
        memory::hypervisor_range()?.start
    } else {
        0
    };
    ORDERS.set_cpus(cpus);
    ORDERS.rounds.store(rounds, SeqCst);
    ORDERS.seed.store(seed, SeqCst);
    ORDERS.pause.store(pause, SeqCst);
    ORDERS.hypervisor.store(hypervisor, SeqCst);
    ORDERS.mix.store(mix as u64, SeqCst);
    Ok(())
}

/// Runs `storm` once for each pattern that the configuration asks for, with
/// nothing counted yet.
pub fn for_each_pattern(
    context: &Context,
    mut storm: impl FnMut(&'static str) -> Outcome,
) -> Outcome {
    let wanted = context.config.storm.pattern;
    let known = Pattern::ALL.iter().any(|(name, _)| *name == wanted);
    check!(wanted.is_empty() || known, "no pattern \"{wanted}\"");
    for (index, (name, _)) in Pattern::ALL.iter().enumerate() {
        if wanted.is_empty() || *name == wanted {
            ORDERS.pattern.store(index as u64, SeqCst);
            reset();
            storm(name)?;
        }
    }
    Ok(())
}

/// Counts everything from zero.
pub fn reset() {
    traffic::reset();
    tally::reset();
    (0..MAX_CPUS).for_each(|cpu| load::counters(cpu).reset());
}

/// NMIs that each CPU has taken since the start.
pub fn taken() -> [u64; MAX_CPUS] {
    core::array::from_fn(|cpu| trap::count(cpu, vector::NMI))
}

/// With the handlers of a storm set, runs `job` on the CPUs that take part, CPU 0
/// last and as `lead`; then waits for what should not come.
pub fn storm(handler: Handler, job: smp::Job, lead: impl FnOnce() -> Outcome) -> Outcome {
    let cpus = ORDERS.cpus();
    with_handler(load::TIMER, load::on_timer, || {
        with_handler(vector::NMI, handler, || {
            ORDERS.busy.store(cpus as u64, SeqCst);
            for index in 1..cpus {
                smp::give(index, job);
            }
            lead()?;
            for index in 1..cpus {
                check!(smp::done(index), "CPU {index} does not finish");
            }
            quiet();
            Ok(())
        })
    })
}

/// Waits for what an NMI brings about, doing `meanwhile` before each look. False
/// if it does not come.
pub fn comes(mut meanwhile: impl FnMut(), mut come: impl FnMut() -> bool) -> bool {
    (0..LOOKS).any(|_| {
        meanwhile();
        come()
    })
}

/// Waits for NMIs that should not come.
pub fn quiet() {
    cpu::wait_until(QUIET, || false);
}

/// No CPU's load may have found anything wrong.
pub fn check_loads() -> Result<(), Failure> {
    for cpu in 0..ORDERS.cpus() {
        if let Some(problem) = load::counters(cpu).problem() {
            fail!("CPU {cpu}: {problem:?}");
        }
    }
    Ok(())
}
