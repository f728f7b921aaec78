//! The hypervisor's memory: where it lies, who gets which page, and how guest
//! memory is reached from here.

pub mod bios;
pub mod frames;
pub mod guest;
pub mod layout;
pub mod pool;
pub mod tables;
