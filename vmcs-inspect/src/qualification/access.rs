//! Exit qualifications of task switches and of accesses to control registers, debug
//! registers and ports.
//!
//! Source: Intel SDM, vol. 3, section 28.2.1, "Basic VM-Exit Information".

use core::fmt;

use crate::Gpr;

/// Declares a newtype around the raw exit qualification.
macro_rules! raw_qualification {
    ($(#[$meta:meta])* pub struct $Type:ident;) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $Type(u64);

        impl $Type {
            /// The exit qualification with this value.
            pub const fn from_raw(value: u64) -> $Type {
                $Type(value)
            }

            /// Its value.
            pub const fn raw(self) -> u64 {
                self.0
            }
        }
    };
}
pub(super) use raw_qualification;

raw_qualification! {
    /// The exit qualification of a task switch.
    pub struct TaskSwitch;
}

/// What began a task switch: bits 31:30 of its exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitchSource {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    IdtTaskGate,
}

impl TaskSwitch {
    /// Bits 15:0, the selector of the new task's TSS.
    pub const fn selector(self) -> u16 {
        self.0 as u16
    }

    /// Bits 31:30, what began the switch.
    pub const fn source(self) -> TaskSwitchSource {
        match (self.0 >> 30) & 3 {
            0 => TaskSwitchSource::Call,
            1 => TaskSwitchSource::Iret,
            2 => TaskSwitchSource::Jmp,
            _ => TaskSwitchSource::IdtTaskGate,
        }
    }
}

impl fmt::Display for TaskSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source() {
            TaskSwitchSource::Call => "CALL",
            TaskSwitchSource::Iret => "IRET",
            TaskSwitchSource::Jmp => "JMP",
            TaskSwitchSource::IdtTaskGate => "task gate in the IDT",
        };
        write!(f, "{source} to task {:#06x}", self.selector())
    }
}

raw_qualification! {
    /// The exit qualification of a control-register access.
    pub struct ControlRegisterAccess;
}

/// What a control-register access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegisterOperation {
    /// MOV to the control register with this number, from a general-purpose register.
    MovTo(u8, Gpr),
    /// MOV from the control register with this number, to a general-purpose register.
    MovFrom(u8, Gpr),
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw {
        /// The value that it loads.
        source: u16,
        /// Whether its operand is in memory; its linear address is then in the
        /// guest-linear address field.
        memory_operand: bool,
    },
}

impl ControlRegisterAccess {
    /// Decodes all of it.
    pub const fn operation(self) -> ControlRegisterOperation {
        let register = (self.0 & 0xf) as u8;
        let gpr = Gpr::from_bits(self.0 >> 8);
        match (self.0 >> 4) & 3 {
            0 => ControlRegisterOperation::MovTo(register, gpr),
            1 => ControlRegisterOperation::MovFrom(register, gpr),
            2 => ControlRegisterOperation::Clts,
            _ => ControlRegisterOperation::Lmsw {
                source: (self.0 >> 16) as u16,
                memory_operand: self.0 & (1 << 6) != 0,
            },
        }
    }
}

impl fmt::Display for ControlRegisterAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation() {
            ControlRegisterOperation::MovTo(cr, gpr) => write!(f, "MOV CR{cr}, {gpr}"),
            ControlRegisterOperation::MovFrom(cr, gpr) => write!(f, "MOV {gpr}, CR{cr}"),
            ControlRegisterOperation::Clts => f.write_str("CLTS"),
            ControlRegisterOperation::Lmsw {
                source,
                memory_operand,
            } => {
                let place = if memory_operand { " from memory" } else { "" };
                write!(f, "LMSW {source:#06x}{place}")
            }
        }
    }
}

raw_qualification! {
    /// The exit qualification of MOV DR.
    pub struct DebugRegisterAccess;
}

impl DebugRegisterAccess {
    /// Bits 2:0, the number of the debug register.
    pub const fn register(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// Bit 4: MOV from the debug register (1) or to it (0).
    pub const fn is_read(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    /// Bits 11:8, the general-purpose register.
    pub const fn gpr(self) -> Gpr {
        Gpr::from_bits(self.0 >> 8)
    }
}

impl fmt::Display for DebugRegisterAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_read() {
            write!(f, "MOV {}, DR{}", self.gpr(), self.register())
        } else {
            write!(f, "MOV DR{}, {}", self.register(), self.gpr())
        }
    }
}

raw_qualification! {
    /// The exit qualification of an I/O instruction.
    pub struct IoAccess;
}

impl IoAccess {
    /// Bits 2:0, the size of the access in bytes: 1, 2 or 4. `None` for the values that the
    /// SDM does not use.
    pub const fn size(self) -> Option<u8> {
        match self.0 & 7 {
            0 => Some(1),
            1 => Some(2),
            3 => Some(4),
            _ => None,
        }
    }

    /// Bit 3: IN or INS (1), OUT or OUTS (0).
    pub const fn is_in(self) -> bool {
        self.0 & (1 << 3) != 0
    }

    /// Bit 4: INS or OUTS.
    pub const fn is_string(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    /// Bit 5: with a REP prefix.
    pub const fn is_rep(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// Bit 6: the port is an immediate operand, not in DX.
    pub const fn is_immediate(self) -> bool {
        self.0 & (1 << 6) != 0
    }

    /// Bits 31:16, the port.
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Display for IoAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_rep() {
            f.write_str("REP ")?;
        }
        f.write_str(match (self.is_in(), self.is_string()) {
            (true, false) => "IN",
            (true, true) => "INS",
            (false, false) => "OUT",
            (false, true) => "OUTS",
        })?;
        match self.size() {
            Some(1) => f.write_str(" 1 byte")?,
            Some(size) => write!(f, " {size} bytes")?,
            None => f.write_str(" of unknown size")?,
        }
        let direction = if self.is_in() { "from" } else { "to" };
        let operand = if self.is_immediate() {
            "immediate"
        } else {
            "DX"
        };
        write!(f, " {direction} port {:#x} ({operand})", self.port())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn task_switches() {
        let cases = [
            (0x0000_0030, "CALL to task 0x0030"),
            (0x4000_0030, "IRET to task 0x0030"),
            (0x8000_0030, "JMP to task 0x0030"),
            (0xc000_0008, "task gate in the IDT to task 0x0008"),
        ];
        for (raw, text) in cases {
            assert_eq!(TaskSwitch::from_raw(raw).to_string(), text);
        }
    }

    #[test]
    fn control_register_accesses() {
        let cases = [
            (0x0f03, "MOV CR3, R15"),
            (0x0014, "MOV RAX, CR4"),
            (0x0718, "MOV RDI, CR8"),
            (0x0020, "CLTS"),
            (0x1234_0030, "LMSW 0x1234"),
            (0x0001_0070, "LMSW 0x0001 from memory"),
        ];
        for (raw, text) in cases {
            assert_eq!(ControlRegisterAccess::from_raw(raw).to_string(), text);
        }
    }

    #[test]
    fn debug_register_accesses() {
        assert_eq!(
            DebugRegisterAccess::from_raw(0x0307).to_string(),
            "MOV DR7, RBX"
        );
        assert_eq!(
            DebugRegisterAccess::from_raw(0x0816).to_string(),
            "MOV R8, DR6"
        );
    }

    #[test]
    fn io_accesses() {
        let cases = [
            (0x0cf8_0003, "OUT 4 bytes to port 0xcf8 (DX)"),
            (0x0060_0048, "IN 1 byte from port 0x60 (immediate)"),
            (0x01f0_0039, "REP INS 2 bytes from port 0x1f0 (DX)"),
            (0x03f8_0010, "OUTS 1 byte to port 0x3f8 (DX)"),
            (0x0080_0002, "OUT of unknown size to port 0x80 (DX)"),
        ];
        for (raw, text) in cases {
            assert_eq!(IoAccess::from_raw(raw).to_string(), text);
        }
    }
}
