//! Several CPUs: start-up, INIT, interprocessor interrupts and NMIs, and all
//! of them in the hypervisor at once.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::Hypercall;

use crate::apic::{self, Destination, Message};
use crate::boot::MAX_CPUS;
use crate::descriptors::Shared;
use crate::harness::{Context, Outcome, Test};
use crate::tests::memory;
use crate::tests::state::{Exits, hold};
use crate::trap::{self, Frame, attempt, vector, with_handler};
use crate::{check, check_eq, cpu, fail, smp, tests};

/// Several CPUs.
pub const TESTS: &[Test] = tests![
    broadcast_starts_every_cpu,
    state_after_init,
    each_cpu_is_itself,
    init_parks_and_startup_restarts,
    startup_of_a_running_cpu_is_ignored,
    init_ends_a_halt,
    storm_of_cpuid,
    storm_of_hypercalls,
    storm_of_violations,
    state_is_held_on_all_cpus,
    interprocessor_interrupts_are_exact,
    nmis_into_a_cpuid_storm_are_exact,
    nmis_into_a_storm_of_violations_are_exact,
    nmis_all_round_are_exact,
    nmi_wakes_a_halted_cpu,
    nmi_and_init_in_turn,
];

/// What a CPU's job leaves: 0 while all is well, else what went wrong.
static PROBLEMS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// A number that a CPU's job counts up.
static PROGRESS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Ends the jobs that go on until told.
static STOP: AtomicU64 = AtomicU64::new(0);
/// The hypervisor's range's first byte, for jobs.
static HYPERVISOR: AtomicU64 = AtomicU64::new(0);

/// Several CPUs, all started.
fn all(context: &Context) -> Result<core::ops::Range<usize>, crate::harness::Failure> {
    check!(
        context.config.cpus > 1,
        "the configuration says cpus={}",
        context.config.cpus
    );
    if let Err(index) = smp::start_all(context.config.cpus) {
        fail!("CPU {index} does not start");
    }
    STOP.store(0, Relaxed);
    for (problem, progress) in PROBLEMS.iter().zip(&PROGRESS) {
        problem.store(0, Relaxed);
        progress.store(0, Relaxed);
    }
    Ok(1..context.config.cpus)
}

/// Waits for the CPUs' jobs; no CPU may report a problem.
fn finish(cpus: core::ops::Range<usize>) -> Outcome {
    for index in cpus {
        check!(smp::done(index), "CPU {index} does not finish");
        check_eq!(PROBLEMS[index].load(Relaxed), 0, "problem of CPU {index}");
    }
    Ok(())
}

/// Runs a job on all CPUs, this one included.
fn everywhere(context: &Context, job: smp::Job) -> Outcome {
    let cpus = all(context)?;
    for index in cpus.clone() {
        smp::give(index, job);
    }
    job(0);
    check_eq!(PROBLEMS[0].load(Relaxed), 0, "problem of CPU 0");
    finish(cpus)
}

fn problem(index: usize, number: u64) {
    // The first one counts.
    let _ = PROBLEMS[index].compare_exchange(0, number, Relaxed, Relaxed);
}

fn broadcast_starts_every_cpu(context: &Context) -> Outcome {
    let cpus = context.config.cpus;
    check!(cpus > 1, "the configuration says cpus={cpus}");
    smp::wake(Destination::AllButSelf);
    // On Bochs 3.0 a broadcast SIPI ends at the first CPU whose hypervisor sees
    // it, so there are as many as there are CPUs; those that run ignore them.
    for _ in 1..cpus {
        apic::send(
            Destination::AllButSelf,
            Message::Startup(smp::startup_page()),
        );
    }
    for index in 1..cpus {
        let arrived = cpu::wait_until(smp::PATIENCE, || smp::arrivals(index) == 1);
        check!(
            arrived,
            "CPU {index} arrived {} times",
            smp::arrivals(index)
        );
    }
    let more = (cpus..MAX_CPUS).find(|&index| smp::arrivals(index) != 0);
    check!(
        more.is_none(),
        "CPU {more:?} arrived, there should be {cpus}"
    );
    Ok(())
}

unsafe extern "C" {
    /// EAX, EBX, ECX, EDX, ESI, EDI, EBP, ESP, CR0, CR2, CR3, CR4, EFLAGS, CS,
    /// DS, SS as the last CPU that started found them (asm/boot.s).
    static ap_initial: Shared<[u32; 16]>;
}

fn state_after_init(context: &Context) -> Outcome {
    for index in all(context)? {
        check!(smp::start(index), "CPU {index} does not start");
        // SAFETY: the CPU has written it before it arrived; no other starts.
        let state = unsafe { Shared::raw(&raw const ap_initial).read_volatile() };
        // Intel SDM vol. 3, ch. 10, table of the states after INIT.
        for (what, found, expected) in [
            ("EAX", state[0], 0),
            ("EBX", state[1], 0),
            ("ECX", state[2], 0),
            ("ESI", state[4], 0),
            ("EDI", state[5], 0),
            ("EBP", state[6], 0),
            ("ESP", state[7], 0),
            ("CR0 without CD and NW", state[8] & 0x9fff_ffff, 0x10),
            ("CR2", state[9], 0),
            ("CR3", state[10], 0),
            ("CR4", state[11], 0),
            ("EFLAGS", state[12], 2),
            ("CS", state[13], u32::from(smp::startup_page()) << 8),
            ("DS", state[14], 0),
            ("SS", state[15], 0),
        ] {
            check_eq!(found, expected, "CPU {index}: {what}");
        }
        // The processor's family, model and stepping; the emulator leaves 0.
        if context.stillpoint || state[3] != 0 {
            check_eq!(state[3], cpu::cpuid(1).eax, "CPU {index}: EDX");
        }
    }
    Ok(())
}

fn each_cpu_is_itself(context: &Context) -> Outcome {
    everywhere(context, |index| {
        for _ in 0..100 {
            if (cpu::cpuid(1).ebx >> 24) as usize != index {
                problem(index, 1);
            }
            if apic::id() != index {
                problem(index, 2);
            }
            // Enabled, xAPIC mode, the usual address; BSP on the first alone.
            let expected = 0xfee0_0800 | if index == 0 { 0x100 } else { 0 };
            if cpu::rdmsr(0x1b) != expected {
                problem(index, 3);
            }
        }
    })
}

/// Counts for ever: only INIT ends it. An exit now and then, not more: see
/// `smp::start` on what Bochs does with INIT in VMX root operation.
fn count_for_ever(index: usize) {
    loop {
        if PROGRESS[index]
            .fetch_add(1, Relaxed)
            .is_multiple_of(1 << 10)
        {
            cpu::cpuid(0);
        }
        cpu::pause();
    }
}

/// Whether a CPU's progress goes on.
fn progresses(index: usize) -> bool {
    let before = PROGRESS[index].load(Relaxed);
    cpu::wait_until(smp::PATIENCE, || PROGRESS[index].load(Relaxed) > before + 3)
}

fn init_parks_and_startup_restarts(context: &Context) -> Outcome {
    let cpus = all(context)?;
    for round in 0..20 {
        for index in cpus.clone() {
            smp::give(index, count_for_ever);
            check!(
                progresses(index),
                "round {round}: CPU {index} does not count"
            );
        }
        for index in cpus.clone() {
            let parked = smp::park(index, || PROGRESS[index].load(Relaxed));
            check!(parked, "round {round}: CPU {index} counts on after INIT");
        }
        // All of them still stand: waiting for a SIPI is not a matter of time.
        for index in cpus.clone() {
            let before = PROGRESS[index].load(Relaxed);
            cpu::wait_until(10_000, || false);
            let after = PROGRESS[index].load(Relaxed);
            check_eq!(after, before, "round {round}: progress of CPU {index}");
        }
        for index in cpus.clone() {
            check!(
                smp::start(index),
                "round {round}: CPU {index} does not start again"
            );
        }
    }
    Ok(())
}

fn startup_of_a_running_cpu_is_ignored(context: &Context) -> Outcome {
    let cpus = all(context)?;
    for index in cpus.clone() {
        let before = smp::arrivals(index);
        smp::give(index, |index| {
            while STOP.load(Relaxed) == 0 {
                PROGRESS[index].fetch_add(1, Relaxed);
                cpu::cpuid(0);
            }
        });
        check!(progresses(index), "CPU {index} does not count");
        for _ in 0..10 {
            apic::send(
                Destination::Cpu(index),
                Message::Startup(smp::startup_page()),
            );
        }
        check!(progresses(index), "CPU {index} stopped at a SIPI");
        check_eq!(smp::arrivals(index), before, "arrivals of CPU {index}");
    }
    STOP.store(1, Relaxed);
    finish(cpus)
}

fn init_ends_a_halt(context: &Context) -> Outcome {
    for index in all(context)? {
        for _ in 0..3 {
            smp::give(index, |_| cpu::park());
            cpu::wait_until(20_000, || false);
            check!(smp::start(index), "CPU {index} does not start out of HLT");
        }
    }
    Ok(())
}

fn storm_of_cpuid(context: &Context) -> Outcome {
    everywhere(context, |index| {
        let (zero, one) = (cpu::cpuid(0), cpu::cpuid(1));
        for _ in 0..2000 {
            if cpu::cpuid(0) != zero {
                problem(index, 1);
            }
            if cpu::cpuid(1) != one {
                problem(index, 2);
            }
        }
    })
}

fn storm_of_hypercalls(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    everywhere(context, |index| {
        for round in 0..2000_u64 {
            let (result, kept): (u64, u64);
            // SAFETY: TEST touches no memory.
            unsafe {
                asm!("vmcall", inout("rax") u64::from(Hypercall::Test.command()) => result,
                     inout("rcx") round => kept);
            }
            if result != 0 {
                problem(index, 1);
            }
            if kept != round {
                problem(index, 2);
            }
        }
    })
}

fn storm_of_violations(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    HYPERVISOR.store(memory::hypervisor_range()?.start, Relaxed);
    everywhere(context, |index| {
        let start = HYPERVISOR.load(Relaxed);
        for round in 0..300 {
            // All on the same page, and each on one of its own.
            for address in [start, start + 4096 * index as u64] {
                if memory::read_quad(address) != 0 {
                    problem(index, 1);
                }
            }
            if round % 8 == 0 {
                let result = attempt!("mov [{}], rsp", in(reg) start + 8, options(nostack));
                if !matches!(result, Err(trap) if trap.vector() == vector::GP) {
                    problem(index, 2);
                }
            }
        }
    })
}

fn state_is_held_on_all_cpus(context: &Context) -> Outcome {
    HYPERVISOR.store(
        if context.stillpoint {
            memory::hypervisor_range()?.start
        } else {
            0x40_0000
        },
        Relaxed,
    );
    everywhere(context, |index| {
        let mixed = Exits::Mixed(HYPERVISOR.load(Relaxed));
        for round in 0..4 {
            let seed = 1000 * index as u64 + round;
            if hold(seed, 200, Exits::Cpuid).is_err() {
                problem(index, 1);
            }
            if hold(seed + 500, 50, mixed).is_err() {
                problem(index, 2);
            }
        }
    })
}

const INTERRUPT: u8 = 0x52;

fn acknowledge(_: &mut Frame) {
    apic::end_of_interrupt();
}

fn nothing(_: &mut Frame) {}

/// Executes CPUID with interrupts on, until told to stop.
fn storm_with_interrupts(index: usize) {
    // SAFETY: the tests that give this job have set the handlers.
    unsafe { asm!("sti") };
    while STOP.load(Relaxed) == 0 {
        cpu::cpuid(0);
        PROGRESS[index].fetch_add(1, Relaxed);
    }
    // SAFETY: as it was.
    unsafe { asm!("cli") };
}

/// Sends `message` to each CPU in turn, each time after the last one came.
fn exact(context: &Context, job: smp::Job, message: Message, vector: u8, rounds: u64) -> Outcome {
    let cpus = all(context)?;
    for index in cpus.clone() {
        smp::give(index, job);
        check!(progresses(index), "CPU {index} does not work");
    }
    let mut before = [0; MAX_CPUS];
    for (index, before) in before.iter_mut().enumerate() {
        *before = trap::count(index, vector);
    }
    for round in 1..=rounds {
        for index in cpus.clone() {
            apic::send(Destination::Cpu(index), message);
        }
        for index in cpus.clone() {
            let arrived = || trap::count(index, vector) - before[index];
            check!(
                cpu::wait_until(smp::PATIENCE, || arrived() >= round),
                "CPU {index}: {} of {round}",
                arrived()
            );
            check_eq!(arrived(), round, "CPU {index}: count in round {round}");
        }
    }
    cpu::wait_until(20_000, || false);
    for index in cpus.clone() {
        check_eq!(
            trap::count(index, vector) - before[index],
            rounds,
            "CPU {index}: at the end"
        );
    }
    STOP.store(1, Relaxed);
    finish(cpus)
}

fn interprocessor_interrupts_are_exact(context: &Context) -> Outcome {
    with_handler(INTERRUPT, acknowledge, || {
        exact(
            context,
            storm_with_interrupts,
            Message::Fixed(INTERRUPT),
            INTERRUPT,
            300,
        )
    })
}

fn nmis_into_a_cpuid_storm_are_exact(context: &Context) -> Outcome {
    with_handler(vector::NMI, nothing, || {
        exact(
            context,
            storm_with_interrupts,
            Message::Nmi,
            vector::NMI,
            500,
        )
    })
}

/// Reads the hypervisor's range and calls it, until told to stop.
fn storm_of_mixed_exits(index: usize) {
    let address = HYPERVISOR.load(Relaxed);
    while STOP.load(Relaxed) == 0 {
        if memory::read_quad(address) != 0 {
            problem(index, 1);
        }
        // SAFETY: TEST touches no memory.
        unsafe {
            asm!("vmcall", inout("eax") Hypercall::Test.command() => _, in("ecx") 0);
        }
        let cr4 = cpu::read_cr4();
        cpu::write_cr4(cr4 ^ 1 << 7);
        cpu::write_cr4(cr4);
        PROGRESS[index].fetch_add(1, Relaxed);
    }
}

fn nmis_into_a_storm_of_violations_are_exact(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    HYPERVISOR.store(memory::hypervisor_range()?.start, Relaxed);
    with_handler(vector::NMI, nothing, || {
        exact(
            context,
            storm_of_mixed_exits,
            Message::Nmi,
            vector::NMI,
            300,
        )
    })
}

/// How many CPUs take part, for `send_round`.
static CPUS: AtomicU64 = AtomicU64::new(0);

/// NMIs each CPU sends to the next one.
const NMIS_ROUND: u64 = 300;

/// Sends NMIs to the next CPU, each after it took the one before, while NMIs
/// from the CPU before come in and CPUID exits all the time.
fn send_round(index: usize) {
    let next = (index + 1) % CPUS.load(Relaxed) as usize;
    let before = trap::count(next, vector::NMI);
    for round in 1..=NMIS_ROUND {
        apic::send(Destination::Cpu(next), Message::Nmi);
        let came = cpu::wait_until(smp::PATIENCE, || {
            cpu::cpuid(0);
            trap::count(next, vector::NMI) - before >= round
        });
        if !came {
            problem(index, round << 8 | 1);
            return;
        }
        if trap::count(next, vector::NMI) - before > round {
            problem(index, round << 8 | 2);
        }
    }
}

fn nmis_all_round_are_exact(context: &Context) -> Outcome {
    CPUS.store(context.config.cpus as u64, Relaxed);
    with_handler(vector::NMI, nothing, || {
        let mut before = [0; MAX_CPUS];
        for (index, before) in before.iter_mut().enumerate() {
            *before = trap::count(index, vector::NMI);
        }
        everywhere(context, send_round)?;
        cpu::wait_until(20_000, || false);
        for (index, before) in before.iter().enumerate().take(context.config.cpus) {
            let count = trap::count(index, vector::NMI) - before;
            check_eq!(count, NMIS_ROUND, "NMIs of CPU {index}");
        }
        Ok(())
    })
}

/// Halts with interrupts off; counts each time it wakes.
fn halt_and_count(index: usize) {
    while STOP.load(Relaxed) == 0 {
        // SAFETY: an NMI ends the halt.
        unsafe { asm!("hlt") };
        PROGRESS[index].fetch_add(1, Relaxed);
    }
}

fn nmi_wakes_a_halted_cpu(context: &Context) -> Outcome {
    let cpus = all(context)?;
    with_handler(vector::NMI, nothing, || {
        for index in cpus.clone() {
            smp::give(index, halt_and_count);
        }
        for round in 1..=50 {
            if round == 50 {
                STOP.store(1, Relaxed);
            }
            for index in cpus.clone() {
                // Let it get there; a wake-up that was early is the next round's.
                cpu::wait_until(2_000, || false);
                let before = trap::count(index, vector::NMI);
                apic::send(Destination::Cpu(index), Message::Nmi);
                let woken =
                    cpu::wait_until(smp::PATIENCE, || PROGRESS[index].load(Relaxed) >= round);
                check!(woken, "CPU {index} sleeps in round {round}");
                check_eq!(
                    trap::count(index, vector::NMI) - before,
                    1,
                    "NMIs of CPU {index}"
                );
            }
        }
        finish(cpus.clone())
    })
}

fn nmi_and_init_in_turn(context: &Context) -> Outcome {
    let cpus = all(context)?;
    with_handler(vector::NMI, nothing, || {
        for round in 0..20 {
            for index in cpus.clone() {
                smp::give(index, count_for_ever);
                check!(
                    progresses(index),
                    "round {round}: CPU {index} does not count"
                );
                let before = trap::count(index, vector::NMI);
                apic::send(Destination::Cpu(index), Message::Nmi);
                let came =
                    cpu::wait_until(smp::PATIENCE, || trap::count(index, vector::NMI) != before);
                check!(came, "round {round}: no NMI on CPU {index}");
                check!(
                    smp::start(index),
                    "round {round}: CPU {index} does not restart"
                );
                check_eq!(
                    trap::count(index, vector::NMI) - before,
                    1,
                    "NMIs of CPU {index}"
                );
            }
        }
        Ok(())
    })
}
