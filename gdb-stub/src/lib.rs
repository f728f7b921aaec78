//! The GDB remote stub over a `Machine` trait.
#![no_std]
#![forbid(unsafe_code)]
