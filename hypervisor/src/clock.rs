//! Time, from the time-stamp counter and the timer chip that tells its speed.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::Port;

use crate::cpu::tsc;

static TICKS_PER_MS: AtomicU64 = AtomicU64::new(0);

/// Counts of the timer chip in 10 ms, at 1,193,182 Hz.
const TEN_MS: u16 = 11_932;

/// Measures the time-stamp counter against channel 2 of the timer chip. Leaves
/// port 0x61 as it was.
pub fn calibrate() {
    let mut gate = Port::<u8>::new(0x61);
    let mut command = Port::<u8>::new(0x43);
    let mut channel_2 = Port::<u8>::new(0x42);
    // SAFETY: the PC's timer chip and its gate; the speaker stays off, and channel
    // 2 is nobody's before the guest starts.
    let ticks = unsafe {
        let before = gate.read();
        gate.write((before & !0x02) | 0x01);
        command.write(0xb0);
        channel_2.write(TEN_MS as u8);
        channel_2.write((TEN_MS >> 8) as u8);
        let start = tsc();
        // Output 2 rises when the count is over. A machine without the chip
        // reads all-ones, and gets a wrong but harmless figure.
        while gate.read() & 0x20 == 0 {}
        let ticks = tsc() - start;
        gate.write(before);
        ticks
    };
    TICKS_PER_MS.store((ticks / 10).max(1000), Relaxed);
}

/// Ticks of the time-stamp counter in a millisecond.
pub fn ticks_per_ms() -> u64 {
    TICKS_PER_MS.load(Relaxed).max(1)
}

/// Microseconds since the processor's reset.
pub fn now_us() -> u64 {
    let per_ms = ticks_per_ms();
    let now = tsc();
    now / per_ms * 1000 + now % per_ms * 1000 / per_ms
}

/// Waits.
pub fn wait_us(us: u64) {
    let until = now_us() + us;
    while now_us() < until {
        core::hint::spin_loop();
    }
}
