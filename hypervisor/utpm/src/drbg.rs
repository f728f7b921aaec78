//! The generator of all random bytes: CTR_DRBG with AES-256 and a derivation
//! function, NIST SP 800-90A rev. 1, section 10.2.1.
//!
//! It is seeded from [`Entropy`], and again after so many requests. The
//! derivation function lets the seed come from a source of less than full
//! entropy, such as RDRAND.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::entropy::{Entropy, EntropyFailure};

const BLOCK: usize = 16;
const KEY: usize = 32;
const SEED: usize = KEY + BLOCK;

/// Bytes of entropy input of a seed: the generator's strength, 256 bits.
const ENTROPY_INPUT: usize = 32;

/// Bytes of the nonce: half of the strength.
const NONCE: usize = 16;

/// Requests between two seeds. SP 800-90A allows 2^48; a seed costs little.
const RESEED_INTERVAL: u32 = 1024;

/// The generator's state.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct CtrDrbg {
    key: [u8; KEY],
    v: [u8; BLOCK],
    /// Requests since the last seed.
    requests: u32,
}

impl CtrDrbg {
    /// The most bytes that one request may ask for (SP 800-90A, table 3).
    pub const MAX_REQUEST: usize = 1 << 16;

    /// Instantiates the generator.
    pub fn new(entropy: &mut impl Entropy) -> Result<Self, EntropyFailure> {
        let mut input = Zeroizing::new([0; ENTROPY_INPUT + NONCE]);
        entropy.fill(&mut *input)?;
        let mut drbg = Self {
            key: [0; KEY],
            v: [0; BLOCK],
            requests: 0,
        };
        drbg.update(&derive(&input));
        Ok(drbg)
    }

    /// Fills `into`, seeding the generator again if it is time; fails where that
    /// fails, or for more than [`Self::MAX_REQUEST`] bytes, and `into` is zero.
    pub fn fill(
        &mut self,
        into: &mut [u8],
        entropy: &mut impl Entropy,
    ) -> Result<(), EntropyFailure> {
        into.fill(0);
        if into.len() > Self::MAX_REQUEST {
            return Err(EntropyFailure);
        }
        if self.requests >= RESEED_INTERVAL {
            self.reseed(entropy)?;
        }
        let cipher = Aes256::new(&Array::from(self.key));
        for chunk in into.chunks_mut(BLOCK) {
            let block = Zeroizing::new(self.next_block(&cipher));
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        self.update(&[0; SEED]);
        self.requests += 1;
        Ok(())
    }

    /// Mixes fresh entropy into the state.
    pub fn reseed(&mut self, entropy: &mut impl Entropy) -> Result<(), EntropyFailure> {
        let mut input = Zeroizing::new([0; ENTROPY_INPUT]);
        entropy.fill(&mut *input)?;
        self.update(&derive(&input));
        self.requests = 0;
        Ok(())
    }

    /// CTR_DRBG_Update, section 10.2.1.2.
    fn update(&mut self, provided: &[u8; SEED]) {
        let cipher = Aes256::new(&Array::from(self.key));
        let mut next = Zeroizing::new(*provided);
        for chunk in next.chunks_mut(BLOCK) {
            let block = Zeroizing::new(self.next_block(&cipher));
            xor(chunk, &*block);
        }
        let (key, v) = next.split_at(KEY);
        self.key.copy_from_slice(key);
        self.v.copy_from_slice(v);
    }

    fn next_block(&mut self, cipher: &Aes256) -> [u8; BLOCK] {
        self.v = u128::from_be_bytes(self.v).wrapping_add(1).to_be_bytes();
        encrypt(cipher, self.v)
    }
}

/// Block_Cipher_df, section 10.3.2: a seed from any number of input bytes.
fn derive<const N: usize>(input: &[u8; N]) -> Zeroizing<[u8; SEED]> {
    let cipher = Aes256::new(&Array::from(core::array::from_fn::<u8, KEY, _>(|i| {
        i as u8
    })));
    let mut temp = Zeroizing::new([0; SEED]);
    for (counter, chunk) in (0_u32..).zip(temp.chunks_mut(BLOCK)) {
        chunk.copy_from_slice(&chained(&cipher, counter, input));
    }
    let cipher = Aes256::new(&Array::from(
        *temp.first_chunk::<KEY>().unwrap_or(&[0; KEY]),
    ));
    let mut x = *temp.last_chunk::<BLOCK>().unwrap_or(&[0; BLOCK]);
    let mut seed = Zeroizing::new([0; SEED]);
    for chunk in seed.chunks_mut(BLOCK) {
        x = encrypt(&cipher, x);
        chunk.copy_from_slice(&x);
    }
    x.zeroize();
    seed
}

/// BCC, section 10.3.3, of one counter block and the padded input.
fn chained<const N: usize>(cipher: &Aes256, counter: u32, input: &[u8; N]) -> [u8; BLOCK] {
    let mut chaining = [0; BLOCK];
    xor(&mut chaining, &counter.to_be_bytes());
    chaining = encrypt(cipher, chaining);
    let lengths = [(N as u32).to_be_bytes(), (SEED as u32).to_be_bytes()];
    let mut place = 0;
    for &byte in lengths.as_flattened().iter().chain(input).chain(&[0x80]) {
        chaining[place] ^= byte;
        place = (place + 1) % BLOCK;
        if place == 0 {
            chaining = encrypt(cipher, chaining);
        }
    }
    // The padding is zero.
    if place != 0 {
        chaining = encrypt(cipher, chaining);
    }
    chaining
}

fn encrypt(cipher: &Aes256, block: [u8; BLOCK]) -> [u8; BLOCK] {
    let mut block = Array::from(block);
    cipher.encrypt_block(&mut block);
    block.into()
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (to, from) in into.iter_mut().zip(other) {
        *to ^= from;
    }
}
