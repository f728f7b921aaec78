//! Why the micro-TPM refuses a call.

use stillpoint_abi::HypercallResult;

use crate::call::BadAddress;
use crate::entropy::EntropyFailure;

/// Why a call is refused. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An argument is wrong: an address, a length, a structure, a sealed blob,
    /// or PCRs that are not as the blob demands.
    BadArgument,
    /// There is no PCR of that number.
    NoSuchPcr,
    /// The processor gave no randomness, or bad randomness.
    NoEntropy,
    /// The micro-TPM has been wiped, or its arithmetic went wrong.
    Broken,
}

impl Refusal {
    /// What the caller is told.
    pub fn result(self) -> HypercallResult {
        match self {
            Self::BadArgument => HypercallResult::Failure,
            Self::NoSuchPcr => HypercallResult::PcrOutOfRange,
            Self::NoEntropy => HypercallResult::InsufficientEntropy,
            Self::Broken => HypercallResult::TpmError,
        }
    }
}

impl From<BadAddress> for Refusal {
    fn from(_: BadAddress) -> Self {
        Self::BadArgument
    }
}

impl From<EntropyFailure> for Refusal {
    fn from(_: EntropyFailure) -> Self {
        Self::NoEntropy
    }
}
