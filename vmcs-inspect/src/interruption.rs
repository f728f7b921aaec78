//! Interruption information: the events that a VM exit reports, that were being
//! delivered when it came, or that a VM entry is to inject.
//!
//! One type stands for the three fields (VM-exit interruption information,
//! IDT-vectoring information, VM-entry interruption information): their formats agree but for
//! bit 12.

use core::fmt;

/// The value of an interruption-information field.
///
/// Source: Intel SDM, vol. 3, section 25.9.2, "Information for VM Exits Due to Vectored
/// Events"; section 25.9.3, "Information for VM Exits That Occur During Event
/// Delivery"; section 25.8.3, "VM-Entry Controls for Event Injection".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct InterruptionInfo(u32);

/// Bits 10:8 of an interruption-information field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum InterruptionType {
    /// An external interrupt.
    ExternalInterrupt = 0,
    /// Not used.
    Reserved = 1,
    /// A non-maskable interrupt.
    Nmi = 2,
    /// An exception other than #BP, #OF and INT1's #DB: #PF, #GP and so on.
    HardwareException = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// #DB by INT1.
    PrivilegedSoftwareException = 5,
    /// #BP by INT3 or #OF by INTO.
    SoftwareException = 6,
    /// At VM entry only: a pending monitor-trap-flag exit with vector 0, and
    /// SYSCALL and SYSENTER under FRED.
    OtherEvent = 7,
}

impl InterruptionType {
    const fn from_bits(bits: u32) -> InterruptionType {
        match bits & 7 {
            0 => InterruptionType::ExternalInterrupt,
            1 => InterruptionType::Reserved,
            2 => InterruptionType::Nmi,
            3 => InterruptionType::HardwareException,
            4 => InterruptionType::SoftwareInterrupt,
            5 => InterruptionType::PrivilegedSoftwareException,
            6 => InterruptionType::SoftwareException,
            _ => InterruptionType::OtherEvent,
        }
    }

    /// Whether the event is caused by an instruction, so that its injection
    /// needs the VM-entry instruction length.
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            InterruptionType::SoftwareInterrupt
                | InterruptionType::PrivilegedSoftwareException
                | InterruptionType::SoftwareException
        )
    }
}

impl fmt::Display for InterruptionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            InterruptionType::ExternalInterrupt => "external interrupt",
            InterruptionType::Reserved => "reserved type 1",
            InterruptionType::Nmi => "NMI",
            InterruptionType::HardwareException => "hardware exception",
            InterruptionType::SoftwareInterrupt => "software interrupt",
            InterruptionType::PrivilegedSoftwareException => "privileged software exception",
            InterruptionType::SoftwareException => "software exception",
            InterruptionType::OtherEvent => "other event",
        })
    }
}

impl InterruptionInfo {
    /// No event: the valid bit is 0.
    pub const NONE: InterruptionInfo = InterruptionInfo(0);
    /// A non-maskable interrupt to inject.
    pub const NMI: InterruptionInfo = InterruptionInfo::event(InterruptionType::Nmi, 2);

    const ERROR_CODE_VALID: u32 = 1 << 11;
    const NMI_UNBLOCKING_DUE_TO_IRET: u32 = 1 << 12;
    const VALID: u32 = 1 << 31;

    /// The field with this value.
    pub const fn from_raw(value: u32) -> InterruptionInfo {
        InterruptionInfo(value)
    }

    /// The field's value.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// A valid event without an error code.
    pub const fn event(kind: InterruptionType, vector: u8) -> InterruptionInfo {
        InterruptionInfo(Self::VALID | (kind as u32) << 8 | vector as u32)
    }

    /// An external interrupt to inject.
    pub const fn external_interrupt(vector: u8) -> InterruptionInfo {
        Self::event(InterruptionType::ExternalInterrupt, vector)
    }

    /// A hardware exception to inject. `error_code` says whether the VM-entry
    /// exception error code is to be delivered with it.
    pub const fn hardware_exception(vector: u8, error_code: bool) -> InterruptionInfo {
        let info = Self::event(InterruptionType::HardwareException, vector);
        InterruptionInfo(
            info.0
                | if error_code {
                    Self::ERROR_CODE_VALID
                } else {
                    0
                },
        )
    }

    /// The same event made fit for the VM-entry interruption-information field:
    /// bits 30:12 are cleared, of which bit 12 is undefined in IDT-vectoring information
    /// and must be 0 at VM entry.
    pub const fn for_entry(self) -> InterruptionInfo {
        InterruptionInfo(self.0 & 0x8000_0fff)
    }

    /// Bits 7:0, the vector of the interrupt or exception.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Bits 10:8, the type of the event.
    pub const fn kind(self) -> InterruptionType {
        InterruptionType::from_bits(self.0 >> 8)
    }

    /// Bit 11: an error code goes with the event, in the field beside this one.
    pub const fn error_code_valid(self) -> bool {
        self.0 & Self::ERROR_CODE_VALID != 0
    }

    /// Bit 12, in VM-exit interruption information alone: an IRET had unblocked
    /// NMIs before it met the fault that this exit reports.
    pub const fn nmi_unblocking_due_to_iret(self) -> bool {
        self.0 & Self::NMI_UNBLOCKING_DUE_TO_IRET != 0
    }

    /// Bits 30:13, which are reserved (30:12 in the VM-entry field).
    pub const fn reserved(self) -> u32 {
        self.0 & 0x7fff_e000
    }

    /// Bit 31: there is an event.
    pub const fn valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether the event is a valid NMI.
    pub const fn is_nmi(self) -> bool {
        self.valid() && matches!(self.kind(), InterruptionType::Nmi)
    }
}

impl fmt::Display for InterruptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.valid() {
            return f.write_str("none");
        }
        match self.kind() {
            InterruptionType::Nmi => f.write_str("NMI")?,
            InterruptionType::HardwareException
            | InterruptionType::SoftwareException
            | InterruptionType::PrivilegedSoftwareException => {
                write!(f, "{} {}", self.kind(), Exception(self.vector()))?;
            }
            kind => write!(f, "{kind} {:#04x}", self.vector())?,
        }
        // A vector that does not go with an NMI would be refused at VM entry: show it.
        if self.kind() == InterruptionType::Nmi && self.vector() != 2 {
            write!(f, " with vector {:#04x}", self.vector())?;
        }
        if self.error_code_valid() {
            f.write_str(", error code")?;
        }
        if self.nmi_unblocking_due_to_iret() {
            f.write_str(", NMI unblocking due to IRET")?;
        }
        if self.reserved() != 0 {
            write!(f, ", reserved {:#x}", self.reserved())?;
        }
        Ok(())
    }
}

impl fmt::Debug for InterruptionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InterruptionInfo({:#010x}: {self})", self.0)
    }
}

/// An exception's vector, printed by its mnemonic.
///
/// Source: Intel SDM, vol. 3, chapter 6, table 6-1, "Protected-Mode Exceptions and Interrupts".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exception(pub u8);

impl Exception {
    /// The mnemonic, as `#GP`; `None` for vectors that name no exception.
    pub const fn mnemonic(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "#DE",
            1 => "#DB",
            2 => "NMI",
            3 => "#BP",
            4 => "#OF",
            5 => "#BR",
            6 => "#UD",
            7 => "#NM",
            8 => "#DF",
            10 => "#TS",
            11 => "#NP",
            12 => "#SS",
            13 => "#GP",
            14 => "#PF",
            16 => "#MF",
            17 => "#AC",
            18 => "#MC",
            19 => "#XM",
            20 => "#VE",
            21 => "#CP",
            _ => return None,
        })
    }

    /// Whether the exception pushes an error code on the stack (in protected mode).
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mnemonic() {
            Some(mnemonic) => f.pad(mnemonic),
            None => write!(f, "vector {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_nmi_is_the_value_of_the_manual() {
        assert_eq!(InterruptionInfo::NMI.raw(), 0x8000_0202);
        assert!(InterruptionInfo::NMI.is_nmi());
        assert_eq!(InterruptionInfo::NMI.to_string(), "NMI");
        assert!(!InterruptionInfo::from_raw(0x0000_0202).is_nmi());
    }

    #[test]
    fn types_are_numbered_as_in_the_manual() {
        use InterruptionType::*;
        let kinds = [
            ExternalInterrupt,
            Reserved,
            Nmi,
            HardwareException,
            SoftwareInterrupt,
            PrivilegedSoftwareException,
            SoftwareException,
            OtherEvent,
        ];
        for (bits, kind) in (0u32..).zip(kinds) {
            assert_eq!(InterruptionInfo::from_raw(bits << 8).kind(), kind);
            assert_eq!(
                InterruptionInfo::event(kind, 0).raw(),
                0x8000_0000 | bits << 8
            );
        }
    }

    #[test]
    fn injections_are_composed_and_printed() {
        let cases = [
            (
                InterruptionInfo::hardware_exception(14, true),
                0x8000_0b0e,
                "hardware exception #PF, error code",
            ),
            (
                InterruptionInfo::hardware_exception(6, false),
                0x8000_0306,
                "hardware exception #UD",
            ),
            (
                InterruptionInfo::external_interrupt(0x30),
                0x8000_0030,
                "external interrupt 0x30",
            ),
            (
                InterruptionInfo::event(InterruptionType::SoftwareException, 3),
                0x8000_0603,
                "software exception #BP",
            ),
            (
                InterruptionInfo::event(InterruptionType::SoftwareInterrupt, 0x80),
                0x8000_0480,
                "software interrupt 0x80",
            ),
            (InterruptionInfo::NONE, 0, "none"),
        ];
        for (info, raw, text) in cases {
            assert_eq!(info.raw(), raw);
            assert_eq!(info.to_string(), text);
        }
    }

    #[test]
    fn re_injection_drops_the_undefined_bit() {
        let vectored = InterruptionInfo::from_raw(0x8000_1202);
        assert!(vectored.nmi_unblocking_due_to_iret());
        assert_eq!(vectored.for_entry(), InterruptionInfo::NMI);
    }

    #[test]
    fn error_codes_go_with_the_exceptions_of_table_6_1() {
        let with: std::vec::Vec<u8> = (0..32).filter(|v| Exception(*v).has_error_code()).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21]);
        assert_eq!(Exception(15).to_string(), "vector 15");
    }
}
