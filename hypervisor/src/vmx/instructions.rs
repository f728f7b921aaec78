//! The VMX instructions (Intel SDM vol. 3, chapter 31 "VMX Instruction
//! Reference"). Flags are read in the statement of the instruction itself.

use core::arch::asm;

use stillpoint_core::addr::Hpa;
use vmcs_inspect::{Field, VmInstructionError, VmcsAccess, VmcsError};

use super::fields;

/// A VMX instruction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmxFailure {
    /// VMfailInvalid: there is no current VMCS, or the operand is no VMCS.
    Invalid,
    /// VMfailValid, with the VM-instruction error's number.
    Valid(u32),
}

impl VmxFailure {
    /// The number's meaning, where it has one.
    pub fn error(self) -> Option<VmInstructionError> {
        match self {
            Self::Invalid => None,
            Self::Valid(number) => VmInstructionError::from_raw(number),
        }
    }
}

fn outcome(carry: u8, zero: u8) -> Result<(), VmxFailure> {
    if carry != 0 {
        Err(VmxFailure::Invalid)
    } else if zero != 0 {
        Err(VmxFailure::Valid(get(Field::VM_INSTRUCTION_ERROR) as u32))
    } else {
        Ok(())
    }
}

macro_rules! with_memory_operand {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The region is the hypervisor's, of the size and with the revision that
        /// IA32_VMX_BASIC demands, and used as nothing else.
        ///
        /// # Errors
        /// [`VmxFailure`]
        pub unsafe fn $name(region: Hpa) -> Result<(), VmxFailure> {
            let (carry, zero): (u8, u8);
            let operand = region.as_u64();
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!($text, " [{operand}]"),
                    "setc {carry}",
                    "setz {zero}",
                    operand = in(reg) &raw const operand,
                    carry = lateout(reg_byte) carry,
                    zero = lateout(reg_byte) zero,
                    options(nostack),
                );
            }
            outcome(carry, zero)
        }
    };
}

with_memory_operand!(
    /// VMXON: this CPU enters VMX operation.
    vmxon, "vmxon"
);
with_memory_operand!(
    /// VMCLEAR: the VMCS becomes inactive and clear.
    vmclear, "vmclear"
);
with_memory_operand!(
    /// VMPTRLD: the VMCS becomes current.
    vmptrld, "vmptrld"
);

/// VMREAD of a field that every processor that got this far has. For any other
/// the value means nothing; [`Current`] tells.
#[inline(always)]
pub fn get(field: Field) -> u64 {
    let value: u64;
    // SAFETY: VMREAD in VMX root operation with a current VMCS touches nothing
    // else.
    unsafe {
        asm!("vmread {value}, {field}", value = out(reg) value,
             field = in(reg) u64::from(field.encoding()), options(nomem, nostack));
    }
    value
}

/// VMWRITE of a field that every processor that got this far has and lets be
/// written.
///
/// What is written decides how the guest runs, and the host state decides how
/// the hypervisor does: see [`super::setup`] for that.
#[inline(always)]
pub fn set(field: Field, value: u64) {
    // SAFETY: as in `get`. Host-state fields are written by `setup` alone.
    unsafe {
        asm!("vmwrite {field}, {value}", value = in(reg) value,
             field = in(reg) u64::from(field.encoding()), options(nostack));
    }
}

/// INVEPT, all contexts.
pub fn invept_all() {
    let descriptor = [0u64; 2];
    // SAFETY: drops cached translations, nothing else.
    unsafe {
        asm!("invept {kind}, [{descriptor}]", kind = in(reg) 2u64,
             descriptor = in(reg) &raw const descriptor, options(nostack));
    }
}

/// INVVPID, all contexts.
pub fn invvpid_all() {
    let descriptor = [0u64; 2];
    // SAFETY: drops cached translations, nothing else.
    unsafe {
        asm!("invvpid {kind}, [{descriptor}]", kind = in(reg) 2u64,
             descriptor = in(reg) &raw const descriptor, options(nostack));
    }
}

/// VMREAD of a field that the processor may lack, which leaves an error in the VMCS.
///
/// # Errors
/// [`VmxFailure`]
pub fn vmread(field: Field) -> Result<u64, VmxFailure> {
    let (value, carry, zero): (u64, u8, u8);
    // SAFETY: as in `get`.
    unsafe {
        asm!("vmread {value}, {field}", "setc {carry}", "setz {zero}",
             value = out(reg) value, field = in(reg) u64::from(field.encoding()),
             carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero,
             options(nomem, nostack));
    }
    outcome(carry, zero).map(|()| value)
}

/// This CPU's current VMCS, with every failure told. What the processor lacks is not
/// asked for.
pub struct Current;

impl VmcsAccess for Current {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        if !fields::has(field) {
            return Err(VmcsError::Unsupported(field));
        }
        vmread(field).map_err(|failure| match failure {
            VmxFailure::Invalid => VmcsError::NoCurrentVmcs,
            VmxFailure::Valid(_) => VmcsError::Unsupported(field),
        })
    }

    fn write(&mut self, field: Field, value: u64) -> Result<(), VmcsError> {
        if !fields::has(field) {
            return Err(VmcsError::Unsupported(field));
        }
        if value > field.width().max_value() {
            return Err(VmcsError::TooWide(field));
        }
        let (carry, zero): (u8, u8);
        // SAFETY: a person at the debugger asked for it, or a plan; see `set`.
        unsafe {
            asm!("vmwrite {field}, {value}", "setc {carry}", "setz {zero}",
                 value = in(reg) value, field = in(reg) u64::from(field.encoding()),
                 carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero,
                 options(nostack));
        }
        match outcome(carry, zero) {
            Ok(()) => Ok(()),
            Err(VmxFailure::Invalid) => Err(VmcsError::NoCurrentVmcs),
            Err(VmxFailure::Valid(13)) => Err(VmcsError::ReadOnly(field)),
            Err(VmxFailure::Valid(_)) => Err(VmcsError::Unsupported(field)),
        }
    }
}
