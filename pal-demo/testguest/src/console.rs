//! Output on COM1 and on the emulator's port 0xE9.

use core::fmt::{self, Write};

use x86_64::instructions::port::Port;

/// COM1's first port.
const COM1: u16 = 0x3f8;

/// Line status register: transmitter holding register empty.
const THRE: u8 = 1 << 5;

/// Line status register: data ready.
const DATA_READY: u8 = 1;

fn write_port(port: u16, value: u8) {
    // SAFETY: the ports of this file are a UART and a debug port; neither
    // touches memory.
    unsafe { Port::new(port).write(value) }
}

fn read_port(port: u16) -> u8 {
    // SAFETY: as in `write_port`.
    unsafe { Port::new(port).read() }
}

/// Sets COM1 to 115200 baud, 8N1, FIFOs on, no interrupts.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        write_port(COM1 + register, value);
    }
}

/// A byte that came in on COM1, if any.
pub fn received() -> Option<u8> {
    (read_port(COM1 + 5) & DATA_READY != 0).then(|| read_port(COM1))
}

/// Both ways out.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // A UART that never gets ready must not hang the run.
            for _ in 0..1_000_000 {
                if read_port(COM1 + 5) & THRE != 0 {
                    break;
                }
            }
            write_port(COM1, byte);
            write_port(0xe9, byte);
        }
        Ok(())
    }
}

/// Waits until COM1 has sent everything.
pub fn drain() {
    for _ in 0..1_000_000 {
        // Transmitter empty: the shift register too.
        if read_port(COM1 + 5) & 1 << 6 != 0 {
            return;
        }
    }
}

/// Prints formatted text.
pub fn print(arguments: fmt::Arguments<'_>) {
    // Console never fails; a failing Display has no one to tell.
    let _ = Console.write_fmt(arguments);
}

/// Prints formatted text and a newline.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\r\n", format_args!($($argument)*)))
    };
}
