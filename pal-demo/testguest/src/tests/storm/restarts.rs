//! INIT and SIPI, and stops of the machine, in the middle of a storm.

use crate::harness::{Context, Outcome};
use crate::{check, check_eq, cpu, println, smp};

use super::acknowledged;
use super::load::{self, Mix, Problem};
use super::orders::{self, ORDERS};
use super::tally;
use super::traffic;

/// The load for ever, an exit now and then: only INIT ends it. See `smp::start` on
/// what the emulator does with INIT in VMX root operation.
fn load_for_ever(index: usize) {
    let mut load = ORDERS.load(index);
    loop {
        load.step();
        cpu::wait_until(2_000, || false);
    }
}

/// The last CPU goes through INIT and SIPI again and again, and gets an NMI each
/// time that it runs, while the other CPUs send to each other.
fn run(context: &Context, name: &str, mix: Mix) -> Outcome {
    orders::prepare(context, mix)?;
    orders::reset();
    let victim = ORDERS.cpus() - 1;
    let mut restarts = 0;
    // The others' pattern is among themselves.
    ORDERS.set_cpus(victim);
    let result = orders::storm(traffic::on_nmi, acknowledged::send, || {
        let mut load = ORDERS.load(0);
        for round in 0..ORDERS.rounds().div_ceil(4) {
            smp::give(victim, load_for_ever);
            ORDERS.pause(&mut load);
            if !traffic::send_acknowledged(0, victim, || load.step()) {
                tally::missing();
            }
            let started = smp::start(victim);
            check!(started, "round {round}: CPU {victim} does not restart");
            restarts += 1;
        }
        ORDERS.finish(&mut load);
        Ok(())
    });
    ORDERS.set_cpus(victim + 1);
    result?;
    println!("storm {name} restarts={restarts}");
    let tally = traffic::account().sort_missing(context, mix);
    tally.print(name, "next");
    tally.check("next")
}

/// While the CPUs make exits of every kind.
pub fn restarts_amid_exits(context: &Context) -> Outcome {
    run(context, "restarts_amid_exits", Mix::Exits)
}

/// While they stop the machine, too.
pub fn restarts_amid_quiesces(context: &Context) -> Outcome {
    run(context, "restarts_amid_quiesces", Mix::Quiesces)
}

/// Stops the machine again and again.
fn quiesce(index: usize) {
    let counters = load::counters(index);
    for _ in 0..ORDERS.rounds() {
        counters
            .quiesces
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        if !load::quiesce() {
            counters.report(Problem::Quiesce);
        }
    }
}

/// All CPUs ask for the machine at once: each gets it, and no NMI reaches a guest
/// that was sent none.
pub fn quiesces_from_all_cpus(context: &Context) -> Outcome {
    orders::prepare(context, Mix::Quiesces)?;
    orders::reset();
    let before = orders::taken();
    orders::storm(
        |_| (),
        quiesce,
        || {
            quiesce(0);
            Ok(())
        },
    )?;
    let tally = tally::Tally {
        invented: orders::taken().iter().sum::<u64>() - before.iter().sum::<u64>(),
        ..Default::default()
    };
    tally.print("quiesces_from_all_cpus", "all");
    orders::check_loads()?;
    check_eq!(tally.invented, 0, "NMIs invented");
    Ok(())
}
