//! As many PALs at once as there is room for, and the ends of that room.

use stillpoint_abi::pal::{Section, SectionType};

use super::code;
use super::image::{INTEGER_AND_POINTER, Pal, Part, read, write};
use super::program::Program;
use super::space::{ALL, WINDOW};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::{check, check_eq, println, tests};

/// Many PALs.
pub const TESTS: &[Test] = tests![sixty_four_pals_at_once, the_hypervisors_frames_run_out,];

/// How many PALs there can be.
const PALS: u64 = 64;

/// The n-th PAL.
const fn pal(n: u64) -> Pal {
    Pal::new(4 * n, code::fill)
}

fn sixty_four_pals_at_once(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    for n in 0..PALS {
        let pal = pal(n);
        pal.fill();
        write(pal.frame(Part::Data), 1000 + n);
        check_eq!(program.register(&pal)?, 0, "REG of PAL {n}");
    }
    let one_more = pal(PALS);
    one_more.fill();
    check_eq!(program.register(&one_more)?, 1, "REG of one more");
    one_more.check_untouched()?;
    let mut words = [0_u64; 4];
    let pointer = words.as_mut_ptr() as u64;
    for round in 0..2 {
        for n in 0..PALS {
            let answer = program.called(&pal(n), &[2000 + n, pointer])?;
            check_eq!(answer, 1000 * (round + 1) + n, "PAL {n}, call {round}");
        }
    }
    // Out of order; the place of one is there for another.
    program.take_back(&pal(7))?;
    check_eq!(
        program.register(&one_more)?,
        0,
        "REG in a place that is free"
    );
    program.take_back(&one_more)?;
    for n in (0..PALS).filter(|&n| n != 7).rev() {
        program.take_back(&pal(n))?;
    }
    Ok(())
}

/// Pages of data of a PAL that is as scattered as can be: each needs a table of its own
/// in what the PAL sees of memory.
const SCATTERED: u64 = 70;

/// The first of them, and how far they are apart: as much as such a table covers.
const FIRST: u64 = 0x0600_0000;
const APART: u64 = 2 << 20;

/// The n-th scattered PAL, its data scattered over free memory.
fn scattered(program: &Program, n: u64) -> (Pal, [Section; 4]) {
    let pal = Pal::new(4 * n, code::fill);
    let data = 256 + n * SCATTERED;
    for page in 0..SCATTERED {
        let frame = FIRST + page * APART + n * 4096;
        program.space.map(data + page, frame, ALL);
        write(frame, frame);
    }
    let sections = pal.sections().map(|section| match section.kind {
        SectionType::Data => Section {
            start: WINDOW + data * 4096,
            pages: SCATTERED as u32,
            ..section
        },
        _ => section,
    });
    (pal, sections)
}

/// Registers scattered PALs until one is refused; takes all back. How many there were.
fn scatter(program: &Program) -> Result<u64, Failure> {
    let mut count = 0;
    let refused = loop {
        let (pal, sections) = scattered(program, count);
        pal.fill();
        let answer = program.register_sections(&sections, INTEGER_AND_POINTER, pal.entry())?;
        if answer != 0 {
            check_eq!(answer, 1, "REG without frames");
            break pal;
        }
        check_eq!(read(FIRST + count * 4096), u64::MAX, "a lent page");
        count += 1;
        check!(count < 24, "there is no end of frames");
    };
    refused.check_untouched()?;
    for page in 0..SCATTERED {
        let frame = FIRST + page * APART + count * 4096;
        check_eq!(
            read(frame),
            frame,
            "page {page} of the PAL that was refused"
        );
        write(frame, 0);
        check_eq!(read(frame), 0, "it is the guest's still");
    }
    for n in 0..count {
        let pal = Pal::new(4 * n, code::fill);
        check_eq!(program.unregister(&pal)?, 0, "UNREG of PAL {n}");
        for page in 0..SCATTERED {
            let frame = FIRST + page * APART + n * 4096;
            check_eq!(read(frame), 0, "page {page} of PAL {n}");
        }
    }
    Ok(count)
}

fn the_hypervisors_frames_run_out(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    let first = scatter(&program)?;
    println!(
        "{first} PALs of {} pages each, no two near each other",
        SCATTERED + 3
    );
    check!(first > 4, "only {first} PALs");
    for round in 0..2 {
        check_eq!(scatter(&program)?, first, "as many again, {round}");
    }
    sixty_four_pals_at_once(context)
}
