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
