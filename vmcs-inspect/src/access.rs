//! Reading and writing VMCS fields, whatever stands behind.
//!
//! The hypervisor implements [`VmcsAccess`] with VMREAD and VMWRITE; a
//! [`VmcsSnapshot`](crate::VmcsSnapshot) stands for a CPU that cannot be asked now, and
//! the checks lay an [`Overlay`](crate::Overlay) over either to see what a write would do.

use core::fmt;

use crate::Field;

/// A VMCS whose fields can be read and written.
pub trait VmcsAccess {
    /// The field's value, zero-extended. Asking for a field that the processor does not
    /// have leaves [`Field::VM_INSTRUCTION_ERROR`] as it is.
    ///
    /// # Errors
    /// [`VmcsError::Unsupported`] if the processor does not have the field;
    /// [`VmcsError::NoCurrentVmcs`] or [`VmcsError::Unavailable`] if none can be read now.
    fn read(&mut self, field: Field) -> Result<u64, VmcsError>;

    /// Sets the field to `value`, of which bits beyond the field's width must be 0.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`VmcsError::ReadOnly`] for a VM-exit information field that
    /// the processor does not let be written; [`VmcsError::TooWide`] for a
    /// value that the field cannot hold.
    fn write(&mut self, field: Field, value: u64) -> Result<(), VmcsError>;
}

impl<V: VmcsAccess + ?Sized> VmcsAccess for &mut V {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        (**self).read(field)
    }

    fn write(&mut self, field: Field, value: u64) -> Result<(), VmcsError> {
        (**self).write(field, value)
    }
}

/// Why a VMCS field could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmcsError {
    /// The processor does not have the field (VMfailValid, error 12).
    Unsupported(Field),
    /// The field cannot be written (VMfailValid, error 13).
    ReadOnly(Field),
    /// The value has bits beyond the field's width.
    TooWide(Field),
    /// There is no current VMCS (VMfailInvalid).
    NoCurrentVmcs,
    /// The CPU cannot serve the request now: it is parked or did not answer.
    Unavailable,
}

impl fmt::Display for VmcsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmcsError::Unsupported(field) => {
                write!(f, "this processor has no field {field}")
            }
            VmcsError::ReadOnly(field) => write!(f, "{field} is read-only"),
            VmcsError::TooWide(field) => write!(
                f,
                "the value does not fit: {field} holds up to {:#x}",
                field.width().max_value()
            ),
            VmcsError::NoCurrentVmcs => f.write_str("the CPU has no current VMCS"),
            VmcsError::Unavailable => f.write_str("the CPU cannot be asked now"),
        }
    }
}

impl core::error::Error for VmcsError {}
