//! The test guest: the hypervisor's acceptance test and benchmark.
//!
//! It boots from its own MBR, on the bare (emulated) machine as under
//! Stillpoint, so every expectation is also checked against the processor
//! itself; where the two must differ, the test asks whether Stillpoint is
//! there. The second sector of its disk is text that says what to run
//! (config.rs); results go to COM1 and to port 0xE9 as `test NAME ... ok`,
//! `test NAME ... FAILED: why` and a last line `N passed, N failed`.
#![no_std]
#![no_main]
#![expect(
    clippy::result_large_err,
    reason = "there is no allocator to box with; stacks have 64 KiB"
)]

mod apic;
mod boot;
mod config;
mod console;
mod cpu;
mod descriptors;
mod firmware;
mod harness;
mod modes;
mod power;
mod runtime;
mod smp;
mod suites;
mod tests;
mod trap;

use core::panic::PanicInfo;

/// Where every CPU arrives in 64-bit mode, on its own stack, interrupts off
/// (asm/boot.s). CPU 0 runs the tests; the others serve its requests.
#[unsafe(no_mangle)]
extern "C" fn guest_main(index: usize) -> ! {
    descriptors::load(index);
    if index == 0 {
        console::init();
        firmware::mask_legacy_interrupts();
        apic::enable();
        suites::run()
    } else {
        smp::serve(index)
    }
}

/// A panic is a defect of the test guest; it must not look like a pass.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    harness::abandon(format_args!("test guest panicked: {info}"))
}
