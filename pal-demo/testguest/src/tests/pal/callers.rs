//! Callers of every kind: their calls have the right results, and UNREG leaves nothing.

use stillpoint_abi::detect::TRUSTVISOR_PRESENT;
use stillpoint_abi::pal::{Parameter, Width};

use super::code;
use super::image::{PARTS, Pal, integer, pointer};
use super::program::Program;
use super::space::{Kind, Space};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::modes;
use crate::{check_eq, cpu, tests};

/// Callers.
pub const TESTS: &[Test] = tests![
    callers_in_4_level_paging,
    callers_in_compatibility_mode,
    callers_in_32_bit_paging,
    callers_in_pae_paging,
    callers_in_5_level_paging,
];

/// CPUID.7:ECX.LA57
const LA57: u32 = 1 << 16;

const PARAMETERS: &[Parameter] = &[
    integer(),
    pointer(4),
    integer(),
    pointer(2),
    integer(),
    integer(),
    integer(),
    integer(),
];

/// Words of either width.
struct Words([u64; 4]);

impl Words {
    fn new(width: Width, values: [u64; 4]) -> Self {
        match width {
            Width::Bits64 => Self(values),
            Width::Bits32 => {
                let [a, b, c, d] = values;
                Self([a | b << 32, c | d << 32, 0, 0])
            }
        }
    }

    fn address(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64
    }

    /// As they are now.
    fn get(&self, width: Width) -> [u64; 4] {
        // SAFETY: written by the hypervisor meanwhile.
        let words = unsafe { (&raw const self.0).read_volatile() };
        match width {
            Width::Bits64 => words,
            Width::Bits32 => {
                let [low, high, ..] = words;
                [low & 0xffff_ffff, low >> 32, high & 0xffff_ffff, high >> 32]
            }
        }
    }
}

/// REG, calls, UNREG by such a program.
fn check_caller(space: Space, width: Width) -> Outcome {
    let program = Program { space, width };
    let (digits, detect): (unsafe extern "C" fn(), unsafe extern "C" fn()) = match width {
        Width::Bits64 => (code::digits, code::detect),
        Width::Bits32 => (code::digits32, code::detect32),
    };
    check_arguments(
        &program,
        &Pal {
            page: 8,
            code: digits,
            parameters: PARAMETERS,
        },
    )?;
    check_detection(&program, &Pal::new(16, detect))
}

fn check_arguments(program: &Program, pal: &Pal) -> Outcome {
    let width = program.width;
    program.give(pal)?;
    for part in PARTS {
        check_eq!(pal.word(part, 3), u64::MAX, "{part:?} while it is lent");
    }
    let mut first = Words::new(width, [2, 0x77, 0x88, 0x99]);
    let mut second = Words::new(width, [1, 0, 0x66, 0x55]);
    for round in 0..3 {
        let arguments = [1, first.address(), 0, second.address(), 2, 1, 0, round];
        let answer = program.called(pal, &arguments)?;
        let digits = [1, 2 + round, 0, 1, 2, 1, 0, round];
        let expected = digits.into_iter().fold(0, |value, digit| 3 * value + digit);
        check_eq!(answer, expected, "answer {round}");
        let [count, b, c, d] = first.get(width);
        check_eq!(count, 3 + round, "what the first pointer points to");
        check_eq!(b, 0x77, "the word behind it");
        check_eq!(c, 0x88, "the word behind that");
        check_eq!(d, 0x99, "the last word");
        let [one, copy, c, d] = second.get(width);
        check_eq!(one, 1, "what the second pointer points to");
        check_eq!(copy, expected, "the word behind it");
        check_eq!(c, 0x66, "a word that is not the PAL's");
        check_eq!(d, 0x55, "another one");
    }
    program.take_back(pal)?;
    check_eq!(program.unregister(pal)?, 1, "a second UNREG");
    Ok(())
}

/// What CPUID says in a PAL, and around it.
fn check_detection(program: &Program, pal: &Pal) -> Outcome {
    let width = program.width;
    program.give(pal)?;
    for _ in 0..2 {
        let mut words = Words::new(width, [0; 4]);
        program.called(pal, &[0, words.address()])?;
        let [eax, ebx, ecx, edx] = words.get(width);
        check_eq!(eax, u64::from(TRUSTVISOR_PRESENT), "EAX");
        check_eq!(ebx, 0, "EBX: the number of the only PAL");
        check_eq!(ecx & 1, u64::from(width == Width::Bits64), "ECX bit 0");
        check_eq!(edx, 0, "EDX");
    }
    program.take_back(pal)
}

fn callers_in_4_level_paging(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    check_caller(Space::new(Kind::Level4), Width::Bits64)
}

fn callers_in_compatibility_mode(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    check_caller(Space::new(Kind::Level4), Width::Bits32)
}

fn callers_in_32_bit_paging(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    check_caller(Space::new(Kind::Bits32), Width::Bits32)
}

fn callers_in_pae_paging(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    check_caller(Space::new(Kind::Pae), Width::Bits32)
}

fn callers_in_5_level_paging(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    if cpu::cpuid_count(7, 0).ecx & LA57 == 0 {
        return Err(Failure::NotApplicable);
    }
    // Its tables are the ones that this guest itself runs on meanwhile.
    let space = Space::new(Kind::Level5);
    modes::with_5_levels(space.cr3, || {
        check_caller(space, Width::Bits64)?;
        check_caller(space, Width::Bits32)
    })
}
