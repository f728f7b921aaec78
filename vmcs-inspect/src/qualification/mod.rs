//! Exit qualifications: what a VM exit says of its cause, decoded by exit reason.
//!
//! The hypervisor takes the type that its reason calls for; the debugger prints any of
//! them through [`ExitQualification`].
//!
//! Source: Intel SDM, vol. 3, section 28.2.1, "Basic VM-Exit Information", and its tables.

mod access;
mod memory;

use core::fmt;

pub use access::{
    ControlRegisterAccess, ControlRegisterOperation, DebugRegisterAccess, IoAccess, TaskSwitch,
    TaskSwitchSource,
};
pub use memory::{ApicAccess, ApicAccessType, EptViolation};

use crate::ExitReason;
use crate::bits::named_bits;

named_bits! {
    /// The exit qualification of a debug exception: what DR6 would have told.
    pub struct DebugException: u64 {
        B0 = 0, "B0";
        B1 = 1, "B1";
        B2 = 2, "B2";
        B3 = 3, "B3";
        BLD = 11, "BLD";
        BD = 13, "BD";
        BS = 14, "BS";
        RTM = 16, "RTM";
    }
}

/// Why a VM entry failed at the guest's state, where the processor tells.
///
/// Source: Intel SDM, vol. 3, section 27.8, "VM-Entry Failures During or After Loading Guest
/// State".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestStateFailure {
    /// 0: any check but those below.
    Other,
    /// 2: the PDPTEs could not be loaded.
    PdpteLoading,
    /// 3: an NMI was to be injected while STI blocked events.
    NmiWhileBlockedBySti,
    /// 4: the VMCS link pointer.
    LinkPointer,
    /// A number that the SDM does not define.
    Unknown(u64),
}

impl GuestStateFailure {
    /// The failure with this exit qualification.
    pub const fn from_raw(value: u64) -> GuestStateFailure {
        match value {
            0 => GuestStateFailure::Other,
            2 => GuestStateFailure::PdpteLoading,
            3 => GuestStateFailure::NmiWhileBlockedBySti,
            4 => GuestStateFailure::LinkPointer,
            unknown => GuestStateFailure::Unknown(unknown),
        }
    }
}

impl fmt::Display for GuestStateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestStateFailure::Other => f.write_str("not told which check"),
            GuestStateFailure::PdpteLoading => f.write_str("loading the PDPTEs"),
            GuestStateFailure::NmiWhileBlockedBySti => {
                f.write_str("an NMI injected while STI blocks")
            }
            GuestStateFailure::LinkPointer => f.write_str("the VMCS link pointer"),
            GuestStateFailure::Unknown(number) => write!(f, "unknown failure {number}"),
        }
    }
}

/// An exit qualification, of whatever form its exit reason gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitQualification {
    /// The exit has none.
    None,
    /// A task switch.
    TaskSwitch(TaskSwitch),
    /// Control-register access.
    ControlRegister(ControlRegisterAccess),
    /// MOV DR.
    DebugRegister(DebugRegisterAccess),
    /// An I/O instruction.
    Io(IoAccess),
    /// An access to the APIC-access page.
    ApicAccess(ApicAccess),
    /// An EPT violation.
    EptViolation(EptViolation),
    /// The vector of a start-up IPI, or of a virtualized EOI.
    Vector(u8),
    /// The linear address that INVLPG or MONITOR named.
    LinearAddress(u64),
    /// The displacement of the instruction's memory operand, of which the VM-exit instruction
    /// information tells the rest.
    Displacement(u64),
    /// The offset in the virtual-APIC page of an APIC write.
    ApicOffset(u16),
    /// Whether MWAIT found its address-range monitoring armed.
    MonitorArmed(bool),
    /// Whether it was WBNOINVD, not WBINVD.
    Wbnoinvd(bool),
    /// Exits at any moment: whether an IRET had unblocked NMIs, and whether the guest's context
    /// is lost (an instruction timeout only).
    Asynchronous {
        /// Bit 12: NMI unblocking due to IRET.
        nmi_unblocking_due_to_iret: bool,
        /// Bit 0 of an instruction timeout: the VM context is invalid.
        context_invalid: bool,
    },
    /// A sub-page-permission exit: whether its table was misconfigured (else missed).
    SppMisconfiguration(bool),
    /// A VM entry failed at the guest's state.
    GuestStateFailure(GuestStateFailure),
    /// A VM entry failed at this entry of its MSR-load area, counted from 1.
    MsrLoadFailure(u64),
}

impl ExitQualification {
    /// Decodes the exit qualification of an exit with this reason.
    ///
    /// An exception's qualification depends on its vector, which is not known here: take
    /// [`DebugException`] for #DB; a #PF's is the faulting linear address.
    pub const fn decode(reason: ExitReason, raw: u64) -> ExitQualification {
        use ExitReason as R;
        match reason {
            R::TaskSwitch => Self::TaskSwitch(TaskSwitch::from_raw(raw)),
            R::ControlRegisterAccess => Self::ControlRegister(ControlRegisterAccess::from_raw(raw)),
            R::MovDr => Self::DebugRegister(DebugRegisterAccess::from_raw(raw)),
            R::IoInstruction => Self::Io(IoAccess::from_raw(raw)),
            R::ApicAccess => Self::ApicAccess(ApicAccess::from_raw(raw)),
            R::EptViolation => Self::EptViolation(EptViolation::from_raw(raw)),
            R::StartUpIpi | R::VirtualizedEoi => Self::Vector(raw as u8),
            R::Invlpg | R::Monitor => Self::LinearAddress(raw),
            R::Invept
            | R::Invpcid
            | R::Invvpid
            | R::GdtrOrIdtrAccess
            | R::LdtrOrTrAccess
            | R::Vmclear
            | R::Vmptrld
            | R::Vmptrst
            | R::Vmread
            | R::Vmwrite
            | R::Vmxon
            | R::Xrstors
            | R::Xsaves => Self::Displacement(raw),
            R::ApicWrite => Self::ApicOffset(raw as u16 & 0xfff),
            R::Mwait => Self::MonitorArmed(raw & 1 != 0),
            R::WbinvdOrWbnoinvd => Self::Wbnoinvd(raw & 1 != 0),
            R::PageModificationLogFull | R::InstructionTimeout => Self::Asynchronous {
                nmi_unblocking_due_to_iret: raw & (1 << 12) != 0,
                context_invalid: matches!(reason, R::InstructionTimeout) && raw & 1 != 0,
            },
            R::SppRelatedEvent => Self::SppMisconfiguration(raw & (1 << 11) != 0),
            R::EntryFailureGuestState => Self::GuestStateFailure(GuestStateFailure::from_raw(raw)),
            R::EntryFailureMsrLoading => Self::MsrLoadFailure(raw),
            _ => Self::None,
        }
    }
}

impl fmt::Display for ExitQualification {
    /// Nothing for [`ExitQualification::None`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::TaskSwitch(q) => q.fmt(f),
            Self::ControlRegister(q) => q.fmt(f),
            Self::DebugRegister(q) => q.fmt(f),
            Self::Io(q) => q.fmt(f),
            Self::ApicAccess(q) => q.fmt(f),
            Self::EptViolation(q) => q.fmt(f),
            Self::Vector(vector) => write!(f, "vector {vector:#04x}"),
            Self::LinearAddress(address) => write!(f, "linear address {address:#x}"),
            Self::Displacement(displacement) => write!(f, "displacement {displacement:#x}"),
            Self::ApicOffset(offset) => write!(f, "APIC offset {offset:#x}"),
            Self::MonitorArmed(armed) => f.write_str(if *armed {
                "monitor armed"
            } else {
                "monitor not armed"
            }),
            Self::Wbnoinvd(no) => f.write_str(if *no { "WBNOINVD" } else { "WBINVD" }),
            Self::Asynchronous {
                nmi_unblocking_due_to_iret,
                context_invalid,
            } => {
                if *context_invalid {
                    f.write_str("VM context invalid")?;
                }
                if *nmi_unblocking_due_to_iret {
                    let comma = if *context_invalid { ", " } else { "" };
                    write!(f, "{comma}NMI unblocking due to IRET")?;
                }
                Ok(())
            }
            Self::SppMisconfiguration(yes) => f.write_str(if *yes {
                "SPP misconfiguration"
            } else {
                "SPP miss"
            }),
            Self::GuestStateFailure(failure) => failure.fmt(f),
            Self::MsrLoadFailure(entry) => write!(f, "MSR-load entry {entry}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn each_reason_finds_its_form() {
        use ExitReason as R;
        let cases = [
            (R::Cpuid, 5, ""),
            (R::TaskSwitch, 0x8000_0028, "JMP to task 0x0028"),
            (R::ControlRegisterAccess, 0x300, "MOV CR0, RBX"),
            (R::MovDr, 0x17, "MOV RAX, DR7"),
            (
                R::IoInstruction,
                0x2f8_0008,
                "IN 1 byte from port 0x2f8 (DX)",
            ),
            (R::StartUpIpi, 0x9a, "vector 0x9a"),
            (R::VirtualizedEoi, 0x30, "vector 0x30"),
            (R::Invlpg, 0x1000, "linear address 0x1000"),
            (R::Vmxon, 0x10, "displacement 0x10"),
            (R::ApicWrite, 0x300, "APIC offset 0x300"),
            (R::Mwait, 1, "monitor armed"),
            (R::WbinvdOrWbnoinvd, 0, "WBINVD"),
            (
                R::PageModificationLogFull,
                0x1000,
                "NMI unblocking due to IRET",
            ),
            (
                R::InstructionTimeout,
                0x1001,
                "VM context invalid, NMI unblocking due to IRET",
            ),
            (R::SppRelatedEvent, 0x800, "SPP misconfiguration"),
            (R::EntryFailureGuestState, 0, "not told which check"),
            (
                R::EntryFailureGuestState,
                3,
                "an NMI injected while STI blocks",
            ),
            (R::EntryFailureGuestState, 4, "the VMCS link pointer"),
            (R::EntryFailureGuestState, 7, "unknown failure 7"),
            (R::EntryFailureMsrLoading, 2, "MSR-load entry 2"),
        ];
        for (reason, raw, text) in cases {
            assert_eq!(
                ExitQualification::decode(reason, raw).to_string(),
                text,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_debug_exception_tells_dr6() {
        assert_eq!(
            DebugException::from_bits_retain(0x4001).to_string(),
            "B0, BS"
        );
        assert_eq!(DebugException::from_bits_retain(0x2000).to_string(), "BD");
    }
}
