//! What the boot loader hands over, copied out before its memory is reused.

use elf::section::SectionHeader;
use heapless::{String, Vec};
use multiboot2::{
    BootInformation, BootInformationHeader, ElfSectionExt, ElfSectionType, ElfSectionsTag,
    MemoryAreaType,
};
use stillpoint_core::addr::{Hpa, PhysRange};
use stillpoint_core::memmap::{MAX_REGIONS, Region, RegionKind};

use crate::memory::layout;
use crate::symbols::LoadedSymbols;

/// Bytes of a boot sector.
pub const SECTOR: usize = 512;

/// The longest command line that is taken.
pub const MAX_COMMAND_LINE: usize = 512;

/// The boot loader's information.
pub struct BootLoader {
    /// The image's command line, without the file's name.
    pub command_line: String<MAX_COMMAND_LINE>,
    /// Firmware's memory map.
    pub regions: Vec<Region, MAX_REGIONS>,
    /// The guest disk's first sector.
    pub boot_sector: [u8; SECTOR],
    /// Where the RSDP lies, if the boot loader found it.
    pub rsdp: Option<usize>,
    /// The image's own symbols, if the boot loader has loaded them.
    pub symbols: Option<LoadedSymbols>,
    /// What the boot loader still needs or has loaded.
    pub in_use: Vec<PhysRange, 4>,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootLoaderError {
    /// The information itself is unreadable.
    Unreadable,
    /// No memory map, or one too long.
    MemoryMap,
    /// The command line is too long, or not text.
    CommandLine,
    /// No module, or more than one: the guest's boot sector is wanted.
    Modules,
    /// The module is not a boot sector: too short, or without its signature.
    NotABootSector,
}

impl core::fmt::Display for BootLoaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the boot loader's information is unreadable",
            Self::MemoryMap => "the boot loader gave no usable memory map",
            Self::CommandLine => "the command line is not text, or longer than 512 bytes",
            Self::Modules => {
                "give the guest disk's first sector as the one module: module2 (hd1)+1"
            }
            Self::NotABootSector => {
                "the module is no boot sector (512 bytes ending in 55 AA): module2 (hd1)+1"
            }
        })
    }
}

/// Reads the information at this physical address.
///
/// # Errors
/// [`BootLoaderError`]
pub fn read(address: u32) -> Result<BootLoader, BootLoaderError> {
    let header = layout::direct(Hpa::new(u64::from(address))).cast::<BootInformationHeader>();
    // SAFETY: GRUB left the structure there (EBX), below 4 GiB; nothing has
    // been written since.
    let info = unsafe { BootInformation::load(header) }.map_err(|_| BootLoaderError::Unreadable)?;
    let mut in_use = Vec::new();
    let mut keep = |range| in_use.push(range).map_err(|_| BootLoaderError::Modules);
    keep(PhysRange::from_len(
        u64::from(address),
        info.total_size() as u64,
    ))?;

    let mut modules = info.module_tags();
    let (Some(module), None) = (modules.next(), modules.next()) else {
        return Err(BootLoaderError::Modules);
    };
    keep(PhysRange::from_len(
        u64::from(module.start_address()),
        u64::from(module.module_size()),
    ))?;
    let mut boot_sector = [0; SECTOR];
    if (module.module_size() as usize) < SECTOR {
        return Err(BootLoaderError::NotABootSector);
    }
    // SAFETY: the module is SECTOR bytes long at least, below 4 GiB.
    unsafe {
        let sector = layout::direct(Hpa::new(u64::from(module.start_address())));
        core::ptr::copy_nonoverlapping(sector, boot_sector.as_mut_ptr(), SECTOR);
    }
    if boot_sector[SECTOR - 2..] != [0x55, 0xaa] {
        return Err(BootLoaderError::NotABootSector);
    }

    let symbols = info.elf_sections_tag().and_then(find_symbols);
    if let Some(symbols) = symbols {
        keep(symbols.symbols)?;
        keep(symbols.names)?;
    }

    let mut regions = Vec::new();
    let map = info.memory_map_tag().ok_or(BootLoaderError::MemoryMap)?;
    for area in map.memory_areas() {
        let kind = match area.typ() {
            MemoryAreaType::Available => 1,
            MemoryAreaType::Reserved => 2,
            MemoryAreaType::AcpiAvailable => 3,
            MemoryAreaType::ReservedHibernate => 4,
            MemoryAreaType::Defective => 5,
            MemoryAreaType::Custom(number) => number,
        };
        let range = PhysRange::from_len(area.start_address(), area.size());
        let kind = RegionKind::from_number(kind);
        regions
            .push(Region { range, kind })
            .map_err(|_| BootLoaderError::MemoryMap)?;
    }

    let line = match info.command_line_tag() {
        Some(tag) => tag.cmdline().map_err(|_| BootLoaderError::CommandLine)?,
        None => "",
    };
    let command_line = String::try_from(line).map_err(|_| BootLoaderError::CommandLine)?;
    let rsdp = info
        .rsdp_v2_tag()
        .map(|tag| &raw const *tag as usize)
        .or_else(|| info.rsdp_v1_tag().map(|tag| &raw const *tag as usize))
        // The tag holds a copy of the RSDP behind its 8-byte header.
        .map(|tag| tag - layout::DIRECT_MAP as usize + 8);
    Ok(BootLoader {
        command_line,
        regions,
        boot_sector,
        rsdp,
        symbols,
        in_use,
    })
}

/// The symbol table and the names that belong to it.
fn find_symbols(tag: &ElfSectionsTag) -> Option<LoadedSymbols> {
    const ELF64_HEADER: u32 = 64;
    if tag.entry_size() != ELF64_HEADER {
        return None;
    }
    let range = |section: &SectionHeader| PhysRange::from_len(section.sh_addr, section.sh_size);
    let table = tag
        .sections()
        .find(|s| s.section_type() == ElfSectionType::LinkerSymbolTable)?;
    let names = tag.sections().nth(table.sh_link as usize)?;
    let loaded = [&table, &names]
        .iter()
        .all(|s| s.sh_addr != 0 && s.sh_addr + s.sh_size <= 1 << 32);
    loaded.then(|| LoadedSymbols {
        symbols: range(&table),
        names: range(&names),
    })
}
