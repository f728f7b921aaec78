//! The kernel's messages with and without Stillpoint: what differs must be expected.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use regex::Regex;

use super::{COMMAND, Plan, Workshop};

/// What may differ: how such a line begins, and why it does.
const EXPECTED: [(&str, &[&str]); 4] = [
    (
        "the hypervisor's memory is taken out of the map, so sizes and places change",
        &[
            "BIOS-e820: ",
            "  node   0: [mem ",
            "  DMA32 ",
            "Initmem setup node 0 ",
            "On node 0, zone ",
            "Built 1 zonelists",
            "Memory: ",
            "NODE_DATA(0) allocated ",
            "RAMDISK: ",
            "e820: reserve RAM buffer ",
            "node 0 deferred pages initialised in ",
            "PM: hibernation: Registered nosave memory: ",
        ],
    ),
    (
        "the hypervisor-present bit is set: Linux does not look for hardware's errata",
        &[
            "Failed to access perfctr msr",
            "Performance Events: ",
            "SRBDS: ",
            "MDS: ",
            "MMIO Stale Data: ",
            "GDS: ",
            "TSC deadline timer available",
            "[Firmware Bug]: TSC_DEADLINE disabled due to Errata",
        ],
    ),
    (
        "times of day and measured times",
        &[
            "audit: type=2000 ",
            "rtc_cmos 00:00: setting system clock ",
            "sched_clock: Marking stable",
            "clocksource: tsc",
            "tsc: ",
            "Calibrating delay loop",
            "smpboot: Total of ",
        ],
    ),
    (
        "drivers start side by side: the order of their numbers is a race on the bare machine too",
        &["input: "],
    ),
];

/// Boots the same disk bare and under Stillpoint, and compares `dmesg`.
pub fn differs_only_where_it_should(workshop: &Workshop) -> Result<()> {
    let messages = |plan: Plan| -> Result<BTreeSet<String>> {
        let (_machine, mut console) = workshop.boot(plan)?;
        let text = console.check("dmesg", COMMAND)?;
        ensure!(
            text.contains("Linux version") && text.lines().count() > 100,
            "not all of dmesg: {text}"
        );
        normalised(&text)
    };
    let bare = messages(Plan::debian(2).bare().part("bare"))?;
    let under = messages(Plan::debian(2).cmdline("log=com1").part("stillpoint"))?;
    let mut surprises = Vec::new();
    for (lines, others, where_from) in [(&bare, &under, "bare"), (&under, &bare, "stillpoint")] {
        for line in lines.difference(others) {
            if !is_expected(line) {
                surprises.push(format!("{where_from}: {line}"));
            }
        }
    }
    ensure!(
        surprises.is_empty(),
        "lines of dmesg that differ:\n{}",
        surprises.join("\n")
    );
    Ok(())
}

/// The lines without their times, and without what differs between two bare boots as well.
fn normalised(dmesg: &str) -> Result<BTreeSet<String>> {
    let time = Regex::new(r"^\[ *\d+\.\d+\] ")?;
    Ok(dmesg
        .lines()
        .map(|line| time.replace(line, "").trim_end().to_owned())
        .collect())
}

fn is_expected(line: &str) -> bool {
    EXPECTED
        .iter()
        .flat_map(|(_, beginnings)| *beginnings)
        .any(|beginning| line.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::{is_expected, normalised};

    #[test]
    fn times_do_not_count_but_words_do() -> anyhow::Result<()> {
        assert_eq!(
            normalised("[    0.100000] a b")?,
            normalised("[   12.5] a b")?
        );
        assert_ne!(
            normalised("[    0.100000] a b")?,
            normalised("[    0.100000] a c")?
        );
        Ok(())
    }

    #[test]
    fn the_memory_map_may_differ_but_a_fault_may_not() {
        assert!(is_expected("BIOS-e820: [mem 0x0-0xfff] usable"));
        assert!(!is_expected(
            "general protection fault: 0000 [#1] PREEMPT SMP"
        ));
        assert!(!is_expected("unchecked MSR access error: RDMSR from 0x1"));
        assert!(!is_expected(
            "smpboot: do_boot_cpu failed(-1) to wakeup CPU#1"
        ));
    }
}
