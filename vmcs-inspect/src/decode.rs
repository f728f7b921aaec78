//! The value of any field as text, for people: bits by name, events, access rights and so on.

use core::fmt::{self, Display};

use crate::qualification::DebugException;
use crate::{
    AccessRights, ActivityState, Cr0, Cr4, Debugctl, Efer, EntryControls, Exception, ExitControls,
    ExitQualification, ExitReason, ExitReasonField, Field, GuestInterruptibility, InstructionInfo,
    InterruptionInfo, PendingDebugExceptions, PinBasedControls, PrimaryControls, Rflags,
    SecondaryControls, SecondaryExitControls, TertiaryControls, VmInstructionError, VmcsAccess,
};

/// What else must be known to decode some fields: how the last VM exit came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitContext {
    /// The exit reason, if it is one that the SDM defines.
    pub reason: Option<ExitReason>,
    /// The VM-exit interruption information.
    pub interruption: InterruptionInfo,
}

impl ExitContext {
    /// Reads the context of `vmcs`; what cannot be read counts as absent.
    pub fn read(vmcs: &mut (impl VmcsAccess + ?Sized)) -> ExitContext {
        let mut get = |field| vmcs.read(field).ok().map(|value| value as u32);
        ExitContext {
            reason: get(Field::EXIT_REASON).and_then(|raw| ExitReasonField::from_raw(raw).reason()),
            interruption: InterruptionInfo::from_raw(
                get(Field::VM_EXIT_INTERRUPTION_INFO).unwrap_or(0),
            ),
        }
    }
}

/// The meaning of a field's value; it prints nothing for plain numbers and addresses.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    /// The field.
    pub field: Field,
    /// Its value.
    pub value: u64,
    /// How the last VM exit came about.
    pub exit: ExitContext,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        // Fields of at most 32 bits: nothing is lost.
        let low = value as u32;
        match self.field {
            Field::PIN_BASED_CONTROLS => PinBasedControls::from_bits_retain(low).fmt(f),
            Field::PRIMARY_PROCESSOR_BASED_CONTROLS => {
                PrimaryControls::from_bits_retain(low).fmt(f)
            }
            Field::SECONDARY_PROCESSOR_BASED_CONTROLS => {
                SecondaryControls::from_bits_retain(low).fmt(f)
            }
            Field::TERTIARY_PROCESSOR_BASED_CONTROLS => {
                TertiaryControls::from_bits_retain(value).fmt(f)
            }
            Field::VM_EXIT_CONTROLS => ExitControls::from_bits_retain(low).fmt(f),
            Field::SECONDARY_VM_EXIT_CONTROLS => {
                SecondaryExitControls::from_bits_retain(value).fmt(f)
            }
            Field::VM_ENTRY_CONTROLS => EntryControls::from_bits_retain(low).fmt(f),
            Field::EXCEPTION_BITMAP => exceptions(f, low),
            Field::EPT_POINTER => ept_pointer(f, value),
            Field::VM_ENTRY_INTERRUPTION_INFO => entry_interruption(f, low),
            Field::VM_EXIT_INTERRUPTION_INFO => InterruptionInfo::from_raw(low).fmt(f),
            // Bit 12 is undefined there.
            Field::IDT_VECTORING_INFO => InterruptionInfo::from_raw(low & !(1 << 12)).fmt(f),
            Field::GUEST_INTERRUPTIBILITY => GuestInterruptibility::from_bits_retain(low).fmt(f),
            Field::GUEST_ACTIVITY_STATE => match ActivityState::from_raw(low) {
                Some(state) => state.fmt(f),
                None => f.write_str("unknown activity state"),
            },
            Field::GUEST_PENDING_DEBUG_EXCEPTIONS => {
                PendingDebugExceptions::from_bits_retain(value).fmt(f)
            }
            Field::GUEST_INTERRUPT_STATUS => {
                write!(f, "RVI {:#04x}, SVI {:#04x}", low & 0xff, (low >> 8) & 0xff)
            }
            Field::GUEST_CS_ACCESS_RIGHTS
            | Field::GUEST_SS_ACCESS_RIGHTS
            | Field::GUEST_DS_ACCESS_RIGHTS
            | Field::GUEST_ES_ACCESS_RIGHTS
            | Field::GUEST_FS_ACCESS_RIGHTS
            | Field::GUEST_GS_ACCESS_RIGHTS
            | Field::GUEST_LDTR_ACCESS_RIGHTS
            | Field::GUEST_TR_ACCESS_RIGHTS => AccessRights::from_raw(low).fmt(f),
            Field::GUEST_CR0
            | Field::HOST_CR0
            | Field::CR0_GUEST_HOST_MASK
            | Field::CR0_READ_SHADOW => Cr0::from_bits_retain(value).fmt(f),
            Field::GUEST_CR4
            | Field::HOST_CR4
            | Field::CR4_GUEST_HOST_MASK
            | Field::CR4_READ_SHADOW => Cr4::from_bits_retain(value).fmt(f),
            Field::GUEST_IA32_EFER | Field::HOST_IA32_EFER => Efer::from_bits_retain(value).fmt(f),
            Field::GUEST_IA32_DEBUGCTL => Debugctl::from_bits_retain(value).fmt(f),
            Field::GUEST_IA32_PAT | Field::HOST_IA32_PAT => page_attribute_table(f, value),
            Field::GUEST_RFLAGS => Rflags::from_bits_retain(value).fmt(f),
            Field::VMCS_LINK_POINTER if value == u64::MAX => f.write_str("none"),
            Field::VM_INSTRUCTION_ERROR if value != 0 => match VmInstructionError::from_raw(low) {
                Some(error) => error.fmt(f),
                None => f.write_str("unknown error"),
            },
            Field::EXIT_REASON => ExitReasonField::from_raw(low).fmt(f),
            Field::EXIT_QUALIFICATION => self.exit_qualification(f),
            Field::VM_EXIT_INSTRUCTION_INFO => match self.exit.reason {
                Some(reason) => write!(f, "{}", InstructionInfo::from_raw(low).describe(reason)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Whether the field's value is a set of bits with names, so that any part of it decodes too.
pub(crate) fn has_named_bits(field: Field) -> bool {
    matches!(
        field,
        Field::PIN_BASED_CONTROLS
            | Field::PRIMARY_PROCESSOR_BASED_CONTROLS
            | Field::SECONDARY_PROCESSOR_BASED_CONTROLS
            | Field::TERTIARY_PROCESSOR_BASED_CONTROLS
            | Field::VM_EXIT_CONTROLS
            | Field::SECONDARY_VM_EXIT_CONTROLS
            | Field::VM_ENTRY_CONTROLS
            | Field::GUEST_INTERRUPTIBILITY
            | Field::GUEST_PENDING_DEBUG_EXCEPTIONS
            | Field::GUEST_CR0
            | Field::HOST_CR0
            | Field::GUEST_CR4
            | Field::HOST_CR4
            | Field::GUEST_IA32_EFER
            | Field::HOST_IA32_EFER
            | Field::GUEST_IA32_DEBUGCTL
            | Field::GUEST_RFLAGS
    )
}

impl Decoded {
    fn exit_qualification(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit.reason {
            Some(ExitReason::ExceptionOrNmi) if !self.exit.interruption.is_nmi() => {
                match self.exit.interruption.vector() {
                    1 => DebugException::from_bits_retain(self.value).fmt(f),
                    14 => write!(f, "faulting address {:#x}", self.value),
                    _ => Ok(()),
                }
            }
            Some(reason) => ExitQualification::decode(reason, self.value).fmt(f),
            None => Ok(()),
        }
    }
}

/// The VM-entry interruption information, of which bits 30:12 are reserved.
fn entry_interruption(f: &mut fmt::Formatter<'_>, value: u32) -> fmt::Result {
    let info = InterruptionInfo::from_raw(value);
    info.for_entry().fmt(f)?;
    match value & !info.for_entry().raw() {
        reserved if reserved != 0 && info.valid() => write!(f, ", reserved {reserved:#x}"),
        _ => Ok(()),
    }
}

/// Names the exceptions whose bits are set in an exception bitmap.
fn exceptions(f: &mut fmt::Formatter<'_>, bitmap: u32) -> fmt::Result {
    if bitmap == 0 {
        return f.write_str("none");
    }
    if bitmap == u32::MAX {
        return f.write_str("all");
    }
    let mut separator = "";
    for vector in (0..32).filter(|vector| bitmap & (1 << vector) != 0) {
        write!(f, "{separator}{}", Exception(vector))?;
        separator = ", ";
    }
    Ok(())
}

/// Source: Intel SDM, vol. 3, section 25.6.11, "Extended-Page-Table Pointer (EPTP)".
fn ept_pointer(f: &mut fmt::Formatter<'_>, eptp: u64) -> fmt::Result {
    match eptp & 7 {
        0 => f.write_str("UC")?,
        6 => f.write_str("WB")?,
        other => write!(f, "memory type {other}")?,
    }
    write!(f, ", {} levels", ((eptp >> 3) & 7) + 1)?;
    if eptp & (1 << 6) != 0 {
        f.write_str(", accessed and dirty flags")?;
    }
    if eptp & (1 << 7) != 0 {
        f.write_str(", supervisor shadow-stack control")?;
    }
    write!(f, ", table at {:#x}", eptp & !0xfff)
}

/// Source: Intel SDM, vol. 3, chapter 12, table "Memory Types That Can Be Encoded With
/// PAT".
fn page_attribute_table(f: &mut fmt::Formatter<'_>, pat: u64) -> fmt::Result {
    let mut separator = "";
    for memory_type in pat.to_le_bytes() {
        let name = match memory_type {
            0 => "UC",
            1 => "WC",
            4 => "WT",
            5 => "WP",
            6 => "WB",
            7 => "UC-",
            _ => "?",
        };
        write!(f, "{separator}{name}")?;
        separator = " ";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};

    use super::*;
    use crate::fake::FakeVmcs;

    fn text(field: Field, value: u64) -> String {
        let exit = ExitContext::default();
        Decoded { field, value, exit }.to_string()
    }

    #[test]
    fn fields_print_what_their_values_mean() {
        let cases = [
            (Field::PIN_BASED_CONTROLS, 0x3e, "NMI exiting, virtual NMIs"),
            (Field::EXCEPTION_BITMAP, 0x4_000a, "#DB, #BP, #MC"),
            (Field::EXCEPTION_BITMAP, 0, "none"),
            (Field::EXCEPTION_BITMAP, 0xffff_ffff, "all"),
            (
                Field::EPT_POINTER,
                0x1234_501e,
                "WB, 4 levels, table at 0x12345000",
            ),
            (
                Field::EPT_POINTER,
                0x1060,
                "UC, 5 levels, accessed and dirty flags, table at 0x1000",
            ),
            (Field::GUEST_ACTIVITY_STATE, 3, "wait-for-SIPI"),
            (Field::GUEST_ACTIVITY_STATE, 9, "unknown activity state"),
            (Field::GUEST_INTERRUPTIBILITY, 8, "blocking by NMI"),
            (Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202, "NMI"),
            (
                Field::VM_ENTRY_INTERRUPTION_INFO,
                0x8000_1202,
                "NMI, reserved 0x1000",
            ),
            (
                Field::VM_ENTRY_INTERRUPTION_INFO,
                0x8000_3202,
                "NMI, reserved 0x3000",
            ),
            (Field::VM_ENTRY_INTERRUPTION_INFO, 0x0000_1202, "none"),
            (Field::IDT_VECTORING_INFO, 0x8000_1202, "NMI"),
            (
                Field::VM_EXIT_INTERRUPTION_INFO,
                0x8000_1202,
                "NMI, NMI unblocking due to IRET",
            ),
            (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b, "busy TSS, DPL 0, P"),
            (
                Field::GUEST_IA32_PAT,
                0x0007_0406_0007_0406,
                "WB WT UC- UC WB WT UC- UC",
            ),
            (Field::VMCS_LINK_POINTER, u64::MAX, "none"),
            (Field::VMCS_LINK_POINTER, 0x1000, ""),
            (Field::VM_INSTRUCTION_ERROR, 0, ""),
            (
                Field::VM_INSTRUCTION_ERROR,
                7,
                "VM entry with invalid control fields",
            ),
            (Field::EXIT_REASON, 10, "CPUID"),
            (Field::GUEST_RIP, 0x1000, ""),
        ];
        for (field, value, expected) in cases {
            assert_eq!(text(field, value), expected, "{field}");
        }
    }

    #[test]
    fn the_exit_reason_decides_how_its_qualification_reads() {
        let mut vmcs = FakeVmcs::zeroed();
        let mut read = |reason: u64, interruption: u64, field: Field, value: u64| {
            vmcs.set(Field::EXIT_REASON, reason);
            vmcs.set(Field::VM_EXIT_INTERRUPTION_INFO, interruption);
            let exit = ExitContext::read(&mut vmcs);
            Decoded { field, value, exit }.to_string()
        };
        let qualification = Field::EXIT_QUALIFICATION;
        assert_eq!(read(28, 0, qualification, 0x300), "MOV CR0, RBX");
        assert_eq!(read(0, 0x8000_0301, qualification, 0x4000), "BS");
        assert_eq!(
            read(0, 0x8000_0b0e, qualification, 0x4000),
            "faulting address 0x4000"
        );
        assert_eq!(read(0, 0x8000_0202, qualification, 0x4000), "");
        assert_eq!(read(71, 0, qualification, 0x300), "");
        assert_eq!(
            read(47, 0, Field::VM_EXIT_INSTRUCTION_INFO, 3 << 28 | 1 << 10),
            "LTR RAX"
        );
    }
}
