//! How the identity key comes to be: two random primes (FIPS 186-5, appendix
//! A.1.3), in steps of a few million instructions, so that the CPU comes by the
//! VM entry in between and nobody who stops the machine waits for long.

use crypto_bigint::{Limb, NonZero, Odd, U1024};
use crypto_primes::hazmat::MillerRabin;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::drbg::CtrDrbg;
use crate::entropy::{Entropy, EntropyFailure};
use crate::identity::{EXPONENT, IdentityKey};

/// Rounds of the Miller-Rabin test with random bases: enough for an error of
/// 2^-112 with primes of 1024 bits (FIPS 186-5, appendix C.1).
const ROUNDS: usize = 5;

/// Random numbers that one step looks at, at most.
const DRAWS: u32 = 32;

/// The generation of a key, under way.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct KeyGeneration {
    /// The first prime, when it has been found.
    first: Option<U1024>,
    /// A number that may be prime, and the rounds that it has passed.
    candidate: Option<(U1024, usize)>,
}

impl KeyGeneration {
    /// One step: the search for a number without small factors, one round of the
    /// test of one, or the making of the key, which is the answer.
    pub fn step(
        &mut self,
        drbg: &mut CtrDrbg,
        entropy: &mut impl Entropy,
    ) -> Result<Option<IdentityKey>, EntropyFailure> {
        match self.candidate {
            None => self.candidate = draw(drbg, entropy)?.map(|candidate| (candidate, 0)),
            Some((prime, ROUNDS)) => {
                self.candidate = None;
                return Ok(self.accept(prime));
            }
            Some((candidate, passed)) => {
                let prime = passes_round(&candidate, drbg, entropy)?;
                self.candidate = prime.then_some((candidate, passed + 1));
            }
        }
        Ok(None)
    }

    /// Keeps the first prime; makes the key of it and the second one.
    fn accept(&mut self, prime: U1024) -> Option<IdentityKey> {
        let Some(first) = self.first else {
            self.first = Some(prime);
            return None;
        };
        if too_close(&first, &prime) {
            return None;
        }
        IdentityKey::new(&first, &prime)
    }
}

/// A random number without small factors that could be one of the primes; `None`
/// if there was none among so many.
fn draw(drbg: &mut CtrDrbg, entropy: &mut impl Entropy) -> Result<Option<U1024>, EntropyFailure> {
    let mut bytes = Zeroizing::new([0; 128]);
    for _ in 0..DRAWS {
        drbg.fill(&mut *bytes, entropy)?;
        // Odd; and with its two highest bits set, so that the modulus has 2048.
        bytes[0] |= 0xc0;
        bytes[127] |= 1;
        let number = U1024::from_be_slice(&*bytes);
        if has_no_small_factor(&number) && fits_exponent(&number) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Whether the exponent, a prime, has an inverse modulo `number` - 1.
fn fits_exponent(number: &U1024) -> bool {
    remainder(number, EXPONENT.into()) != 1
}

/// Whether no prime below [`SMALL`] divides an odd number.
fn has_no_small_factor(number: &U1024) -> bool {
    SMALL_PRIMES
        .iter()
        .all(|&product| gcd(product, remainder(number, product)) == 1)
}

fn remainder(number: &U1024, divisor: u64) -> u64 {
    let divisor = NonZero::new(Limb::from(divisor)).unwrap_or(NonZero::<Limb>::ONE);
    number.rem_limb(divisor).0
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Where small primes end. Of a hundred odd numbers 13 are left then; going twice
/// as far would leave 12.
const SMALL: u64 = 4096;

/// The odd primes below [`SMALL`], multiplied together as far as 64 bits go.
const SMALL_PRIMES: [u64; 100] = small_primes();

const fn small_primes<const N: usize>() -> [u64; N] {
    let mut products = [1_u64; N];
    let (mut place, mut number) = (0, 3);
    while number < SMALL {
        if is_small_prime(number) {
            if products[place].checked_mul(number).is_none() {
                place += 1;
            }
            products[place] *= number;
        }
        number += 2;
    }
    products
}

const fn is_small_prime(number: u64) -> bool {
    let mut divisor = 3;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

/// One round of the Miller-Rabin test (FIPS 186-5, appendix B.3.1).
fn passes_round(
    candidate: &U1024,
    drbg: &mut CtrDrbg,
    entropy: &mut impl Entropy,
) -> Result<bool, EntropyFailure> {
    let mut base = Zeroizing::new([0; 128]);
    drbg.fill(&mut *base, entropy)?;
    // Below the candidate, whose highest two bits are set, and not 0 or 1.
    base[0] &= 0x7f;
    base[127] |= 2;
    let Some(candidate) = Odd::new(*candidate).into_option() else {
        return Ok(false);
    };
    let test = MillerRabin::new(candidate);
    Ok(test.test(&U1024::from_be_slice(&*base)).is_probably_prime())
}

/// Whether the highest 100 bits of both are the same but for one unit (FIPS
/// 186-5, appendix A.1.3, step 5.4): such a modulus is easy to factor.
fn too_close(first: &U1024, second: &U1024) -> bool {
    let difference = if first > second {
        first.wrapping_sub(second)
    } else {
        second.wrapping_sub(first)
    };
    difference.bits() <= 1024 - 100
}

#[cfg(test)]
mod tests {
    use crypto_primes::hazmat::minimum_mr_iterations;

    use super::*;

    #[test]
    fn small_primes_are_all_there() {
        let is_prime = |n: &u64| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
        for prime in (3..SMALL).filter(is_prime) {
            let with = SMALL_PRIMES.iter().filter(|&&p| p.is_multiple_of(prime));
            assert_eq!(with.count(), 1, "{prime}");
        }
        assert!(SMALL_PRIMES.iter().all(|&product| product != 1));
    }

    #[test]
    fn the_rounds_are_enough() {
        assert!(ROUNDS >= minimum_mr_iterations(1024, 112).unwrap());
    }
}
