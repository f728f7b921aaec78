//! Benchmarks, in ticks of the time-stamp counter.
//!
//! One line each: `bench NAME min=… median=… rounds=…`. A figure holds what
//! lies between two RDTSC; `bench empty` is such a pair with nothing between.

use core::arch::asm;
use core::hint::black_box;

use stillpoint_abi::{Hypercall, HypercallResult, TestHook};

use crate::descriptors::Shared;
use crate::harness::{Context, Outcome, Test};
use crate::tests::memory;
use crate::{check, check_eq, cpu, fail, println, smp, tests};

/// Benchmarks.
pub const TESTS: &[Test] = tests![
    bench_empty,
    bench_cpuid_exit,
    bench_test_hypercall,
    bench_ept_violation,
    bench_quiesce,
    bench_memory,
];

/// Measurements of one figure.
const ROUNDS: usize = 2000;

/// Rounds of the same that are not measured.
const WARM_UP: usize = 50;

static SAMPLES: [Shared<[u64; ROUNDS]>; 2] = [const { Shared::new([0; ROUNDS]) }; 2];

fn samples(index: usize) -> &'static mut [u64; ROUNDS] {
    // SAFETY: CPU 0 alone measures, one benchmark after the other, and each
    // asks once for each index.
    unsafe { &mut *SAMPLES[index].get() }
}

fn report(name: core::fmt::Arguments<'_>, samples: &mut [u64]) {
    samples.sort_unstable();
    println!(
        "bench {name} min={} median={} rounds={}",
        samples[0],
        samples[samples.len() / 2],
        samples.len()
    );
}

/// Measures `f`.
fn measure(name: &str, mut f: impl FnMut()) {
    let samples = samples(0);
    for _ in 0..WARM_UP {
        f();
    }
    for sample in samples.iter_mut() {
        let start = cpu::rdtsc();
        f();
        *sample = cpu::rdtsc().wrapping_sub(start);
    }
    report(format_args!("{name}"), samples);
}

fn bench_empty(_: &Context) -> Outcome {
    measure("empty", || ());
    Ok(())
}

fn bench_cpuid_exit(_: &Context) -> Outcome {
    measure("cpuid_exit", || {
        // SAFETY: CPUID writes the registers named; RBX is exchanged back.
        unsafe {
            asm!("xchg rsi, rbx", "cpuid", "xchg rsi, rbx", inout("eax") 0 => _,
                 inout("ecx") 0 => _, out("edx") _, out("rsi") _, options(nomem, nostack));
        }
    });
    Ok(())
}

/// VMCALL; RAX, RCX and RDX.
fn vmcall(command: u32) -> [u64; 3] {
    let (rax, rcx, rdx);
    // SAFETY: the commands used here touch no memory of this guest.
    unsafe {
        asm!("vmcall", inout("rax") u64::from(command) => rax, inout("rcx") 1_u64 => rcx,
             out("rdx") rdx, options(nostack));
    }
    [rax, rcx, rdx]
}

fn bench_test_hypercall(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    measure("test_hypercall", || {
        black_box(vmcall(Hypercall::Test.command()));
    });
    Ok(())
}

fn bench_ept_violation(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let address = memory::hypervisor_range()?.start;
    measure("ept_violation", || {
        black_box(memory::read_quad(address));
    });
    Ok(())
}

fn bench_quiesce(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let cpus = context.config.cpus;
    if let Err(index) = smp::start_all(cpus) {
        fail!("CPU {index} does not start");
    }
    let round = || vmcall(TestHook::QuiesceRound.command());
    check!(
        round()[0] == HypercallResult::Success.code(),
        "the image has no test hooks (cargo feature test-hooks)"
    );
    let (stop, whole) = (samples(0), samples(1));
    for _ in 0..WARM_UP {
        round();
    }
    for (stop, whole) in stop.iter_mut().zip(whole.iter_mut()) {
        let start = cpu::rdtsc();
        let result;
        [result, *stop, *whole] = round();
        let elapsed = cpu::rdtsc().wrapping_sub(start);
        check_eq!(result, HypercallResult::Success.code(), "result");
        check!(
            *stop <= *whole && *whole <= elapsed,
            "stopped after {stop}, released after {whole} of {elapsed} ticks"
        );
    }
    report(format_args!("quiesce_stop_{cpus}"), stop);
    report(format_args!("quiesce_round_{cpus}"), whole);
    Ok(())
}

/// What the hypervisor takes from the guest: `bench memory bytes=…`.
fn bench_memory(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = memory::hypervisor_range()?;
    let [result, start, end] = vmcall(TestHook::HypervisorRange.command());
    if result == HypercallResult::Success.code() {
        check_eq!(range.start, start, "start of the range that refuses writes");
        check_eq!(range.end, end, "end of the range that refuses writes");
    }
    println!("bench memory bytes={}", range.end - range.start);
    Ok(())
}
