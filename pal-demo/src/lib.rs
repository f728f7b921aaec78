//! The guest's side of the hypercall interface: what a program in the guest
//! links to find Stillpoint and to call it.
//!
//! The programs in `src/bin` use it; so can any program built for the guest.
//! [`TrustVisor::detect`] is the only way to a [`TrustVisor`], so a program
//! cannot execute VMCALL (which is #UD, hence SIGILL, on a bare processor)
//! without having asked CPUID first.

pub mod apic;
pub mod args;
pub mod arithmetic;
mod entry;
pub mod hold;
mod hypercall;
pub mod interrupts;
pub mod lcg;
mod pages;
mod pal;
pub mod utpm;

pub use entry::Entry;
pub use hypercall::{TrustVisor, running_pal};
pub use pages::{PAGE_SIZE, Pages};
pub use pal::{Builder, CODE_SECTION, Pal, PalError};

/// The guide's example, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/pal-guide.md")]
struct PalGuide;
