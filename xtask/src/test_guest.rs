//! The bare-metal test guest as a disk: its ELF file made flat, and the words that say what it
//! shall run in its second sector. Used by `run --suite`, the scenarios, and `bench`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use object::endian::LittleEndian as LE;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};
use xshell::Shell;

use crate::compile;

/// Where the BIOS puts a boot sector, and so where the image is linked.
const BASE: u64 = 0x7c00;
/// The configuration's place and size in the image.
const CONFIG: std::ops::Range<usize> = 512..1024;

/// The test guest, built.
pub struct TestGuest {
    /// Its ELF file, with symbols for gdb.
    pub elf: PathBuf,
    flat: Vec<u8>,
}

impl TestGuest {
    /// Builds it.
    pub fn build(shell: &Shell) -> Result<Self> {
        let elf = compile::test_guest(shell)?;
        let flat = flatten(&fs::read(&elf)?).with_context(|| format!("{}", elf.display()))?;
        Ok(Self { elf, flat })
    }

    /// Its disk, with the configuration `words` such as `suite=smp cpus=2`.
    pub fn disk(&self, words: &str) -> Result<Vec<u8>> {
        configured(&self.flat, words)
    }
}

/// What the boot sector expects on the disk: the sections that have an address. Not the segments:
/// the linker puts the file's headers into one of them.
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<LE>::parse(elf)?;
    let mut flat = Vec::new();
    for section in file.sections().filter(|section| section.address() != 0) {
        // What has no contents is cleared by the guest itself.
        let data = section.data()?;
        if data.is_empty() {
            continue;
        }
        let start = section
            .address()
            .checked_sub(BASE)
            .context("a section lies below the boot sector")?;
        let start = usize::try_from(start)?;
        if flat.len() < start + data.len() {
            flat.resize(start + data.len(), 0);
        }
        flat[start..start + data.len()].copy_from_slice(data);
    }
    ensure!(
        flat.get(510..512) == Some(&[0x55, 0xaa]),
        "the image does not begin with a boot sector"
    );
    Ok(flat)
}

fn configured(flat: &[u8], words: &str) -> Result<Vec<u8>> {
    ensure!(words.len() < CONFIG.len(), "the configuration is too long");
    let mut disk = flat.to_vec();
    let place = disk.get_mut(CONFIG).context("the image is one sector")?;
    place.fill(0);
    place[..words.len()].copy_from_slice(words.as_bytes());
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::{configured, flatten};

    #[test]
    fn the_configuration_goes_into_the_second_sector() -> anyhow::Result<()> {
        let disk = configured(&[7; 1536], "suite=smp")?;
        assert_eq!(disk[511], 7);
        assert_eq!(&disk[512..521], b"suite=smp");
        assert!(disk[521..1024].iter().all(|&byte| byte == 0));
        assert_eq!(disk[1024], 7);
        assert!(configured(&[0; 1536], &"x".repeat(512)).is_err());
        assert!(configured(&[0; 512], "x").is_err());
        Ok(())
    }

    #[test]
    fn not_an_elf_file() {
        assert!(flatten(b"MZ").is_err());
    }
}
