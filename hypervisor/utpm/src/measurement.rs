//! What REG measures of a section: its type, place, size and contents.

use sha1::{Digest as _, Sha1};
use stillpoint_abi::pal::{SectionType, Width};

use crate::pcr::Digest;

/// The measurement of one section, fed a page at a time. The hypervisor extends
/// PCR 0 with the result, section after section in the order of registration.
///
/// It is SHA-1 over the type in 4 bytes, the address in 8, the size as wide as
/// the caller's words, and the contents. Sections that a program's loader puts
/// anywhere, the stack and the parameters, are measured without their address.
pub struct SectionMeasurement(Sha1);

impl SectionMeasurement {
    /// Begins the measurement of a section of `size` bytes that starts at `gva`.
    pub fn new(kind: SectionType, gva: u64, size: u64, width: Width) -> Self {
        let mut hash = Sha1::new().chain_update((kind as u32).to_le_bytes());
        if !matches!(kind, SectionType::Stack | SectionType::Param) {
            hash.update(gva.to_le_bytes());
        }
        match width {
            Width::Bits32 => hash.update((size as u32).to_le_bytes()),
            Width::Bits64 => hash.update(size.to_le_bytes()),
        }
        Self(hash)
    }

    /// Adds the next part of the contents.
    pub fn update(&mut self, contents: &[u8]) {
        self.0.update(contents);
    }

    /// The measurement.
    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(kind: SectionType, gva: u64, width: Width) -> Digest {
        let mut measurement = SectionMeasurement::new(kind, gva, 4096, width);
        for _ in 0..4 {
            measurement.update(&[0x90; 1024]);
        }
        measurement.finish()
    }

    fn sha1(parts: &[&[u8]]) -> Digest {
        let mut hash = Sha1::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().into()
    }

    #[test]
    fn code_is_measured_with_its_address_and_the_callers_width() {
        let gva = 0x7f00_1234_5000_u64;
        assert_eq!(
            measure(SectionType::Code, gva, Width::Bits64),
            sha1(&[
                &[1, 0, 0, 0],
                &[0, 0x50, 0x34, 0x12, 0, 0x7f, 0, 0],
                &[0, 0x10, 0, 0, 0, 0, 0, 0],
                &[0x90; 4096],
            ])
        );
        assert_eq!(
            measure(SectionType::Code, 0x0804_8000, Width::Bits32),
            sha1(&[
                &[1, 0, 0, 0],
                &[0, 0x80, 0x04, 0x08, 0, 0, 0, 0],
                &[0, 0x10, 0, 0],
                &[0x90; 4096],
            ])
        );
    }

    #[test]
    fn stack_and_parameters_are_measured_wherever_they_are() {
        for kind in [SectionType::Stack, SectionType::Param] {
            assert_eq!(
                measure(kind, 0x1000, Width::Bits64),
                measure(kind, 0x2000, Width::Bits64)
            );
        }
        for kind in [
            SectionType::Code,
            SectionType::Data,
            SectionType::SharedCode,
        ] {
            assert_ne!(
                measure(kind, 0x1000, Width::Bits64),
                measure(kind, 0x2000, Width::Bits64)
            );
        }
    }
}
