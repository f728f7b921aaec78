//! The guest's programs: what they print with and without Stillpoint, and the registers that must
//! survive every exit.

use std::time::Duration;

use anyhow::{Result, ensure};
use regex::Regex;

use super::{COMMAND, Plan, Workshop};

/// Exits in each of the two programs that run side by side.
const EXITS: u32 = 1_500_000;

/// Two programs keep all vector registers loaded across millions of exits, on both CPUs.
pub fn xmm_registers(workshop: &Workshop) -> Result<()> {
    let (_machine, mut console) = workshop.boot(Plan::debian(2).cmdline("log=com1"))?;
    let long = Duration::from_secs(600);
    let command = format!(
        "taskset 1 ./xmm_hold {EXITS} & taskset 2 ./xmm_hold {EXITS}; other=$?; wait $!; echo $? $other"
    );
    let output = console.check(&command, long)?;
    let exits: Vec<u32> = Regex::new(r"xmm ok exits=(\d+)")?
        .captures_iter(&output)
        .filter_map(|found| found[1].parse().ok())
        .collect();
    ensure!(
        exits.len() == 2 && exits.iter().all(|&count| count >= EXITS) && output.ends_with("0 0\n"),
        "{output}"
    );
    Ok(())
}

/// On the bare machine the programs find no TrustVisor, and the register test itself is right.
pub fn without_stillpoint(workshop: &Workshop) -> Result<()> {
    let (_machine, mut console) = workshop.boot(Plan::debian(1).bare())?;
    for program in ["test", "test32"] {
        let answer = console.run(&format!("./{program} 7"), COMMAND)?;
        ensure!(
            answer.status == 1 && answer.text == "TrustVisor not present according to CPUID\n",
            "{program}: {answer:?}"
        );
    }
    let output = console.check("./xmm_hold 100000", COMMAND)?;
    ensure!(output.contains("xmm ok exits=100000"), "{output}");
    Ok(())
}
