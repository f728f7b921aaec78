//! A CPU's registers as the stub reads and writes them, from the VMCS and from
//! the places where the others are.

use core::arch::asm;
use core::fmt;

use gdb_stub::machine::{CpuIndex, MachineError, Register};
use gdb_stub::registers::{FxsaveImage, Registers, Segment};
use stillpoint_core::control_regs::{ControlRegister, Outcome};
use stillpoint_core::registers::{Gpr, Gprs};
use stillpoint_core::task_switch::vmcs::SEGMENTS;
use vmcs_inspect::{Field, VmcsAccess};

use super::{host, metal};
use crate::cpu::msr;
use crate::vmx::exits::control_registers;
use crate::vmx::instructions::{Current, get, invvpid_all, set};
use crate::vmx::state;
use crate::vmx::vcpu::{Published, Vcpu};

fn read_vmcs(vmcs: &mut dyn VmcsAccess, gprs: &Gprs, out: &mut Registers) {
    let mut read = |field| vmcs.read(field).unwrap_or(0);
    let [es, cs, ss, ds, fs, gs, ..] = SEGMENTS.map(|[selector, base, ..]| Segment {
        selector: read(selector) as u16,
        base: read(base),
    });
    let mut control = |real, shadow, mask| {
        ControlRegister {
            real: read(real),
            shadow: read(shadow),
            mask: read(mask),
        }
        .guest_view()
    };
    let cr0 = control(
        Field::GUEST_CR0,
        Field::CR0_READ_SHADOW,
        Field::CR0_GUEST_HOST_MASK,
    );
    let cr4 = control(
        Field::GUEST_CR4,
        Field::CR4_READ_SHADOW,
        Field::CR4_GUEST_HOST_MASK,
    );
    *out = Registers {
        rax: gprs[Gpr::Rax],
        rbx: gprs[Gpr::Rbx],
        rcx: gprs[Gpr::Rcx],
        rdx: gprs[Gpr::Rdx],
        rsi: gprs[Gpr::Rsi],
        rdi: gprs[Gpr::Rdi],
        rbp: gprs[Gpr::Rbp],
        rsp: read(Field::GUEST_RSP),
        r8: gprs[Gpr::R8],
        r9: gprs[Gpr::R9],
        r10: gprs[Gpr::R10],
        r11: gprs[Gpr::R11],
        r12: gprs[Gpr::R12],
        r13: gprs[Gpr::R13],
        r14: gprs[Gpr::R14],
        r15: gprs[Gpr::R15],
        rip: read(Field::GUEST_RIP),
        rflags: read(Field::GUEST_RFLAGS),
        cs,
        ss,
        ds,
        es,
        fs,
        gs,
        cr0,
        cr3: read(Field::GUEST_CR3),
        cr4,
        efer: read(Field::GUEST_IA32_EFER),
        ..Registers::default()
    };
}

/// Of a CPU that is parked: what it published, which has no FPU state.
pub fn read_published(published: &Published, out: &mut Registers) {
    read_vmcs(&mut published.vmcs(), published.gprs(), out);
}

/// Of the CPU that runs this.
pub fn read(vcpu: &Vcpu, out: &mut Registers) {
    read_vmcs(&mut Current, &vcpu.registers.gprs, out);
    // SAFETY: both registers are the guest's in VMX root operation too; reading
    // them in ring 0 touches nothing.
    unsafe {
        asm!("mov {}, cr2", out(reg) out.cr2, options(nomem, nostack, preserves_flags));
        asm!("mov {}, cr8", out(reg) out.cr8, options(nomem, nostack, preserves_flags));
    }
    out.kernel_gs_base = msr::read(msr::IA32_KERNEL_GS_BASE).unwrap_or(0);
    // The x87 state is still in the processor; XMM and MXCSR have been saved.
    // SAFETY: the image is 512 bytes and 16-aligned.
    unsafe { asm!("fxsave64 [{}]", in(reg) out.fxsave.0.as_mut_ptr(), options(nostack)) };
    for (n, value) in vcpu.registers.xmm.iter().enumerate() {
        out.fxsave.set_xmm(n, value);
    }
    out.fxsave.set_mxcsr(vcpu.registers.mxcsr);
}

/// Intel SDM vol. 3, 4.4 "PAE Paging".
fn pae_paging(registers: &Registers) -> bool {
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LMA: u64 = 1 << 10;
    registers.cr0 & CR0_PG != 0 && registers.cr4 & CR4_PAE != 0 && registers.efer & EFER_LMA == 0
}

/// What the fields of a control register become, if the guest could do that.
fn control(outcome: Outcome, register: Register) -> Result<ControlRegister, MachineError> {
    match outcome {
        Outcome::Set {
            register,
            efer: None,
            load_pdptes: false,
            flush: _,
        } => Ok(register),
        _ => Err(MachineError::BadValue(register)),
    }
}

/// Gives the CPU that runs this these registers; all of them, or none.
pub fn write(vcpu: &mut Vcpu, new: &Registers) -> Result<(), MachineError> {
    let mut old = Registers::default();
    read(vcpu, &mut old);
    let fail = |register| Err(MachineError::BadValue(register));

    let capabilities = state::capabilities();
    let long = vcpu.in_64_bit_code();
    if new.rip != old.rip
        && !(if long {
            capabilities.is_canonical(new.rip)
        } else {
            new.rip >> 32 == 0
        })
    {
        return fail(Register::Rip);
    }
    // Bit 1 is always 1; 3, 5, 15 and 22 up always 0; VM cannot be switched.
    const RESERVED: u64 = !0x003f_7fd7 & !2;
    if new.rflags & RESERVED != 0 || (new.rflags ^ old.rflags) & (1 << 17) != 0 {
        return fail(Register::Rflags);
    }
    let modes = control_registers::modes();
    let fixed = state::fixed_bits();
    let cr0 = (new.cr0 != old.cr0)
        .then(|| control(fixed.mov_to_cr0(&modes, new.cr0), Register::Cr0))
        .transpose()?;
    let cr4 = (new.cr4 != old.cr4)
        .then(|| control(fixed.mov_to_cr4(&modes, new.cr4), Register::Cr4))
        .transpose()?;
    let width = capabilities.cpuid.physical_address_width;
    // Under PAE paging the processor would load four more registers from there.
    if new.cr3 != old.cr3 && (new.cr3 >> width != 0 || pae_paging(&old)) {
        return fail(Register::Cr3);
    }
    // LME and LMA follow CR0.PG, which the guest moves with care.
    const SWITCHABLE: u64 = 1 | 1 << 11;
    if (new.efer ^ old.efer) & !SWITCHABLE != 0 {
        return fail(Register::Efer);
    }
    let bases = [new.fs.base, new.gs.base, new.kernel_gs_base];
    if bases
        .into_iter()
        .any(|base| !capabilities.is_canonical(base))
    {
        return fail(Register::SegmentBase);
    }
    let segments = |r: &Registers| [r.cs, r.ss, r.ds, r.es];
    let selectors = |r: &Registers| [r.fs.selector, r.gs.selector];
    if segments(new) != segments(&old) || selectors(new) != selectors(&old) {
        return fail(Register::Selector);
    }
    if new.fxsave.mxcsr() & 0xffff_0000 != 0 {
        return fail(Register::Mxcsr);
    }

    store(vcpu, &old, new, cr0, cr4);
    Ok(())
}

fn store(
    vcpu: &mut Vcpu,
    old: &Registers,
    new: &Registers,
    cr0: Option<ControlRegister>,
    cr4: Option<ControlRegister>,
) {
    vcpu.registers.gprs = Gprs::new([
        new.rax, new.rcx, new.rdx, new.rbx, new.rsp, new.rbp, new.rsi, new.rdi, new.r8, new.r9,
        new.r10, new.r11, new.r12, new.r13, new.r14, new.r15,
    ]);
    set(Field::GUEST_RSP, new.rsp);
    set(Field::GUEST_RIP, new.rip);
    set(Field::GUEST_RFLAGS, new.rflags | 2);
    set(Field::GUEST_FS_BASE, new.fs.base);
    set(Field::GUEST_GS_BASE, new.gs.base);
    set(Field::GUEST_CR3, new.cr3);
    set(Field::GUEST_IA32_EFER, new.efer);
    if vcpu.controls.vpid
        && (cr0.is_some() || cr4.is_some() || (new.cr3, new.efer) != (old.cr3, old.efer))
    {
        invvpid_all();
    }
    if let Some(cr0) = cr0 {
        set(Field::GUEST_CR0, cr0.real);
        set(Field::CR0_READ_SHADOW, cr0.shadow);
    }
    if let Some(cr4) = cr4 {
        set(Field::GUEST_CR4, cr4.real);
        set(Field::CR4_READ_SHADOW, cr4.shadow);
    }
    if new.kernel_gs_base != old.kernel_gs_base {
        // SAFETY: the hypervisor has no SWAPGS.
        let _canonical = unsafe { msr::write(msr::IA32_KERNEL_GS_BASE, new.kernel_gs_base) };
    }
    // SAFETY: both are the guest's; interrupts, which CR8 masks, are off here.
    unsafe {
        asm!("mov cr2, {}", in(reg) new.cr2, options(nomem, nostack, preserves_flags));
        asm!("mov cr8, {}", in(reg) new.cr8 & 15, options(nomem, nostack, preserves_flags));
    }
    for (n, value) in vcpu.registers.xmm.iter_mut().enumerate() {
        *value = new.fxsave.xmm(n);
    }
    vcpu.registers.mxcsr = new.fxsave.mxcsr();
    load_x87(&new.fxsave);
}

/// Loads the x87 part of an image; XMM registers are the hypervisor's at the moment.
fn load_x87(image: &FxsaveImage) {
    let mut merged = FxsaveImage::default();
    // SAFETY: both images are 512 bytes and 16-aligned. What FXRSTOR loads into XMM
    // and MXCSR is what FXSAVE has just saved.
    unsafe {
        asm!("fxsave64 [{}]", in(reg) merged.0.as_mut_ptr(), options(nostack));
        merged.0[..24].copy_from_slice(&image.0[..24]);
        merged.0[32..160].copy_from_slice(&image.0[32..160]);
        asm!("fxrstor64 [{}]", in(reg) merged.0.as_ptr(), options(nostack));
    }
}

/// The hypervisor's own registers on a CPU, for `monitor regs host`.
pub fn write_host(cpu: CpuIndex, out: &mut dyn fmt::Write) -> fmt::Result {
    if let Some(stopped) = host::stopped()
        && stopped.cpu == cpu.as_usize()
    {
        let r = &stopped.registers;
        writeln!(out, "stopped in the hypervisor:")?;
        writeln!(
            out,
            "rip {:016x}  rsp {:016x}  rbp {:016x}",
            r.rip, r.rsp, r.rbp
        )?;
        writeln!(
            out,
            "rax {:016x}  rbx {:016x}  rcx {:016x}",
            r.rax, r.rbx, r.rcx
        )?;
        writeln!(
            out,
            "rdx {:016x}  rsi {:016x}  rdi {:016x}",
            r.rdx, r.rsi, r.rdi
        )?;
        writeln!(
            out,
            "rflags {:08x}  cr2 {:016x}  cr3 {:016x}",
            r.rflags, r.cr2, r.cr3
        )?;
    }
    const FIELDS: [(&str, Field); 12] = [
        ("rip (at VM exit)", Field::HOST_RIP),
        ("rsp (at VM exit)", Field::HOST_RSP),
        ("cr0", Field::HOST_CR0),
        ("cr3", Field::HOST_CR3),
        ("cr4", Field::HOST_CR4),
        ("efer", Field::HOST_IA32_EFER),
        ("pat", Field::HOST_IA32_PAT),
        ("cs", Field::HOST_CS_SELECTOR),
        ("gs base", Field::HOST_GS_BASE),
        ("tr base", Field::HOST_TR_BASE),
        ("gdtr base", Field::HOST_GDTR_BASE),
        ("idtr base", Field::HOST_IDTR_BASE),
    ];
    let mut values = [0; FIELDS.len()];
    let read = metal::on(cpu, &mut |_| values = FIELDS.map(|(_, field)| get(field)));
    if read.is_err() {
        return writeln!(
            out,
            "CPU {cpu} waits for a start-up IPI and cannot be asked"
        );
    }
    for ((name, _), value) in FIELDS.iter().zip(values) {
        writeln!(out, "{name:<18}{value:016x}")?;
    }
    Ok(())
}
