//! NMIs, stops of the machine and other CPUs' calls while a PAL runs. It is not
//! disturbed, and nothing is lost.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::{HypercallResult, TestHook};

use super::code;
use super::image::{Pal, Part};
use super::program::{Program, after_call, call_on, finished, others, result};
use super::space::{PAGES, WINDOW};
use crate::apic::{self, Destination, Message};
use crate::boot::MAX_CPUS;
use crate::descriptors::USER_RETURN_VECTOR;
use crate::harness::{Context, Outcome, Test};
use crate::tests::expect_ok;
use crate::tests::hypercall::vmcall;
use crate::trap::{self, Frame, vector, with_handler};
use crate::{check, check_eq, cpu, smp, tests};

/// PALs, NMIs and stops.
pub const TESTS: &[Test] = tests![
    an_nmi_waits_for_the_return,
    an_nmi_to_oneself_before_the_call,
    nmis_amid_calls_are_exact,
    a_second_caller_waits_and_takes_nmis,
    a_pal_that_loops_delays_no_stop,
];

/// Rounds of a PAL that runs while something else happens: two ticks each.
const ROUNDS: u64 = 150_000;

/// Ticks after which it runs, and long before it ends.
const AFTER: u64 = 60_000;

/// Where each CPU's last NMI came, and when.
static WHERE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static WHEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn note(frame: &mut Frame) {
    let cpu = apic::id();
    WHERE[cpu].store(frame.rip, Relaxed);
    WHEN[cpu].store(cpu::rdtsc(), Relaxed);
}

fn count(cpu: usize) -> u64 {
    trap::count(cpu, vector::NMI)
}

/// What [`code::spin`] leaves: when it began and ended.
#[derive(Default)]
struct Times([u64; 4]);

impl Times {
    fn address(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64
    }

    fn get(&self) -> [u64; 2] {
        // SAFETY: written by the hypervisor meanwhile.
        let [start, end, ..] = unsafe { (&raw const self.0).read_volatile() };
        [start, end]
    }
}

fn an_nmi_waits_for_the_return(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::spin);
    program.give(&pal)?;
    with_handler(vector::NMI, note, || {
        for round in 0..5 {
            let mut times = Times::default();
            let before = count(1);
            call_on(1, &program, &pal, &[ROUNDS, times.address()]);
            cpu::wait_until(AFTER + 777 * round, || false);
            let sent = cpu::rdtsc();
            apic::send(Destination::Cpu(1), Message::Nmi);
            check_eq!(result(&finished(1)?)?, ROUNDS, "the answer");
            let [start, end] = times.get();
            check!(start < sent && sent < end, "{start} < {sent} < {end}");
            check_eq!(count(1) - before, 1, "NMIs in round {round}");
            check!(WHEN[1].load(Relaxed) > end, "the NMI came into the PAL");
            check_eq!(WHERE[1].load(Relaxed), after_call(), "where it came");
        }
        Ok(())
    })?;
    program.take_back(&pal)
}

/// Gives the local APIC at RDX the command RCX for CPU 0, and calls RAX.
#[unsafe(naked)]
unsafe extern "C" fn command_and_call() {
    naked_asm!(
        "mov dword ptr [rdx + 0x310], 0",
        "mov [rdx + 0x300], ecx",
        "call rax",
        "int {vector}",
        vector = const USER_RETURN_VECTOR,
    )
}

fn an_nmi_to_oneself_before_the_call(context: &Context) -> Outcome {
    const APIC: u64 = 0xfee0_0000;
    const NMI: u64 = 1 << 14 | 4 << 8;
    context.require_stillpoint()?;
    let program = Program::usual();
    // Its parameters are left out: the registers are the test's.
    let pal = Pal {
        parameters: &[],
        ..Pal::new(4, code::nothing)
    };
    program.give(&pal)?;
    with_handler(vector::NMI, note, || {
        for round in 0..50 {
            let before = count(0);
            let registers = Frame {
                rax: pal.entry(),
                rcx: NMI,
                rdx: APIC,
                ..Frame::default()
            };
            let trap = program.run(command_and_call, &registers);
            check_eq!(result(&trap)?, 42, "the answer");
            cpu::wait_until(AFTER / 10, || count(0) != before);
            check_eq!(count(0) - before, 1, "NMIs in round {round}");
            let rip = WHERE[0].load(Relaxed);
            let window = WINDOW..WINDOW + PAGES * 4096;
            check!(
                rip == pal.entry() || !window.contains(&rip),
                "the NMI came into the PAL, at {rip:#x}"
            );
        }
        Ok(())
    })?;
    program.take_back(&pal)
}

/// NMIs that CPU 1 sends to CPU 0.
const NMIS: u64 = 300;
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Sends NMIs to CPU 0, the next when one has been handled.
fn send_acknowledged(_: usize) {
    let before = count(0);
    for n in 1..=NMIS {
        apic::send(Destination::Cpu(0), Message::Nmi);
        if !cpu::wait_until(smp::PATIENCE / 10, || count(0) - before >= n) {
            MISSED.store(n, Relaxed);
            return;
        }
        // Not always at the same place of a call.
        cpu::wait_until(97 * (n % 64), || false);
    }
}

fn nmis_amid_calls_are_exact(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::add);
    program.give(&pal)?;
    let before = count(0);
    MISSED.store(0, Relaxed);
    let mut calls = 0;
    with_handler(vector::NMI, note, || {
        smp::give(1, send_acknowledged);
        let mut words = [0_u64; 4];
        let pointer = words.as_mut_ptr() as u64;
        while !smp::is_done(1) {
            let answer = program.called(&pal, &[1, pointer])?;
            check_eq!(answer, calls + 1, "answer {calls}");
            calls += 1;
        }
        Ok(())
    })?;
    check_eq!(MISSED.load(Relaxed), 0, "the NMI that never came");
    check_eq!(count(0) - before, NMIS, "NMIs in {calls} calls");
    program.take_back(&pal)
}

fn a_second_caller_waits_and_takes_nmis(context: &Context) -> Outcome {
    others(context, 2)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::spin);
    program.give(&pal)?;
    let (mut first, mut second) = (Times::default(), Times::default());
    with_handler(vector::NMI, note, || {
        call_on(1, &program, &pal, &[2 * ROUNDS, first.address()]);
        cpu::wait_until(AFTER, || false);
        call_on(2, &program, &pal, &[10, second.address()]);
        cpu::wait_until(AFTER, || false);
        for n in 0..5 {
            let before = count(2);
            apic::send(Destination::Cpu(2), Message::Nmi);
            let came = cpu::wait_until(AFTER / 4, || count(2) != before);
            check!(came, "NMI {n} does not come to the CPU that waits");
            check_eq!(WHERE[2].load(Relaxed), pal.entry(), "where it came");
        }
        let sent = cpu::rdtsc();
        check_eq!(result(&finished(1)?)?, 2 * ROUNDS, "the first answer");
        check_eq!(result(&finished(2)?)?, 10, "the second answer");
        let ([start, end], [next, _]) = (first.get(), second.get());
        check!(start < sent && sent < end, "{start} < {sent} < {end}");
        check!(end < next, "both were in the PAL: {end}, {next}");
        Ok(())
    })?;
    program.take_back(&pal)
}

fn a_pal_that_loops_delays_no_stop(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::for_ever);
    program.give(&pal)?;
    let mut words = [0_u64; 4];
    call_on(1, &program, &pal, &[1, words.as_mut_ptr() as u64]);
    cpu::wait_until(AFTER, || false);
    let quiesce = u64::from(TestHook::QuiesceRound.command());
    for round in 0..20 {
        let answer = expect_ok("a stop", vmcall(quiesce, 0))?;
        check_eq!(answer, HypercallResult::Success.code(), "stop {round}");
    }
    check!(!smp::is_done(1), "CPU 1 came back");
    check_eq!(program.unregister(&pal)?, 1, "UNREG of a PAL that runs");
    check_eq!(pal.word(Part::Data, 0), u64::MAX, "its data");
    // INIT ends it, with the call and all.
    check!(smp::start(1), "CPU 1 does not start again");
    pal.check_given_back()?;
    check_eq!(
        program.unregister(&pal)?,
        1,
        "UNREG of a PAL that has ended"
    );
    Ok(())
}
