//! One NMI outstanding a CPU: every one comes, once.

use crate::check_eq;
use crate::harness::{Context, Outcome};

use super::load::Mix;
use super::orders::{self, ORDERS};
use super::tally;
use super::traffic;

/// Sends NMIs as the pattern says, each when the one before has come.
pub fn send(index: usize) {
    let mut load = ORDERS.load(index);
    for round in 0..ORDERS.rounds() {
        let Some(target) = ORDERS.target(index, round, &mut load) else {
            break;
        };
        if !traffic::send_acknowledged(index, target, || load.step()) {
            tally::missing();
        }
        ORDERS.pause(&mut load);
    }
    ORDERS.finish(&mut load);
}

fn run(context: &Context, name: &str, mix: Mix) -> Outcome {
    orders::prepare(context, mix)?;
    orders::for_each_pattern(context, |pattern| {
        let before: u64 = orders::taken().iter().sum();
        orders::storm(traffic::on_nmi, send, || {
            send(0);
            Ok(())
        })?;
        let taken = orders::taken().iter().sum::<u64>() - before;
        let tally = traffic::account().sort_missing(context, mix);
        tally.print(name, pattern);
        check_eq!(tally.seen + tally.invented, taken, "{pattern}: NMIs taken");
        tally.check(pattern)
    })
}

/// While the CPUs spin.
pub fn acknowledged_without_exits(context: &Context) -> Outcome {
    run(context, "acknowledged_without_exits", Mix::Spin)
}

/// While they make exits of every kind.
pub fn acknowledged_amid_exits(context: &Context) -> Outcome {
    run(context, "acknowledged_amid_exits", Mix::Exits)
}

/// While they stop the machine, too.
pub fn acknowledged_amid_quiesces(context: &Context) -> Outcome {
    run(context, "acknowledged_amid_quiesces", Mix::Quiesces)
}
