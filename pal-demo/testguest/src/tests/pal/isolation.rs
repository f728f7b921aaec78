//! What the rest of the guest can reach of a PAL: nothing, from ring 0 and from every
//! CPU, whatever it had in its TLB; and nobody but its program calls it.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::Hypercall;
use stillpoint_abi::pal::{Section, SectionType, Width, encode_parameters, encode_sections};

use super::code;
use super::image::{PARTS, Pal, Part, read, write};
use super::program::{Program, others};
use super::space::{ALL, FRAMES, WINDOW};
use crate::descriptors::Shared;
use crate::harness::{Context, Failure, Outcome, Test};
use crate::modes::{self, BiosRegisters, Level};
use crate::tests::expect_gp;
use crate::trap::{Frame, Trap, catch};
use crate::{check, check_eq, cpu, smp, tests};

/// What the guest can reach.
pub const TESTS: &[Test] = tests![
    pages_are_closed_to_ring_0,
    pages_are_closed_to_other_cpus,
    no_translation_outlives_registration,
    only_the_program_itself_calls,
    a_return_to_no_address_is_refused,
    shared_code_is_written_by_no_copy,
    a_pal_without_its_page_is_gone,
    a_place_left_behind_is_free,
    no_bios_service_writes_a_lent_page,
    string_input_writes_no_lent_page,
    no_walk_goes_through_a_lent_page,
    page_tables_come_back_from_a_refused_pal,
];

/// The PAL of these tests, which other CPUs know too.
const PAL: Pal = Pal::new(4, code::add);

/// The usual program, which has given [`PAL`] its pages.
fn with_pal(context: &Context) -> Result<Program, Failure> {
    context.require_stillpoint()?;
    let program = Program::usual();
    program.give(&PAL)?;
    Ok(program)
}

/// Calls [`PAL`], which must answer.
fn check_answer(program: &Program, what: &str) -> Outcome {
    let mut words = [5, 0, 0, 0];
    let answer = program.called(&PAL, &[2, words.as_mut_ptr() as u64])?;
    check_eq!(answer, 7, "{what}");
    Ok(())
}

/// Calls an address in ring 0.
fn call(address: u64) -> Result<(), Trap> {
    catch(|| {
        // SAFETY: a page of a PAL, or of data in memory that is free. What is expected
        // is a fault.
        unsafe { core::arch::asm!("call {}", in(reg) address, clobber_abi("C")) }
    })
}

/// Reads find ones; writes and fetches fault.
fn check_closed(pal: &Pal) -> Outcome {
    for part in PARTS {
        let address = pal.frame(part);
        for offset in [0, 8, 4088] {
            check_eq!(read(address + offset), u64::MAX, "{part:?} + {offset}");
        }
        expect_gp(
            format_args!("a write to {part:?}"),
            catch(|| write(address, 0)),
        )?;
        expect_gp(format_args!("a fetch from {part:?}"), call(address))?;
        check_eq!(read(address), u64::MAX, "{part:?} after that");
    }
    Ok(())
}

/// The pages are the guest's: what is written is there.
fn check_open(pal: &Pal) -> Outcome {
    for part in PARTS {
        let address = pal.frame(part);
        write(address + 64, address);
        check_eq!(read(address + 64), address, "{part:?}");
    }
    // RET.
    write(pal.frame(Part::Data), 0xc3);
    if let Err(trap) = call(pal.frame(Part::Data)) {
        crate::fail!("a fetch afterwards: {trap}");
    }
    Ok(())
}

fn pages_are_closed_to_ring_0(context: &Context) -> Outcome {
    let program = with_pal(context)?;
    check_closed(&PAL)?;
    check_answer(&program, "a call after that")?;
    check_closed(&PAL)?;
    program.take_back(&PAL)?;
    check_open(&PAL)
}

static OUTCOME: Shared<Option<Outcome>> = Shared::new(None);

/// What another CPU has found.
fn report(outcome: Outcome) {
    // SAFETY: CPU 0 waits until this CPU is done.
    unsafe { OUTCOME.get().write(Some(outcome)) };
}

/// Has another CPU check something, and [`report`] it.
fn check_on(cpu: usize, job: smp::Job) -> Outcome {
    smp::give(cpu, job);
    check!(smp::done(cpu), "CPU {cpu} does not finish");
    // SAFETY: the CPU is done.
    match unsafe { (*OUTCOME.get()).take() } {
        Some(outcome) => outcome,
        None => crate::fail!("CPU {cpu} checked nothing"),
    }
}

fn pages_are_closed_to_other_cpus(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    program.give(&PAL)?;
    for cpu in 1..context.config.cpus {
        check_on(cpu, |_| report(check_closed(&PAL)))?;
    }
    program.take_back(&PAL)?;
    for cpu in 1..context.config.cpus {
        check_on(cpu, |_| report(check_open(&PAL)))?;
    }
    Ok(())
}

/// What another CPU has read last, and how often it has.
static SEEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static STOP: AtomicU64 = AtomicU64::new(0);

/// Reads a word of PAL's data again and again, and nothing that would drop its
/// translation.
fn keep_reading(_: usize) {
    let address = PAL.frame(Part::Data);
    while STOP.load(Relaxed) == 0 {
        SEEN[0].store(read(address), Relaxed);
        SEEN[1].fetch_add(1, Relaxed);
    }
}

/// What the other CPU reads from now on.
fn seen_now() -> Option<u64> {
    let before = SEEN[1].load(Relaxed);
    let again = || SEEN[1].load(Relaxed) > before + 2;
    cpu::wait_until(smp::PATIENCE, again).then(|| SEEN[0].load(Relaxed))
}

fn no_translation_outlives_registration(context: &Context) -> Outcome {
    others(context, 1)?;
    let program = Program::usual();
    PAL.fill();
    let contents = PAL.word(Part::Data, 0);
    STOP.store(0, Relaxed);
    smp::give(1, keep_reading);
    let outcome = (|| {
        for round in 0..5 {
            PAL.fill();
            check_eq!(seen_now().unwrap_or(0), contents, "{round}: before REG");
            check_eq!(program.register(&PAL)?, 0, "REG");
            check_eq!(seen_now().unwrap_or(0), u64::MAX, "{round}: after REG");
            check_eq!(program.unregister(&PAL)?, 0, "UNREG");
            check_eq!(seen_now().unwrap_or(1), 0, "{round}: after UNREG");
        }
        Ok(())
    })();
    STOP.store(1, Relaxed);
    check!(smp::done(1), "CPU 1 does not finish");
    outcome
}

fn only_the_program_itself_calls(context: &Context) -> Outcome {
    let program = with_pal(context)?;
    let mut words = [5, 0, 0, 0];
    let arguments = [2, words.as_mut_ptr() as u64];
    let entry = PAL.entry();

    let from_ring_0 = program.space.with(|| call(entry));
    expect_gp("a call from ring 0", from_ring_0)?;

    let before = program.before_call(0, &PAL, &arguments);
    let at_cpl_3 = |program: &Program, frame| Err::<(), _>(program.resume(&frame));
    let beside = Frame {
        rax: entry + 3,
        ..before
    };
    expect_gp("a call beside the entry", at_cpl_3(&program, beside))?;
    let narrow = Program {
        width: Width::Bits32,
        ..program
    };
    expect_gp("a call from 32-bit code", at_cpl_3(&narrow, before))?;

    // The page as another program has it, at the same address or at its own.
    let (cs, ss) = Level::User64.selectors();
    let elsewhere = Frame {
        rax: PAL.frame(Part::Code),
        cs: cs.into(),
        ss: ss.into(),
        ..before
    };
    let stranger = Err::<(), _>(modes::resume(&elsewhere));
    expect_gp("a call from another program", stranger)?;

    // The page of another PAL at the entry, as a program could have it that has got the
    // page tables of one that is gone.
    let other = Pal::new(8, code::add);
    program.give(&other)?;
    program.space.map(PAL.page, other.frame(Part::Code), ALL);
    let another_page = at_cpl_3(&program, before);
    program.space.restore(PAL.page);
    expect_gp("a call of another PAL's page", another_page)?;
    program.take_back(&other)?;

    check_answer(&program, "a call by the program itself")?;
    program.take_back(&PAL)
}

fn a_return_to_no_address_is_refused(context: &Context) -> Outcome {
    let program = with_pal(context)?;
    let mut words = [5, 0, 0, 0];
    let before = program.before_call(0, &PAL, &[2, words.as_mut_ptr() as u64]);
    // A jump to the entry, with a word on the stack that is no address of 64-bit code.
    let rsp = before.rsp - 8;
    write(rsp, 0x1234 << 48);
    let jump = Frame {
        rip: PAL.entry(),
        rsp,
        ..before
    };
    expect_gp("such a call", Err::<(), _>(program.resume(&jump)))?;
    check_eq!(words[0], 5, "the buffer");
    check_answer(&program, "the next call")?;
    program.take_back(&PAL)
}

fn shared_code_is_written_by_no_copy(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    const PAGE: u64 = 201;
    let (page, frame) = (WINDOW + PAGE * 4096, FRAMES + PAGE * 4096);
    write(frame, 0x600d);
    let program = Program::usual();
    let other = Pal::new(8, code::add);
    let shared = Section {
        kind: SectionType::SharedCode,
        pages: 1,
        start: page,
    };
    let [code, data, stack, param] = PAL.sections();
    PAL.fill();
    let sections = [code, data, stack, param, shared];
    let registered = program.register_sections(&sections, PAL.parameters, PAL.entry())?;
    check_eq!(registered, 0, "REG with shared code");
    program.give(&other)?;
    check_eq!(read(frame), 0x600d, "shared code, as the guest reads it");
    // What another PAL gives back would go there.
    let trap = program.call(&other, &[2, page]);
    expect_gp("a pointer to shared code", Err::<(), _>(trap))?;
    check_eq!(read(frame), 0x600d, "shared code after that");
    program.take_back(&other)?;
    program.take_back(&PAL)?;
    write(frame, 0);
    check_eq!(read(frame), 0, "the page, the guest's own again");
    Ok(())
}

fn a_pal_without_its_page_is_gone(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    for part in [Part::Data, Part::Stack, Part::Param] {
        program.give(&PAL)?;
        let page = PAL.page + part as u64;
        let word = PAL.frame(part) + 16;
        program.space.map(page, 0, 0);
        let written = catch(|| write(word, 0x600d));
        program.space.restore(page);
        if let Err(trap) = written {
            crate::fail!("{part:?}: {trap}");
        }
        check_eq!(read(word), 0x600d, "{part:?}: what was written");
        write(word, 0);
        PAL.check_given_back()?;
        check_eq!(program.unregister(&PAL)?, 1, "UNREG");
    }
    Ok(())
}

fn a_place_left_behind_is_free(context: &Context) -> Outcome {
    const ANOTHER: u64 = 202;
    let program = with_pal(context)?;
    // A program that has got the page tables of one that is gone, with a page of its own.
    let data = PAL.page + Part::Data as u64;
    program.space.map(data, FRAMES + ANOTHER * 4096, ALL);
    let registered = program.register(&PAL)?;
    let unregistered = program.unregister(&PAL)?;
    program.space.restore(data);
    check_eq!(registered, 0, "REG at the entry of a PAL that was left");
    check_eq!(unregistered, 0, "UNREG");
    PAL.check_given_back()
}

/// Gives a PAL whose data begin with 600Dh its pages, has `disturb` done, and checks that
/// the PAL finds its data as they were.
fn with_data(program: &Program, data: u64, disturb: impl FnOnce() -> Outcome) -> Outcome {
    let pal = Pal::new(4, code::fill);
    pal.fill();
    write(data, 0x600d);
    check_eq!(program.register(&pal)?, 0, "REG");
    let disturbed = disturb();
    let mut words = [0_u64; 4];
    let answer = program.called(&pal, &[1, words.as_mut_ptr() as u64])?;
    check_eq!(program.unregister(&pal)?, 0, "UNREG");
    check_eq!(answer, 0x600d, "what the PAL finds");
    disturbed
}

fn no_bios_service_writes_a_lent_page(context: &Context) -> Outcome {
    // Conventional memory that nothing has a use for.
    const PAGE: u64 = 0x9_0000;
    const SMAP: u32 = 0x534d_4150;
    context.require_stillpoint()?;
    let program = Program::usual();
    let data = PAL.page + Part::Data as u64;
    program.space.map(data, PAGE, ALL);
    let outcome = with_data(&program, PAGE, || {
        let registers = BiosRegisters {
            eax: 0xe820,
            ecx: 20,
            edx: SMAP,
            es: (PAGE >> 4) as u16,
            ..BiosRegisters::default()
        };
        let answer = modes::bios(0x15, registers);
        check!(answer.carry(), "E820 into a lent page succeeds");
        Ok(())
    });
    program.space.restore(data);
    outcome
}

fn string_input_writes_no_lent_page(context: &Context) -> Outcome {
    // COM2's last register. If COM2 is the debugger's, Stillpoint makes the access.
    const PORT: u16 = 0x2ff;
    context.require_stillpoint()?;
    let program = Program::usual();
    let data = PAL.frame(Part::Data);
    with_data(&program, data, || {
        let input = catch(|| {
            // SAFETY: writes a byte of the PAL's, or faults.
            unsafe { asm!("insb", inout("rdi") data => _, in("dx") PORT) };
        });
        expect_gp("INSB to a lent page", input)
    })
}

/// Writes bytes to free memory.
fn put(address: u64, bytes: &[u8]) {
    for (at, word) in (address..).step_by(8).zip(bytes.as_chunks().0) {
        write(at, u64::from_le_bytes(*word));
    }
}

fn no_walk_goes_through_a_lent_page(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    // REG's structures lie in a page whose table can be lent, by another page of the window.
    let (page, shown) = (1024, 600);
    let table = program.space.table_of(page);
    program.space.map(shown, table, ALL);
    let structures = encode_sections(&PAL.sections()).zip(encode_parameters(PAL.parameters));
    let Some((sections, parameters)) = structures else {
        crate::fail!("too many sections or parameters");
    };
    let (there, beside) = (page * 4096, page * 4096 + 2048);
    put(FRAMES + there, &sections);
    put(FRAMES + beside, &parameters);
    let arguments = [WINDOW + there, 0, WINDOW + beside, PAL.entry()];
    let register = || program.hypercall(Hypercall::Register, arguments);

    PAL.fill();
    check_eq!(register()?, 0, "REG");
    program.take_back(&PAL)?;
    let other = Pal::new(12, code::add);
    other.fill();
    let [code, data, stack, param] = other.sections();
    let data = Section {
        start: WINDOW + shown * 4096,
        ..data
    };
    let lent =
        program.register_sections(&[code, data, stack, param], other.parameters, other.entry())?;
    check_eq!(lent, 0, "REG with a page table as data");
    PAL.fill();
    check_eq!(register()?, 1, "REG by way of the lent table");
    PAL.check_untouched()?;
    check_eq!(program.unregister(&other)?, 0, "UNREG");
    Ok(())
}

/// A program lends the page table that its PAL's pages are found by, and a page that is
/// lent already. It is refused, and has all its pages again.
fn page_tables_come_back_from_a_refused_pal(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let program = Program::usual();
    let other = Pal::new(12, code::add);
    program.give(&other)?;
    PAL.fill();
    // A page of the window that another table has, to show the table.
    let (shown, table) = (600, program.space.table_of(PAL.page));
    program.space.map(shown, table, ALL);
    let [code, data, stack, _] = PAL.sections();
    let [.., lent] = other.sections();
    let data = Section {
        start: WINDOW + shown * 4096,
        ..data
    };
    let sections = [code, data, stack, lent];
    let answer = program.register_sections(&sections, PAL.parameters, PAL.entry())?;
    check_eq!(answer, 1, "REG with a page of another PAL's");
    PAL.check_untouched()?;
    let entry = read(table + 8 * PAL.page);
    check_eq!(entry & !0xfff, PAL.frame(Part::Code), "the table's entry");
    check_open(&PAL)?;
    program.take_back(&other)?;
    program.give(&PAL)?;
    program.take_back(&PAL)
}
