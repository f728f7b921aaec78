//! A PAL's platform configuration registers (PCRs), selections of them, and the
//! composite that a digest of several PCRs is taken of.

use sha1::{Digest as _, Sha1};

/// Bytes of a SHA-1 digest, and of a PCR.
pub const DIGEST_SIZE: usize = 20;

/// A SHA-1 digest.
pub type Digest = [u8; DIGEST_SIZE];

/// PCRs that a PAL has.
pub const PCR_COUNT: usize = 8;

/// A PAL's PCRs. The hypervisor makes them at REG, all zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pcrs([Digest; PCR_COUNT]);

impl Pcrs {
    /// PCRs of a PAL in which nothing has been measured.
    pub const fn new() -> Self {
        Self([[0; DIGEST_SIZE]; PCR_COUNT])
    }

    /// A PCR, or `None` if `index` is not one's.
    pub fn read(&self, index: usize) -> Option<&Digest> {
        self.0.get(index)
    }

    /// Makes a PCR the digest of itself and `measurement`; `None` if `index` is
    /// not a PCR's.
    pub fn extend(&mut self, index: usize, measurement: &Digest) -> Option<()> {
        let pcr = self.0.get_mut(index)?;
        *pcr = Sha1::new()
            .chain_update(*pcr)
            .chain_update(measurement)
            .finalize()
            .into();
        Some(())
    }
}

/// `TPM_PCR_SELECTION`: how many bytes of bits follow (0 or 1), and a bit for
/// each PCR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// There are no bits.
    Empty,
    /// Bit N stands for PCR N. None need be set.
    Bits(u8),
}

impl Selection {
    /// Bytes of the structure with bits.
    pub const SIZE: usize = 3;

    /// The selection that a caller has in memory, or `None` if it announces more
    /// bits than there are PCRs.
    pub fn decode([low, high, bits]: [u8; Self::SIZE]) -> Option<Self> {
        match u16::from_le_bytes([low, high]) {
            0 => Some(Self::Empty),
            1 => Some(Self::Bits(bits)),
            _ => None,
        }
    }

    /// The structure; without its last byte where no bits were announced.
    pub fn encode(self) -> heapless::Vec<u8, { Self::SIZE }> {
        match self {
            Self::Empty => heapless::Vec::from_iter([0, 0]),
            Self::Bits(bits) => heapless::Vec::from_iter([1, 0, bits]),
        }
    }

    fn includes(self, index: usize) -> bool {
        match self {
            Self::Empty => false,
            Self::Bits(bits) => bits >> index & 1 != 0,
        }
    }
}

/// `TPM_PCR_COMPOSITE`: a selection, the bytes of the selected PCRs as a
/// big-endian number, and these PCRs in ascending order.
pub struct Composite(heapless::Vec<u8, { Composite::MAX_SIZE }>);

impl Composite {
    const MAX_SIZE: usize = Selection::SIZE + 4 + PCR_COUNT * DIGEST_SIZE;

    /// The composite of the PCRs as they are.
    pub fn new(selection: Selection, pcrs: &Pcrs) -> Self {
        let selected = || (0..PCR_COUNT).filter(|&index| selection.includes(index));
        let size = (selected().count() * DIGEST_SIZE) as u32;
        let values = selected().filter_map(|index| pcrs.read(index)).flatten();
        let bytes = selection.encode().into_iter().chain(size.to_be_bytes());
        Self(bytes.chain(values.copied()).collect())
    }

    /// The composite as callers see it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `TPM_COMPOSITE_HASH`.
    pub fn digest(&self) -> Digest {
        Sha1::digest(self.bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_becomes_the_digest_of_itself_and_the_measurement() {
        let mut pcrs = Pcrs::new();
        assert_eq!(pcrs.extend(7, &[0x11; 20]), Some(()));
        // SHA-1 of 20 bytes 0x00 and 20 bytes 0x11, by sha1sum.
        let expected = [
            0xb3, 0xe2, 0x6c, 0x6c, 0xa6, 0x78, 0x5f, 0x04, 0xdd, 0x71, 0x87, 0x29, 0x3d, 0x80,
            0x2d, 0x5b, 0x16, 0xda, 0xd8, 0xc1,
        ];
        assert_eq!(pcrs.read(7), Some(&expected));
        assert_eq!(pcrs.read(6), Some(&[0; 20]));
    }

    #[test]
    fn there_are_eight() {
        let mut pcrs = Pcrs::new();
        assert_eq!(pcrs.read(8), None);
        assert_eq!(pcrs.extend(8, &[0; 20]), None);
        assert_eq!(pcrs, Pcrs::new());
    }

    #[test]
    fn a_composite_holds_the_selected_pcrs_in_order() {
        let mut pcrs = Pcrs::new();
        pcrs.extend(1, &[1; 20]);
        pcrs.extend(4, &[4; 20]);
        let composite = Composite::new(Selection::Bits(0b0001_0010), &pcrs);
        let bytes = composite.bytes();
        assert_eq!(bytes.len(), 3 + 4 + 40);
        assert_eq!(bytes[..7], [1, 0, 0x12, 0, 0, 0, 40]);
        assert_eq!(bytes[7..27], pcrs.0[1]);
        assert_eq!(bytes[27..], pcrs.0[4]);
        let all = Composite::new(Selection::Bits(0xff), &pcrs);
        assert_eq!(all.bytes().len(), 3 + 4 + 160);
        let none = Composite::new(Selection::Empty, &pcrs);
        assert_eq!(none.bytes(), [0; 6]);
    }

    #[test]
    fn a_selection_of_more_than_eight_pcrs_is_refused() {
        assert_eq!(Selection::decode([1, 0, 5]), Some(Selection::Bits(5)));
        assert_eq!(Selection::decode([0, 0, 5]), Some(Selection::Empty));
        assert_eq!(Selection::decode([2, 0, 5]), None);
        assert_eq!(Selection::decode([1, 1, 5]), None);
    }
}
