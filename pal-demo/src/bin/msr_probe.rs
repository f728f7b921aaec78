//! `msr_probe CPU MSR[=VALUE]...`: RDMSR or WRMSR on one CPU, through the
//! kernel's `/dev/cpu/N/msr` (module `msr`).
//!
//! One line each: `rdmsr 0x10 = 0x…`, `wrmsr 0x10 ok`, or `… #GP` where the
//! instruction faulted (the device reports that as EIO). Exits 0 when every
//! access got an answer, faults included; 1 when the device could not be used.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use pal_demo::args;

/// One access to make.
struct Access {
    msr: u64,
    /// The value to write; `None` reads.
    value: Option<u64>,
}

fn parse(text: &str) -> Option<Access> {
    let (msr, value) = match text.split_once('=') {
        Some((msr, value)) => (msr, Some(args::number(value)?)),
        None => (text, None),
    };
    // The instruction takes 32 bits of ECX.
    let msr = args::number(msr).filter(|&msr| u32::try_from(msr).is_ok())?;
    Some(Access { msr, value })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = arguments.split_first().and_then(|(cpu, accesses)| {
        let accesses: Option<Vec<_>> = accesses.iter().map(|text| parse(text)).collect();
        Some((
            args::number(cpu)?,
            accesses.filter(|list| !list.is_empty())?,
        ))
    });
    let Some((cpu, accesses)) = parsed else {
        eprintln!("usage: msr_probe CPU MSR[=VALUE]...");
        return ExitCode::from(2);
    };
    match accesses.iter().try_for_each(|access| probe(cpu, access)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("msr_probe: /dev/cpu/{cpu}/msr: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe(cpu: u64, access: &Access) -> io::Result<()> {
    // What the kernel's fixed-up #GP is reported as (include/uapi/asm-generic/errno-base.h).
    const EIO: i32 = 5;
    let device = OpenOptions::new()
        .read(access.value.is_none())
        .write(access.value.is_some())
        .open(format!("/dev/cpu/{cpu}/msr"))?;
    let msr = access.msr;
    let outcome = match access.value {
        None => {
            let mut bytes = [0; 8];
            device
                .read_exact_at(&mut bytes, msr)
                .map(|()| format!("rdmsr {msr:#x} = {:#x}", u64::from_le_bytes(bytes)))
        }
        Some(value) => device
            .write_all_at(&value.to_le_bytes(), msr)
            .map(|()| format!("wrmsr {msr:#x} ok")),
    };
    match outcome {
        Ok(line) => println!("{line}"),
        Err(error) if error.raw_os_error() == Some(EIO) => {
            let name = if access.value.is_some() {
                "wrmsr"
            } else {
                "rdmsr"
            };
            println!("{name} {msr:#x} #GP");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
