//! `msr`: model-specific registers by number or by name.

use core::fmt::Write;

use vmcs_inspect::monitor::number;

use super::arguments::parse_cpu;
use super::{Arguments, CommandError, CommandResult, Context};
use crate::machine::Machine;

/// Names that the command takes. Numbers: Intel SDM, order number 325462-081US,
/// September 2023, volume 4, table 2-2 "IA-32 Architectural MSRs".
const NAMES: [(&str, u32); 25] = [
    ("tsc", 0x10),
    ("apic_base", 0x1b),
    ("feature_control", 0x3a),
    ("tsc_adjust", 0x3b),
    ("mtrrcap", 0xfe),
    ("sysenter_cs", 0x174),
    ("sysenter_esp", 0x175),
    ("sysenter_eip", 0x176),
    ("misc_enable", 0x1a0),
    ("debugctl", 0x1d9),
    ("pat", 0x277),
    ("mtrr_def_type", 0x2ff),
    ("vmx_basic", 0x480),
    ("vmx_pinbased_ctls", 0x481),
    ("vmx_procbased_ctls", 0x482),
    ("vmx_procbased_ctls2", 0x48b),
    ("vmx_ept_vpid_cap", 0x48c),
    ("efer", 0xc000_0080),
    ("star", 0xc000_0081),
    ("lstar", 0xc000_0082),
    ("fmask", 0xc000_0084),
    ("fs_base", 0xc000_0100),
    ("gs_base", 0xc000_0101),
    ("kernel_gs_base", 0xc000_0102),
    ("tsc_aux", 0xc000_0103),
];

/// What `help msr` adds.
pub const DETAILS: &str = "MSR is a number or a name, such as lstar, efer, fs_base, pat; the guest's value\n\
     is meant where it has one of its own. An access that faults is reported, and\n\
     does no harm.";

/// `msr MSR [VALUE] [@CPU]`
pub fn run<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    let word = arguments.next().ok_or(CommandError::Missing("MSR"))?;
    let index = parse_msr(word).ok_or(CommandError::Unexpected(word))?;
    let mut value = None;
    let mut cpu = context.debug.current;
    while let Some(word) = arguments.next() {
        if let Some(number) = word.strip_prefix('@') {
            cpu = parse_cpu(number, context.machine.cpu_count())?;
        } else if value.is_none() {
            value = Some(number(word).ok_or(CommandError::NotANumber(word))?);
        } else {
            return Err(CommandError::Unexpected(word));
        }
    }
    let refused = |error| CommandError::Refused(u64::from(index), error);
    if let Some(value) = value {
        context
            .machine
            .write_msr(cpu, index, value)
            .map_err(refused)?;
    }
    let read = match context.machine.read_msr(cpu, index) {
        // Some can be written only, and that has been done.
        Err(_) if value.is_some() => None,
        read => Some(read.map_err(refused)?),
    };
    write!(out, "CPU {cpu}: MSR {index:#x}")?;
    if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == index) {
        write!(out, " {name}")?;
    }
    match read {
        Some(value) => writeln!(out, " = {value:#018x}")?,
        None => writeln!(out, " is written; it cannot be read")?,
    }
    Ok(())
}

/// A name, with or without `IA32_` or `MSR_`, or a number.
fn parse_msr(word: &str) -> Option<u32> {
    let bare = ["ia32_", "msr_"]
        .into_iter()
        .find_map(|prefix| {
            let start = word.get(..prefix.len())?;
            start
                .eq_ignore_ascii_case(prefix)
                .then(|| word.get(prefix.len()..))?
        })
        .unwrap_or(word);
    NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(bare))
        .map(|&(_, number)| number)
        .or_else(|| number(word).and_then(|number| u32::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msr_is_a_name_or_a_number() {
        for word in [
            "lstar",
            "LSTAR",
            "IA32_LSTAR",
            "msr_lstar",
            "0xc0000082",
            "3221225602",
        ] {
            assert_eq!(parse_msr(word), Some(0xc000_0082), "{word}");
        }
        for word in ["", "lsta", "0x100000000", "ia32_", "é"] {
            assert_eq!(parse_msr(word), None, "{word}");
        }
    }

    #[test]
    fn no_name_or_number_is_listed_twice() {
        for (n, (name, number)) in NAMES.iter().enumerate() {
            assert!(
                NAMES[..n]
                    .iter()
                    .all(|other| other.0 != *name && other.1 != *number)
            );
        }
    }
}
