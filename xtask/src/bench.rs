//! `cargo xtask bench`: path lengths in guest TSC ticks, what gdb's operations cost on the wire,
//! and the hypervisor's memory. Prints a table and writes `target/bench.json`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use regex::Regex;
use serde_json::{Map, Value, json};
use xshell::Shell;

use crate::compile::{self, Flavour};
use crate::debug_line::WireCount;
use crate::emulator::Hardware;
use crate::gdb::Gdb;
use crate::image::Guest;
use crate::machine::{GuestDisk, Hypervisor, Machine};
use crate::progress::step;
use crate::test_guest::TestGuest;
use crate::{boot_ratio, paths, setup};

/// Measure exits, hypercalls, quiesces, gdb's operations and memory.
#[derive(Args)]
pub struct BenchArgs {
    /// Only Debian's boot with and without Stillpoint; the other figures stay as they were.
    #[arg(long)]
    boot: bool,
}

const PATIENCE: Duration = Duration::from_secs(600);

/// What each figure is to reach, for the table: ticks at the median, round trips and bytes, bytes.
const TARGETS: [(&str, &str); 8] = [
    ("boot_ratio", "1.01"),
    ("cpuid_exit", "240"),
    ("test_hypercall", "300"),
    ("pal_reg", "20000 and pal_reg_sha1"),
    ("pal_call_int_ptr", "3000"),
    ("pal_unreg", "12000"),
    ("gdb_connect", "20 round trips, 4000 bytes"),
    ("memory_bytes", "16777216"),
];

/// `cargo xtask bench`.
pub fn command(args: &BenchArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    let path = paths::target().join("bench.json");
    let mut results = Map::new();
    if args.boot {
        if let Ok(text) = fs::read_to_string(&path) {
            results = serde_json::from_str(&text)?;
        }
    } else {
        all_but_the_boot(&shell, &mut results)?;
    }
    for (name, value) in boot_ratio::measure(&shell)? {
        results.insert(name.into(), value);
    }
    table(&results);
    let text = serde_json::to_string_pretty(&Value::Object(results))?;
    fs::write(&path, text + "\n")?;
    println!("written to {}", path.display());
    Ok(())
}

fn all_but_the_boot(shell: &Shell, results: &mut Map<String, Value>) -> Result<()> {
    let guest = TestGuest::build(shell)?;
    for (cpus, wanted) in [
        (1, &["cpuid_exit", "test_hypercall", "ept_violation"][..]),
        (2, &["quiesce_stop_2", "quiesce_round_2"]),
        (4, &["quiesce_stop_4", "quiesce_round_4"]),
    ] {
        step(&format!("exits and quiesces with {cpus} CPUs"), || {
            let output = ticks(shell, &guest, cpus)?;
            for name in wanted {
                results.insert((*name).into(), figure(&output, name)?);
            }
            Ok(())
        })?;
    }
    step("PALs, Debian with 1 CPU", || {
        let output = pals(shell)?;
        for name in PALS {
            results.insert(name.into(), figure(&output, name)?);
        }
        Ok(())
    })?;
    step("gdb's operations, 4 CPUs", || {
        for (name, count) in wire(shell, &guest)? {
            results.insert(name.into(), wire_value(count));
        }
        Ok(())
    })?;
    step("memory, 4 GiB and 4 CPUs", || {
        results.insert("memory_bytes".into(), json!(memory(shell, &guest)?));
        Ok(())
    })?;
    Ok(())
}

fn start(
    shell: &Shell,
    guest: &TestGuest,
    cpus: u32,
    memory: u32,
    words: &str,
    cmdline: &str,
) -> Result<Machine> {
    Machine::start(
        shell,
        "bench",
        Hardware {
            cpus,
            memory,
            ..Hardware::default()
        },
        Some(&Hypervisor {
            image: compile::image(shell, Flavour::TestHooks)?,
            cmdline: cmdline.into(),
        }),
        &GuestDisk::Flat(guest.disk(&format!("{words} cpus={cpus}"))?),
        None,
    )
}

/// The output of the test guest's bench suite.
fn ticks(shell: &Shell, guest: &TestGuest, cpus: u32) -> Result<String> {
    let machine = start(shell, guest, cpus, 256, "suite=bench", "log=com1")?;
    machine
        .console()
        .expect(r"\d+ passed, \d+ failed\D", PATIENCE)
}

/// What `pal_bench` measures.
const PALS: [&str; 6] = [
    "pal_reg",
    "pal_reg_sha1",
    "pal_call_0",
    "pal_call_int_ptr",
    "pal_call_10ptr",
    "pal_unreg",
];

/// The output of `pal_bench` in Debian.
fn pals(shell: &Shell) -> Result<String> {
    let guest = GuestDisk::Debian(Guest {
        programs: true,
        // Whether a call's buffer is on the stack's page is not to be left to chance.
        cmdline: "norandmaps".into(),
        ..Guest::default()
    });
    let machine = Machine::start(
        shell,
        "bench",
        Hardware {
            cpus: 1,
            ..Hardware::default()
        },
        Some(&Hypervisor {
            image: compile::image(shell, Flavour::TestHooks)?,
            cmdline: "log=com1".into(),
        }),
        &guest,
        None,
    )?;
    let mut console = machine.console();
    console.wait_for_shell(PATIENCE)?;
    console.check("./pal_bench", PATIENCE)
}

/// `bench NAME min=… median=… rounds=…` as a JSON object.
fn figure(output: &str, name: &str) -> Result<Value> {
    let pattern = format!(r"bench {name} min=(\d+) median=(\d+) rounds=(\d+)");
    let found = Regex::new(&pattern)?
        .captures(output)
        .with_context(|| format!("the test guest measured no {name}:\n{output}"))?;
    let (min, median, rounds): (u64, u64, u64) =
        (found[1].parse()?, found[2].parse()?, found[3].parse()?);
    ensure!(rounds >= 100, "{name}: only {rounds} rounds");
    Ok(json!({ "min": min, "median": median, "rounds": rounds }))
}

/// What gdb's operations cost on the debug line.
fn wire(shell: &Shell, guest: &TestGuest) -> Result<Vec<(&'static str, WireCount)>> {
    let machine = start(shell, guest, 4, 256, "suite=gdb", "debug=com2 log=com1")?;
    machine.console().expect("suite=gdb", PATIENCE)?;
    // Let every CPU come to where it spins.
    std::thread::sleep(Duration::from_secs(2));
    let mut gdb = Gdb::start(&guest.elf)?;
    let mut counts = Vec::new();
    let mut measure = |gdb: &mut Gdb, name: &'static str, command: &str| -> Result<String> {
        machine.debug.reset_count();
        let answer = gdb.command(command)?;
        counts.push((name, machine.debug.count()));
        Ok(answer)
    };
    let port = machine.debug.port();
    let attach = format!("target remote localhost:{port}");
    let answer = measure(&mut gdb, "gdb_connect", &attach)?;
    ensure!(answer.contains("Remote debugging using"), "{answer}");
    for (name, command) in [("gdb_stepi", "stepi"), ("gdb_next", "next")] {
        let before = gdb.number("$pc")?;
        let answer = measure(&mut gdb, name, command)?;
        let after = gdb.number("$pc")?;
        ensure!(after != before, "{command} went nowhere: {answer}");
    }
    let answer = measure(&mut gdb, "gdb_threads", "info threads")?;
    ensure!(answer.matches("Thread ").count() == 4, "{answer}");
    let dump = machine.folder().join("dump");
    let dump = format!("dump binary memory {} 0x8000 0x9000", dump.display());
    let answer = measure(&mut gdb, "gdb_mem4k", &dump)?;
    ensure!(!answer.contains("annot"), "{answer}");
    gdb.expect("detach", "detached")?;
    Ok(counts)
}

fn wire_value(count: WireCount) -> Value {
    json!({
        "round_trips": count.round_trips,
        "bytes_up": count.bytes_up,
        "bytes_down": count.bytes_down,
    })
}

/// The memory that the hypervisor takes from a machine of 4 GiB with 4 CPUs, as it says itself.
fn memory(shell: &Shell, guest: &TestGuest) -> Result<u64> {
    let machine = start(shell, guest, 4, 4096, "suite=bench", "log=com1")?;
    let output = machine
        .console()
        .expect(r"bench memory bytes=\d+\D", PATIENCE)?;
    let found = Regex::new(r"bench memory bytes=(\d+)")?
        .captures(&output)
        .context("no memory figure")?;
    Ok(found[1].parse()?)
}

fn table(results: &Map<String, Value>) {
    println!("{:<16} {:>44}   to reach", "", "measured");
    for (name, value) in results {
        let shown = match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        };
        let target = TARGETS.iter().find(|(other, _)| other == name);
        println!(
            "{name:<16} {shown:>44}   {}",
            target.map_or("", |(_, to)| to)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn figures_are_read_and_short_runs_refused() -> anyhow::Result<()> {
        let output = "bench a min=3 median=5 rounds=100\nbench b min=1 median=2 rounds=10\n";
        assert_eq!(figure(output, "a")?["median"], 5);
        assert!(figure(output, "b").is_err());
        assert!(figure(output, "c").is_err());
        Ok(())
    }
}
