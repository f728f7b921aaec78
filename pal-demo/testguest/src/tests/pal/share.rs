//! SHARE: pages that a program lends for one call, and gets back as the PAL left them.

use stillpoint_abi::Hypercall;

use super::code;
use super::image::{Pal, Part, read, write};
use super::program::Program;
use super::space::{FRAMES, WINDOW};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::tests::{expect_gp, expect_ok};
use crate::trap::catch;
use crate::{check_eq, tests};

/// SHARE.
pub const TESTS: &[Test] = tests![shared_pages_are_lent_for_one_call, wrong_shares_are_refused,];

/// Pages of the window that are shared.
const PAGE: u64 = 100;
const SHARED: u64 = WINDOW + PAGE * 4096;
const FRAME: u64 = FRAMES + PAGE * 4096;

/// SHARE of ranges at these addresses.
fn share(program: &Program, pal: &Pal, addresses: &[u64], bytes: &[u64]) -> Result<u64, Failure> {
    let [first, second] = [addresses.as_ptr(), bytes.as_ptr()];
    let count = addresses.len() as u64;
    let arguments = [pal.entry(), first as u64, second as u64, count];
    program.hypercall(Hypercall::Share, arguments)
}

fn shared_pages_are_lent_for_one_call(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    let pal = Pal::new(4, code::store);
    program.give(&pal)?;
    for round in 0..3 {
        // The second page of a range of two; and another one.
        for target in [SHARED + 4096, SHARED + 4 * 4096 + 40] {
            let frame = target - SHARED + FRAME;
            write(frame, 77 + round);
            write(FRAME, 11);
            let ranges = [SHARED, SHARED + 4 * 4096];
            check_eq!(share(&program, &pal, &ranges, &[8192, 4096])?, 0, "SHARE");
            for page in [0, 1, 4] {
                let address = FRAME + page * 4096;
                check_eq!(read(address), u64::MAX, "page {page}, while it is lent");
                let written = catch(|| write(address, 1));
                expect_gp(format_args!("a write to page {page}"), written)?;
            }
            let mut words = [target, 0, 0, 0];
            let answer = program.called(&pal, &[round, words.as_mut_ptr() as u64])?;
            check_eq!(answer, 77 + round, "what was there before");
            check_eq!(read(frame), round + 1, "what the PAL wrote");
            check_eq!(read(FRAME), 11, "a page that it did not write");
            expect_ok("a write", catch(|| write(frame, 0)))?;
        }
    }
    // Without SHARE it is not the PAL's.
    let mut words = [SHARED, 0, 0, 0];
    let trap = program.call(&pal, &[5, words.as_mut_ptr() as u64]);
    check_eq!(trap.frame.rip, pal.entry(), "RIP");
    expect_gp("a call without SHARE", Err::<(), _>(trap))?;
    check_eq!(read(FRAME), 11, "the page");
    pal.check_given_back()?;
    check_eq!(program.unregister(&pal)?, 1, "UNREG");

    // What is shared when a PAL ends goes too, but nothing of it stays with it.
    program.give(&pal)?;
    check_eq!(share(&program, &pal, &[SHARED], &[4096])?, 0, "SHARE");
    program.take_back(&pal)?;
    expect_ok("a write after UNREG", catch(|| write(FRAME, 3)))?;
    check_eq!(read(FRAME), 3, "the page after UNREG");
    Ok(())
}

fn wrong_shares_are_refused(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    let pal = Pal::new(4, code::store);
    let other = Pal::new(8, code::add);
    program.give(&pal)?;
    program.give(&other)?;
    let nowhere = 6 << 39;
    let ones = [SHARED; 7];
    let refused: [(&str, &[u64], &[u64]); 11] = [
        ("half a page", &[SHARED], &[2048]),
        ("no whole pages", &[SHARED], &[4097]),
        ("nothing", &[SHARED], &[0]),
        ("an address in a page", &[SHARED + 8], &[4096]),
        ("page 0", &[0], &[4096]),
        ("no memory", &[nowhere], &[4096]),
        ("memory that ends", &[SHARED, nowhere], &[4096, 4096]),
        ("the PAL's own", &[pal.entry() + 4096], &[4096]),
        ("another PAL's", &[other.entry() + 4096], &[4096]),
        ("the same twice", &[SHARED, SHARED], &[4096, 4096]),
        ("too many", &ones, &[4096; 7]),
    ];
    write(FRAME, 5);
    for (what, addresses, bytes) in refused {
        check_eq!(share(&program, &pal, addresses, bytes)?, 1, "{what}");
        check_eq!(read(FRAME), 5, "the page after {what}");
        expect_ok(what, catch(|| write(FRAME, 5)))?;
    }
    let nobody = Pal::new(12, code::add);
    check_eq!(share(&program, &nobody, &[SHARED], &[4096])?, 1, "no PAL");
    let arguments = [pal.entry(), nowhere, nowhere, 1];
    let answer = program.hypercall(Hypercall::Share, arguments)?;
    check_eq!(answer, 1, "arrays that are nowhere");
    check_eq!(pal.word(Part::Data, 0), u64::MAX, "its own page");
    // Both are as before.
    let mut words = [2, 0, 0, 0];
    let answer = program.called(&other, &[3, words.as_mut_ptr() as u64])?;
    check_eq!(answer, 5, "the other PAL");
    program.take_back(&other)?;
    program.take_back(&pal)
}
