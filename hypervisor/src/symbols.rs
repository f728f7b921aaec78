//! The image's own symbols, so that a stop in the hypervisor can be named where it
//! happened. GRUB loads the tables with the image; they are copied out at boot.

use core::fmt;

use elf::endian::NativeEndian;
use elf::file::Class;
use elf::string_table::StringTable;
use elf::symbol::SymbolTable;
use rustc_demangle::demangle;
use spin::Once;
use stillpoint_core::addr::{Hpa, PAGE_SIZE, PhysRange};

use crate::memory::frames::{FRAMES, OutOfFrames};
use crate::memory::layout;

/// Where the boot loader left the tables.
#[derive(Clone, Copy)]
pub struct LoadedSymbols {
    /// The symbol table, of 64-bit entries.
    pub symbols: PhysRange,
    /// The names.
    pub names: PhysRange,
}

impl LoadedSymbols {
    /// Pages that the copies take.
    pub fn pages(&self) -> u64 {
        self.symbols.len().div_ceil(PAGE_SIZE) + self.names.len().div_ceil(PAGE_SIZE)
    }
}

struct Tables {
    symbols: &'static [u8],
    names: &'static [u8],
}

static TABLES: Once<Tables> = Once::new();

fn keep(range: PhysRange) -> Result<&'static [u8], OutOfFrames> {
    let len = range.len() as usize;
    let copy = layout::direct(FRAMES.allocate(range.len().div_ceil(PAGE_SIZE))?);
    // SAFETY: fresh frames of that size; the source lies below 4 GiB, where the
    // boot loader put it, and nothing has been written there since.
    unsafe {
        core::ptr::copy_nonoverlapping(layout::direct(Hpa::new(range.start)), copy, len);
        Ok(core::slice::from_raw_parts(copy, len))
    }
}

/// Copies the tables to the hypervisor's own memory.
///
/// # Errors
/// [`OutOfFrames`]
pub fn load(loaded: &LoadedSymbols) -> Result<(), OutOfFrames> {
    let (symbols, names) = (keep(loaded.symbols)?, keep(loaded.names)?);
    TABLES.call_once(|| Tables { symbols, names });
    Ok(())
}

/// Writes `symbol+offset`, or the address where no symbol is below it.
pub fn describe(address: u64, out: &mut dyn fmt::Write) -> fmt::Result {
    let Some(tables) = TABLES.get() else {
        return write!(out, "{address:#x}");
    };
    let nearest = SymbolTable::new(NativeEndian, Class::ELF64, tables.symbols)
        .iter()
        .filter(|symbol| symbol.st_shndx != 0 && symbol.st_value <= address)
        .max_by_key(|symbol| symbol.st_value);
    let name = nearest.and_then(|symbol| {
        let names = StringTable::new(tables.names);
        let name = names.get(symbol.st_name as usize).ok()?;
        Some((name, address - symbol.st_value))
    });
    match name {
        // The alternate form leaves out the hash.
        Some((name, offset)) => write!(out, "{:#}+{offset:#x}", demangle(name)),
        None => write!(out, "{address:#x}"),
    }
}
