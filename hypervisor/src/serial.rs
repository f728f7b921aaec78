//! The two serial ports: COM1 for the log until the guest owns it, COM2 for the
//! debugger.

use gdb_stub::SerialPort;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::clock;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// First port of COM2.
pub const COM2: u16 = 0x2f8;

/// A UART, by port I/O.
pub struct Serial(Uart16550<PioBackend>);

/// No UART answers at that port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoUart;

impl Serial {
    /// Sets a UART up for 8 data bits, no parity, one stop bit.
    ///
    /// # Errors
    /// [`NoUart`]
    pub fn new(port: u16, baud: u32) -> Result<Self, NoUart> {
        // SAFETY: the port is COM1's or COM2's, which by the PC's convention are
        // UARTs or nothing; the hypervisor makes one `Serial` of each.
        let mut uart = unsafe { Uart16550::new_port(port) }.map_err(|_| NoUart)?;
        let config = Config {
            baud_rate: BaudRate::from_integer(baud),
            check_cts_before_sending: false,
            ..Config::default()
        };
        uart.init(config).map_err(|_| NoUart)?;
        Ok(Self(uart))
    }

    /// Sends all, waiting as long as it takes.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.send_bytes_exact(bytes);
    }
}

impl SerialPort for Serial {
    fn try_read(&mut self) -> Option<u8> {
        self.0.try_receive_byte().ok()
    }

    fn try_write(&mut self, byte: u8) -> bool {
        self.0.try_send_byte(byte).is_ok()
    }

    fn now_us(&mut self) -> u64 {
        clock::now_us()
    }
}
