//! A debugger that comes and goes as a seed has it: attaches, reads, steps, lets the machine run and
//! interrupts it, detaches; or owes the guest NMIs. At each stop the ledger of NMIs must balance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use super::tally::Tally;
use crate::console::Console;
use crate::rsp::RawClient;
use crate::scenarios::COMMAND;

const PATIENCE: Duration = Duration::from_secs(60);

/// A thread that debugs until it is told to end.
pub struct Debugger {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Tally>>,
}

impl Debugger {
    /// Begins on the debug line on `port`, of a machine with `cpus` CPUs. Between two sessions the
    /// guest has a multiple of the time that the one before took, however slow the host is.
    pub fn start(port: u16, cpus: u32, seed: u64) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut random = Rng::with_seed(seed);
            let mut tally = Tally::default();
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                session(port, cpus, &mut random, &mut tally)?;
                thread::sleep(start.elapsed() * random.u32(1..5));
            }
            Ok(tally)
        });
        Self { end, thread }
    }

    /// Whether it has ended before it was told to: something went wrong, and the machine may stand.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Tells it to end, and returns what it did once it has.
    pub fn finish(self) -> Result<Tally> {
        self.end.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result.context("the debugger"),
            Err(_) => bail!("the debugger's thread panicked"),
        }
    }
}

/// From attaching to detaching.
fn session(port: u16, cpus: u32, random: &mut Rng, tally: &mut Tally) -> Result<()> {
    let mut client = attach(port)?;
    tally.count("attaches", 1);
    balanced(&mut client)?;
    for _ in 0..random.u32(..4) {
        act(&mut client, cpus, random, tally)?;
    }
    balanced(&mut client)?;
    detach(&mut client)
}

/// Owes the guest `count` NMIs, each in a session of its own and without a pause.
pub fn owe(port: u16, cpus: u32, seed: u64, count: u32, tally: &mut Tally) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    for _ in 0..count {
        let mut client = attach(port)?;
        tally.count("attaches", 1);
        let answer = client.monitor(&format!("nmi {}", random.u32(..cpus)), PATIENCE)?;
        ensure!(answer.contains("is owed"), "monitor nmi: {answer}");
        balanced(&mut client)?;
        detach(&mut client)?;
    }
    Ok(())
}

/// Attaches; the machine stands still after it.
pub fn attach(port: u16) -> Result<RawClient> {
    let mut client = RawClient::connect(port)?;
    client.raw(b"+")?;
    let answer = client.request("qSupported:swbreak+;vContSupported+", PATIENCE)?;
    ensure!(answer.contains("PacketSize"), "qSupported: {answer}");
    Ok(client)
}

/// Detaches.
pub fn detach(client: &mut RawClient) -> Result<()> {
    let answer = client.request("D", PATIENCE)?;
    ensure!(answer == "OK", "detach: {answer}");
    Ok(())
}

/// One thing that a person would do.
fn act(client: &mut RawClient, cpus: u32, random: &mut Rng, tally: &mut Tally) -> Result<()> {
    match random.u32(..4) {
        0 => {
            let cpu = random.u32(..cpus) + 1;
            let steps = random.u32(1..15);
            for _ in 0..steps {
                client.send(&format!("vCont;s:{cpu}"))?;
                let mut stop = client.reply(PATIENCE)?;
                // A CPU that waits for a SIPI is not stepped; the stub says so, and stops again.
                while stop.starts_with('O') {
                    stop = client.reply(PATIENCE)?;
                }
                ensure!(stop.starts_with(['T', 'S']), "step: {stop}");
            }
            tally.count("steps", steps.into());
        }
        1 => {
            client.send("c")?;
            thread::sleep(Duration::from_millis(random.u64(..30)));
            client.raw(b"\x03")?;
            let stop = client.reply(PATIENCE)?;
            ensure!(stop.starts_with(['T', 'S']), "interrupt: {stop}");
            tally.count("interrupts", 1);
        }
        2 => {
            let answer = client.monitor("vmcs", PATIENCE)?;
            ensure!(answer.contains("guest"), "monitor vmcs: {answer}");
        }
        _ => {
            let cpu = random.u32(..cpus) + 1;
            client.request(&format!("Hg{cpu}"), PATIENCE)?;
            let registers = client.request("g", PATIENCE)?;
            ensure!(registers.len() > 100, "registers: {registers}");
        }
    }
    Ok(())
}

/// The ledger, as `monitor nmi` prints it; it must balance.
fn balanced(client: &mut RawClient) -> Result<String> {
    let table = client.monitor("nmi", PATIENCE)?;
    ensure!(
        table.contains("balances:") && !table.contains("does not balance"),
        "the ledger does not balance:\n{table}"
    );
    Ok(table)
}

/// What the ledger says of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Kicks that an NMI was taken for.
    pub kicks_consumed: u64,
    /// NMIs not given to the guest yet.
    pub owed: u64,
    /// NMIs given to the guest.
    pub injected: u64,
    /// NMIs that merged into an owed one.
    pub merged: u64,
}

/// Stops the machine for long enough to read the ledger: one for each CPU.
pub fn ledger(port: u16) -> Result<Vec<Ledger>> {
    let mut client = attach(port)?;
    let table = balanced(&mut client)?;
    detach(&mut client)?;
    rows(&table)
}

/// The guest's kernel has handled exactly the NMIs that were given to it, on each CPU. Returns the ledger.
pub fn ensure_all_seen(console: &mut Console, port: u16) -> Result<Vec<Ledger>> {
    let seen = console.nmis(COMMAND)?;
    let ledgers = ledger(port)?;
    let injected: Vec<u64> = ledgers.iter().map(|ledger| ledger.injected).collect();
    ensure!(
        seen == injected,
        "the kernel saw {seen:?} NMIs on its CPUs, {injected:?} were injected"
    );
    Ok(ledgers)
}

fn rows(table: &str) -> Result<Vec<Ledger>> {
    let mut rows = Vec::new();
    for line in table.lines() {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        // The CPU, and the columns of `monitor nmi` in its order.
        if let [_, _, _, _, _, kicks_consumed, _, owed, injected, merged] = numbers[..] {
            rows.push(Ledger {
                kicks_consumed,
                owed,
                injected,
                merged,
            });
        }
    }
    ensure!(!rows.is_empty(), "no rows in {table}");
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::{Ledger, rows};

    #[test]
    fn rows_of_the_ledger_are_read() -> anyhow::Result<()> {
        let table = "\
cpu  taken in  taken in      NMIs     kicks     kicks     kicks      NMIs      NMIs      NMIs
       guest   hyperv.     asked      sent  consumed       out      owed  injected    merged
  0         3         1         0         2         2         0         0         1         1
all         3         1         0         2         2         0         0         1         1
balances: each NMI and each kick is accounted for, once
";
        let expected = Ledger {
            kicks_consumed: 2,
            owed: 0,
            injected: 1,
            merged: 1,
        };
        assert_eq!(rows(table)?, [expected]);
        assert!(rows("nothing").is_err());
        Ok(())
    }
}
