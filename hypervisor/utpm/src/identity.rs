//! The key that signs quotes: RSA of 2048 bits, with the exponent 65537, PKCS #1
//! v1.5 and SHA-1. There is one for all PALs, made at the first use after boot.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{NonZero, Odd, U1024, U2048};
use pkcs1::der::Encode;
use pkcs1::der::asn1::UintRef;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::Refusal;
use crate::pcr::Digest;

/// Bytes of a signature, and of the modulus.
pub const SIGNATURE_SIZE: usize = 256;

/// Bytes of the public key: a DER sequence of two integers, of which the modulus
/// has its highest bit set.
pub const PUBLIC_KEY_SIZE: usize = 270;

/// The public exponent.
pub const EXPONENT: u32 = 65537;

/// DER of a `DigestInfo` up to its 20 bytes of SHA-1 (RFC 8017, section 9.2, note 1).
const DIGEST_INFO: [u8; 15] = [
    0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14,
];

/// The key pair, as the Chinese remainder theorem wants it (RFC 8017, section 3.2).
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct IdentityKey {
    modulus: U2048,
    p: U1024,
    q: U1024,
    /// EXPONENT to the power of -1 modulo p - 1, and modulo q - 1.
    p_exponent: U1024,
    q_exponent: U1024,
    /// q to the power of -1 modulo p.
    coefficient: U1024,
}

impl IdentityKey {
    /// The key of two primes, or `None` if they make none: equal, or one less
    /// than a multiple of the exponent.
    pub fn new(p: &U1024, q: &U1024) -> Option<Self> {
        let exponent = U1024::from_u32(EXPONENT);
        let less_one = |prime: &U1024| NonZero::new(prime.wrapping_sub(&U1024::ONE)).into_option();
        Some(Self {
            modulus: p.concatenating_mul(q),
            p: *p,
            q: *q,
            p_exponent: exponent.invert_mod(&less_one(p)?).into_option()?,
            q_exponent: exponent.invert_mod(&less_one(q)?).into_option()?,
            coefficient: q
                .invert_odd_mod(&Odd::new(*p).into_option()?)
                .into_option()?,
        })
    }

    /// The public key: `RSAPublicKey` in DER, [`PUBLIC_KEY_SIZE`] bytes.
    pub fn public_key(&self) -> Result<[u8; PUBLIC_KEY_SIZE], Refusal> {
        self.encode_public_key().ok_or(Refusal::Broken)
    }

    fn encode_public_key(&self) -> Option<[u8; PUBLIC_KEY_SIZE]> {
        let mut encoded = [0; PUBLIC_KEY_SIZE];
        let length = pkcs1::RsaPublicKeyRef {
            modulus: UintRef::new(&self.modulus.to_be_bytes()).ok()?,
            public_exponent: UintRef::new(&EXPONENT.to_be_bytes()).ok()?,
        }
        .encode_to_slice(&mut encoded)
        .ok()?
        .len();
        (length == PUBLIC_KEY_SIZE).then_some(encoded)
    }

    /// Signs a digest. The signature is checked before it is given away: one that
    /// went wrong would tell the primes.
    pub fn sign(&self, digest: &Digest) -> Result<[u8; SIGNATURE_SIZE], Refusal> {
        self.checked_signature(digest).ok_or(Refusal::Broken)
    }

    fn checked_signature(&self, digest: &Digest) -> Option<[u8; SIGNATURE_SIZE]> {
        let message = U2048::from_be_slice(&encode(digest));
        let signature = self.private_power(&message)?;
        let params = FixedMontyParams::new_vartime(Odd::new(self.modulus).into_option()?);
        let back = FixedMontyForm::new(&signature, &params)
            .pow_vartime(&U1024::from_u32(EXPONENT))
            .retrieve();
        (back == message).then(|| signature.to_be_bytes().into())
    }

    /// RSADP, the second form (RFC 8017, section 5.1.2): all in constant time.
    fn private_power(&self, message: &U2048) -> Option<U2048> {
        let p = FixedMontyParams::new(Odd::new(self.p).into_option()?);
        let q = FixedMontyParams::new(Odd::new(self.q).into_option()?);
        let modulo_p = message.rem(&NonZero::new(self.p).into_option()?);
        let modulo_q = message.rem(&NonZero::new(self.q).into_option()?);
        let first = FixedMontyForm::new(&modulo_p, &p).pow(&self.p_exponent);
        let second = FixedMontyForm::new(&modulo_q, &q)
            .pow(&self.q_exponent)
            .retrieve();
        let difference = first.sub(&FixedMontyForm::new(&second, &p));
        let factor = difference
            .mul(&FixedMontyForm::new(&self.coefficient, &p))
            .retrieve();
        let product: U2048 = factor.concatenating_mul(&self.q);
        Some(product.wrapping_add(&second.resize()))
    }
}

/// EMSA-PKCS1-v1_5 (RFC 8017, section 9.2).
fn encode(digest: &Digest) -> [u8; SIGNATURE_SIZE] {
    let mut message = [0xff; SIGNATURE_SIZE];
    message[0] = 0;
    message[1] = 1;
    let mut tail = message.iter_mut().rev();
    let payload = digest
        .iter()
        .rev()
        .chain(DIGEST_INFO.iter().rev())
        .chain(&[0]);
    for (to, from) in tail.by_ref().zip(payload) {
        *to = *from;
    }
    message
}
