//! The two serial ports: COM1 for the log until the guest owns it, COM2 for the
//! debugger.

use gdb_stub::SerialPort;
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::Port;

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
        let Self(mut uart) = Self::found(port)?;
        let config = Config {
            baud_rate: BaudRate::from_integer(baud),
            check_cts_before_sending: false,
            ..Config::default()
        };
        uart.init(config).map_err(|_| NoUart)?;
        Ok(Self(uart))
    }

    /// The UART as somebody has set it up.
    ///
    /// # Errors
    /// [`NoUart`]
    pub fn found(port: u16) -> Result<Self, NoUart> {
        // SAFETY: the port is COM1's or COM2's, which by the PC's convention are
        // UARTs or nothing; one CPU at a time uses it.
        let uart = unsafe { Uart16550::new_port(port) }.map_err(|_| NoUart)?;
        Ok(Self(uart))
    }

    /// Sends all, waiting as long as it takes.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.send_bytes_exact(bytes);
    }
}

/// What a guest has set a UART up for, but for the FIFOs, which cannot be read.
pub struct Settings {
    line: u8,
    interrupts: u8,
    modem: u8,
    divisor: [u8; 2],
}

/// Registers of a UART, as offsets of their ports: DATA and INTERRUPTS are the
/// divisor's two bytes while DLAB, the top bit of LINE, is set.
const DATA: u16 = 0;
const INTERRUPTS: u16 = 1;
const LINE: u16 = 3;
const MODEM: u16 = 4;
const DLAB: u8 = 0x80;

fn register(uart: u16, offset: u16) -> Port<u8> {
    Port::new(uart + offset)
}

impl Settings {
    /// Of the UART at a port.
    pub fn of(uart: u16) -> Self {
        // SAFETY: a UART's registers, or ports where nothing is; LINE is put back.
        unsafe {
            let line = register(uart, LINE).read();
            register(uart, LINE).write(line | DLAB);
            let divisor = [
                register(uart, DATA).read(),
                register(uart, INTERRUPTS).read(),
            ];
            register(uart, LINE).write(line & !DLAB);
            let interrupts = register(uart, INTERRUPTS).read();
            register(uart, LINE).write(line);
            Self {
                line,
                interrupts,
                modem: register(uart, MODEM).read(),
                divisor,
            }
        }
    }

    /// Makes them so again.
    pub fn restore(&self, uart: u16) {
        // SAFETY: as in `of`.
        unsafe {
            register(uart, LINE).write(DLAB);
            register(uart, DATA).write(self.divisor[0]);
            register(uart, INTERRUPTS).write(self.divisor[1]);
            register(uart, LINE).write(self.line & !DLAB);
            register(uart, INTERRUPTS).write(self.interrupts);
            register(uart, MODEM).write(self.modem);
            register(uart, LINE).write(self.line);
        }
    }
}

/// The debugger's UART, once [`DebugLine::open`] has found it.
static DEBUG_UART: Mutex<Option<Serial>> = Mutex::new(None);

/// The debugger's line: a handle, so that the session can be made at compile
/// time; it is too large to be moved through a stack.
pub struct DebugLine;

impl DebugLine {
    /// Sets COM2 up.
    ///
    /// # Errors
    /// [`NoUart`]
    pub fn open(baud: u32) -> Result<(), NoUart> {
        *DEBUG_UART.lock() = Some(Serial::new(COM2, baud)?);
        Ok(())
    }

    /// Is there one?
    pub fn is_open() -> bool {
        DEBUG_UART.lock().is_some()
    }
}

impl SerialPort for DebugLine {
    fn try_read(&mut self) -> Option<u8> {
        let mut uart = DEBUG_UART.lock();
        uart.as_mut()?.0.try_receive_byte().ok()
    }

    fn try_write(&mut self, byte: u8) -> bool {
        let mut uart = DEBUG_UART.lock();
        uart.as_mut()
            .is_some_and(|uart| uart.0.try_send_byte(byte).is_ok())
    }

    fn now_us(&mut self) -> u64 {
        clock::now_us()
    }
}
