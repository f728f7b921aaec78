//! The properties P1 to P6. P2 to P6 hold or do not hold of one state, and are checked in
//! every reachable one; P1 is about what can follow, see `search.rs`.

use stateright::Property;

use crate::model::{Machine, State};
use crate::program::{At, Intent, Reason};

/// Every stop and every release completes, from every state that can be reached, without
/// the world's help: the machine can come to rest. What remains of the world's wishes
/// does not matter.
pub const P1: &str = "P1 progress";
/// While a CPU holds the machine, no other runs the guest, and none runs the hypervisor
/// outside the wait.
pub const P2: &str = "P2 exclusion";
/// The guest gets what a bare processor would have given it. What is missing is at most
/// one NMI for each kick that was under way together with an NMI of the guest's. No more
/// than two are outstanding.
pub const P3: &str = "P3 none lost";
/// The guest gets no more than was sent.
pub const P4: &str = "P4 none invented";
/// The guest gets none while a PAL runs.
pub const P5: &str = "P5 none in a PAL";
/// A CPU does not run the guest with an NMI counted and nothing to deliver it.
pub const P6: &str = "P6 no window before the entry";

/// All of them.
pub const ALL: [&str; 6] = [P1, P2, P3, P4, P5, P6];

/// P2 to P6, for stateright.
pub fn all<const N: usize>() -> Vec<Property<Machine<N>>> {
    vec![
        Property::always(P2, |_, state| exclusion(state)),
        Property::always(P3, |_, state| none_lost(state)),
        Property::always(P4, |_, state| none_invented(state)),
        Property::always(P5, |_, state| none_in_a_pal(state)),
        Property::always(P6, |_, state| no_window(state)),
    ]
}

/// P2
pub fn exclusion<const N: usize>(state: &State<N>) -> bool {
    (0..N)
        .filter(|&me| holds(state, me))
        .all(|me| (0..N).all(|other| other == me || stands(state, other)))
}

/// Has the machine: the stop is taken and not released.
fn holds<const N: usize>(state: &State<N>, me: usize) -> bool {
    match state.cpus[me].at {
        At::Hold | At::Owe(_) | At::AskOwed(_) | At::Panicked | At::Print(_) => {
            state.shared.owner == Some(me)
        }
        At::Release(_) => state.stop_in_force() && state.shared.owner == Some(me),
        _ => false,
    }
}

/// Does nothing but wait, or serve the owner. A parked CPU may be on its way to
/// wait-for-SIPI, and one that a SIPI has just brought out on its way to the wait. So may
/// one that has failed while it served.
fn stands<const N: usize>(state: &State<N>, other: usize) -> bool {
    let cpu = &state.cpus[other];
    let waits = matches!(cpu.at, At::Look { .. } | At::OldLook(..)) && state.acknowledged(other);
    let parked = state.shared.words[other].parked() || cpu.woken;
    let fails = matches!(
        cpu.at,
        At::Handle(Reason::Failure) | At::Stop(_, Intent::Panic)
    );
    waits || fails || (parked && !cpu.processor.runs_guest())
}

/// P3
pub fn none_lost<const N: usize>(state: &State<N>) -> bool {
    (0..N).all(|me| {
        let cpu = &state.cpus[me];
        // One being handled, one latched; the rest has merged.
        let outstanding = state.shared.words[me].owed() + u32::from(cpu.processor.virtual_blocking);
        let as_many_as_a_processor = cpu.at != At::Guest || outstanding <= 2;
        as_many_as_a_processor
            && state.held(me) >= 0
            && state.lost(me) <= i16::from(cpu.accounts.met)
            && !cpu.accounts.out_of_balance
    })
}

/// P4
pub fn none_invented<const N: usize>(state: &State<N>) -> bool {
    (0..N).all(|me| {
        let accounts = &state.cpus[me].accounts;
        i16::from(accounts.delivered) + state.held(me) <= i16::from(accounts.arrived)
    })
}

/// P5
pub fn none_in_a_pal<const N: usize>(state: &State<N>) -> bool {
    state.cpus.iter().all(|cpu| !cpu.accounts.delivered_in_pal)
}

/// P6
pub fn no_window<const N: usize>(state: &State<N>) -> bool {
    state
        .cpus
        .iter()
        .zip(&state.shared.words)
        .all(|(cpu, word)| {
            let runs = cpu.at == At::Guest && cpu.processor.runs_guest() && !cpu.in_pal;
            !runs || word.owed() == 0 || cpu.processor.window
        })
}

/// Rest, for P1: every CPU is in the guest or waits for a SIPI, nothing is under way,
/// nobody has or wants the machine, and what the guest can get it has got. After a
/// failure of the hypervisor: the one that failed first has the machine, and all others
/// stand.
pub fn at_rest<const N: usize>(state: &State<N>) -> bool {
    let held_for_good = state
        .shared
        .owner
        .is_some_and(|owner| state.cpus[owner].has_failed());
    let free = state.shared.owner.is_none() && !state.stop_in_force();
    (held_for_good || free) && (0..N).all(|me| cpu_at_rest(state, me, held_for_good))
}

fn cpu_at_rest<const N: usize>(state: &State<N>, me: usize, held_for_good: bool) -> bool {
    let cpu = &state.cpus[me];
    let word = state.shared.words[me];
    let processor = &cpu.processor;
    let nothing_comes = processor.kicks_coming == 0
        && processor.nmis_coming == [0; 2]
        && cpu.handler.is_none()
        && !word.kick_outstanding()
        && state.variant.more_kicks[me] == 0;
    let in_place = match cpu.at {
        At::Failed | At::Panicked => true,
        At::Guest if processor.waits_for_sipi => !processor.init,
        At::Guest => {
            let nothing_due = word.owed() == 0 && !word.must_look() && !processor.window;
            nothing_due
                && !processor.virtual_blocking
                && !processor.init
                && !cpu.in_pal
                && !held_for_good
        }
        At::Look { .. } => held_for_good && state.acknowledged(me),
        _ => false,
    };
    nothing_comes && in_place
}
