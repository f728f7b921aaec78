//! The micro-TPM: what a piece of application logic (PAL) asks of a TPM, in
//! software and a PAL at a time.
//!
//! The hypervisor measures a PAL's sections into its [`Pcrs`] when the PAL is
//! registered, with [`SectionMeasurement`], and gives every micro-TPM hypercall
//! from inside a PAL to [`Tpm::execute`]. What that needs of the machine it asks
//! through two traits: [`Entropy`] and [`CallerMemory`].
//!
//! The interface, the structures and the formats are TrustVisor's. They are
//! listed in `docs/micro-tpm.md`, which also says what is weak about them.
//!
//! | what | module |
//! |---|---|
//! | PCRs, selections of them, the digest of a selection | `pcr` |
//! | what REG hashes | `measurement` |
//! | the raw source of randomness and its health tests | `entropy` |
//! | the generator that everything random comes from | `drbg` |
//! | sealed blobs, in their present and their first form | `sealing`, `first_form` |
//! | the RSA key that signs quotes, and how it comes to be | `identity`, `key_generation` |
//! | what a quote signs | `quote` |
//! | the caller's arguments | `call` |
//! | one hypercall | `tpm` |
#![no_std]
#![forbid(unsafe_code)]

mod call;
mod drbg;
mod entropy;
mod error;
mod first_form;
mod identity;
mod key_generation;
mod measurement;
#[cfg(test)]
mod openssl_tests;
mod pcr;
mod quote;
mod sealing;
mod tpm;

#[cfg(test)]
extern crate std;

pub use call::{BadAddress, CallerMemory};
pub use entropy::{Checked, Entropy, EntropyFailure};
pub use measurement::SectionMeasurement;
pub use pcr::{Digest, Pcrs};
pub use sealing::MAX_SEALED_DATA;
pub use tpm::{Outcome, Tpm};
