//! The I/O ports by which a PC is reset.
//!
//! A PAL's memory is wiped before the machine restarts, so while there is a PAL these
//! ports' accesses are VM exits; [`ResetPorts::resets`] says which of them restart it.
//!
//! Sources: Intel 8255 and 8042 as every PC has had them; the chipsets' reset control
//! register; PCI Local Bus Specification 3.0, section 3.2.2.3.2, "Software Generation of
//! Configuration Transactions"; ACPI Specification 6.5, section 4.8.3.6, "Reset Register".

/// Keyboard controller: data.
const KEYBOARD_DATA: u16 = 0x60;
/// Keyboard controller: command.
const KEYBOARD_COMMAND: u16 = 0x64;
/// System control port A. Bit 0 going to 1 resets the processor.
const CONTROL_PORT_A: u16 = 0x92;
/// Reset control register. Bit 2 going to 1 resets.
const RESET_CONTROL: u16 = 0xcf9;
/// PCI's configuration address, when four bytes are written at once: not a byte of it is the
/// reset control register's then. Its second byte is a device and a function, and bit 2 of
/// that is set for every function from 4 on.
const PCI_ADDRESS: (u16, u8) = (0xcf8, 4);

/// Status: the last byte that was written was a command, not data.
const COMMAND_WAS_LAST: u8 = 1 << 3;

/// Command: the next byte of data goes to the output port, whose bit 0 is the
/// processor's reset line, low for reset.
const WRITE_OUTPUT_PORT: u8 = 0xd1;

/// The ports, and what the keyboard controller has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResetPorts {
    acpi: Option<(u16, u8)>,
    output_port_next: bool,
}

impl ResetPorts {
    /// The usual ports, and ACPI's reset register if it is a port: its number, and the
    /// value that resets.
    pub const fn new(acpi: Option<(u16, u8)>) -> Self {
        Self {
            acpi,
            output_port_next: false,
        }
    }

    /// All of them.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        [
            KEYBOARD_DATA,
            KEYBOARD_COMMAND,
            CONTROL_PORT_A,
            RESET_CONTROL,
        ]
        .into_iter()
        .chain(self.acpi.map(|(port, _)| port))
    }

    /// The accesses are seen from now on. `keyboard_status` is what the keyboard controller's
    /// status register (port 0x64) reads. If the last byte it was given was a command, which
    /// one is not known, so the worst is assumed.
    pub const fn begin(&mut self, keyboard_status: u8) {
        self.output_port_next = keyboard_status & COMMAND_WAS_LAST != 0;
    }

    /// Does an OUT of `size` bytes (1, 2 or 4) restart the machine?
    pub fn resets(&mut self, port: u16, size: u8, value: u32) -> bool {
        if (port, size) == PCI_ADDRESS {
            return false;
        }
        let bytes = value.to_le_bytes();
        (port..=u16::MAX)
            .zip(bytes)
            .take(size.into())
            .fold(false, |found, (port, byte)| self.byte(port, byte) || found)
    }

    fn byte(&mut self, port: u16, byte: u8) -> bool {
        if self.acpi == Some((port, byte)) {
            return true;
        }
        match port {
            KEYBOARD_COMMAND => {
                self.output_port_next = byte == WRITE_OUTPUT_PORT;
                // Pulse the lines whose bits are 0.
                byte & 0xf1 == 0xf0
            }
            KEYBOARD_DATA => core::mem::take(&mut self.output_port_next) && byte & 1 == 0,
            CONTROL_PORT_A => byte & 1 != 0,
            RESET_CONTROL => byte & 1 << 2 != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resets() {
        for (port, size, value) in [
            (0x64, 1, 0xfe),
            (0x64, 1, 0xf0),
            (0x92, 1, 0x01),
            (0xcf9, 1, 0x06),
            (0xcf9, 1, 0x0e),
            // A wide access reaches it too, but for PCI's.
            (0xcf8, 2, 0x0400),
            (0xcf7, 4, 0x0006_0000),
            (0xcf9, 4, 0x06),
            (0xb2, 1, 0x73),
        ] {
            let mut ports = ResetPorts::new(Some((0xb2, 0x73)));
            assert!(ports.resets(port, size, value), "{port:#x} {value:#x}");
        }
    }

    #[test]
    fn what_does_not() {
        for (port, size, value) in [
            (0x64, 1, 0xff),
            (0x64, 1, 0xad),
            (0x60, 1, 0x00),
            (0x92, 1, 0x02),
            (0xcf9, 1, 0x02),
            // PCI configuration addresses: function 0, and functions 4 and 6 of device 31.
            (0xcf8, 4, 0x8000_0004),
            (0xcf8, 4, 0x8000_fc00),
            (0xcf8, 4, 0x8000_fe40),
            (0xcf8, 1, 0x06),
            (0xb2, 1, 0x72),
        ] {
            let mut ports = ResetPorts::new(Some((0xb2, 0x73)));
            assert!(!ports.resets(port, size, value), "{port:#x} {value:#x}");
        }
    }

    #[test]
    fn the_output_port_is_written_in_two_steps() {
        let mut ports = ResetPorts::new(None);
        assert!(!ports.resets(0x64, 1, 0xd1));
        assert!(ports.resets(0x60, 1, 0xfe));
        // Spent.
        assert!(!ports.resets(0x60, 1, 0xfe));
        assert!(!ports.resets(0x64, 1, 0xd1));
        assert!(!ports.resets(0x60, 1, 0xdf));
        // Another command comes between.
        assert!(!ports.resets(0x64, 1, 0xd1) && !ports.resets(0x64, 1, 0xae));
        assert!(!ports.resets(0x60, 1, 0xfe));
    }

    #[test]
    fn a_command_from_before_may_count() {
        let mut ports = ResetPorts::new(None);
        ports.begin(0x1c);
        assert!(ports.resets(0x60, 1, 0xfe));
        ports.begin(0x1c);
        assert!(!ports.resets(0x64, 1, 0x20) && !ports.resets(0x60, 1, 0xfe));
        // Data came last, so no command waits for any.
        ports.begin(0x14);
        assert!(!ports.resets(0x60, 1, 0xf4));
    }

    #[test]
    fn every_port_is_named_once() {
        let ports = ResetPorts::new(Some((0xb2, 0)));
        assert!(ports.ports().eq([0x60, 0x64, 0x92, 0xcf9, 0xb2]));
    }
}
