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
        let (blocks, rest) = Array::slice_as_chunks_mut(into);
        for block in &mut *blocks {
            *block = self.count().into();
        }
        // Several blocks cost in software what one does.
        cipher.encrypt_blocks(blocks);
        if !rest.is_empty() {
            let block = Zeroizing::new(encrypt(&cipher, self.count()));
            rest.copy_from_slice(&block[..rest.len()]);
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
        let mut next = Zeroizing::new([0; SEED]);
        let (blocks, _) = Array::slice_as_chunks_mut(&mut *next);
        for block in &mut *blocks {
            *block = self.count().into();
        }
        cipher.encrypt_blocks(blocks);
        xor(&mut *next, provided);
        let (key, v) = next.split_at(KEY);
        self.key.copy_from_slice(key);
        self.v.copy_from_slice(v);
    }

    /// The counter's next value.
    fn count(&mut self) -> [u8; BLOCK] {
        self.v = u128::from_be_bytes(self.v).wrapping_add(1).to_be_bytes();
        self.v
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

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    /// Gives these bytes, and then fails.
    struct Script<'a>(&'a [u8]);

    impl Entropy for Script<'_> {
        fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
            let (now, later) = self.0.split_at_checked(into.len()).ok_or(EntropyFailure)?;
            into.copy_from_slice(now);
            self.0 = later;
            Ok(())
        }
    }

    fn instantiate(entropy: [u8; 32], nonce: [u8; 16]) -> CtrDrbg {
        CtrDrbg::new(&mut Script(&[entropy.as_slice(), &nonce].concat())).unwrap()
    }

    // The vectors are NIST's, of its Cryptographic Algorithm Validation Program:
    // CTR_DRBG, [AES-256 use df], no personalization and no additional input.

    #[test]
    fn two_requests_answer_as_nist_says() {
        let mut drbg = instantiate(
            hex!("36401940fa8b1fba91a1661f211d78a0b9389a74e5bccfece8d766af1a6d3b14"),
            hex!("496f25b0f1301b4f501be30380a137eb"),
        );
        let key = hex!("3363d9000e6db47c16d3fc65f2872c08a35f99b2d174afa537a66ec153052d98");
        assert_eq!(drbg.key, key);
        assert_eq!(drbg.v, hex!("9ee8d2e9c618ccbb8e66b5eb5333dce1"));
        let mut bytes = [0; 64];
        drbg.fill(&mut bytes, &mut Script(&[])).unwrap();
        drbg.fill(&mut bytes, &mut Script(&[])).unwrap();
        let expected = hex!(
            "5862eb38bd558dd978a696e6df164782ddd887e7e9a6c9f3f1fbafb78941b535"
            "a64912dfd224c6dc7454e5250b3d97165e16260c2faf1cc7735cb75fb4f07e1d"
        );
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_new_seed_answers_as_nist_says() {
        // Entropy, nonce, bits of a first request, entropy again, bits of a second.
        let vectors = [
            (
                hex!("5a194d5e2b31581454def675fb7958fec7db873e5689fc9d03217c68d8033820"),
                hex!("1b54b8ff0642bff521f15c1c0b665f3f"),
                hex!("3f6db52dff53ae68e92abcd8131ef8bf"),
                hex!("f9e65e04d856f3a9c44a4cbdc1d00846f5983d771c1b137e4e0f9d8ef409f92e"),
                hex!("a054303d8a7ea9889d903e077c6f218f"),
            ),
            (
                hex!("93b7055d7888ae234bfb431e379069d00ae810fbd48f2e06c204beae3b0bfaf0"),
                hex!("90bc3b555b9d6b6aeb1774a583f98cad"),
                hex!("bbaa55393cfe8f1cbe257c7c1bd207c9"),
                hex!("91d1d0e853525ead0e7f79abb0f0bf68064576339c3585cfd6d9b55d4f39278d"),
                hex!("aaf27fc2bf64b0320dd3564bb9b03377"),
            ),
            (
                hex!("58364ceefad37581c518b7d42ac4f9aae22befd84cbc986c08d1fb20d3bd2400"),
                hex!("4a2a7dcbde58b8b3c3f4697beb67bba2"),
                hex!("c0ca200343c72b55523cef092ef4c4bd"),
                hex!("a899bafd470278fad8f0a50f8490af29f938471b4075654fda577dad20fa01ca"),
                hex!("20c5117a8aca72ee5ab91468daf44f29"),
            ),
        ];
        for (entropy, nonce, first, entropy_again, second) in vectors {
            let mut drbg = instantiate(entropy, nonce);
            let mut bits = [0; 16];
            drbg.fill(&mut bits, &mut Script(&[])).unwrap();
            assert_eq!(bits, first);
            drbg.reseed(&mut Script(&entropy_again)).unwrap();
            drbg.fill(&mut bits, &mut Script(&[])).unwrap();
            assert_eq!(bits, second);
        }
    }

    #[test]
    fn it_asks_for_a_new_seed_after_so_many_requests() {
        let mut drbg = instantiate([1; 32], [2; 16]);
        let mut bits = [0; 16];
        for _ in 0..RESEED_INTERVAL {
            drbg.fill(&mut bits, &mut Script(&[])).unwrap();
        }
        let without = drbg.fill(&mut bits, &mut Script(&[]));
        assert_eq!((without, bits), (Err(EntropyFailure), [0; 16]));
        drbg.fill(&mut bits, &mut Script(&[3; 32])).unwrap();
        drbg.fill(&mut bits, &mut Script(&[])).unwrap();
    }

    #[test]
    fn requests_have_a_limit() {
        let mut drbg = instantiate([1; 32], [2; 16]);
        let mut bytes = std::vec![0; CtrDrbg::MAX_REQUEST + 1];
        assert!(drbg.fill(&mut bytes, &mut Script(&[])).is_err());
        assert!(drbg.fill(&mut bytes[1..], &mut Script(&[])).is_ok());
    }
}
