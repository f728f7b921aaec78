//! Looks into the image for AVX instructions. The upper halves of the vector registers hold the
//! guest's values while the hypervisor runs, and an instruction with a VEX or EVEX prefix changes
//! them, even one that names XMM registers alone. A library brings such code for processors that
//! have it, and no compiler flag of ours keeps it out. Called by `compile` for every image.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use iced_x86::{Decoder, DecoderOptions, EncodingKind, Instruction};
use object::{Object, ObjectSection, SectionKind};

/// Fails where an instruction of the image could change the upper halves.
pub fn ensure_no_avx(image: &Path) -> Result<()> {
    let bytes = fs::read(image)?;
    let file = object::File::parse(&*bytes)?;
    let mut found = Vec::new();
    for section in file.sections() {
        if section.kind() == SectionKind::Text {
            found.extend(avx_instructions(section.data()?, section.address()));
        }
    }
    ensure!(
        found.is_empty(),
        "{}: AVX instructions, the first of {} at {:#x}",
        image.display(),
        found.len(),
        found[0]
    );
    Ok(())
}

/// Where AVX instructions are in code at an address.
fn avx_instructions(code: &[u8], address: u64) -> Vec<u64> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .filter(|instruction| !instruction.is_invalid())
        .filter(|instruction| instruction.encoding() != EncodingKind::Legacy)
        .map(|instruction: Instruction| instruction.ip())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::avx_instructions;

    #[test]
    fn vex_and_evex_are_found_and_sse_is_not() {
        // vmread rax, rcx; sha1nexte xmm0, xmm1; xsave [rdi]
        let old = b"\x0f\x78\xc8\x0f\x38\xc8\xc1\x0f\xae\x27";
        assert!(avx_instructions(old, 0x1000).is_empty());
        // nop; vaesenc ymm0, ymm1, ymm2; vmovaps xmm1, xmm5; vpxord zmm0, zmm0, zmm0
        let new = b"\x90\xc4\xe2\x75\xdc\xc2\xc5\xf8\x28\xcd\x62\xf1\x7d\x48\xef\xc0";
        assert_eq!(avx_instructions(new, 0x1000), [0x1001, 0x1006, 0x100a]);
    }
}
