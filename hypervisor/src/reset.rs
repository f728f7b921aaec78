//! Resetting the machine.

use x86_64::instructions::port::Port;

use crate::clock;
use crate::cpu::halt_forever;

/// Resets the whole machine, by the chipset's reset control register and, where
/// that does nothing, by the keyboard controller.
pub fn reset_machine() -> ! {
    // SAFETY: ends everything, which is what was asked for; no memory is touched.
    unsafe {
        let mut reset_control = Port::<u8>::new(0xcf9);
        reset_control.write(0x02);
        clock::wait_us(50);
        reset_control.write(0x06);
        clock::wait_us(50_000);
        Port::<u8>::new(0x64).write(0xfe);
    }
    clock::wait_us(50_000);
    halt_forever()
}
