//! Sealed blobs: data that only this micro-TPM opens, and only while PCRs have
//! the values that were asked for.
//!
//! A blob is an initialization vector of 16 bytes, AES-128 in CBC mode, and the
//! HMAC-SHA1 of both. What is encrypted: `TPM_PCR_INFO`, or two zero bytes where
//! the selection has no bits; the data's length in 4 bytes; the data; zeroes up
//! to a whole block.

use aes::Aes128;
use cbc::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::Refusal;
use crate::pcr::{Composite, DIGEST_SIZE, Digest, Pcrs, Selection};

/// Bytes that one blob can hold.
pub const MAX_SEALED_DATA: usize = 1984;

/// Bytes of the secret that the keys come from.
pub const MASTER_SECRET: usize = 20;

/// Bytes of an AES block, and of an initialization vector.
pub const BLOCK: usize = 16;

/// Bytes of a `TPM_PCR_INFO`.
const INFO_SIZE: usize = Selection::SIZE + 2 * DIGEST_SIZE;

/// Bytes of the longest blob.
pub const MAX_BLOB: usize =
    BLOCK + (INFO_SIZE + 4 + MAX_SEALED_DATA).next_multiple_of(BLOCK) + DIGEST_SIZE;

/// Room for any blob.
pub type Blob = heapless::Vec<u8, MAX_BLOB>;

/// `TPM_PCR_INFO` as a caller gives it: which PCRs, and the digest of their
/// composite with which the data may be had again. The digest at creation, its
/// third member, is the micro-TPM's to write.
#[derive(Clone, Copy)]
pub struct PcrInfo {
    /// The PCRs.
    pub selection: Selection,
    /// The digest of their composite that UNSEAL demands.
    pub at_release: Digest,
}

impl PcrInfo {
    /// Bytes of the structure in the caller's memory.
    pub const SIZE: usize = INFO_SIZE;

    /// The structure in a caller's memory, or `None` if its selection is not one.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let (selection, digests) = bytes.split_first_chunk()?;
        Some(Self {
            selection: Selection::decode(*selection)?,
            at_release: *digests.first_chunk()?,
        })
    }
}

/// What was in a blob.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsealed<'a> {
    /// The data.
    pub data: &'a [u8],
    /// The digest of the selected PCRs' composite when the data was sealed; zero
    /// where the selection had no bits.
    pub at_creation: Digest,
}

/// The keys of all blobs.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SealingKeys {
    aes: [u8; BLOCK],
    hmac: Digest,
}

impl SealingKeys {
    /// The keys that a master secret gives.
    pub fn new(secret: &[u8; MASTER_SECRET]) -> Self {
        let long = Zeroizing::new(hmac_sha1(secret, b"sealingaes"));
        let mut aes = [0; BLOCK];
        for (to, from) in aes.iter_mut().zip(long.iter()) {
            *to = *from;
        }
        Self {
            aes,
            hmac: hmac_sha1(secret, b"sealinghmac"),
        }
    }

    /// HMAC-SHA1 with the HMAC key.
    pub fn authenticate(&self, message: &[u8]) -> Digest {
        hmac_sha1(&self.hmac, message)
    }

    /// Encrypts whole blocks in place.
    pub fn encrypt(&self, iv: [u8; BLOCK], blocks: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(blocks);
        cbc::Encryptor::<Aes128>::new(&self.aes.into(), &iv.into()).encrypt_blocks(blocks);
    }

    /// Decrypts whole blocks in place.
    pub fn decrypt(&self, iv: [u8; BLOCK], blocks: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(blocks);
        cbc::Decryptor::<Aes128>::new(&self.aes.into(), &iv.into()).decrypt_blocks(blocks);
    }

    /// Seals `data`, at most [`MAX_SEALED_DATA`], with an initialization vector
    /// that is used once.
    pub fn seal(
        &self,
        iv: [u8; BLOCK],
        info: PcrInfo,
        pcrs: &Pcrs,
        data: &[u8],
    ) -> Result<Blob, Refusal> {
        self.build(iv, info, pcrs, data).ok_or(Refusal::Broken)
    }

    fn build(&self, iv: [u8; BLOCK], info: PcrInfo, pcrs: &Pcrs, data: &[u8]) -> Option<Blob> {
        let mut blob = Blob::from_slice(&iv).ok()?;
        blob.extend_from_slice(info.selection.encode().as_slice())
            .ok()?;
        if info.selection != Selection::Empty {
            let now = Composite::new(info.selection, pcrs).digest();
            blob.extend_from_slice(&info.at_release).ok()?;
            blob.extend_from_slice(&now).ok()?;
        }
        append_data(&mut blob, data)?;
        let (_, plain) = blob.split_first_chunk_mut::<BLOCK>()?;
        self.encrypt(iv, plain);
        let mac = self.authenticate(&blob);
        blob.extend_from_slice(&mac).ok()?;
        Some(blob)
    }

    /// Opens a blob, in place. Refused if a byte of it is not as [`Self::seal`]
    /// made it, or if the PCRs are not as was demanded.
    pub fn unseal<'a>(&self, pcrs: &Pcrs, blob: &'a mut [u8]) -> Result<Unsealed<'a>, Refusal> {
        self.open(pcrs, blob).ok_or(Refusal::BadArgument)
    }

    fn open<'a>(&self, pcrs: &Pcrs, blob: &'a mut [u8]) -> Option<Unsealed<'a>> {
        let (authenticated, mac) = blob.split_last_chunk_mut::<DIGEST_SIZE>()?;
        if !authenticated.len().is_multiple_of(BLOCK) {
            return None;
        }
        if !bool::from(self.authenticate(authenticated).ct_eq(mac)) {
            return None;
        }
        let (iv, plain) = authenticated.split_first_chunk_mut::<BLOCK>()?;
        self.decrypt(*iv, plain);
        let (announced, rest) = plain.split_first_chunk::<2>()?;
        if *announced == [0, 0] {
            return Some(Unsealed {
                data: read_data(rest)?,
                at_creation: [0; DIGEST_SIZE],
            });
        }
        let (info, rest) = plain.split_first_chunk::<INFO_SIZE>()?;
        let demanded = PcrInfo::decode(info)?;
        let now = Composite::new(demanded.selection, pcrs).digest();
        bool::from(now.ct_eq(&demanded.at_release)).then_some(())?;
        Some(Unsealed {
            data: read_data(rest)?,
            at_creation: *info.last_chunk()?,
        })
    }
}

/// Appends the length of the data, the data, and zeroes up to a whole block.
pub fn append_data(blob: &mut Blob, data: &[u8]) -> Option<()> {
    blob.extend_from_slice(&(data.len() as u32).to_le_bytes())
        .ok()?;
    blob.extend_from_slice(data).ok()?;
    let padded = blob.len().next_multiple_of(BLOCK);
    blob.resize(padded, 0).ok()
}

/// What [`append_data`] appended.
pub fn read_data(plain: &[u8]) -> Option<&[u8]> {
    let (length, rest) = plain.split_first_chunk()?;
    rest.get(..u32::from_le_bytes(*length) as usize)
}

fn hmac_sha1(key: &[u8; DIGEST_SIZE], message: &[u8]) -> Digest {
    // An Hmac takes a block as its key without question; a shorter key is the
    // same key with zeroes behind it (RFC 2104, section 2).
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    Hmac::<Sha1>::new(&(*block).into())
        .chain_update(message)
        .finalize()
        .into_bytes()
        .into()
}
