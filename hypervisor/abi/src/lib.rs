//! Hypercall numbers, the register convention and the structures shared with guests.
//!
//! The hypervisor and the guest's programs both build against this crate, so
//! that neither side holds a number that the other one doesn't. It follows
//! TrustVisor's interface: programs compiled for TrustVisor run unmodified.
//!
//! # Register convention
//! A hypercall is `VMCALL`, from any privilege level. The command is in EAX
//! (the low 32 bits alone count), the result comes back in RAX; a caller whose
//! code segment has L = 0 sees EAX. Arguments are in CX, DX, SI and DI, as wide
//! as the caller's code is.
#![no_std]
#![forbid(unsafe_code)]

pub mod detect;
pub mod hypercall;
pub mod pal;

pub use hypercall::{Hypercall, HypercallResult, TestHook};
