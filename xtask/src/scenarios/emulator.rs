//! The emulator's own start.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Plan, Workshop, suites};
use crate::emulator::NO_PORT;
use crate::net;

/// The TCP ports of the emulator's display.
const PORTS: std::ops::RangeInclusive<u16> = 5900..=5949;

/// An emulator that finds every port for its display taken is started again, and works.
///
/// The usual cause is another emulator that starts at the same time, which no test can time; taking all the ports
/// makes it end in the same way.
pub fn no_port_at_first(workshop: &Workshop) -> Result<()> {
    let plan = Plan::test_guest(workshop, 1, "suite=basic com2=uart")?.bare();
    let log = workshop.folder().join("machine/bochs.log");
    let mut taken = Vec::new();
    take_ports(&mut taken);
    let no_port = thread::spawn(move || -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        // Until it starts there is no log.
        while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains(NO_PORT)) {
            if Instant::now() >= deadline {
                bail!("the emulator never missed a port");
            }
            // One that another machine has given back.
            take_ports(&mut taken);
            thread::sleep(net::PAUSE);
        }
        Ok(())
    });
    let machine = workshop.start(plan)?;
    no_port
        .join()
        .ok()
        .context("the ports' thread panicked")??;
    suites::to_the_end(&machine)
}

/// Takes each of the ports that is free.
fn take_ports(taken: &mut Vec<TcpListener>) {
    taken.extend(PORTS.filter_map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()));
}
