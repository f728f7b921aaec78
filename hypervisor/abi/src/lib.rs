//! Hypercall numbers, the register convention and the structures shared with guests.
#![no_std]
#![forbid(unsafe_code)]
