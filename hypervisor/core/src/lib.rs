//! The hypervisor's policy as pure functions.
#![no_std]
#![forbid(unsafe_code)]
