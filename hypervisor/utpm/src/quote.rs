//! What a quote signs: `TPM_QUOTE_INFO`, the digest of selected PCRs together with
//! a number that the asker chose.

use sha1::{Digest as _, Sha1};

use crate::pcr::{Composite, DIGEST_SIZE, Digest};

/// The structure's version, 1.1.0.0, and its fixed word.
const HEADER: [u8; 8] = *b"\x01\x01\x00\x00QUOT";

/// SHA-1 of the `TPM_QUOTE_INFO`: what is signed.
pub fn digest(composite: &Composite, nonce: &[u8; DIGEST_SIZE]) -> Digest {
    Sha1::new()
        .chain_update(HEADER)
        .chain_update(composite.digest())
        .chain_update(nonce)
        .finalize()
        .into()
}
