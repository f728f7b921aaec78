//! Sealed blobs in the form of the first tee-sdk, hypercalls 3 and 4. Programs of
//! that time know no other.
//!
//! Everything is encrypted, by AES-128 in CBC mode with a zero initialization
//! vector: a random confounder of 20 bytes; the HMAC-SHA1 of all that is
//! encrypted, with zeroes in its own place; the value that PCR 0 must have;
//! the data's length in 4 bytes; the data; zeroes up to a whole block.

use subtle::ConstantTimeEq;

use crate::error::Refusal;
use crate::pcr::{DIGEST_SIZE, Digest, Pcrs};
use crate::sealing::{BLOCK, Blob, SealingKeys, append_data, read_data};

/// Bytes of the confounder.
pub const CONFOUNDER: usize = 20;

const ZERO_IV: [u8; BLOCK] = [0; BLOCK];

/// Seals `data`, at most [`MAX_SEALED_DATA`](crate::MAX_SEALED_DATA), for the PAL
/// whose PCR 0 is `pcr0`.
pub fn seal(
    keys: &SealingKeys,
    confounder: &[u8; CONFOUNDER],
    pcr0: &Digest,
    data: &[u8],
) -> Result<Blob, Refusal> {
    build(keys, confounder, pcr0, data).ok_or(Refusal::Broken)
}

fn build(
    keys: &SealingKeys,
    confounder: &[u8; CONFOUNDER],
    pcr0: &Digest,
    data: &[u8],
) -> Option<Blob> {
    let mut blob = Blob::from_slice(confounder).ok()?;
    blob.extend_from_slice(&[0; DIGEST_SIZE]).ok()?;
    blob.extend_from_slice(pcr0).ok()?;
    append_data(&mut blob, data)?;
    let mac = keys.authenticate(&blob);
    let (_, rest) = blob.split_first_chunk_mut::<CONFOUNDER>()?;
    *rest.first_chunk_mut()? = mac;
    keys.encrypt(ZERO_IV, &mut blob);
    Some(blob)
}

/// Opens a blob, in place. Refused if a byte of it is not as [`seal`] made it, or
/// if PCR 0 is not as was demanded.
pub fn unseal<'a>(
    keys: &SealingKeys,
    pcrs: &Pcrs,
    blob: &'a mut [u8],
) -> Result<&'a [u8], Refusal> {
    open(keys, pcrs, blob).ok_or(Refusal::BadArgument)
}

fn open<'a>(keys: &SealingKeys, pcrs: &Pcrs, blob: &'a mut [u8]) -> Option<&'a [u8]> {
    if !blob.len().is_multiple_of(BLOCK) {
        return None;
    }
    keys.decrypt(ZERO_IV, blob);
    let (_, rest) = blob.split_first_chunk_mut::<CONFOUNDER>()?;
    let field = rest.first_chunk_mut::<DIGEST_SIZE>()?;
    let mac = core::mem::replace(field, [0; DIGEST_SIZE]);
    let genuine = keys.authenticate(blob).ct_eq(&mac);
    let (_, rest) = blob.split_at_checked(CONFOUNDER + DIGEST_SIZE)?;
    let (pcr0, rest) = rest.split_first_chunk::<DIGEST_SIZE>()?;
    let released = pcrs.read(0)?.ct_eq(pcr0);
    bool::from(genuine & released).then_some(())?;
    read_data(rest)
}
