//! The emulator's own start.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, bail};

use super::{Plan, Workshop, suites};
use crate::emulator::NO_PORT;
use crate::net;
use crate::progress::say;

/// The TCP ports of the emulator's display.
const PORTS: std::ops::RangeInclusive<u16> = 5900..=5949;

/// An emulator that finds every port for its display taken is started again, and works.
///
/// The usual cause is another emulator that starts at the same time, which no test can time; taking all the ports
/// makes it end in the same way. One that gets a port all the same, because another machine gives it back at that
/// moment, shows nothing: the next one is tried.
pub fn no_port_at_first(workshop: &Workshop) -> Result<()> {
    for part in ["first", "second", "third"] {
        let plan = Plan::test_guest(workshop, 1, "suite=basic com2=uart")?
            .bare()
            .part(part);
        let log = workshop.folder().join(part).join("bochs.log");
        let mut taken = Vec::new();
        take_ports(&mut taken);
        let started = AtomicBool::new(false);
        let (machine, missed) = thread::scope(|scope| {
            let holder = scope.spawn(|| hold_ports(taken, &log, &started));
            let machine = workshop.start(plan);
            started.store(true, Ordering::Relaxed);
            (machine, holder.join())
        });
        let machine = machine?;
        if missed.map_err(|_| anyhow!("the ports' thread panicked"))? {
            return suites::to_the_end(&machine);
        }
        say("the emulator found a port that another one gave back; trying another");
    }
    bail!("three emulators found a port for their display, though all were taken")
}

/// Holds the ports until the emulator has missed one, or its start is over; says whether it has.
fn hold_ports(mut taken: Vec<TcpListener>, log: &Path, started: &AtomicBool) -> bool {
    // Until it starts there is no log.
    while !std::fs::read_to_string(log).is_ok_and(|log| log.contains(NO_PORT)) {
        if started.load(Ordering::Relaxed) {
            return false;
        }
        // One that another machine has given back.
        take_ports(&mut taken);
        thread::sleep(net::PAUSE);
    }
    true
}

/// Takes each of the ports that is free.
fn take_ports(taken: &mut Vec<TcpListener>) {
    taken.extend(PORTS.filter_map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()));
}
