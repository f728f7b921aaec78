//! `main A B`, both hexadecimal: A + B by one function, outside any PAL and as a PAL, with A as
//! an integer and B behind a pointer, which the function increments. Both times it prints
//!
//! ```text
//!  B = *POINTER
//!  A+B = my_pal(A, POINTER)
//!  B+1 = *POINTER
//! ```
//!
//! and it exits 1 where the two differ. Where no TrustVisor answers, it says so and exits 1.

use std::process::ExitCode;

use pal_demo::arithmetic::{PAL_FLAG_MASK, sum};
use pal_demo::{Pal, PalError, TrustVisor, args};

type EntryFunction = extern "C" fn(u64, *mut u64) -> u64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<Option<u64>> = arguments
        .iter()
        .map(|text| args::hexadecimal(text))
        .collect();
    let [Some(a), Some(b)] = words[..] else {
        eprintln!("usage: main A B");
        return ExitCode::from(2);
    };
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    match compare(trustvisor, a & !PAL_FLAG_MASK, b) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("main: wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("main: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether both calls give what is right.
fn compare(trustvisor: TrustVisor, a: u64, b: u64) -> Result<bool, PalError> {
    let right = (a.wrapping_add(b), b.wrapping_add(1));
    let entry: EntryFunction = sum;
    let outside = call("Without PAL", entry, 0, a, b);
    let pal = Pal::builder(trustvisor, entry)
        .integer()
        .pointer(1)
        .register()?;
    let inside = call("With PAL", pal.entry(), PAL_FLAG_MASK, a, b);
    pal.unregister()?;
    Ok(outside == right && inside == right)
}

/// Calls the function, prints what came of it, and returns that: the sum, and B after the call.
fn call(how: &str, function: EntryFunction, flag: u64, a: u64, mut b: u64) -> (u64, u64) {
    let pointer = &raw mut b;
    println!("{how}:\n {b:#x} = *{pointer:?}");
    let result = function(a | flag, pointer);
    println!(" {result:#x} = my_pal({a:#x}, {pointer:?})\n {b:#x} = *{pointer:?}\n");
    (result, b)
}
