//! VMX vocabulary: the fields of a VMCS, decoders for what they hold, the checks that
//! a VM entry makes, and the debugger's `monitor vmcs` command.
//!
//! Nothing here touches a processor: the hypervisor implements [`VmcsAccess`]. Names
//! are those of the Intel SDM, order number 325462-081US, September 2023.
#![no_std]
#![forbid(unsafe_code)]

mod access;
mod bits;
mod capabilities;
pub mod check;
mod controls;
mod cpuid_facts;
pub mod decode;
mod exit_reason;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod field;
mod guest_state;
mod instruction_error;
mod instruction_info;
mod interruption;
pub mod monitor;
mod overlay;
#[cfg(test)]
mod properties;
pub mod qualification;
mod registers;
mod segment;
mod snapshot;

pub use access::{VmcsAccess, VmcsError};
pub use capabilities::{AllowedSettings, Capabilities, msr};
pub use check::{Rule, Section, Violation, check};
pub use controls::{
    EntryControls, ExitControls, PinBasedControls, PrimaryControls, SecondaryControls,
    SecondaryExitControls, TertiaryControls,
};
pub use cpuid_facts::CpuidFacts;
pub use exit_reason::{ExitReason, ExitReasonField};
pub use field::{Field, FieldInfo, Kind, Width};
pub use guest_state::{ActivityState, GuestInterruptibility, PendingDebugExceptions};
pub use instruction_error::VmInstructionError;
pub use instruction_info::{InstructionInfo, MemoryOperand};
pub use interruption::{Exception, InterruptionInfo, InterruptionType};
pub use monitor::{NmiState, VmcsHost};
pub use overlay::Overlay;
pub use qualification::ExitQualification;
pub use registers::{Cr0, Cr4, Debugctl, Efer, Gpr, Rflags, SegmentRegister};
pub use segment::AccessRights;
pub use snapshot::{Change, VmcsSnapshot};
