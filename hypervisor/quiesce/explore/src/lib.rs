//! The quiesce protocol explored: every interleaving of a bounded machine. Called by
//! its own tests, which `cargo xtask test` runs; no part of the hypervisor.
//!
//! What is explored is what runs on the metal: [`stillpoint_quiesce::Stop`],
//! [`stillpoint_quiesce::Look`], [`stillpoint_quiesce::Release`] step by step, the
//! calls of [`stillpoint_quiesce::Rendezvous`] that are one access each, and
//! [`stillpoint_core::events::owed_nmi`]. Written for the model are what surrounds them:
//!
//! - `processor`: what a processor does with NMIs, INIT and SIPI;
//! - `program`: what a CPU does between a VM exit and the next VM entry;
//! - `model`: what the world does to it, within bounds;
//! - `bare`: the processor without a hypervisor, which says what "lost" means;
//! - `properties`: P1 to P6;
//! - `variants`: the protocol's known mistakes, put back one at a time;
//! - `search`: the walk over all states;
//! - `table`: a trace as a table with a column for each CPU.
#![forbid(unsafe_code)]

mod bare;
mod model;
mod processor;
mod program;
pub mod properties;
mod search;
mod table;
mod variants;

pub use bare::{Accounts, BareProcessor, Exposure};
pub use model::{Action, Cpu, Machine, State, Wishes};
pub use processor::{Processor, Taken};
pub use program::{At, Handler, Intent, Reason, Then};
pub use search::{Found, search};
pub use table::table;
pub use variants::{Variant, VariantState};
