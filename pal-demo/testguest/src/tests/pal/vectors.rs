//! The vector state of a program that calls PALs.

use core::arch::asm;

use super::code;
use super::image::Pal;
use super::program::Program;
use crate::harness::{Context, Outcome, Test};
use crate::{check, check_eq, cpu, tests};

/// Vector state.
pub const TESTS: &[Test] = tests![components_are_turned_off_between_calls];

const CPUID_AVX: u32 = 1 << 28;
const CR4_OSXSAVE: u64 = 1 << 18;
/// XCR0: x87, SSE.
const WITHOUT_AVX: u64 = 3;
const WITH_AVX: u64 = 7;

fn components_are_turned_off_between_calls(context: &Context) -> Outcome {
    const PAL: Pal = Pal::new(4, code::add);
    context.require_stillpoint()?;
    check!(
        cpu::cpuid(1).ecx & CPUID_AVX != 0,
        "the processor has no AVX"
    );
    let program = Program::usual();
    program.give(&PAL)?;
    let cr4 = cpu::read_cr4();
    cpu::write_cr4(cr4 | CR4_OSXSAVE);
    let xcr0 = cpu::xgetbv(0);
    cpu::xsetbv(0, WITH_AVX);
    // SAFETY: a register that this guest's code has no use for.
    unsafe { asm!("vcmpps ymm15, ymm15, ymm15, 15", out("xmm15") _) };
    let mut words = [5, 0, 0, 0];
    let mut answers = [0, 0].map(Ok);
    for (components, answer) in [WITH_AVX, WITHOUT_AVX].into_iter().zip(&mut answers) {
        cpu::xsetbv(0, components);
        *answer = program.called(&PAL, &[2, words.as_mut_ptr() as u64]);
    }
    cpu::xsetbv(0, WITH_AVX);
    // SAFETY: as above.
    unsafe {
        asm!("vzeroall", out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
        out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
        out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
        out("xmm15") _)
    };
    cpu::xsetbv(0, xcr0);
    cpu::write_cr4(cr4);
    let [with, without] = answers;
    check_eq!(with?, 7, "with AVX");
    check_eq!(without?, 8, "after it was turned off");
    program.take_back(&PAL)
}
