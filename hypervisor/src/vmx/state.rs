//! What all CPUs share about VMX: the processor's capabilities, and the bitmaps
//! that their VMCSs point at.

use spin::Once;
use stillpoint_core::addr::Hpa;
use stillpoint_core::control_regs::FixedBits;
use vmcs_inspect::{Capabilities, CpuidFacts};

use super::io;
use crate::cpu::msr;
use crate::memory::frames::{FRAMES, OutOfFrames};
use crate::memory::layout;

static CAPABILITIES: Once<Capabilities> = Once::new();
static PAGES: Once<Pages> = Once::new();

/// Pages that every VMCS points at.
#[derive(Clone, Copy)]
pub struct Pages {
    /// The MSR bitmaps.
    pub msr_bitmaps: Hpa,
    /// I/O bitmap A, ports 0 to 0x7FFF; B, which hides nothing, is the page after it.
    pub io_bitmaps: Hpa,
}

/// Reads the VMX capability MSRs of this CPU. Those that it lacks read as 0.
pub fn read_capabilities() -> Capabilities {
    let facts = CpuidFacts::read(|leaf, subleaf| {
        let answer = cpuid(leaf, subleaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    });
    Capabilities::read_msrs(facts, |index| msr::read(index).unwrap_or(0))
}

/// Notes the capabilities; every CPU's are the same.
pub fn set_capabilities(capabilities: Capabilities) {
    CAPABILITIES.call_once(|| capabilities);
    ADDRESSES.call_once(|| Addresses {
        width: capabilities.cpuid.physical_address_width,
        pages_1g: cpuid(0x8000_0001, 0).edx & (1 << 26) != 0,
    });
}

/// What paging depends on of the processor.
#[derive(Clone, Copy, Default)]
pub struct Addresses {
    /// Bits of a physical address.
    pub width: u8,
    /// CPUID.80000001H:EDX.Page1GB\[bit 26\].
    pub pages_1g: bool,
}

static ADDRESSES: Once<Addresses> = Once::new();

/// See [`Addresses`]; a CPUID less on paths where time counts.
pub fn addresses() -> Addresses {
    ADDRESSES.get().copied().unwrap_or_default()
}

/// The capabilities; all 0 before [`set_capabilities`].
pub fn capabilities() -> Capabilities {
    CAPABILITIES.get().copied().unwrap_or_default()
}

/// The bits of CR0 and CR4 that VMX operation fixes.
pub fn fixed_bits() -> FixedBits {
    FixedBits::from(&capabilities())
}

/// Makes the bitmaps.
///
/// # Errors
/// [`OutOfFrames`]
pub fn init_pages() -> Result<(), OutOfFrames> {
    let msr_bitmaps = FRAMES.allocate(1)?;
    let io_bitmaps = FRAMES.allocate(2)?;
    // SAFETY: fresh frames, in the direct map, ours alone.
    let (msrs, ports) = unsafe {
        (
            &mut *layout::direct(msr_bitmaps).cast::<[u8; 4096]>(),
            &mut *layout::direct(io_bitmaps).cast::<[u8; 8192]>(),
        )
    };
    stillpoint_core::msr::fill_bitmaps(msrs);
    io::fill_bitmaps(ports);
    PAGES.call_once(|| Pages {
        msr_bitmaps,
        io_bitmaps,
    });
    Ok(())
}

/// The bitmaps; `None` before [`init_pages`].
pub fn pages() -> Option<Pages> {
    PAGES.get().copied()
}

/// CPUID on this CPU, as in [`core::arch::x86_64`].
pub fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}
