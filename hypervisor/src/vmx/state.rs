//! What all CPUs share about VMX: the processor's capabilities, and the bitmaps
//! that their VMCSs point at.

use spin::Once;
use stillpoint_core::addr::Hpa;
use stillpoint_core::control_regs::FixedBits;
use stillpoint_core::vmcs_plan::VmxMsrs;
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
    use vmcs_inspect::msr as index;
    let read = |index| msr::read(index).unwrap_or(0);
    let basic = read(index::IA32_VMX_BASIC);
    // Bit 55: the TRUE MSRs exist, and say more (Intel SDM vol. 3, A.2).
    let choose = |plain, exact| read(if basic & (1 << 55) != 0 { exact } else { plain });
    let procbased_ctls = choose(
        index::IA32_VMX_PROCBASED_CTLS,
        index::IA32_VMX_TRUE_PROCBASED_CTLS,
    );
    let secondary = if procbased_ctls >> 63 != 0 {
        read(index::IA32_VMX_PROCBASED_CTLS2)
    } else {
        0
    };
    Capabilities {
        basic,
        pinbased_ctls: choose(
            index::IA32_VMX_PINBASED_CTLS,
            index::IA32_VMX_TRUE_PINBASED_CTLS,
        ),
        procbased_ctls,
        exit_ctls: choose(index::IA32_VMX_EXIT_CTLS, index::IA32_VMX_TRUE_EXIT_CTLS),
        entry_ctls: choose(index::IA32_VMX_ENTRY_CTLS, index::IA32_VMX_TRUE_ENTRY_CTLS),
        misc: read(index::IA32_VMX_MISC),
        cr0_fixed0: read(index::IA32_VMX_CR0_FIXED0),
        cr0_fixed1: read(index::IA32_VMX_CR0_FIXED1),
        cr4_fixed0: read(index::IA32_VMX_CR4_FIXED0),
        cr4_fixed1: read(index::IA32_VMX_CR4_FIXED1),
        procbased_ctls2: secondary,
        // Bits 33 and 37 of the upper half: EPT, VPID.
        ept_vpid_cap: if secondary & (1 << 33 | 1 << 37) != 0 {
            read(index::IA32_VMX_EPT_VPID_CAP)
        } else {
            0
        },
        procbased_ctls3: if procbased_ctls >> 49 & 1 != 0 {
            read(index::IA32_VMX_PROCBASED_CTLS3)
        } else {
            0
        },
        vmfunc: if secondary >> 45 & 1 != 0 {
            read(index::IA32_VMX_VMFUNC)
        } else {
            0
        },
        cpuid: cpuid_facts(),
        ..Capabilities::default()
    }
}

fn cpuid_facts() -> CpuidFacts {
    let sizes = cpuid(0x8000_0008, 0).eax;
    let linear = (sizes >> 8) as u8;
    CpuidFacts {
        physical_address_width: sizes as u8,
        linear_address_width: if linear == 0 { 48 } else { linear },
        ..CpuidFacts::default()
    }
}

/// Notes the capabilities; every CPU's are the same.
pub fn set_capabilities(capabilities: Capabilities) {
    CAPABILITIES.call_once(|| capabilities);
}

/// The capabilities; all 0 before [`set_capabilities`].
pub fn capabilities() -> Capabilities {
    CAPABILITIES.get().copied().unwrap_or_default()
}

/// The capabilities as the VMCS plan wants them.
pub fn vmx_msrs(capabilities: &Capabilities) -> VmxMsrs {
    VmxMsrs {
        basic: capabilities.basic,
        pin_based: capabilities.pinbased_ctls,
        primary: capabilities.procbased_ctls,
        secondary: capabilities.procbased_ctls2,
        exit: capabilities.exit_ctls,
        entry: capabilities.entry_ctls,
        misc: capabilities.misc,
        ept_vpid: capabilities.ept_vpid_cap,
    }
}

/// The bits of CR0 and CR4 that VMX operation fixes.
pub fn fixed_bits() -> FixedBits {
    let capabilities = capabilities();
    FixedBits {
        cr0_fixed0: capabilities.cr0_fixed0,
        cr0_fixed1: capabilities.cr0_fixed1,
        cr4_fixed0: capabilities.cr4_fixed0,
        cr4_fixed1: capabilities.cr4_fixed1,
    }
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
