//! Each known mistake put back: the exploration finds it. `--nocapture` shows the traces,
//! each a shortest one.

use stillpoint_explore::properties::{P1, P2, P3, P4, P5, P6};
use stillpoint_explore::{Machine, Variant, Wishes, search, table};

const NOTHING: Wishes = Wishes::NONE;
const STOP: Wishes = Wishes {
    stops: 1,
    ..NOTHING
};
const NMI: Wishes = Wishes { nmis: 1, ..NOTHING };
const NMIS: Wishes = Wishes {
    nmis: 2,
    exits: 1,
    ..NOTHING
};

/// The machine as built does not breach the property; with the mistake it does.
fn finds<const N: usize>(variant: Variant, property: &'static str, machine: Machine<N>) {
    assert!(search(&machine, &[property]).breach.is_none());
    let machine = machine.with(variant);
    let Some((_, way)) = search(&machine, &[property]).breach else {
        panic!("{variant:?} was not found to breach {property}");
    };
    println!(
        "{variant:?} breaches {property}:\n\n{}\n",
        table(&machine, &way)
    );
}

#[test]
fn race_1_resume_before_clear() {
    let machine = Machine::new([STOP, Wishes { exits: 1, ..NMI }]);
    finds(Variant::ResumeBeforeClear, P1, machine);
}

#[test]
fn race_2_check_then_set() {
    let machine = Machine::new([STOP, Wishes { exits: 1, ..NMI }]);
    finds(Variant::CheckThenSet, P4, machine);
}

#[test]
fn race_3_whose_nmi() {
    finds(Variant::WhoseNmi, P3, Machine::new([STOP, NMI]));
}

#[test]
fn race_4_lost_count() {
    finds(Variant::LostCount, P4, Machine::new([NMIS]));
}

#[test]
fn the_print_lock() {
    finds(Variant::PrintLock, P1, Machine::new([STOP, STOP]));
}

#[test]
fn a_kick_for_a_cpu_in_the_hypervisor() {
    finds(Variant::NoGuestBit, P3, Machine::new([STOP, NMIS]));
}

#[test]
fn parking_with_a_kick_on_its_way() {
    let parks = Wishes {
        inits: 1,
        ..NOTHING
    };
    finds(Variant::ParkWithKick, P1, Machine::new([STOP, parks]));
}

#[test]
fn an_entry_that_does_not_start_over() {
    let machine = Machine::new([Wishes { exits: 1, ..NMI }]);
    finds(Variant::NoRestart, P6, machine);
}

#[test]
fn a_count_of_kicks() {
    let asks = Wishes {
        stops: 2,
        ..NOTHING
    };
    finds(Variant::KickCount, P3, Machine::new([asks, NMIS]));
}

#[test]
fn no_owner_before_the_stop_has_ended() {
    let fails = Wishes {
        failures: 1,
        ..NOTHING
    };
    finds(Variant::DisownFirst, P1, Machine::new([STOP, fails]));
}

#[test]
fn a_kick_without_patience() {
    let machine = Machine::new([STOP, NMIS]).with_slow_nmis();
    finds(Variant::NoPatience, P3, machine);
}

#[test]
fn a_look_bit_tested_too_early() {
    let machine = Machine::new([STOP, Wishes { exits: 1, ..NMI }]);
    finds(Variant::LookTestedEarly, P1, machine);
}

#[test]
fn asked_taken_for_stopped() {
    let exits = Wishes {
        exits: 1,
        ..NOTHING
    };
    finds(Variant::AskedIsEnough, P2, Machine::new([STOP, exits]));
}

#[test]
fn an_nmi_in_a_pal() {
    let machine = Machine::new([Wishes { pals: 1, ..NMI }]);
    finds(Variant::PalUnknown, P5, machine);
}

#[test]
fn one_more_than_a_processor_holds() {
    let machine = Machine::new([Wishes { nmis: 3, ..NOTHING }]);
    finds(Variant::SettledEarly, P3, machine);
}
