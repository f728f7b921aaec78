//! What is left of PALs in memory when the machine is reset: nothing. One that is idle
//! and one that runs on CPU 1 have a secret when the reset comes; the second boot looks
//! where they were, and at a page beside them that nobody wiped.

use super::code;
use super::image::{Pal, read, write};
use super::program::{Program, call_on, others};
use super::space::FRAMES;
use crate::apic::{self, Destination, Message};
use crate::harness::{self, Context, Outcome, Test};
use crate::tests::reset::{boot, is_second_boot};
use crate::{check, check_eq, cpu, power, smp, tests};

const TESTS: &[Test] = tests![memory_outlives_the_reset, nothing_is_left_of_pals];

const IDLE: Pal = Pal::new(4, code::fill);
const RUNNING: Pal = Pal::new(8, code::for_ever);

/// What they have.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// A page that is no PAL's.
const BESIDE: u64 = FRAMES + 12 * 4096;

fn memory_outlives_the_reset(_: &Context) -> Outcome {
    for word in 0..512 {
        check_eq!(read(BESIDE + 8 * word), SECRET, "word {word} beside");
    }
    Ok(())
}

fn nothing_is_left_of_pals(_: &Context) -> Outcome {
    IDLE.check_given_back()?;
    RUNNING.check_given_back()
}

/// Makes the two PALs, and has them get the secret.
fn prepare(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    for word in 0..512 {
        write(BESIDE + 8 * word, SECRET);
    }
    program.give(&IDLE)?;
    let mut words = [0_u64; 4];
    let arguments = [SECRET, words.as_mut_ptr() as u64];
    program.called(&IDLE, &arguments)?;
    check_eq!(program.called(&IDLE, &arguments)?, SECRET, "what it has");
    program.give(&RUNNING)?;
    call_on(1, &program, &RUNNING, &arguments);
    cpu::wait_until(60_000, || false);
    check!(!smp::is_done(1), "CPU 1 came back");
    check_eq!(program.unregister(&RUNNING)?, 1, "UNREG of a PAL that runs");
    Ok(())
}

fn reset(context: &Context, name: &'static str, reset: fn()) -> ! {
    if !is_second_boot()
        && let Err(failure) = prepare(context)
    {
        let why = match &failure {
            harness::Failure::Why(why) => why.as_str(),
            harness::Failure::NotApplicable => "there are no PALs on this machine",
        };
        harness::abandon(format_args!("{name}: {why}"));
    }
    boot(context, name, reset, TESTS)
}

/// `suite=pal-reset-keyboard`.
pub fn by_keyboard(context: &Context) -> ! {
    reset(context, "pal_reset_by_keyboard", power::reset_by_keyboard)
}

/// `suite=pal-reset-chipset`.
pub fn by_chipset(context: &Context) -> ! {
    reset(context, "pal_reset_by_chipset", power::reset_by_chipset)
}

/// `suite=pal-reset-triple-fault`.
pub fn by_triple_fault(context: &Context) -> ! {
    reset(context, "pal_reset_by_triple_fault", power::triple_fault)
}

/// `suite=pal-reset-init`: INIT of the first CPU.
pub fn by_init(context: &Context) -> ! {
    reset(context, "pal_reset_by_init", || {
        apic::send(Destination::Cpu(0), Message::Init);
    })
}
