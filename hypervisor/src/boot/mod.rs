//! From the boot loader to the point where every CPU can enter VMX operation.

pub mod acpi;
pub mod multiboot;
pub mod relocate;
pub mod start;
