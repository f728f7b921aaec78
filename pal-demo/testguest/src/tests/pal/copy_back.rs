//! A caller's buffer that is not there: at the call, or when the PAL has returned. The
//! caller gets the #PF that it would have got by touching the buffer, and when it comes
//! back to where that was, the call is complete.

use super::code;
use super::image::{Pal, read, write};
use super::program::{Program, call_on, finished, others, result};
use super::space::{FRAMES, PRESENT, USER, WINDOW};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::trap::{Frame, Trap, vector};
use crate::{check, check_eq, cpu, tests};

/// Buffers that are not there.
pub const TESTS: &[Test] = tests![
    a_buffer_that_is_absent_at_the_call,
    a_buffer_that_goes_during_the_call,
    a_call_that_never_comes_back_for_its_result,
];

/// The buffer's page in the window.
const PAGE: u64 = 200;
const BUFFER: u64 = WINDOW + PAGE * 4096;
const FRAME: u64 = FRAMES + PAGE * 4096;

/// Error code: the page was there.
const PRESENT_ERROR: u64 = 1;
/// Error code: it was to be written.
const WRITE_ERROR: u64 = 2;
/// Error code: at CPL 3.
const USER_ERROR: u64 = 4;

/// What the entry of a page that cannot be written has, and the error code of a write.
const ABSENT: (u64, u64) = (0, USER_ERROR | WRITE_ERROR);
/// See [`ABSENT`].
const READ_ONLY: (u64, u64) = (PRESENT | USER, PRESENT_ERROR | USER_ERROR | WRITE_ERROR);

/// Rounds of the PAL that runs while the page goes; and after how many ticks it goes.
const ROUNDS: u64 = 150_000;
const AFTER: u64 = 60_000;

fn check_fault(trap: &Trap, pal: &Pal, error: u64) -> Outcome {
    check_eq!(trap.vector(), vector::PF, "{trap}: vector");
    check_eq!(trap.cr2, BUFFER, "CR2");
    check_eq!(trap.frame.rip, pal.entry(), "RIP");
    check_eq!(trap.frame.error, error, "error code");
    Ok(())
}

fn a_buffer_that_is_absent_at_the_call(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    let pal = Pal::new(4, code::add);
    program.give(&pal)?;
    for (flags, error) in [ABSENT, READ_ONLY] {
        write(FRAME, 9);
        program.space.map(PAGE, FRAME, flags);
        let trap = program.call(&pal, &[4, BUFFER]);
        program.space.restore(PAGE);
        check_fault(&trap, &pal, error)?;
        check_eq!(read(FRAME), 9, "the buffer, before the call");
        check_eq!(result(&program.resume(&trap.frame))?, 13, "the answer");
        check_eq!(read(FRAME), 10, "the buffer");
    }
    program.take_back(&pal)
}

/// Has CPU 1 call a PAL, changes the page's entry meanwhile, and gives the fault that
/// CPU 1 then gets.
fn call_and_change(program: &Program, pal: &Pal, flags: u64) -> Result<Trap, Failure> {
    for word in 0..4 {
        write(FRAME + 8 * word, 0);
    }
    call_on(1, program, pal, &[ROUNDS, BUFFER]);
    cpu::wait_until(AFTER, || false);
    program.space.map(PAGE, FRAME, flags);
    finished(1)
}

fn a_buffer_that_goes_during_the_call(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::spin);
    program.give(&pal)?;
    for (flags, error) in [ABSENT, READ_ONLY] {
        let trap = call_and_change(&program, &pal, flags)?;
        check_fault(&trap, &pal, error)?;
        check_eq!(read(FRAME), 0, "the buffer, before the page is back");
        let again = program.resume(&trap.frame);
        check_fault(&again, &pal, error)?;
        let stack = read(trap.frame.rsp);
        program.space.restore(PAGE);
        check_eq!(result(&program.resume(&again.frame))?, ROUNDS, "the answer");
        check_eq!(read(FRAME + 16), ROUNDS, "the buffer");
        check!(read(FRAME) < read(FRAME + 8), "the times");
        check_eq!(read(trap.frame.rsp), stack, "the caller's stack");
    }
    check_eq!(program.called(&pal, &[1, BUFFER])?, 1, "the next call");
    program.take_back(&pal)
}

fn a_call_that_never_comes_back_for_its_result(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    let pal = Pal::new(4, code::spin);
    program.give(&pal)?;
    let (flags, error) = ABSENT;
    let trap = call_and_change(&program, &pal, flags)?;
    check_fault(&trap, &pal, error)?;
    program.space.restore(PAGE);
    // UNREG of a PAL that has something to give back: its result is lost.
    program.take_back(&pal)?;
    let gone = program.resume(&Frame {
        rip: pal.entry(),
        ..trap.frame
    });
    // Its code, in the program's own hands, runs now: it returns to where it was called.
    check_eq!(
        result(&gone)?,
        ROUNDS,
        "the same code, as the program's own"
    );
    Ok(())
}
