//! `nmi_storm`: makes NMIs in Linux, and counts in `/proc/interrupts` what the
//! kernel's handler saw of them. `nmi_storm --help` lists the options.
//!
//! Prints `nmi_storm by=… sent=… seen=… lost=… invented=…`; exits 0 when every NMI
//! that was sent was seen, once. In a flood the processor merges NMIs, so then some
//! must be seen and no more than were sent.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use pal_demo::apic::LocalApic;
use pal_demo::interrupts::nmi_counts;
use pal_demo::{args, lcg};
use rustix::thread::{CpuSet, sched_setaffinity};

const HELP: &str = "\
usage: nmi_storm [--by sysrq|apic] [--from CPU] [--cpus LIST] [--pattern turn|random|all]
                 [--count N] [--pause-us N] [--seed N] [--flood]

Makes NMIs, and counts in /proc/interrupts what the kernel saw. Needs root.

  --by sysrq      SysRq-l: the kernel asks every other CPU for a backtrace by an NMI. Works
                  on any kernel. What the kernel prints is in dmesg. The default.
  --by apic       NMI interprocessor interrupts by the local APIC's registers in /dev/mem.
                  Needs iomem=relaxed on the kernel's command line. The kernel knows nothing
                  of these NMIs: it says \"NMI received for unknown reason\", at a level that
                  reaches every console unless /proc/sys/kernel/printk begins with 0.
  --from CPU      run on this CPU (0)
  --cpus LIST     whom to send to, such as 0,2 (all); with --by apic
  --pattern P     turn: one after the other; random; all: every CPU but the sender's at
                  once (turn; with --by sysrq always all)
  --count N       how many times to send (100)
  --pause-us N    microseconds between two (0)
  --seed N        of --pattern random (1)
  --flood         do not wait for one NMI before the next is sent; with --by apic

Other ways do not work on Debian's kernels in the emulator: there are no hardware
performance counters, x2APIC is off, and a module would need the kernel's headers.";

/// How often the count is read for an NMI that does not come. Not a time: the
/// machine may be stopped by a debugger meanwhile.
const LOOKS: u32 = 5000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Turn,
    Random,
    All,
}

struct Options {
    apic: bool,
    from: usize,
    cpus: Vec<usize>,
    pattern: Pattern,
    count: u64,
    pause: Duration,
    seed: u64,
    flood: bool,
}

fn parse(mut words: impl Iterator<Item = String>, online: usize) -> Option<Options> {
    let mut options = Options {
        apic: false,
        from: 0,
        cpus: (0..online).collect(),
        pattern: Pattern::Turn,
        count: 100,
        pause: Duration::ZERO,
        seed: 1,
        flood: false,
    };
    let index = |text: &str| {
        let cpu = usize::try_from(args::number(text)?).ok()?;
        (cpu < online).then_some(cpu)
    };
    while let Some(word) = words.next() {
        if word == "--flood" {
            options.flood = true;
            continue;
        }
        let value = words.next()?;
        match (word.as_str(), value.as_str()) {
            ("--by", "sysrq") => options.apic = false,
            ("--by", "apic") => options.apic = true,
            ("--from", cpu) => options.from = index(cpu)?,
            ("--cpus", list) => options.cpus = list.split(',').map(index).collect::<Option<_>>()?,
            ("--pattern", "turn") => options.pattern = Pattern::Turn,
            ("--pattern", "random") => options.pattern = Pattern::Random,
            ("--pattern", "all") => options.pattern = Pattern::All,
            ("--count", n) => options.count = args::number(n)?,
            ("--pause-us", n) => options.pause = Duration::from_micros(args::number(n)?),
            ("--seed", n) => options.seed = args::number(n)?,
            _ => return None,
        }
    }
    if !options.apic {
        options.pattern = Pattern::All;
    }
    (options.apic || !options.flood).then_some(options)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let online = thread::available_parallelism().map_or(1, usize::from);
    let Some(options) = parse(words.into_iter(), online) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    match storm(&options, online) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nmi_storm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was well.
fn storm(options: &Options, online: usize) -> io::Result<bool> {
    let mut here = CpuSet::new();
    here.set(options.from);
    sched_setaffinity(None, &here)?;
    let apic = if options.apic {
        Some(LocalApic::open().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("/dev/mem: {error}; is iomem=relaxed on the kernel's command line?"),
            )
        })?)
    } else {
        None
    };
    let ids = apic_ids()?;
    let before = total()?;
    let (mut sent, mut seen, mut random) = (0, before, options.seed);
    for round in 0..options.count {
        random = lcg::walk(random, 1);
        let choice = match options.pattern {
            Pattern::Random => random >> 33,
            _ => round,
        };
        let target = options.cpus[(choice % options.cpus.len() as u64) as usize];
        let expected = match (&apic, options.pattern) {
            (None, _) => {
                fs::write("/proc/sysrq-trigger", "l")?;
                online as u64 - 1
            }
            (Some(apic), Pattern::All) => {
                apic.send_nmi_to_others();
                online as u64 - 1
            }
            (Some(apic), _) => {
                apic.send_nmi(ids.get(target).copied().unwrap_or(target as u32));
                1
            }
        };
        sent += expected;
        if !options.flood {
            seen = wait_for(seen + expected)?;
        }
        if !options.pause.is_zero() {
            thread::sleep(options.pause);
        }
    }
    // What was latched or invented comes now.
    thread::sleep(Duration::from_millis(50));
    let seen = total()? - before;
    let (missing, invented) = (sent.saturating_sub(seen), seen.saturating_sub(sent));
    let merged = if options.flood { missing } else { 0 };
    let lost = missing - merged;
    println!(
        "nmi_storm by={} sent={sent} seen={seen} merged={merged} lost={lost} invented={invented}",
        if options.apic { "apic" } else { "sysrq" },
    );
    Ok(lost == 0 && invented == 0 && (sent == 0 || seen != 0))
}

/// NMIs that all CPUs have seen.
fn total() -> io::Result<u64> {
    Ok(nmi_counts()?.iter().sum())
}

/// Waits until so many have been seen, or long enough; returns how many have.
fn wait_for(wanted: u64) -> io::Result<u64> {
    let mut seen = total()?;
    for _ in 0..LOOKS {
        if seen >= wanted {
            break;
        }
        seen = total()?;
    }
    Ok(seen)
}

/// The CPUs' APIC IDs, by their numbers.
fn apic_ids() -> io::Result<Vec<u32>> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("apicid")?.split(':').nth(1))
        .filter_map(|id| id.trim().parse().ok())
        .collect())
}
