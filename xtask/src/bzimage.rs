//! Takes the kernel's ELF file out of a bzImage. Used by `vmlinux`.
//!
//! Layout: Linux, Documentation/arch/x86/boot.rst, "The real-mode kernel header".

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

/// What the payload of `vmlinuz` is when decompressed: an ELF file, with relocations behind it.
pub fn decompress(shell: &Shell, vmlinuz: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(vmlinuz)?;
    let kernel = match payload {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4_legacy(blocks)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut kernel = Vec::new();
            let mut reader = ruzstd::decoding::StreamingDecoder::new(payload)?;
            reader.read_to_end(&mut kernel)?;
            kernel
        }
        // The x86 filter is part of it; the program knows that, no Rust library does.
        // It complains of the kernel's size that the build put behind the stream.
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            cmd!(shell, "xz --decompress --stdout --single-stream")
                .quiet()
                .ignore_status()
                .stdin(payload)
                .output()?
                .stdout
        }
        _ => bail!("the kernel is compressed in a way not known here"),
    };
    ensure!(
        kernel.starts_with(b"\x7fELF"),
        "the kernel's payload is not an ELF file"
    );
    Ok(kernel)
}

fn payload(vmlinuz: &[u8]) -> Result<&[u8]> {
    ensure!(vmlinuz.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let word = |at: usize| -> Result<usize> {
        let bytes = vmlinuz.get(at..at + 4).context("the header is cut off")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    // setup_sects, payload_offset, payload_length.
    let start = (usize::from(vmlinuz[0x1f1]) + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?;
    vmlinuz
        .get(start..start + length)
        .context("the payload is cut off")
}

/// LZ4's legacy frame: blocks of at most 8 MiB, each after its length. Behind the last one the
/// kernel's build puts the size of the whole, which looks like a length that does not fit.
fn lz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut kernel = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            break;
        }
        let (block, rest) = rest.split_at(length);
        kernel.extend_from_slice(&lz4_flex::block::decompress(block, BLOCK)?);
        blocks = rest;
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::{decompress, lz4_legacy, payload};
    use xshell::Shell;

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn legacy(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0x02, 0x21, 0x4c, 0x18];
        for part in parts {
            let block = lz4_flex::block::compress(part);
            bytes.extend_from_slice(&(block.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&block);
        }
        bytes
    }

    #[test]
    fn lz4_blocks_and_the_size_behind_them() -> anyhow::Result<()> {
        let mut stream = legacy(&[b"\x7fELF first", b" second"]);
        stream.extend_from_slice(&18u32.to_le_bytes());
        assert_eq!(lz4_legacy(&stream[4..])?, b"\x7fELF first second");
        let shell = Shell::new()?;
        assert_eq!(
            decompress(&shell, &bz_image(&stream))?,
            b"\x7fELF first second"
        );
        Ok(())
    }

    #[test]
    fn not_a_kernel() -> anyhow::Result<()> {
        let shell = Shell::new()?;
        assert!(payload(&[0; 0x300]).is_err());
        assert!(payload(&bz_image(b"abcd")[..1040]).is_err());
        assert!(decompress(&shell, &bz_image(b"abcdefgh")).is_err());
        assert!(decompress(&shell, &bz_image(&legacy(&[b"no elf"]))).is_err());
        Ok(())
    }
}
