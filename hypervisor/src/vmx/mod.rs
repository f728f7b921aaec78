//! VMX operation: from VMXON to the run loop of each CPU's guest.

pub mod ept;
pub mod entry;
pub mod exits;
pub mod instructions;
pub mod io;
pub mod setup;
pub mod state;
pub mod vcpu;
