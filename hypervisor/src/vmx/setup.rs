//! Entering VMX operation, and writing a CPU's VMCS for the first time.

use core::arch::asm;

use stillpoint_core::addr::Hpa;
use stillpoint_core::vmcs_plan::{
    self, ControlValues, FeatureControl, Missing, PlanInput, VmxMsrs,
};
use vmcs_inspect::Field;

use super::instructions::{VmxFailure, set, vmclear, vmptrld, vmxon};
use super::state::{self, capabilities};
use super::{entry, ept, fields, io};
use crate::cpu::descriptors::{Selectors, idt_base};
use crate::cpu::msr;
use crate::cpu::percpu::PerCpu;
use crate::memory::frames::{FRAMES, OutOfFrames};
use crate::memory::layout;

/// Why a CPU cannot run a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupError {
    /// The processor lacks something.
    Missing(Missing),
    /// A VMX instruction failed.
    Vmx(VmxFailure),
    /// The hypervisor's region is full.
    OutOfFrames,
}

impl From<Missing> for SetupError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<VmxFailure> for SetupError {
    fn from(failure: VmxFailure) -> Self {
        Self::Vmx(failure)
    }
}

impl From<OutOfFrames> for SetupError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Missing(missing) => missing.fmt(f),
            Self::Vmx(failure) => write!(f, "a VMX instruction failed: {failure:?}"),
            Self::OutOfFrames => f.write_str("the hypervisor's memory is too small"),
        }
    }
}

/// Does this CPU have what is needed? Changes nothing.
///
/// # Errors
/// [`Missing`], which prints as one line.
pub fn check(input: &PlanInput) -> Result<ControlValues, Missing> {
    feature_control()?;
    let msrs = VmxMsrs::from(&state::read_capabilities());
    vmcs_plan::plan(&msrs, input)
}

fn feature_control() -> Result<FeatureControl, Missing> {
    vmcs_plan::require_vmx(state::cpuid(1, 0).ecx, || {
        msr::read(msr::IA32_FEATURE_CONTROL).unwrap_or(0)
    })
}

/// What a CPU's controls are made for: the BSP polls the debugger's port.
pub fn plan_input(bootstrap_processor: bool) -> PlanInput {
    PlanInput {
        preemption_timer: bootstrap_processor && io::debug_port_hidden(),
    }
}

/// A region for VMXON or a VMCS, with its revision identifier (Intel SDM vol. 3,
/// 25.2 "Format of the VMCS Region").
fn region() -> Result<Hpa, OutOfFrames> {
    let region = FRAMES.allocate(1)?;
    let revision = capabilities().vmcs_revision();
    // SAFETY: a fresh frame, in the direct map.
    unsafe { layout::direct(region).cast::<u32>().write(revision) };
    Ok(region)
}

/// Enters VMX operation on this CPU and gives it a VMCS with everything but the
/// guest's state.
///
/// # Errors
/// [`SetupError`]
pub fn start(cpu: &'static PerCpu, selectors: Selectors) -> Result<ControlValues, SetupError> {
    let controls = check(&plan_input(cpu.index == 0))?;
    if let FeatureControl::Write(value) = feature_control()? {
        // SAFETY: turns VMX on and locks it, which firmware left to us.
        let _written = unsafe { msr::write(msr::IA32_FEATURE_CONTROL, value) };
    }
    let fixed = capabilities();
    // SAFETY: CR0 and CR4 get the bits that VMX operation demands (Intel SDM vol.
    // 3, 24.8 "Restrictions on VMX Operation"), among them NE and VMXE; none of
    // them takes away what the hypervisor runs on.
    unsafe {
        let (cr0, cr4) = (read_cr0(), read_cr4());
        let cr0 = (cr0 | fixed.cr0_fixed0) & fixed.cr0_fixed1;
        let cr4 = (cr4 | fixed.cr4_fixed0) & fixed.cr4_fixed1;
        // OSXSAVE, so that XSETBV and XGETBV work for the guest's sake.
        let osxsave = if state::cpuid(1, 0).ecx & (1 << 26) != 0 {
            1 << 18
        } else {
            0
        };
        asm!("mov cr0, {}", "mov cr4, {}", in(reg) cr0, in(reg) cr4 | osxsave,
             options(nomem, nostack, preserves_flags));
        vmxon(region()?)?;
        if cpu.index == 0 {
            let scratch = region()?;
            vmclear(scratch)?;
            vmptrld(scratch)?;
            fields::probe();
            vmclear(scratch)?;
        }
        let vmcs = region()?;
        vmclear(vmcs)?;
        vmptrld(vmcs)?;
    }
    write_controls(cpu, &controls);
    write_host_state(cpu, selectors);
    Ok(controls)
}

fn write_controls(cpu: &PerCpu, controls: &ControlValues) {
    for (field, value) in controls.fields() {
        set(field, value);
    }
    set(Field::EXCEPTION_BITMAP, 0);
    set(Field::PAGE_FAULT_ERROR_CODE_MASK, 0);
    set(Field::PAGE_FAULT_ERROR_CODE_MATCH, 0);
    set(Field::CR3_TARGET_COUNT, 0);
    set(Field::VM_EXIT_MSR_STORE_COUNT, 0);
    set(Field::VM_EXIT_MSR_LOAD_COUNT, 0);
    set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0);
    set(Field::VM_ENTRY_INTERRUPTION_INFO, 0);
    let fixed = state::fixed_bits();
    set(Field::CR0_GUEST_HOST_MASK, fixed.cr0_mask());
    set(Field::CR4_GUEST_HOST_MASK, fixed.cr4_mask());
    if let Some(pages) = state::pages() {
        set(Field::MSR_BITMAPS, pages.msr_bitmaps.as_u64());
        set(Field::IO_BITMAP_A, pages.io_bitmaps.as_u64());
        set(Field::IO_BITMAP_B, pages.io_bitmaps.as_u64() + 0x1000);
    }
    if controls.features.xsaves {
        set(Field::XSS_EXITING_BITMAP, 0);
    }
    if controls.vpid {
        set(Field::VPID, cpu.index as u64 + 1);
    }
    ept::use_guest_view();
}

fn write_host_state(cpu: &'static PerCpu, selectors: Selectors) {
    set(Field::HOST_CR0, read_cr0());
    set(Field::HOST_CR3, read_cr3());
    set(Field::HOST_CR4, read_cr4());
    set(Field::HOST_CS_SELECTOR, u64::from(selectors.code.0));
    set(Field::HOST_SS_SELECTOR, u64::from(selectors.data.0));
    set(Field::HOST_DS_SELECTOR, 0);
    set(Field::HOST_ES_SELECTOR, 0);
    set(Field::HOST_FS_SELECTOR, 0);
    set(Field::HOST_GS_SELECTOR, 0);
    set(Field::HOST_TR_SELECTOR, u64::from(selectors.tss.0));
    set(Field::HOST_FS_BASE, 0);
    set(Field::HOST_GS_BASE, &raw const *cpu as u64);
    if let Some(descriptors) = cpu.descriptors.get() {
        set(Field::HOST_TR_BASE, descriptors.tss_base());
    }
    set(
        Field::HOST_GDTR_BASE,
        x86_64::instructions::tables::sgdt().base.as_u64(),
    );
    set(Field::HOST_IDTR_BASE, idt_base());
    // The hypervisor has no SYSENTER.
    set(Field::HOST_IA32_SYSENTER_CS, 0);
    set(Field::HOST_IA32_SYSENTER_ESP, 0);
    set(Field::HOST_IA32_SYSENTER_EIP, 0);
    set(
        Field::HOST_IA32_EFER,
        msr::read(msr::IA32_EFER).unwrap_or(0),
    );
    set(Field::HOST_IA32_PAT, msr::read(msr::IA32_PAT).unwrap_or(0));
    set(Field::HOST_RIP, entry::exit_address());
}

/// CR0
pub fn read_cr0() -> u64 {
    x86_64::registers::control::Cr0::read_raw()
}

/// Gives CR0.CD and CR0.NW the guest's values: VM entries and exits leave the two as
/// they are (Intel SDM vol. 3, 27.3.2.1 "Loading Guest Control Registers, Debug
/// Registers, and MSRs").
pub fn set_cache_control(guest_cr0: u64) {
    const CD_NW: u64 = 1 << 30 | 1 << 29;
    let cr0 = read_cr0();
    let wanted = cr0 & !CD_NW | guest_cr0 & CD_NW;
    if wanted != cr0 {
        // SAFETY: the caches may be turned off under the hypervisor: it gets slow.
        unsafe { asm!("mov cr0, {}", in(reg) wanted, options(nomem, nostack, preserves_flags)) };
    }
}

/// CR3
pub fn read_cr3() -> u64 {
    let cr3: u64;
    // SAFETY: reading CR3 in ring 0 touches nothing.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) };
    cr3
}

/// CR4
pub fn read_cr4() -> u64 {
    x86_64::registers::control::Cr4::read_raw()
}
