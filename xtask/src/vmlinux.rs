//! A `vmlinux` for gdb, made from Debian's `vmlinuz` alone: Debian's kernel package has neither
//! symbols nor a System.map, but the kernel carries its own symbol table (kallsyms) and, if it is
//! a 64-bit one, its own unwind tables (ORC). Both go into a copy of the kernel's ELF file as `.symtab` and
//! `.debug_frame`, so that gdb names functions and walks kernel stacks exactly.
//! Used by `gdb`, `demo`, and the scenarios.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use object::build::elf::{Builder, SectionData, SectionId};
use object::endian::LittleEndian as LE;
use object::read::elf::ElfFile64;
use object::{FileKind, elf};
use xshell::Shell;

use crate::bzimage;
use crate::kallsyms::{self, Symbol};
use crate::kernel::{Kernel, KernelArgs};
use crate::orc;
use crate::progress::step;
use crate::{setup, tools};

/// Make a vmlinux with symbols and unwind tables from Debian's kernel; print where it lies.
#[derive(Args)]
pub struct VmlinuxArgs {
    #[command(flatten)]
    kernel: KernelArgs,
}

/// `cargo xtask vmlinux`.
pub fn command(args: &VmlinuxArgs) -> Result<()> {
    let shell = Shell::new()?;
    setup::ensure(&shell)?;
    println!("{}", path(&shell, args.kernel.kernel())?.display());
    Ok(())
}

/// The `vmlinux` of `kernel`, made when new.
pub fn path(shell: &Shell, kernel: Kernel) -> Result<PathBuf> {
    let folder = kernel.folder(shell)?;
    let name = folder.file_name().context("a kernel has a folder")?;
    // The last part is the version of what is written: raise it when that changes.
    let name = format!("{}-symbols-3", name.to_string_lossy());
    let made = tools::once(&name, |into| {
        step("making vmlinux from the kernel's own tables", || {
            let vmlinuz = fs::read(folder.join("vmlinuz"))?;
            let vmlinux = with_symbols(shell, &vmlinuz)?;
            Ok(fs::write(into.join("vmlinux"), vmlinux)?)
        })
    })?;
    Ok(made.join("vmlinux"))
}

fn with_symbols(shell: &Shell, vmlinuz: &[u8]) -> Result<Vec<u8>> {
    let kernel = bzimage::decompress(shell, vmlinuz)?;
    let mut symbols = kallsyms::find(&kernel)?;
    symbols.sort_by_key(|symbol| symbol.address);
    let frames = match FileKind::parse(&*kernel)? {
        FileKind::Elf64 => orc::debug_frame(&ElfFile64::<LE>::parse(&*kernel)?, &symbols)?,
        // 32-bit kernels have no ORC; gdb guesses at their frames.
        _ => Vec::new(),
    };
    add_sections(&kernel, &symbols, frames)
}

/// An ELF section that has addresses.
struct Extent {
    start: u64,
    size: u64,
    id: SectionId,
}

/// The section of an address, for the symbol table.
fn section_at(extents: &[Extent], address: u64) -> Option<SectionId> {
    let after = extents.partition_point(|extent| extent.start <= address);
    let extent = extents.get(after.checked_sub(1)?)?;
    (address - extent.start <= extent.size).then_some(extent.id)
}

/// The kernel with `.symtab`, `.strtab` and, if there are any, `frames` as `.debug_frame`.
/// The symbols are in the order of their addresses.
fn add_sections(kernel: &[u8], symbols: &[Symbol], frames: Vec<u8>) -> Result<Vec<u8>> {
    let mut file = Builder::read(kernel)?;
    let mut extents: Vec<Extent> = file
        .sections
        .iter()
        .filter(|section| section.sh_addr != 0)
        .map(|section| Extent {
            start: section.sh_addr,
            size: section.sh_size,
            id: section.id(),
        })
        .collect();
    extents.sort_by_key(|extent| extent.start);

    for (index, symbol) in symbols.iter().enumerate() {
        let kind = symbol.kind.to_ascii_lowercase();
        let function = matches!(kind, b't' | b'w');
        let next = symbols[index..]
            .iter()
            .map(|other| other.address)
            .find(|&address| address != symbol.address);
        // A lower-case letter is a local symbol, as in nm.
        let binding = if symbol.kind.is_ascii_lowercase() {
            elf::STB_LOCAL
        } else {
            elf::STB_GLOBAL
        };
        let added = file.symbols.add();
        added.name = symbol.name.clone().into_bytes().into();
        added.st_value = symbol.address;
        if function {
            added.set_st_info(binding, elf::STT_FUNC);
            added.st_size = next.map_or(0, |next| next - symbol.address);
        } else {
            added.set_st_info(binding, elf::STT_OBJECT);
        }
        added.section = if kind == b'a' {
            None
        } else {
            section_at(&extents, symbol.address)
        };
        added.st_shndx = elf::SHN_ABS;
    }

    let strings = file.sections.add();
    strings.name = ".strtab".into();
    strings.sh_type = elf::SHT_STRTAB;
    strings.sh_addralign = 1;
    strings.data = SectionData::String;
    let strings = strings.id();
    let table = file.sections.add();
    table.name = ".symtab".into();
    table.sh_type = elf::SHT_SYMTAB;
    table.sh_link_section = Some(strings);
    table.sh_addralign = 8;
    table.data = SectionData::Symbol;
    if !frames.is_empty() {
        let section = file.sections.add();
        section.name = ".debug_frame".into();
        section.sh_type = elf::SHT_PROGBITS;
        section.sh_addralign = 8;
        section.data = SectionData::Data(frames.into());
    }
    let mut out = Vec::new();
    file.write(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use object::build::elf::Builder;
    use object::{Endianness, Object, ObjectSection, ObjectSymbol, elf};

    use super::{Symbol, add_sections, section_at};

    fn symbol(address: u64, kind: u8, name: &str) -> Symbol {
        Symbol {
            address,
            kind,
            name: name.to_owned(),
        }
    }

    /// A file with text at 0x1000 and data at 0x2000, of 0x80 bytes each.
    fn kernel(is_64: bool) -> anyhow::Result<Vec<u8>> {
        let mut file = Builder::new(Endianness::Little, is_64);
        for (name, address) in [(".text", 0x1000), (".data", 0x2000)] {
            let section = file.sections.add();
            section.name = name.into();
            section.sh_type = elf::SHT_PROGBITS;
            section.sh_flags = elf::SHF_ALLOC;
            section.sh_addr = address;
            section.sh_offset = address;
            section.sh_addralign = 1;
            section.data = object::build::elf::SectionData::Data(vec![0; 0x80].into());
        }
        let names = file.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = object::build::elf::SectionData::SectionString;
        let mut out = Vec::new();
        file.write(&mut out)?;
        Ok(out)
    }

    #[test]
    fn symbols_and_frames_read_back_in_both_widths() -> anyhow::Result<()> {
        let symbols = [
            symbol(0x10, b'A', "absolute"),
            symbol(0x1000, b'T', "_text"),
            symbol(0x1000, b't', "first"),
            symbol(0x1040, b'T', "second"),
            symbol(0x1080, b'T', "_etext"),
            symbol(0x2000, b'd', "datum"),
        ];
        for is_64 in [false, true] {
            let bytes = add_sections(&kernel(is_64)?, &symbols, b"frames".to_vec())?;
            let file = object::File::parse(&*bytes)?;
            assert_eq!(file.is_64(), is_64);
            let text = file.section_by_name(".text").map(|section| section.index());
            for (name, address, size, section) in [
                ("absolute", 0x10, 0, None),
                ("_text", 0x1000, 0x40, text),
                ("first", 0x1000, 0x40, text),
                ("second", 0x1040, 0x40, text),
                ("_etext", 0x1080, 0xf80, text),
            ] {
                let found = file.symbol_by_name(name).expect(name);
                assert_eq!((found.address(), found.size()), (address, size), "{name}");
                assert_eq!(found.section_index(), section, "{name}");
            }
            let local = file.symbol_by_name("datum").expect("datum");
            assert!(local.is_local() && local.kind() == object::SymbolKind::Data);
            let frames = file.section_by_name(".debug_frame").expect("frames");
            assert_eq!(frames.data()?, b"frames");
        }
        Ok(())
    }

    #[test]
    fn symbols_lie_in_the_section_around_them() -> anyhow::Result<()> {
        let bytes = kernel(true)?;
        let file = Builder::read(&*bytes)?;
        let ids: Vec<_> = file.sections.iter().map(|section| section.id()).collect();
        let extents = [
            super::Extent {
                start: 0x1000,
                size: 0x100,
                id: ids[0],
            },
            super::Extent {
                start: 0x2000,
                size: 0x80,
                id: ids[1],
            },
        ];
        assert_eq!(section_at(&extents, 0x1000), Some(ids[0]));
        assert_eq!(section_at(&extents, 0x1100), Some(ids[0])); // an end marker
        assert_eq!(section_at(&extents, 0x1101), None);
        assert_eq!(section_at(&extents, 0x2040), Some(ids[1]));
        assert_eq!(section_at(&extents, 0x10), None);
        Ok(())
    }
}
