//! The BIOS: its memory services, and quieting the legacy interrupt controllers.

use x86_64::instructions::port::Port;

use crate::descriptors::Shared;
use crate::modes::{self, BiosRegisters};

/// "SMAP", the signature of the E820 service.
const SMAP: u32 = 0x534d_4150;

/// Type of memory that a system may use.
pub const USABLE: u32 = 1;

unsafe extern "C" {
    static bios_buffer: Shared<[u8; 512]>;
}

/// One answer of INT 15h, AX = E820h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// 1 usable, 2 reserved, 3 ACPI tables, 4 ACPI NVS.
    pub kind: u32,
    /// Extended attributes, where the service writes them.
    pub attributes: u32,
}

impl Region {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.length)
    }
}

/// The memory map.
pub type Map = heapless::Vec<Region, 64>;

/// A failed call: its registers.
pub type Refusal = BiosRegisters;

/// One call of E820: the region and the continuation value.
pub fn e820(continuation: u32, signature: u32, size: u32) -> Result<(Region, u32), Refusal> {
    let buffer = Shared::raw(&raw const bios_buffer);
    let answer = modes::bios(
        0x15,
        BiosRegisters {
            eax: 0xe820,
            ebx: continuation,
            ecx: size,
            edx: signature,
            edi: buffer as u32,
            ..BiosRegisters::default()
        },
    );
    if answer.carry() || answer.eax != SMAP {
        return Err(answer);
    }
    // SAFETY: the service has written the buffer, which is large enough.
    Ok((
        unsafe { buffer.cast::<Region>().read_unaligned() },
        answer.ebx,
    ))
}

/// The whole map, by E820.
pub fn memory_map() -> Result<Map, Refusal> {
    let mut map = Map::new();
    let mut continuation = 0;
    loop {
        let (region, next) = e820(continuation, SMAP, 20)?;
        if region.length != 0 && map.push(region).is_err() {
            return Ok(map);
        }
        if next == 0 {
            return Ok(map);
        }
        continuation = next;
    }
}

/// An INT 15h service with AX alone.
pub fn int15(ax: u16) -> BiosRegisters {
    modes::bios(
        0x15,
        BiosRegisters {
            eax: ax.into(),
            ..BiosRegisters::default()
        },
    )
}

/// Masks every line of the two 8259s: the BIOS left its timer running, on
/// vectors that are exceptions here.
pub fn mask_legacy_interrupts() {
    // SAFETY: interrupt masks touch no memory.
    unsafe {
        Port::<u8>::new(0x21).write(0xff);
        Port::<u8>::new(0xa1).write(0xff);
    }
}
