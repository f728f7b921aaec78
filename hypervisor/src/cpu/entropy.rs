//! The processor's randomness: RDSEED, or RDRAND where there is no RDSEED. The
//! micro-TPM seeds its generator from it, under the health tests of
//! [`Checked`].

use core::arch::asm;
use core::hint::spin_loop;

use spin::Mutex;
use stillpoint_utpm::{Checked, Entropy, EntropyFailure};

use crate::vmx::state::cpuid;

/// The machine's source, once it has been tested. One that has failed is not asked again.
static CHECKED: Mutex<Option<Result<Checked<Instruction>, EntropyFailure>>> = Mutex::new(None);

/// The machine's source of randomness.
pub struct Source(());

/// The source, tested when it is first asked for. Fails where the processor has
/// neither instruction, or what they give is not random.
pub fn source() -> Result<Source, EntropyFailure> {
    let mut checked = CHECKED.lock();
    let checked = checked.get_or_insert_with(|| {
        let instruction = Instruction::of_this_cpu().ok_or(EntropyFailure)?;
        Checked::new(instruction)
    });
    checked.as_ref().map(|_| Source(())).map_err(|why| *why)
}

impl Entropy for Source {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
        match CHECKED.lock().as_mut() {
            Some(Ok(checked)) => checked.fill(into),
            _ => Err(EntropyFailure),
        }
    }
}

/// Which instruction gives the randomness.
#[derive(Clone, Copy)]
enum Instruction {
    Rdseed,
    Rdrand,
}

impl Instruction {
    /// Attempts before RDSEED is given up. It has nothing to give whenever the
    /// CPUs together ask faster than the hardware collects, which is no failure.
    const RDSEED_TRIES: u32 = 100_000;

    /// Attempts before RDRAND is given up (Intel SDM vol. 1, 7.3.17 "Random
    /// Number Generator Instructions": after ten, something is broken).
    const RDRAND_TRIES: u32 = 10;

    /// Numbers of RDRAND between two of which the hardware's generator was seeded
    /// again for certain: it gives at most 511 pairs from one seed.
    const RDRAND_RESEED: u32 = 1022;

    /// The better one of those that CPUID enumerates (Intel SDM vol. 2, CPUID:
    /// leaf 07H, EBX bit 18; leaf 01H, ECX bit 30).
    fn of_this_cpu() -> Option<Self> {
        if cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx & 1 << 18 != 0 {
            Some(Self::Rdseed)
        } else if cpuid(1, 0).ecx & 1 << 30 != 0 {
            Some(Self::Rdrand)
        } else {
            None
        }
    }

    fn next(self) -> Result<u64, EntropyFailure> {
        let tries = match self {
            Self::Rdseed => Self::RDSEED_TRIES,
            Self::Rdrand => Self::RDRAND_TRIES,
        };
        for _ in 0..tries {
            if let Some(number) = self.once() {
                return Ok(number);
            }
            spin_loop();
        }
        Err(EntropyFailure)
    }

    fn once(self) -> Option<u64> {
        let number: u64;
        let there: u8;
        // SAFETY: CPUID says that the processor has the instruction; it touches
        // its operand and the flags.
        unsafe {
            match self {
                Self::Rdseed => {
                    asm!("rdseed {}", "setc {}", out(reg) number, out(reg_byte) there, options(nomem, nostack));
                }
                Self::Rdrand => {
                    asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) there, options(nomem, nostack));
                }
            }
        }
        (there != 0).then_some(number)
    }
}

impl Entropy for Instruction {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
        for pair in into.chunks_mut(16) {
            // RDRAND is a generator too: each 128 bits come from another seed of it.
            if matches!(self, Self::Rdrand) {
                for _ in 0..Self::RDRAND_RESEED {
                    self.next()?;
                }
            }
            for chunk in pair.chunks_mut(8) {
                let number = self.next()?.to_le_bytes();
                chunk.copy_from_slice(number.get(..chunk.len()).ok_or(EntropyFailure)?);
            }
        }
        Ok(())
    }
}
