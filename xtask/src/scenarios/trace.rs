//! The trace of a stop: what the stub prints, and what `gdb-scripts` make of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{COMMAND, Plan, Workshop};

/// Two stops of a guest that idles after a hypercall, exported: the JSON is well formed, and the
/// first stop is in it from the question to the last CPU's leaving.
pub fn a_stop(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    // Both CPUs are idle afterwards: only a kick brings one to the stop.
    console.check("./test 7; sleep 1", COMMAND)?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect("detach", "detached")?;
    let mut gdb = workshop.attach(&machine)?;
    gdb.expect(
        "stillpoint-trace-table 12",
        r"(?m)^\| 12 \| +[\d.]+ \| debugger stops: debug line +\| +\|$",
    )?;
    let file = machine.folder().join("trace.json");
    gdb.expect(
        &format!("stillpoint-trace {} 300", file.display()),
        "300 events are in",
    )?;
    gdb.expect("detach", "detached")?;

    let trace: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let events = trace["traceEvents"].as_array().context("no traceEvents")?;
    let slices = slices(events)?;
    well_formed(&slices)?;
    the_stop(&slices, events)?;
    // The hypercall is the guest's last but for the stops.
    instant(events, |name, _| {
        name.starts_with("hypercall 0xff, argument 0x7")
    })?;
    Ok(())
}

/// A slice of a CPU's time, in nanoseconds: the file's are microseconds with a fraction.
struct Slice<'a> {
    cpu: u64,
    name: &'a str,
    start: i64,
    end: i64,
    stop: Option<u64>,
}

fn nanoseconds(value: &Value) -> Result<i64> {
    let us = value.as_f64().context("a time that is no number")?;
    Ok((us * 1000.0).round() as i64)
}

fn slices(events: &[Value]) -> Result<Vec<Slice<'_>>> {
    events
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| {
            let start = nanoseconds(&event["ts"])?;
            Ok(Slice {
                cpu: event["tid"].as_u64().context("no thread")?,
                name: event["name"].as_str().context("no name")?,
                start,
                end: start + nanoseconds(&event["dur"])?,
                stop: event["args"]["stop"].as_u64(),
            })
        })
        .collect()
}

/// On each CPU slices come in order, and each lies within another or beside it. The guest runs,
/// and in between the hypervisor does.
fn well_formed(slices: &[Slice]) -> Result<()> {
    for cpu in 0..2 {
        let mut open: Vec<&Slice> = Vec::new();
        let mut last = i64::MIN;
        let (mut guest, mut handling) = (0, 0);
        for slice in slices.iter().filter(|slice| slice.cpu == cpu) {
            ensure!(last <= slice.start, "{} is out of order", slice.name);
            ensure!(
                slice.start <= slice.end,
                "{} ends before it begins",
                slice.name
            );
            last = slice.start;
            while open.last().is_some_and(|outer| outer.end <= slice.start) {
                open.pop();
            }
            if let Some(outer) = open.last() {
                let (name, around) = (slice.name, outer.name);
                ensure!(
                    slice.end <= outer.end,
                    "{name} ends after {around} around it"
                );
                ensure!(around != "guest", "{name} while the guest runs");
            }
            guest += usize::from(slice.name == "guest");
            handling += usize::from(slice.name.starts_with("exit: "));
            open.push(slice);
        }
        ensure!(
            guest > 2 && guest == handling,
            "CPU {cpu}: {guest} times in the guest, {handling} out"
        );
    }
    Ok(())
}

/// The last stop but one: asked for, kicked, joined, owned, released, left, in this order.
fn the_stop(slices: &[Slice], events: &[Value]) -> Result<()> {
    let stops: Vec<&Slice> = slices.iter().filter(|s| s.name == "stop owned").collect();
    let [.., owned, _] = stops[..] else {
        anyhow::bail!("{} stops", stops.len());
    };
    let of_it = |name: &str| {
        slices
            .iter()
            .find(|slice| slice.name == name && slice.stop == owned.stop)
            .with_context(|| format!("stop {:?}: no {name}", owned.stop))
    };
    let (stopping, joined) = (of_it("stopping")?, of_it("stop joined")?);
    ensure!(
        stopping.cpu == owned.cpu && stopping.end == owned.start && joined.cpu != owned.cpu,
        "CPU {} asks, {} owns, {} joins",
        stopping.cpu,
        owned.cpu,
        joined.cpu
    );
    let kick = instant(events, |name, time| {
        name == format!("kick sent to CPU {}", joined.cpu)
            && (stopping.start..=stopping.end).contains(&time)
    })?;
    let taken = instant(events, |name, time| {
        name == "NMI in the guest: the kick" && (kick..=joined.start).contains(&time)
    })?;
    let (join, own, release, leave) = (joined.start, owned.start, owned.end, joined.end);
    ensure!(
        kick <= taken && taken <= join && join <= own && own < release && release <= leave,
        "kick {kick}, taken {taken}, joined {join}, owned {own}, released {release}, left {leave}"
    );
    Ok(())
}

/// The time of the last instant that `is` says yes to.
fn instant(events: &[Value], is: impl Fn(&str, i64) -> bool) -> Result<i64> {
    let mut found = None;
    for event in events.iter().filter(|event| event["ph"] == "i") {
        let time = nanoseconds(&event["ts"])?;
        if is(event["name"].as_str().unwrap_or_default(), time) {
            found = Some(time);
        }
    }
    found.context("an instant is missing from the trace")
}
