//! NMIs without a pause, more than a processor can hold.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::boot::MAX_CPUS;
use crate::harness::{Context, Outcome};
use crate::trap::{self, vector, with_handler};
use crate::{check, check_eq, cpu};

use super::load::Mix;
use super::orders::{self, ORDERS};
use super::tally::{self, Tally};
use super::traffic;

/// NMIs in one burst.
const BURST: u64 = 20;

/// NMIs sent, by target.
static SENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Sends bursts as the pattern says. After the last NMI of a burst was sent the
/// target's handler must start once more: if that NMI merged, then into one that
/// was still to come.
fn send(index: usize) {
    let mut load = ORDERS.load(index);
    for round in 0..ORDERS.rounds().div_ceil(BURST) {
        let Some(target) = ORDERS.target(index, round, &mut load) else {
            break;
        };
        for _ in 1..BURST {
            traffic::send(target);
        }
        let count = || trap::count(target, vector::NMI);
        let before = count();
        traffic::send(target);
        SENT[target].fetch_add(BURST, SeqCst);
        if !orders::comes(cpu::pause, || count() != before) {
            tally::missing();
        }
        ORDERS.pause(&mut load);
    }
    ORDERS.finish(&mut load);
}

fn run(context: &Context, name: &str, mix: Mix) -> Outcome {
    orders::prepare(context, mix)?;
    orders::for_each_pattern(context, |pattern| {
        SENT.iter().for_each(|sent| sent.store(0, SeqCst));
        let before = orders::taken();
        orders::storm(
            |_| (),
            send,
            || {
                send(0);
                Ok(())
            },
        )?;
        let after = orders::taken();
        let mut tally = Tally::default().sort_missing(context, mix);
        for cpu in 0..ORDERS.cpus() {
            let (sent, seen) = (SENT[cpu].load(SeqCst), after[cpu] - before[cpu]);
            tally.sent += sent;
            tally.seen += seen;
            tally.invented += seen.saturating_sub(sent);
        }
        tally.merged = (tally.sent + tally.invented).saturating_sub(tally.seen);
        tally.print(name, pattern);
        tally.check(pattern)?;
        one_more_for_each(pattern)
    })
}

/// After a flood: one NMI for each CPU comes once, and then none.
fn one_more_for_each(pattern: &str) -> Outcome {
    traffic::reset();
    with_handler(vector::NMI, traffic::on_nmi, || {
        for cpu in 0..ORDERS.cpus() {
            let came = traffic::send_acknowledged(0, cpu, cpu::pause);
            check!(came, "{pattern}: no NMI on CPU {cpu} after the flood");
        }
        orders::quiet();
        let tally = traffic::account();
        check_eq!(tally.seen, tally.sent, "{pattern}: NMIs after the flood");
        check_eq!(tally.invented, 0, "{pattern}: strays after the flood");
        Ok(())
    })
}

/// While the CPUs spin.
pub fn flood_without_exits(context: &Context) -> Outcome {
    run(context, "flood_without_exits", Mix::Spin)
}

/// While they make exits of every kind.
pub fn flood_amid_exits(context: &Context) -> Outcome {
    run(context, "flood_amid_exits", Mix::Exits)
}

/// While they stop the machine, too.
pub fn flood_amid_quiesces(context: &Context) -> Outcome {
    run(context, "flood_amid_quiesces", Mix::Quiesces)
}
