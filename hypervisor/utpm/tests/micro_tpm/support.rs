//! A PAL for the tests: a window of memory, a source of randomness that repeats
//! itself run after run, and calls in either width.

use std::ops::Range;

use stillpoint_abi::pal::Width;
use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_utpm::{
    BadAddress, CallerMemory, Digest, Entropy, EntropyFailure, Outcome, Pcrs, Tpm,
};

/// Where the PAL's memory begins.
pub const BASE: u64 = 0x40_0000;

/// How much of it there is. The last quarter can only be read.
pub const SIZE: usize = 0x8000;

/// The PAL's memory. It does not stand being read after it was written to: what
/// the PAL's other threads change between two looks must not matter.
pub struct Window {
    pub bytes: Vec<u8>,
    /// What the call under way has read.
    reads: Vec<Range<usize>>,
    written: bool,
}

impl Window {
    fn range(gva: u64, length: usize, end: usize) -> Result<Range<usize>, BadAddress> {
        let start = gva.checked_sub(BASE).ok_or(BadAddress)? as usize;
        let stop = start.checked_add(length).ok_or(BadAddress)?;
        if stop <= end {
            Ok(start..stop)
        } else {
            Err(BadAddress)
        }
    }
}

impl CallerMemory for Window {
    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        assert!(!self.written, "reads {gva:#x} after writing");
        let range = Self::range(gva, into.len(), SIZE)?;
        into.copy_from_slice(&self.bytes[range.clone()]);
        self.reads.extend((!range.is_empty()).then_some(range));
        Ok(())
    }

    fn writable(&mut self, gva: u64, length: usize) -> Result<(), BadAddress> {
        Self::range(gva, length, SIZE / 4 * 3).map(|_| ())
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), BadAddress> {
        let range = Self::range(gva, from.len(), SIZE / 4 * 3)?;
        self.bytes[range].copy_from_slice(from);
        self.written = true;
        Ok(())
    }
}

/// SplitMix64: well spread, and the same in every run.
pub struct Repeatable(pub u64);

impl Entropy for Repeatable {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyFailure> {
        for chunk in into.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// A source that never gives anything.
pub struct Silent;

impl Entropy for Silent {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyFailure> {
        Err(EntropyFailure)
    }
}

/// A PAL that runs, and the micro-TPM that it asks.
pub struct Pal {
    pub tpm: Tpm,
    pub pcrs: Pcrs,
    pub memory: Window,
    pub entropy: Repeatable,
    pub width: Width,
    next: u64,
}

impl Pal {
    pub fn new(width: Width) -> Self {
        let mut entropy = Repeatable(1);
        Self {
            tpm: Tpm::new(&mut entropy).unwrap(),
            pcrs: Pcrs::new(),
            memory: Window {
                bytes: vec![0; SIZE],
                reads: Vec::new(),
                written: false,
            },
            entropy,
            width,
            next: BASE,
        }
    }

    /// Puts something into the PAL's memory; says where.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let gva = self.next;
        self.next += bytes.len().next_multiple_of(16) as u64;
        let start = (gva - BASE) as usize;
        self.memory.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        gva
    }

    /// Room for an answer.
    pub fn room(&mut self, length: usize) -> u64 {
        self.put(&vec![0; length])
    }

    /// A pair of words, as wide as the caller's.
    pub fn pair(&mut self, first: u64, second: u64) -> u64 {
        match self.width {
            Width::Bits32 => {
                self.put(&[(first as u32).to_le_bytes(), (second as u32).to_le_bytes()].concat())
            }
            Width::Bits64 => self.put(&[first.to_le_bytes(), second.to_le_bytes()].concat()),
        }
    }

    /// What is in the PAL's memory.
    pub fn get(&self, gva: u64, length: usize) -> Vec<u8> {
        let start = (gva - BASE) as usize;
        self.memory.bytes[start..start + length].to_vec()
    }

    /// A 32-bit number in the PAL's memory.
    pub fn number(&self, gva: u64) -> usize {
        u32::from_le_bytes(self.get(gva, 4).try_into().unwrap()) as usize
    }

    /// Forgets what was put into memory, and begins at its start again.
    pub fn rewind(&mut self) {
        self.next = BASE;
    }

    /// One call, whatever its arguments. What is refused has written nothing.
    pub fn execute(&mut self, call: Hypercall, arguments: [u64; 4]) -> Outcome {
        self.memory.reads.clear();
        self.memory.written = false;
        let outcome = self.try_execute(call, arguments);
        let succeeded = outcome == Outcome::Done(HypercallResult::Success);
        assert!(
            succeeded || !self.memory.written,
            "{call:?} wrote something"
        );
        outcome
    }

    fn try_execute(&mut self, call: Hypercall, arguments: [u64; 4]) -> Outcome {
        self.tpm.execute(
            call,
            arguments,
            self.width,
            &mut self.pcrs,
            &mut self.memory,
            &mut self.entropy,
        )
    }

    /// A call whose arguments lie apart, made again until it is done. Nothing
    /// of them is read twice.
    pub fn call(&mut self, call: Hypercall, arguments: [u64; 4]) -> HypercallResult {
        loop {
            let outcome = self.execute(call, arguments);
            let mut reads = self.memory.reads.clone();
            reads.sort_by_key(|range| range.start);
            let twice = reads.windows(2).find(|pair| pair[0].end > pair[1].start);
            assert_eq!(twice, None, "{call:?} reads twice");
            if let Outcome::Done(result) = outcome {
                return result;
            }
        }
    }

    pub fn seal(
        &mut self,
        selection: u8,
        at_release: &Digest,
        data: &[u8],
    ) -> Result<Vec<u8>, HypercallResult> {
        self.rewind();
        let data_at = self.put(data);
        let input = self.pair(data_at, data.len() as u64);
        let info = self.put(&pcr_info(selection, at_release));
        let (to, length) = (self.room(2068), self.room(4));
        let output = self.pair(to, length);
        match self.call(Hypercall::Seal, [input, info, output, 0]) {
            HypercallResult::Success => {
                let length = self.number(length);
                Ok(self.get(to, length))
            }
            other => Err(other),
        }
    }

    /// The data and the digest at creation.
    pub fn unseal(&mut self, blob: &[u8]) -> Result<(Vec<u8>, Vec<u8>), HypercallResult> {
        self.open(Hypercall::Unseal, blob)
    }

    /// The data of a blob of the first form.
    pub fn unseal_first_form(&mut self, blob: &[u8]) -> Result<Vec<u8>, HypercallResult> {
        Ok(self.open(Hypercall::UnsealDeprecated, blob)?.0)
    }

    fn open(
        &mut self,
        call: Hypercall,
        blob: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), HypercallResult> {
        self.rewind();
        let blob_at = self.put(blob);
        let input = self.pair(blob_at, blob.len() as u64);
        let (to, length, creation) = (self.room(2048), self.room(4), self.room(20));
        let output = self.pair(to, length);
        match self.call(call, [input, output, creation, 0]) {
            HypercallResult::Success => {
                let length = self.number(length);
                Ok((self.get(to, length), self.get(creation, 20)))
            }
            other => Err(other),
        }
    }

    /// Seals in the first form, for the PAL itself.
    pub fn seal_first_form(&mut self, data: &[u8]) -> Result<Vec<u8>, HypercallResult> {
        self.rewind();
        let data_at = self.put(data);
        let input = self.pair(data_at, data.len() as u64);
        let (to, length) = (self.room(2068), self.room(4));
        let output = self.pair(to, length);
        match self.call(Hypercall::SealDeprecated, [input, 0, output, 0]) {
            HypercallResult::Success => {
                let length = self.number(length);
                Ok(self.get(to, length))
            }
            other => Err(other),
        }
    }
}

/// `TPM_PCR_INFO`; a selection of 0 has no bits.
pub fn pcr_info(selection: u8, at_release: &Digest) -> Vec<u8> {
    let mut info = match selection {
        0 => vec![0, 0, 0],
        bits => vec![1, 0, bits],
    };
    info.extend(at_release);
    info.extend([0xee; 20]);
    info
}
