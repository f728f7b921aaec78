//! A `vmlinux` for gdb, made from Debian's `vmlinuz` alone: Debian's kernel package has neither
//! symbols nor a System.map, but the kernel carries its own symbol table (kallsyms) and its own
//! unwind tables (ORC). Both go into a copy of the kernel's ELF file as `.symtab` and
//! `.debug_frame`, so that gdb names functions and walks kernel stacks exactly.
//! Used by `gdb`, `demo`, and the scenarios.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use object::endian::LittleEndian as LE;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};
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
    let name = format!("{}-symbols-2", name.to_string_lossy());
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
    let file = ElfFile64::<LE>::parse(&*kernel)?;
    let frames = orc::debug_frame(&file, &symbols)?;
    append_sections(&kernel, &file, &symbols, &frames)
}

/// The section of an address, for the symbol table.
fn section_index(sections: &[(u64, u64, u16)], address: u64) -> u16 {
    let after = sections.partition_point(|&(start, _, _)| start <= address);
    match after.checked_sub(1).map(|last| sections[last]) {
        Some((start, size, index)) if address - start <= size => index,
        _ => SHN_ABS,
    }
}

/// Puts `.symtab`, `.strtab`, `.debug_frame` and a new section table behind the file's end.
fn append_sections(
    kernel: &[u8],
    file: &ElfFile64<LE>,
    symbols: &[Symbol],
    frames: &[u8],
) -> Result<Vec<u8>> {
    let mut sections = Vec::new();
    for section in file.sections() {
        if section.address() != 0 {
            let index = u16::try_from(section.index().0)?;
            sections.push((section.address(), section.size(), index));
        }
    }
    sections.sort_unstable();

    let mut strings = vec![0];
    let mut table = vec![0; 24];
    let (locals, globals): (Vec<_>, Vec<_>) =
        symbols.iter().enumerate().partition(|(_, symbol)| {
            // A lower-case letter is a local symbol, as in nm.
            symbol.kind.is_ascii_lowercase()
        });
    let first_global = u32::try_from(locals.len() + 1)?;
    for (index, symbol) in locals.into_iter().chain(globals) {
        let kind = symbol.kind.to_ascii_lowercase();
        let function = matches!(kind, b't' | b'w');
        let next = symbols[index..]
            .iter()
            .map(|other| other.address)
            .find(|&address| address != symbol.address);
        let size = next.map_or(0, |next| next - symbol.address);
        let binding = u8::from(symbol.kind.is_ascii_uppercase());
        table.extend_from_slice(&u32::try_from(strings.len())?.to_le_bytes());
        table.push(binding << 4 | if function { STT_FUNC } else { STT_OBJECT });
        table.push(0);
        let place = if kind == b'a' {
            SHN_ABS
        } else {
            section_index(&sections, symbol.address)
        };
        table.extend_from_slice(&place.to_le_bytes());
        table.extend_from_slice(&symbol.address.to_le_bytes());
        table.extend_from_slice(&if function { size } else { 0 }.to_le_bytes());
        strings.extend_from_slice(symbol.name.as_bytes());
        strings.push(0);
    }

    let word = |at: usize| u16::from_le_bytes([kernel[at], kernel[at + 1]]);
    let (old_count, names_index) = (word(E_SHNUM), usize::from(word(E_SHSTRNDX)));
    let old_offset = u64::from_le_bytes(kernel[E_SHOFF..E_SHOFF + 8].try_into()?) as usize;
    let old_end = old_offset + usize::from(old_count) * SECTION_HEADER;
    let mut headers = kernel[old_offset..old_end].to_vec();
    let mut names = file
        .section_by_index(object::SectionIndex(names_index))?
        .data()?
        .to_vec();
    let symtab_index = u32::from(old_count);
    let mut out = kernel.to_vec();

    let mut add = |name: Option<&str>, kind: u32, link: u32, info: u32, entry: u64, data: &[u8]| {
        let name_at = match name {
            Some(name) => {
                let at = names.len();
                names.extend_from_slice(name.as_bytes());
                names.push(0);
                at
            }
            None => 0,
        };
        out.resize(out.len().next_multiple_of(16), 0);
        let offset = out.len() as u64;
        out.extend_from_slice(data);
        headers.extend_from_slice(&(name_at as u32).to_le_bytes());
        headers.extend_from_slice(&kind.to_le_bytes());
        for word in [0, 0, offset, data.len() as u64] {
            headers.extend_from_slice(&u64::to_le_bytes(word));
        }
        headers.extend_from_slice(&link.to_le_bytes());
        headers.extend_from_slice(&info.to_le_bytes());
        headers.extend_from_slice(&8u64.to_le_bytes());
        headers.extend_from_slice(&entry.to_le_bytes());
    };
    add(
        Some(".symtab"),
        SHT_SYMTAB,
        symtab_index + 1,
        first_global,
        24,
        &table,
    );
    add(Some(".strtab"), SHT_STRTAB, 0, 0, 0, &strings);
    add(Some(".debug_frame"), SHT_PROGBITS, 0, 0, 0, frames);
    // The names themselves: their old section header is pointed at the new, longer table.
    out.resize(out.len().next_multiple_of(16), 0);
    let names_offset = out.len() as u64;
    out.extend_from_slice(&names);
    let at = names_index * SECTION_HEADER;
    headers[at + 24..at + 32].copy_from_slice(&names_offset.to_le_bytes());
    headers[at + 32..at + 40].copy_from_slice(&(names.len() as u64).to_le_bytes());

    out.resize(out.len().next_multiple_of(16), 0);
    let headers_offset = out.len() as u64;
    let count = u16::try_from(headers.len() / SECTION_HEADER)?;
    out.extend_from_slice(&headers);
    out[E_SHOFF..E_SHOFF + 8].copy_from_slice(&headers_offset.to_le_bytes());
    out[E_SHNUM..E_SHNUM + 2].copy_from_slice(&count.to_le_bytes());
    let check = ElfFile64::<LE>::parse(&*out)?;
    ensure!(
        check.section_by_name(".debug_frame").map(|s| s.size()) == Some(frames.len() as u64),
        "the section table written does not read back"
    );
    Ok(out)
}

// The ELF-64 object file format: sizes, offsets in the file's header, numbers.
const SECTION_HEADER: usize = 64;
const E_SHOFF: usize = 40;
const E_SHNUM: usize = 60;
const E_SHSTRNDX: usize = 62;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const STT_OBJECT: u8 = 1;
const STT_FUNC: u8 = 2;
const SHN_ABS: u16 = 0xfff1;

#[cfg(test)]
mod tests {
    use super::{SHN_ABS, section_index};

    #[test]
    fn symbols_lie_in_the_section_around_them() {
        let sections = [(0x1000, 0x100, 1), (0x2000, 0x80, 2)];
        assert_eq!(section_index(&sections, 0x1000), 1);
        assert_eq!(section_index(&sections, 0x1100), 1); // an end marker
        assert_eq!(section_index(&sections, 0x1101), SHN_ABS);
        assert_eq!(section_index(&sections, 0x2040), 2);
        assert_eq!(section_index(&sections, 0x10), SHN_ABS);
    }
}
