//! `test_args FUNCS ITERS SEED`: calls PALs with arguments of every kind and compares each result,
//! and everything that the arguments point to, with those of the same function outside.
//!
//! FUNCS is a sum of 1 (ten integers), 2 (ten pointers) and 4 (five integers and five pointers to
//! 0 to 99 words, with a new PAL each time). Prints a `.` for each of the ITERS calls of each, and
//! then `Test pass`, exit status 0, or `Test failed`, 1. Where no TrustVisor answers, it says so
//! and exits 1.

use std::io::Write;
use std::process::ExitCode;

use pal_demo::arithmetic::{PAL_FLAG_MASK, five_pairs, ten_integers, ten_pointers};
use pal_demo::{Pal, PalError, TrustVisor, lcg};

type Ten<T> = extern "C" fn(T, T, T, T, T, T, T, T, T, T) -> u64;
type Pairs<T> = extern "C" fn(u64, T, u64, T, u64, T, u64, T, u64, T) -> u64;

/// The most words that a pointer of the third kind points to.
const LONGEST: usize = 99;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<Option<u32>> = arguments.iter().map(|text| decimal(text)).collect();
    let [Some(funcs), Some(iters), Some(seed)] = numbers[..] else {
        eprintln!("usage: test_args FUNCS ITERS SEED");
        return ExitCode::from(2);
    };
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    let mut test = Test {
        trustvisor,
        sequence: seed.into(),
        passed: true,
    };
    match test.run(funcs, iters) {
        Ok(()) => {
            let verdict = if test.passed { "pass" } else { "failed" };
            println!("\nTest {verdict}");
        }
        Err(error) => {
            test.passed = false;
            println!("\ntest_args: {error}");
        }
    }
    ExitCode::from(u8::from(!test.passed))
}

fn decimal(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

struct Test {
    trustvisor: TrustVisor,
    sequence: u64,
    passed: bool,
}

impl Test {
    fn run(&mut self, funcs: u32, iters: u32) -> Result<(), PalError> {
        if funcs & 1 != 0 {
            self.integers(iters)?;
        }
        if funcs & 2 != 0 {
            self.pointers(iters)?;
        }
        if funcs & 4 != 0 {
            self.pairs(iters)?;
        }
        Ok(())
    }

    fn integers(&mut self, iters: u32) -> Result<(), PalError> {
        let here: Ten<u64> = ten_integers;
        let mut builder = Pal::builder(self.trustvisor, here);
        for _ in 0..10 {
            builder = builder.integer();
        }
        let pal = builder.register()?;
        for _ in 0..iters {
            let mut a: [u64; 10] = std::array::from_fn(|_| self.random_word());
            dot();
            a[0] &= !PAL_FLAG_MASK;
            let outside = call_ten(here, a);
            a[0] |= PAL_FLAG_MASK;
            let inside = call_ten(pal.entry(), a);
            self.compare(outside, inside, &[], &[]);
        }
        pal.unregister()
    }

    fn pointers(&mut self, iters: u32) -> Result<(), PalError> {
        let function: Ten<*mut u64> = ten_pointers;
        let mut builder = Pal::builder(self.trustvisor, function);
        for _ in 0..10 {
            builder = builder.pointer(1);
        }
        let pal = builder.register()?;
        for _ in 0..iters {
            // A word before, between and after those that are pointed to, which no PAL may touch.
            let mut here: [u64; 21] = std::array::from_fn(|_| self.random_word());
            let mut there = here;
            dot();
            here[1] &= !PAL_FLAG_MASK;
            there[1] |= PAL_FLAG_MASK;
            let outside = call_ten(function, every_other(&mut here));
            let inside = call_ten(pal.entry(), every_other(&mut there));
            self.compare(outside, inside, &here, &there);
        }
        pal.unregister()
    }

    fn pairs(&mut self, iters: u32) -> Result<(), PalError> {
        let function: Pairs<*mut u64> = five_pairs;
        for _ in 0..iters {
            let mut here: Vec<u64> = (0..5 * (LONGEST + 1) + 1)
                .map(|_| self.random_word())
                .collect();
            let mut there = here.clone();
            let mut lengths = [0; 5];
            let mut builder = Pal::builder(self.trustvisor, function);
            for length in &mut lengths {
                *length = (self.next() >> 32) % (LONGEST as u64 + 1);
                builder = builder.integer().pointer(*length as usize);
            }
            dot();
            let outside = call_pairs(function, lengths, &mut here, 0);
            let pal = builder.register()?;
            let inside = call_pairs(pal.entry(), lengths, &mut there, PAL_FLAG_MASK);
            pal.unregister()?;
            self.compare(outside, inside, &here, &there);
        }
        Ok(())
    }

    fn compare(&mut self, outside: u64, inside: u64, here: &[u64], there: &[u64]) {
        if outside != inside {
            self.passed = false;
            println!("\nError: {outside:#x} outside, {inside:#x} in the PAL");
        }
        let mut words = here.iter().zip(there).enumerate();
        if let Some((i, (here, there))) = words.find(|(_, (here, there))| here != there) {
            self.passed = false;
            println!("\nError: word {i} is {here:#x} outside, {there:#x} after the PAL");
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence = lcg::walk(self.sequence, 1);
        self.sequence
    }

    /// The low bits of such a sequence are not random.
    fn random_word(&mut self) -> u64 {
        let high = self.next() >> 32;
        high << 32 | self.next() >> 32
    }
}

fn dot() {
    print!(".");
    // A test that hangs shows how far it came. What cannot be printed is not the test's.
    let _ = std::io::stdout().flush();
}

fn every_other(words: &mut [u64; 21]) -> [*mut u64; 10] {
    let start = words.as_mut_ptr();
    std::array::from_fn(|i| start.wrapping_add(2 * i + 1))
}

fn call_ten<T: Copy>(f: Ten<T>, a: [T; 10]) -> u64 {
    f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9])
}

/// Calls `f` with arrays that lie in `words` one after the other, with a word between them.
fn call_pairs(f: Pairs<*mut u64>, n: [u64; 5], words: &mut [u64], flag: u64) -> u64 {
    let mut at = words.as_mut_ptr().wrapping_add(1);
    let p = n.map(|length| {
        let array = at;
        at = at.wrapping_add(length as usize + 1);
        array
    });
    let n0 = n[0] | flag;
    f(n0, p[0], n[1], p[1], n[2], p[2], n[3], p[3], n[4], p[4])
}
