//! The micro-TPM as functions for PAL code. They are put into the code that calls them, use the
//! PAL's memory alone, and cannot panic.
//!
//! Each gives the error as the number that TrustVisor answers: 1 for a bad argument, among them
//! an address that is not in the PAL's memory, and any call from outside a PAL; the others are in
//! [`HypercallResult`](stillpoint_abi::HypercallResult).

use stillpoint_abi::{Hypercall, HypercallResult};

use crate::hypercall::vmcall;

/// How many PCRs a PAL has.
pub const PCRS: u32 = 8;

/// Bytes of a PCR, of a measurement, of a digest.
pub const DIGEST_SIZE: usize = 20;

/// SHA-1.
pub type Digest = [u8; DIGEST_SIZE];

/// Bytes of a quote's signature.
pub const SIGNATURE_SIZE: usize = 256;

/// The most random bytes that one call gives.
pub const MAX_RANDOM: usize = 4096;

/// Bytes of the NV storage.
pub const NVRAM_SIZE: usize = 32;

/// Some of a PAL's PCRs: `TPM_PCR_SELECTION`.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    size: u16,
    bits: u8,
}

impl Selection {
    /// No PCR.
    pub const NONE: Self = Self { size: 0, bits: 0 };

    /// One PCR, 0 to 7.
    #[must_use]
    pub const fn one(index: u32) -> Self {
        Self {
            size: 1,
            bits: 1 << (index % PCRS),
        }
    }
}

/// What data is sealed to: `TPM_PCR_INFO`.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrInfo {
    /// To these PCRs. Data that is sealed to none can be unsealed by every PAL of the machine.
    pub selection: Selection,
    /// SHA-1 of the composite that there must be when it is unsealed: the selection, the length of
    /// the PCRs as 32 bits big-endian, and the PCRs.
    pub at_release: Digest,
    /// What it is when it is sealed; not looked at.
    pub at_creation: Digest,
}

/// Bytes of what `length` bytes become when they are sealed, to PCRs or to none.
#[inline(always)]
#[must_use]
pub const fn sealed_size(length: usize, to_pcrs: bool) -> usize {
    let info = if to_pcrs { size_of::<PcrInfo>() } else { 2 };
    let plain = length.wrapping_add(info + 4);
    // IV, whole blocks of AES, HMAC.
    (plain.wrapping_add(15) & !15).wrapping_add(16 + DIGEST_SIZE)
}

/// A bad argument, as TrustVisor answers it.
const BAD_ARGUMENT: u64 = HypercallResult::Failure.code();

/// The micro-TPM's command with four arguments.
#[inline(always)]
fn command(call: Hypercall, arguments: [u64; 4]) -> Result<(), u64> {
    // SAFETY: a PAL runs only where VMCALL is answered. Outside one the command is refused, and
    // inside it writes to the places alone that the functions below borrow exclusively.
    match unsafe { vmcall(call.command(), arguments)[0] } {
        0 => Ok(()),
        error => Err(error),
    }
}

#[inline(always)]
fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// The value of a PCR.
#[inline(always)]
pub fn read_pcr(index: u32, into: &mut Digest) -> Result<(), u64> {
    command(
        Hypercall::PcrRead,
        [index.into(), address(into.as_mut_ptr()), 0, 0],
    )
}

/// Extends a PCR: it becomes SHA-1 of itself and the measurement.
#[inline(always)]
pub fn extend_pcr(index: u32, measurement: &Digest) -> Result<(), u64> {
    command(
        Hypercall::PcrExtend,
        [index.into(), address(measurement.as_ptr()), 0, 0],
    )
}

/// Random bytes, at most [`MAX_RANDOM`]; says how many.
#[inline(always)]
pub fn random(into: &mut [u8]) -> Result<usize, u64> {
    let mut length = into.len() as u64;
    let arguments = [address(into.as_mut_ptr()), address(&raw mut length), 0, 0];
    command(Hypercall::GenerateRandom, arguments)?;
    Ok(length as usize)
}

/// Seals data; says how long the blob is. `into` needs [`sealed_size`] bytes.
#[inline(always)]
pub fn seal(info: &PcrInfo, data: &[u8], into: &mut [u8]) -> Result<usize, u64> {
    let to_pcrs = info.selection.size != 0;
    if into.len() < sealed_size(data.len(), to_pcrs) {
        return Err(BAD_ARGUMENT);
    }
    let input = [address(data.as_ptr()), data.len() as u64];
    let mut length = into.len() as u64;
    let output = [address(into.as_mut_ptr()), address(&raw mut length)];
    command(
        Hypercall::Seal,
        [
            address(&raw const input),
            address(&raw const *info),
            address(&raw const output),
            0,
        ],
    )?;
    Ok(length as usize)
}

/// Unseals a blob; says how long the data is, and gives the composite's digest as it was when the
/// data was sealed. `into` needs as many bytes as the blob has.
#[inline(always)]
pub fn unseal(blob: &[u8], into: &mut [u8], at_creation: &mut Digest) -> Result<usize, u64> {
    if into.len() < blob.len() {
        return Err(BAD_ARGUMENT);
    }
    let input = [address(blob.as_ptr()), blob.len() as u64];
    let mut length = into.len() as u64;
    let output = [address(into.as_mut_ptr()), address(&raw mut length)];
    command(
        Hypercall::Unseal,
        [
            address(&raw const input),
            address(&raw const output),
            address(at_creation.as_mut_ptr()),
            0,
        ],
    )?;
    Ok(length as usize)
}

/// Signs PCRs and a nonce; gives the signature and the composite that is in it, and says how long
/// that is.
#[inline(always)]
pub fn quote(
    selection: &Selection,
    nonce: &Digest,
    signature: &mut [u8; SIGNATURE_SIZE],
    composite: &mut [u8],
) -> Result<usize, u64> {
    let (mut room, mut length) = (signature.len() as u64, composite.len() as u64);
    let signature = [address(signature.as_mut_ptr()), address(&raw mut room)];
    let composite = [address(composite.as_mut_ptr()), address(&raw mut length)];
    command(
        Hypercall::Quote,
        [
            address(&raw const *selection),
            address(&raw const signature),
            address(nonce.as_ptr()),
            address(&raw const composite),
        ],
    )?;
    Ok(length as usize)
}

/// The public key that checks a quote, PKCS #1 in DER; says how long it is.
#[inline(always)]
pub fn public_key(into: &mut [u8]) -> Result<usize, u64> {
    let mut length = into.len() as u64;
    let arguments = [address(into.as_mut_ptr()), address(&raw mut length), 0, 0];
    command(Hypercall::IdentityPublicKey, arguments)?;
    Ok(length as usize)
}

/// Bytes of the NV storage, as TrustVisor says.
#[inline(always)]
pub fn nvram_size() -> Result<usize, u64> {
    let mut size = 0_u64;
    command(Hypercall::NvramGetSize, [address(&raw mut size), 0, 0, 0])?;
    Ok(size as usize)
}

/// All of the NV storage.
#[inline(always)]
pub fn read_nvram(into: &mut [u8; NVRAM_SIZE]) -> Result<(), u64> {
    command(
        Hypercall::NvramReadAll,
        [address(into.as_mut_ptr()), 0, 0, 0],
    )
}

/// Writes all of the NV storage.
#[inline(always)]
pub fn write_nvram(contents: &[u8; NVRAM_SIZE]) -> Result<(), u64> {
    command(
        Hypercall::NvramWriteAll,
        [address(contents.as_ptr()), 0, 0, 0],
    )
}

#[cfg(test)]
mod tests {
    use super::{PcrInfo, Selection, sealed_size};

    #[test]
    fn the_structures_are_trustvisors() {
        assert_eq!(size_of::<Selection>(), 3);
        assert_eq!(size_of::<PcrInfo>(), 43);
        let Selection { size, bits } = Selection::one(3);
        assert_eq!((size, bits), (1, 8));
    }

    #[test]
    fn a_sealed_blob_is_whole_blocks_between_iv_and_mac() {
        // 2 + 4 + 10 is a block; one byte more makes another.
        assert_eq!(sealed_size(10, false), 16 + 16 + 20);
        assert_eq!(sealed_size(11, false), 16 + 32 + 20);
        assert_eq!(sealed_size(1, true), 16 + 48 + 20);
        assert_eq!(sealed_size(2, true), 16 + 64 + 20);
    }
}
