//! Where randomness comes from, and the tests that a source must pass before
//! and while it is believed.

/// A raw source of randomness: on the metal RDSEED, or RDRAND.
pub trait Entropy {
    /// Fills `into`, or fails and leaves anything there.
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure>;
}

/// There is no randomness, or none that can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntropyFailure;

impl core::fmt::Display for EntropyFailure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the processor's source of randomness failed")
    }
}

impl core::error::Error for EntropyFailure {}

/// A source under the continuous health tests of NIST SP 800-90B, section 4.4.
///
/// A source that fails once is never asked again. The tests find a source that
/// broke: stuck, repeating, or strongly biased. They cannot tell a good source
/// from a malicious one.
pub struct Checked<E> {
    source: E,
    failed: bool,
    repetition: Repetition,
    proportion: Proportion,
}

impl<E: Entropy> Checked<E> {
    /// Bytes that the tests see before the first one is used: SP 800-90B,
    /// section 4.3, asks for 1024 samples at start-up.
    const START_UP: usize = 1024;

    /// Takes a source into use, if it passes the tests at start-up.
    pub fn new(source: E) -> Result<Self, EntropyFailure> {
        let mut checked = Self {
            source,
            failed: false,
            repetition: Repetition::default(),
            proportion: Proportion::default(),
        };
        let mut unused = [0; 64];
        for _ in 0..Self::START_UP / unused.len() {
            checked.fill(&mut unused)?;
        }
        Ok(checked)
    }
}

impl<E: Entropy> Entropy for Checked<E> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
        if self.failed {
            return Err(EntropyFailure);
        }
        let filled = self.source.fill(into);
        let healthy = filled.is_ok()
            && into
                .iter()
                .all(|&sample| self.repetition.passes(sample) && self.proportion.passes(sample));
        if !healthy {
            self.failed = true;
            into.fill(0);
            return Err(EntropyFailure);
        }
        Ok(())
    }
}

/// The repetition count test, SP 800-90B section 4.4.1, with bytes as samples.
///
/// Six bits of entropy are claimed for each byte, and one false alarm in 2^20
/// samples is taken: the cutoff is 1 + ceil(20 / 6).
#[derive(Default)]
struct Repetition {
    sample: u8,
    count: u32,
}

impl Repetition {
    const CUTOFF: u32 = 5;

    fn passes(&mut self, sample: u8) -> bool {
        if self.count != 0 && sample == self.sample {
            self.count += 1;
        } else {
            self.sample = sample;
            self.count = 1;
        }
        self.count < Self::CUTOFF
    }
}

/// The adaptive proportion test, SP 800-90B section 4.4.2: how often the first
/// sample of a window comes again in it.
///
/// The cutoff is the number that a source of six bits a byte reaches in 512
/// samples with a probability of 2^-20.
#[derive(Default)]
struct Proportion {
    sample: u8,
    seen: u32,
    count: u32,
}

impl Proportion {
    const WINDOW: u32 = 512;
    const CUTOFF: u32 = 25;

    fn passes(&mut self, sample: u8) -> bool {
        if self.seen == 0 {
            self.sample = sample;
            self.count = 1;
        } else if sample == self.sample {
            self.count += 1;
        }
        self.seen = (self.seen + 1) % Self::WINDOW;
        self.count < Self::CUTOFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a counter that runs through a mixing function, then changed.
    struct Source<F>(u64, F);

    impl<F: Fn(u64, u8) -> u8> Entropy for Source<F> {
        fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
            for byte in into {
                self.0 += 1;
                let mixed = (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29)
                    .wrapping_mul(0xbf58_476d_1ce4_e5b9);
                *byte = (self.1)(self.0, (mixed >> 56) as u8);
            }
            Ok(())
        }
    }

    /// How many bytes a source gives before it is refused, in thousands.
    fn lasts(change: impl Fn(u64, u8) -> u8) -> usize {
        let Ok(mut checked) = Checked::new(Source(0, change)) else {
            return 0;
        };
        let mut bytes = [0; 1000];
        (1..100)
            .take_while(|_| checked.fill(&mut bytes).is_ok())
            .count()
    }

    #[test]
    fn a_good_source_is_believed() {
        assert_eq!(lasts(|_, byte| byte), 99);
    }

    #[test]
    fn a_stuck_source_is_refused_at_the_start() {
        assert!(Checked::new(Source(0, |_, _| 0xff)).is_err());
        assert!(Checked::new(Source(0, |_, _| 0)).is_err());
    }

    #[test]
    fn a_source_that_repeats_itself_is_refused_at_the_start() {
        assert!(Checked::new(Source(0, |count, _| (count % 8) as u8)).is_err());
    }

    #[test]
    fn a_biased_source_is_refused() {
        // Three bits of eight; and one value in every third place.
        assert_eq!(lasts(|_, byte| byte & 0x07), 0);
        let every_third = |count, byte| if count % 3 == 0 { 0x55 } else { byte };
        assert_eq!(lasts(every_third), 0);
    }

    #[test]
    fn a_source_that_breaks_later_is_refused_for_ever() {
        let broken = |count, byte| {
            if (5000..5005).contains(&count) {
                0
            } else {
                byte
            }
        };
        let mut checked = Checked::new(Source(0, broken)).unwrap();
        let mut bytes = [0; 4000];
        assert!(checked.fill(&mut bytes[..3900]).is_ok());
        assert!(checked.fill(&mut bytes).is_err());
        assert_eq!(bytes, [0; 4000]);
        assert!(checked.fill(&mut bytes[..1]).is_err());
    }

    #[test]
    fn so_many_equal_bytes_are_too_many() {
        let mut repetition = Repetition::default();
        let passes = [7, 9, 9, 9, 9, 7, 7, 7, 7, 7].map(|sample| repetition.passes(sample));
        assert_eq!(passes[..9], [true; 9]);
        assert!(!passes[9]);
    }

    #[test]
    fn a_window_may_hold_its_first_byte_so_often() {
        let count = |often: u32| {
            let mut proportion = Proportion::default();
            (0..512).all(|i: u32| proportion.passes(if i < often { 1 } else { 2 + (i % 3) as u8 }))
        };
        assert!(count(24));
        assert!(!count(25));
    }
}
