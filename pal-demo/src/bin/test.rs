//! `test N`: makes the TEST hypercall with the number N.
//!
//! Prints `0 = vmcall(TV_HC_TEST, N)` and exits with the result. Where no
//! TrustVisor answers, it says so and exits 1; scripts wait for these lines.

use std::process::ExitCode;

use pal_demo::{TrustVisor, args};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let number = arguments.next().as_deref().and_then(args::number);
    let (Some(number), None) = (number, arguments.next()) else {
        eprintln!("usage: test N");
        return ExitCode::from(2);
    };
    let Ok(number) = u32::try_from(number) else {
        eprintln!("test: N must fit 32 bits");
        return ExitCode::from(2);
    };
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    let result = trustvisor.test(number);
    println!("{result} = vmcall(TV_HC_TEST, {number})");
    // An exit status has 8 bits; a failure must not wrap round to success.
    ExitCode::from(u8::try_from(result).unwrap_or(u8::MAX))
}
