//! VMX operation: from VMXON to the run loop of each CPU's guest.

pub mod entry;
pub mod ept;
pub mod exits;
pub mod fields;
pub mod guest_state;
pub mod instructions;
pub mod io;
pub mod setup;
pub mod state;
pub mod vcpu;
