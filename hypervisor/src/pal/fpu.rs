//! The x87 and vector state that a PAL must neither see nor leave behind: the caller's
//! is put aside while the PAL runs, which begins with the state after FNINIT.
//!
//! XMM0 to XMM15 and MXCSR are in [`GuestRegisters`] while the hypervisor runs. The rest
//! (x87, the upper halves, protection keys, tiles) stays in the processor, and XSAVE
//! moves all of it that XCR0 turns on.

use core::arch::naked_asm;

use stillpoint_core::addr::PAGE_SIZE;

use crate::cpu::percpu::PerCpu;
use crate::vmx::entry::GuestRegisters;
use crate::vmx::state;

/// CPUID.1:ECX.XSAVE
const XSAVE: u32 = 1 << 26;

/// MXCSR after reset.
const MXCSR: u32 = 0x1f80;

/// What of the caller's state is in memory.
#[derive(Default)]
pub struct Vectors {
    xmm: [[u8; 16]; 16],
    mxcsr: u32,
}

fn has_xsave() -> bool {
    state::cpuid(1, 0).ecx & XSAVE != 0
}

/// Pages that one CPU's XSAVE area takes: as much as the processor's largest (Intel SDM
/// vol. 1, 13.2 "Enumeration of CPU Support for XSAVE Instructions and XSAVE-Supported
/// Features").
pub fn area_pages() -> u64 {
    let bytes = if has_xsave() {
        u64::from(state::cpuid(0xd, 0).ecx)
    } else {
        512
    };
    bytes.div_ceil(PAGE_SIZE).max(1)
}

/// Puts the caller's state aside in this CPU's area, and makes it the initial one.
pub fn put_aside(cpu: &PerCpu, registers: &mut GuestRegisters, kept: &mut Vectors) {
    kept.xmm = registers.xmm;
    kept.mxcsr = registers.mxcsr;
    registers.xmm = [[0; 16]; 16];
    registers.mxcsr = MXCSR;
    // SAFETY: the area is this CPU's, 64-byte aligned and large enough. What is in
    // XMM0 to XMM15 now is the hypervisor's and, by the ABI, of no use after a call.
    unsafe {
        let area = cpu.xsave_area.address as *mut u8;
        if cpu.xsave_area.has_xsave {
            xsave(area);
            xrstor(&raw const INITIAL as *mut u8);
        } else {
            fxsave(area);
            fxrstor(&raw const INITIAL as *mut u8);
        }
    }
}

/// Puts the caller's state back; the PAL's is gone.
pub fn put_back(cpu: &PerCpu, registers: &mut GuestRegisters, kept: &Vectors) {
    registers.xmm = kept.xmm;
    registers.mxcsr = kept.mxcsr;
    // SAFETY: as in `put_aside`, which filled the area.
    unsafe {
        let area = cpu.xsave_area.address as *mut u8;
        if cpu.xsave_area.has_xsave {
            xrstor(area);
        } else {
            fxrstor(area);
        }
    }
}

/// One CPU's area, and how it is filled.
#[derive(Clone, Copy)]
pub struct XsaveArea {
    /// In the direct map.
    address: u64,
    has_xsave: bool,
}

impl XsaveArea {
    /// An area of [`area_pages`] zeroed pages.
    pub fn new(address: *mut u8) -> Self {
        Self {
            address: address as u64,
            has_xsave: has_xsave(),
        }
    }
}

/// An XSAVE area whose header says that every component is in its initial state. The
/// legacy part serves FXRSTOR, which loads it as it is, and XRSTOR reads MXCSR there.
#[repr(C, align(64))]
struct Area([u32; 144]);

static INITIAL: Area = {
    let mut words = [0; 144];
    words[0] = 0x037f;
    words[6] = MXCSR;
    Area(words)
};

/// The header's bits for components that XCR0 has off are left as they are by XSAVE, and
/// XRSTOR faults for them: the guest may have turned some off since the last call.
#[unsafe(naked)]
unsafe extern "C" fn xsave(area: *mut u8) {
    naked_asm!(
        "mov qword ptr [rdi + 512], 0",
        "mov eax, -1",
        "mov edx, -1",
        "xsave64 [rdi]",
        "ret"
    )
}

#[unsafe(naked)]
unsafe extern "C" fn xrstor(area: *mut u8) {
    naked_asm!("mov eax, -1", "mov edx, -1", "xrstor64 [rdi]", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn fxsave(area: *mut u8) {
    naked_asm!("fxsave64 [rdi]", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn fxrstor(area: *mut u8) {
    naked_asm!("fxrstor64 [rdi]", "ret")
}
