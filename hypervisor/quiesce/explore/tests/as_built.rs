//! The protocol as built: every interleaving of machines with 2, 3 and 4 CPUs, each with
//! the wishes of its test. `--nocapture` shows the sizes.

use stateright::{Checker, Model};
use stillpoint_explore::{Machine, Wishes, properties, search, table};

const NOTHING: Wishes = Wishes::NONE;
const STOP: Wishes = Wishes {
    stops: 1,
    ..NOTHING
};
const NMI: Wishes = Wishes { nmis: 1, ..NOTHING };

/// Checks P1 to P6 in whatever the machine can come to.
fn explore<const N: usize>(name: &str, machine: Machine<N>) -> usize {
    let found = search(&machine, &properties::ALL);
    println!("{name}: {} states, {} at rest", found.states, found.at_rest);
    if let Some((property, way)) = found.breach {
        panic!("{name}: {property}\n{}", table(&machine, &way));
    }
    assert!(found.at_rest > 0);
    found.states
}

/// The same, and P2 to P6 by stateright, which has to come to as many states.
fn explore_twice<const N: usize>(name: &str, machine: Machine<N>) {
    let states = explore(name, machine);
    let checker = machine.checker().spawn_bfs().join();
    let broken: Vec<_> = checker.discoveries().into_keys().collect();
    assert!(broken.is_empty(), "{name}: {broken:?}");
    assert_eq!(checker.unique_state_count(), states);
}

#[test]
fn nmis_at_every_step_of_a_stop() {
    let asks = Wishes { stops: 1, ..NMI };
    let receives = Wishes {
        nmis: 3,
        exits: 1,
        ..NOTHING
    };
    explore_twice("NMIs at every step", Machine::new([asks, receives]));
}

#[test]
fn nmis_that_take_time_to_arrive() {
    let asks = Wishes {
        stops: 2,
        ..NOTHING
    };
    let receives = Wishes {
        nmis: 3,
        exits: 1,
        ..NOTHING
    };
    let machine = Machine::new([asks, receives]).with_slow_nmis();
    explore_twice("slow NMIs", machine);
}

#[test]
fn two_ask_again_and_again() {
    let both = Wishes { stops: 2, ..NMI };
    explore("two ask twice", Machine::new([both; 2]));
}

#[test]
fn init_and_sipi_during_stops() {
    let asks = Wishes {
        stops: 2,
        ..NOTHING
    };
    let starts = Wishes {
        nmis: 2,
        exits: 1,
        inits: 1,
        sipis: 1,
        ..NOTHING
    };
    explore_twice("INIT and SIPI", Machine::new([asks, starts]));
}

#[test]
fn a_pal_and_nmis_by_hand() {
    let asks = Wishes { owes: 1, ..STOP };
    let runs_pal = Wishes {
        nmis: 2,
        pals: 1,
        exits: 1,
        ..NOTHING
    };
    explore_twice("a PAL", Machine::new([asks, runs_pal]));
}

#[test]
fn failures_of_the_owner_and_of_the_other() {
    let one = Wishes {
        stops: 1,
        failures: 1,
        ..NOTHING
    };
    let other = Wishes { nmis: 2, ..one };
    explore_twice("failures", Machine::new([one, other]));
}

#[test]
fn three_ask_at_once() {
    explore("three ask", Machine::new([STOP; 3]));
}

#[test]
fn three_with_nmis() {
    explore_twice("three, NMIs", Machine::new([STOP, NMI, NMI]));
}

#[test]
fn three_of_which_two_ask_with_nmis() {
    let asks = Wishes { stops: 1, ..NMI };
    explore("three, two ask, NMIs", Machine::new([STOP, asks, NMI]));
}

#[test]
fn three_with_init_and_sipi() {
    let starts = Wishes {
        inits: 1,
        sipis: 1,
        ..NOTHING
    };
    explore_twice("three, INIT and SIPI", Machine::new([STOP, starts, NMI]));
}

#[test]
fn three_of_which_two_fail() {
    let fails = Wishes {
        failures: 1,
        ..NOTHING
    };
    explore_twice("three, failures", Machine::new([STOP, fails, fails]));
}

#[test]
fn four_of_which_two_ask() {
    explore("four", Machine::new([STOP, STOP, NOTHING, NOTHING]));
}
