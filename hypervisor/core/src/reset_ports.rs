//! The I/O ports by which a PC is reset.
//!
//! A PAL's memory is wiped before the machine restarts, so while there is a PAL these
//! ports' accesses are VM exits; [`ResetPorts::resets`] says which of them restart it.
//!
//! Sources: Intel 8255 and 8042 as every PC has had them; the chipsets' reset control
//! register; ACPI Specification 6.5, section 4.8.3.6, "Reset Register".

/// Keyboard controller: data.
const KEYBOARD_DATA: u16 = 0x60;
/// Keyboard controller: command.
const KEYBOARD_COMMAND: u16 = 0x64;
/// System control port A. Bit 0 going to 1 resets the processor.
const CONTROL_PORT_A: u16 = 0x92;
/// Reset control register. Bit 2 going to 1 resets.
const RESET_CONTROL: u16 = 0xcf9;

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

    /// The accesses are seen from now on. What the keyboard controller was told before is
    /// not known, so the worst is assumed.
    pub const fn begin(&mut self) {
        self.output_port_next = true;
    }

    /// Does an OUT of `size` bytes (1, 2 or 4) restart the machine?
    pub fn resets(&mut self, port: u16, size: u8, value: u32) -> bool {
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
            // A wide access reaches it too.
            (0xcf8, 4, 0x0600),
            (0xcf8, 2, 0x0400),
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
            // A PCI configuration address.
            (0xcf8, 4, 0x8000_0004),
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
    fn a_command_from_before_counts() {
        let mut ports = ResetPorts::new(None);
        ports.begin();
        assert!(ports.resets(0x60, 1, 0xfe));
        ports.begin();
        assert!(!ports.resets(0x64, 1, 0x20) && !ports.resets(0x60, 1, 0xfe));
    }

    #[test]
    fn every_port_is_named_once() {
        let ports = ResetPorts::new(Some((0xb2, 0)));
        assert!(ports.ports().eq([0x60, 0x64, 0x92, 0xcf9, 0xb2]));
    }
}
