//! A trace as a markdown table: a row for each step, a column for each CPU. Steps that
//! change nothing that another CPU could see are left out.

use std::fmt::Write;

use stateright::Model;

use crate::model::{Action, Machine, State};
use crate::program::{At, Handler, Reason};
use crate::variants::OldLook;

/// The table of the steps from the first state on.
pub fn table<const N: usize>(machine: &Machine<N>, actions: &[Action]) -> String {
    let mut text = String::from("|Index|");
    for cpu in 0..N {
        let _ = write!(text, "CPU {cpu}|");
    }
    text += "\n|-|";
    text += &"-|".repeat(N);
    let mut state = machine.init_states()[0];
    let mut row = 0;
    for &action in actions {
        let Some(next) = machine.after(&state, action) else {
            continue;
        };
        let words = describe(&state, action, &next);
        if !words.is_empty() {
            row += 1;
            let _ = write!(text, "\n|{row}|");
            for cpu in 0..N {
                text += if cpu == action.cpu() { &words } else { "" };
                text += "|";
            }
        }
        state = next;
    }
    let _ = write!(text, "\n|then|");
    for cpu in 0..N {
        let _ = write!(text, "{}|", place(&state, cpu));
    }
    text
}

/// Where a CPU is at the end of a trace.
fn place<const N: usize>(state: &State<N>, me: usize) -> &'static str {
    let cpu = &state.cpus[me];
    match cpu.at {
        _ if cpu.handler.is_some() => "(in the NMI handler)",
        At::Guest if cpu.processor.waits_for_sipi => "(waits for a SIPI)",
        At::Guest => "(in the guest)",
        At::Stop(..) => "(waits for the others)",
        At::Hold | At::Panicked => "(holds the machine)",
        At::Look { .. } if state.acknowledged(me) => "(waits for the release)",
        At::Print(_) => "(waits for the print lock)",
        At::OldLook(OldLook::Wait, _) => "(waits for \"go on\")",
        _ => "(in the hypervisor)",
    }
}

fn describe<const N: usize>(old: &State<N>, action: Action, new: &State<N>) -> String {
    let me = action.cpu();
    let mut parts = Vec::new();
    parts.extend(match action {
        Action::Step(_) => step(old, me, new),
        Action::KickArrives(_) => Some("the kick arrives".into()),
        Action::NmiArrives(..) => Some("the guest's NMI arrives".into()),
        Action::GuestIret(_) => Some("the guest's IRET".into()),
        Action::WindowExit(_) => Some("VM exit: NMI window".into()),
        Action::InitExit(_) => Some("VM exit: INIT".into()),
        Action::PalEnds(_) => Some("VM exit: the PAL ends".into()),
        Action::SendNmi(_)
            if old.cpus[me].processor.nmis_coming == new.cpus[me].processor.nmis_coming =>
        {
            Some("an NMI of the guest's arrives".into())
        }
        Action::SendNmi(_) => Some("an NMI of the guest's is sent".into()),
        Action::SendInit(_) => Some("an INIT is sent".into()),
        Action::SendSipi(_) => Some("VM exit: SIPI".into()),
        Action::Exit(_, Reason::Stop) => Some("VM exit: wants the machine".into()),
        Action::Exit(_, Reason::PalBegins) => Some("VM exit: a PAL begins".into()),
        Action::Exit(..) => Some("VM exit".into()),
        Action::Owe(_, target) => Some(format!("`monitor nmi {target}`")),
        Action::Fail(_) => Some("the hypervisor fails".into()),
    });
    let (before, after) = (&old.cpus[me], &new.cpus[me]);
    if after.processor.latched && before.processor.latched && !matches!(action, Action::Step(_)) {
        parts.push("merges with the one that waits".into());
    } else if after.processor.latched && !before.processor.latched {
        parts.push("waits: NMIs are blocked".into());
    } else if after.at == At::Exited(Reason::Nmi) && before.at != after.at {
        parts.push("VM exit".into());
    } else if matches!(after.handler, Some(Handler::Count { in_guest: false }))
        && before.handler != after.handler
    {
        parts.push("the NMI handler".into());
    }
    parts.join("; ")
}

fn step<const N: usize>(old: &State<N>, me: usize, new: &State<N>) -> Option<String> {
    let (before, after) = (&old.shared, &new.shared);
    let mut parts: Vec<String> = Vec::new();
    if old.cpus[me].handler == Some(Handler::Iret) {
        parts.push("IRET".into());
    }
    let word = before.words[me];
    let unchanged = word.owed() == after.words[me].owed()
        && word.kick_outstanding() == after.words[me].kick_outstanding();
    let counted = matches!(old.cpus[me].handler, Some(Handler::Count { .. }))
        && new.cpus[me].handler == Some(Handler::Iret);
    if unchanged && counted {
        parts.push(
            if word.owed() == 2 {
                "merged"
            } else {
                "takes the NMI for a kick"
            }
            .into(),
        );
    }
    if before.owner != after.owner {
        let owner = after.owner;
        parts.push(if owner.is_some() { "owner" } else { "no owner" }.into());
    }
    if before.generation != after.generation {
        parts.push(format!("generation {}", after.generation));
    }
    if before.acknowledged != after.acknowledged {
        parts.push(format!("joins stop {}", after.acknowledged[me]));
    }
    for cpu in 0..N {
        parts.extend(words(old, cpu, new, me));
    }
    if old.variant.resume != new.variant.resume {
        let now = if new.variant.resume { "set" } else { "cleared" };
        parts.push(format!("\"go on\" {now}"));
    }
    if old.variant.left[me] != new.variant.left[me] && new.variant.left[me] {
        parts.push("goes on".into());
    }
    match (old.variant.printing, new.variant.printing) {
        (None, Some(_)) => parts.push("takes the print lock".into()),
        (Some(_), None) => parts.push("drops the print lock".into()),
        _ => {}
    }
    if let Some(Handler::Store(_)) = new.cpus[me].handler {
        parts.push("the handler reads its word".into());
    }
    match (old.cpus[me].at, new.cpus[me].at) {
        (at, At::Guest) if at != At::Guest => {
            let injected = old.cpus[me].processor.injecting;
            parts.push(
                if injected {
                    "VM entry with an NMI"
                } else {
                    "VM entry"
                }
                .into(),
            );
        }
        (at, At::Hold) if !matches!(at, At::AskOwed(_)) => parts.push("holds the machine".into()),
        (at, At::Drain) if at != At::Drain => parts.push("sees one owed".into()),
        (At::Stop(..), At::Panicked) => parts.push("holds the machine".into()),
        _ => {}
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What became of a CPU's word in a step of `me`.
fn words<const N: usize>(old: &State<N>, cpu: usize, new: &State<N>, me: usize) -> Vec<String> {
    let (before, after) = (old.shared.words[cpu], new.shared.words[cpu]);
    let mut parts = Vec::new();
    let counted = matches!(
        old.cpus[me].handler,
        Some(Handler::Count { .. } | Handler::Store(_))
    );
    match (before.kick_outstanding(), after.kick_outstanding()) {
        (false, true) if cpu != me => parts.push(format!("kicks CPU {cpu}")),
        (true, false) if after.owed() > before.owed() => parts.push("the kick bit is gone".into()),
        (true, false) => parts.push("takes the NMI for the kick".into()),
        _ => {}
    }
    if new.variant.more_kicks[cpu] > old.variant.more_kicks[cpu] {
        parts.push(format!("kicks CPU {cpu} once more"));
    }
    if before.must_look() != after.must_look() && !counted {
        parts.push(match (after.must_look(), cpu == me) {
            (true, true) => "asked to look".into(),
            (true, false) => format!("asks CPU {cpu}"),
            (false, _) => "looks".into(),
        });
    }
    if before.owed() != after.owed() {
        let owed = after.owed();
        let whose = if cpu == me {
            String::new()
        } else {
            format!(" on CPU {cpu}")
        };
        parts.push(if after.owed() > before.owed() || counted {
            format!("{owed} owed{whose}")
        } else {
            format!("injects, {owed} owed")
        });
    }
    match (before.parked(), after.parked()) {
        (false, true) => parts.push("parked".into()),
        (true, false) => parts.push("not parked".into()),
        _ => {}
    }
    match (before.in_guest(), after.in_guest()) {
        (false, true) => parts.push("about to enter".into()),
        (true, false) if !counted => parts.push("out of the guest".into()),
        _ => {}
    }
    parts
}
