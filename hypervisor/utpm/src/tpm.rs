//! The micro-TPM itself: one hypercall of a PAL, from arguments to answer.
//!
//! The hypervisor makes one [`Tpm`] at boot for all PALs, and calls
//! [`Tpm::execute`] with the PCRs and the memory of the PAL that asks.

use stillpoint_abi::pal::Width;
use stillpoint_abi::{Hypercall, HypercallResult};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::call::{CallerMemory, read, read_input, read_length, read_pair, write_all};
use crate::drbg::CtrDrbg;
use crate::entropy::{Entropy, EntropyFailure};
use crate::error::Refusal;
use crate::first_form;
use crate::identity::{IdentityKey, SIGNATURE_SIZE};
use crate::key_generation::KeyGeneration;
use crate::pcr::{Composite, Pcrs, Selection};
use crate::quote;
use crate::sealing::{BLOCK, Blob, MASTER_SECRET, MAX_SEALED_DATA, PcrInfo, SealingKeys};

/// Bytes of the NV storage, which all PALs share.
pub const NVRAM_SIZE: usize = 32;

/// The most random bytes that one call gives.
pub const MAX_RANDOM: usize = 4096;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered: the result is the caller's RAX.
    Done(HypercallResult),
    /// The identity key is not there yet; some of its generation was done, and
    /// nothing else. The caller must execute its VMCALL again.
    Again,
}

/// The secrets of one boot.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Secrets {
    drbg: CtrDrbg,
    sealing: SealingKeys,
    generation: KeyGeneration,
    identity: Option<IdentityKey>,
    nvram: [u8; NVRAM_SIZE],
}

/// The micro-TPM of a machine, all secrets in it.
pub struct Tpm(Option<Secrets>);

/// A call that was done, or must come again, or is refused.
type Step = Result<Progress, Refusal>;

enum Progress {
    Done,
    Again,
}

impl Tpm {
    /// Draws this boot's secrets.
    ///
    /// `entropy` should stand under the health tests of [`Checked`](crate::Checked).
    pub fn new(entropy: &mut impl Entropy) -> Result<Self, EntropyFailure> {
        let mut drbg = CtrDrbg::new(entropy)?;
        let mut master = Zeroizing::new([0; MASTER_SECRET]);
        drbg.fill(&mut *master, entropy)?;
        Ok(Self(Some(Secrets {
            drbg,
            sealing: SealingKeys::new(&master),
            generation: KeyGeneration::default(),
            identity: None,
            // What NV storage that nobody has written holds.
            nvram: [0xff; NVRAM_SIZE],
        })))
    }

    /// Destroys every secret. Calls after it answer
    /// [`TpmError`](HypercallResult::TpmError).
    pub fn wipe(&mut self) {
        self.0.zeroize();
    }

    /// Executes one hypercall from inside a PAL.
    ///
    /// `arguments` are the caller's CX, DX, SI and DI, `width` the width of its
    /// code. A hypercall that is not the micro-TPM's fails. Whatever is refused
    /// changes nothing.
    pub fn execute(
        &mut self,
        call: Hypercall,
        arguments: [u64; 4],
        width: Width,
        pcrs: &mut Pcrs,
        memory: &mut impl CallerMemory,
        entropy: &mut impl Entropy,
    ) -> Outcome {
        let step = match &mut self.0 {
            Some(secrets) => Request {
                secrets,
                pcrs,
                memory,
                entropy,
                width,
            }
            .execute(call, arguments.map(|argument| width.truncate(argument))),
            None => Err(Refusal::Broken),
        };
        match step {
            Ok(Progress::Done) => Outcome::Done(HypercallResult::Success),
            Ok(Progress::Again) => Outcome::Again,
            Err(refusal) => Outcome::Done(refusal.result()),
        }
    }
}

/// A call and all that it may touch.
struct Request<'a, M, E> {
    secrets: &'a mut Secrets,
    pcrs: &'a mut Pcrs,
    memory: &'a mut M,
    entropy: &'a mut E,
    width: Width,
}

impl<M: CallerMemory, E: Entropy> Request<'_, M, E> {
    fn execute(&mut self, call: Hypercall, [cx, dx, si, di]: [u64; 4]) -> Step {
        match call {
            Hypercall::PcrRead => self.pcr_read(cx, dx),
            Hypercall::PcrExtend => self.pcr_extend(cx, dx),
            Hypercall::GenerateRandom => self.generate_random(cx, dx),
            Hypercall::Seal => self.seal(cx, dx, si),
            Hypercall::Unseal => self.unseal(cx, dx, si),
            Hypercall::SealDeprecated => self.seal_first_form(cx, dx, si),
            Hypercall::UnsealDeprecated => self.unseal_first_form(cx, dx),
            Hypercall::Quote => self.quote(cx, dx, si, di),
            Hypercall::IdentityPublicKey => self.identity_public_key(cx, dx),
            Hypercall::NvramGetSize => self.answer(&[(cx, &(NVRAM_SIZE as u32).to_le_bytes())]),
            Hypercall::NvramReadAll => {
                let nvram = self.secrets.nvram;
                self.answer(&[(cx, &nvram)])
            }
            Hypercall::NvramWriteAll => {
                self.secrets.nvram = read(self.memory, cx)?;
                Ok(Progress::Done)
            }
            // Its signature is not over a digest, and its answer ends in a key
            // whose length was never given: no program can have relied on it.
            Hypercall::QuoteDeprecated
            | Hypercall::Register
            | Hypercall::Unregister
            | Hypercall::Share
            | Hypercall::Test => Err(Refusal::BadArgument),
        }
    }

    fn answer(&mut self, answers: &[(u64, &[u8])]) -> Step {
        write_all(self.memory, answers)?;
        Ok(Progress::Done)
    }

    /// CX = index, DX = where the PCR goes.
    fn pcr_read(&mut self, index: u64, to: u64) -> Step {
        let pcr = *self.pcrs.read(index as usize).ok_or(Refusal::NoSuchPcr)?;
        self.answer(&[(to, &pcr)])
    }

    /// CX = index, DX = the measurement.
    fn pcr_extend(&mut self, index: u64, from: u64) -> Step {
        self.pcrs.read(index as usize).ok_or(Refusal::NoSuchPcr)?;
        let measurement = read(self.memory, from)?;
        self.pcrs
            .extend(index as usize, &measurement)
            .ok_or(Refusal::NoSuchPcr)?;
        Ok(Progress::Done)
    }

    /// CX = where the bytes go, DX = how many, and how many there were.
    fn generate_random(&mut self, to: u64, length_at: u64) -> Step {
        let length = read_length(self.memory, length_at)?;
        let mut buffer = Zeroizing::new([0; MAX_RANDOM]);
        let bytes = buffer.get_mut(..length).ok_or(Refusal::BadArgument)?;
        self.secrets.drbg.fill(bytes, self.entropy)?;
        self.answer(&[(to, bytes), (length_at, &(length as u32).to_le_bytes())])
    }

    /// CX = the data, DX = `TPM_PCR_INFO`, SI = where the blob and its length go.
    fn seal(&mut self, input: u64, info: u64, output: u64) -> Step {
        let (from, length) = read_input(self.memory, input, self.width)?;
        let [to, length_to] = read_pair(self.memory, output, self.width)?;
        let info = PcrInfo::decode(&read(self.memory, info)?).ok_or(Refusal::BadArgument)?;
        let data = self.read_data(from, length)?;
        let mut iv = [0; BLOCK];
        self.secrets.drbg.fill(&mut iv, self.entropy)?;
        let blob = self.secrets.sealing.seal(iv, info, self.pcrs, &data)?;
        self.answer(&[(to, &blob), (length_to, &length_of(&blob))])
    }

    /// CX = the blob, DX = where the data and its length go, SI = where the
    /// digest at creation goes.
    fn unseal(&mut self, input: u64, output: u64, creation_to: u64) -> Step {
        let (from, length) = read_input(self.memory, input, self.width)?;
        let [to, length_to] = read_pair(self.memory, output, self.width)?;
        let mut blob = self.read_blob(from, length)?;
        let unsealed = self.secrets.sealing.unseal(self.pcrs, &mut blob)?;
        write_all(
            self.memory,
            &[
                (to, unsealed.data),
                (creation_to, &unsealed.at_creation),
                (length_to, &length_of(unsealed.data)),
            ],
        )?;
        Ok(Progress::Done)
    }

    /// CX = the data, DX = what PCR 0 must be, or 0 for what it is, SI = where the
    /// blob and its length go.
    fn seal_first_form(&mut self, input: u64, pcr0: u64, output: u64) -> Step {
        let (from, length) = read_input(self.memory, input, self.width)?;
        let [to, length_to] = read_pair(self.memory, output, self.width)?;
        let pcr0 = match pcr0 {
            0 => *self.pcrs.read(0).ok_or(Refusal::NoSuchPcr)?,
            address => read(self.memory, address)?,
        };
        let data = self.read_data(from, length)?;
        let mut confounder = [0; first_form::CONFOUNDER];
        self.secrets.drbg.fill(&mut confounder, self.entropy)?;
        let blob = first_form::seal(&self.secrets.sealing, &confounder, &pcr0, &data)?;
        self.answer(&[(to, &blob), (length_to, &length_of(&blob))])
    }

    /// CX = the blob, DX = where the data and its length go.
    fn unseal_first_form(&mut self, input: u64, output: u64) -> Step {
        let (from, length) = read_input(self.memory, input, self.width)?;
        let [to, length_to] = read_pair(self.memory, output, self.width)?;
        let mut blob = self.read_blob(from, length)?;
        let data = first_form::unseal(&self.secrets.sealing, self.pcrs, &mut blob)?;
        write_all(self.memory, &[(to, data), (length_to, &length_of(data))])?;
        Ok(Progress::Done)
    }

    /// CX = the selection, DX = where the signature and its length go, SI = the
    /// nonce, DI = where the composite and its length go. Both lengths say first
    /// how much room there is.
    fn quote(&mut self, selection: u64, signature: u64, nonce: u64, composite: u64) -> Step {
        let selection =
            Selection::decode(read(self.memory, selection)?).ok_or(Refusal::BadArgument)?;
        let nonce = read(self.memory, nonce)?;
        let [signature_to, signature_length] = read_pair(self.memory, signature, self.width)?;
        let [composite_to, composite_length] = read_pair(self.memory, composite, self.width)?;
        let room_for_signature = read_length(self.memory, signature_length)?;
        let room_for_composite = read_length(self.memory, composite_length)?;
        let composite = Composite::new(selection, self.pcrs);
        if room_for_signature < SIGNATURE_SIZE || room_for_composite < composite.bytes().len() {
            return Err(Refusal::BadArgument);
        }
        let Some(key) = identity(self.secrets, self.entropy)? else {
            return Ok(Progress::Again);
        };
        let signature = key.sign(&quote::digest(&composite, &nonce))?;
        self.answer(&[
            (signature_to, &signature),
            (composite_to, composite.bytes()),
            (signature_length, &length_of(&signature)),
            (composite_length, &length_of(composite.bytes())),
        ])
    }

    /// CX = where the key goes, DX = how much room there is, and how long it was.
    fn identity_public_key(&mut self, to: u64, length_at: u64) -> Step {
        let room = read_length(self.memory, length_at)?;
        let Some(key) = identity(self.secrets, self.entropy)? else {
            return Ok(Progress::Again);
        };
        let encoded = key.public_key()?;
        if room < encoded.len() {
            return Err(Refusal::BadArgument);
        }
        self.answer(&[(to, &encoded), (length_at, &length_of(&encoded))])
    }

    fn read_data(&mut self, from: u64, length: usize) -> Result<Zeroizing<Blob>, Refusal> {
        if length > MAX_SEALED_DATA {
            return Err(Refusal::BadArgument);
        }
        self.read_blob(from, length)
    }

    fn read_blob(&mut self, from: u64, length: usize) -> Result<Zeroizing<Blob>, Refusal> {
        let mut blob = Zeroizing::new(Blob::new());
        blob.resize(length, 0).map_err(|_| Refusal::BadArgument)?;
        self.memory.read(from, &mut blob)?;
        Ok(blob)
    }
}

/// The identity key, or one step of its generation.
fn identity<'a>(
    secrets: &'a mut Secrets,
    entropy: &mut impl Entropy,
) -> Result<Option<&'a IdentityKey>, EntropyFailure> {
    if secrets.identity.is_none() {
        secrets.identity = secrets.generation.step(&mut secrets.drbg, entropy)?;
        return Ok(None);
    }
    Ok(secrets.identity.as_ref())
}

/// A length as callers read it.
fn length_of(bytes: &[u8]) -> [u8; 4] {
    (bytes.len() as u32).to_le_bytes()
}
