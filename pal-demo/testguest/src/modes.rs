//! Code in other modes: real mode, 32-bit protected mode, compatibility mode
//! and ring 3 (asm/modes.s does the first two).

use core::arch::{asm, naked_asm};

use crate::boot::selector;
use crate::descriptors::{self, Shared, USER_RETURN_VECTOR};
use crate::trap::{self, Frame, Trap};

unsafe extern "C" {
    fn run_real(routine: u32);
    fn run_protected(routine: u32);
    fn bios_interrupt();
    fn return_protected();
    static long_mode_cr3: Shared<u32>;
    static long_mode_cr4: Shared<u32>;
    static bios_vector: Shared<u8>;
    static bios_registers: Shared<BiosRegisters>;
}

/// Registers of a real-mode software interrupt.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct BiosRegisters {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub esi: u32,
    pub edi: u32,
    pub es: u16,
    pub flags: u16,
}

impl BiosRegisters {
    /// The carry flag, by which BIOS functions say that they failed.
    pub fn carry(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// Calls a 16-bit routine in real mode, CS = 0.
///
/// # Safety
///
/// The routine must be 16-bit code below 64 KiB that returns by a near RET and
/// touches only memory that is free for it.
pub unsafe fn real(routine: u32) {
    // SAFETY: the caller's promise; asm/modes.s restores this mode's state
    // but for the IDT, which follows.
    unsafe { run_real(routine) };
    descriptors::load_idt(&descriptors::idt_pointer());
}

/// Calls a 32-bit routine in protected mode without paging.
///
/// # Safety
///
/// As for [`real`], for 32-bit code below 4 GiB. A task register it changes
/// is the caller's to restore.
pub unsafe fn protected(routine: u32) {
    // SAFETY: as in `real`.
    unsafe { run_protected(routine) };
    descriptors::load_idt(&descriptors::idt_pointer());
}

/// Runs `f` with 5-level paging and this CR3, which maps what 4-level paging does.
pub fn with_5_levels<R>(cr3: u64, f: impl FnOnce() -> R) -> R {
    const LA57: u32 = 1 << 12;
    // SAFETY: one CPU at a time leaves 64-bit mode; the tables map its code and data.
    let enter = |cr3: u32, cr4: u32| unsafe {
        Shared::raw(&raw const long_mode_cr3).write_volatile(cr3);
        Shared::raw(&raw const long_mode_cr4).write_volatile(cr4);
        protected(return_protected as *const () as u32);
    };
    // SAFETY: as above.
    let (usual_cr3, usual_cr4) = unsafe {
        (
            Shared::raw(&raw const long_mode_cr3).read_volatile(),
            Shared::raw(&raw const long_mode_cr4).read_volatile(),
        )
    };
    enter(cr3 as u32, usual_cr4 | LA57);
    let result = f();
    enter(usual_cr3, usual_cr4);
    result
}

/// A software interrupt of the BIOS.
pub fn bios(vector: u8, registers: BiosRegisters) -> BiosRegisters {
    // SAFETY: the firmware's services keep their hands off memory that their
    // arguments do not name, and the callers name buffers of this guest. Only
    // CPU 0 comes here.
    unsafe {
        Shared::raw(&raw const bios_registers).write(registers);
        Shared::raw(&raw const bios_vector).write_volatile(vector);
        real(bios_interrupt as *const () as u32);
        Shared::raw(&raw const bios_registers).read()
    }
}

/// Where [`far`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 64-bit code in ring 3.
    User64,
    /// Compatibility mode in ring 3.
    User32,
    /// Compatibility mode in ring 0.
    Kernel32,
}

impl Level {
    /// CS, and SS.
    pub const fn selectors(self) -> (u16, u16) {
        match self {
            Self::User64 => (selector::USER_CODE64, selector::USER_DATA),
            Self::User32 => (selector::USER_CODE32, selector::USER_DATA),
            Self::Kernel32 => (selector::CODE32, selector::DATA),
        }
    }
}

/// A stack for code in other segments; `far` runs on CPU 0 alone.
static FAR_STACK: Shared<[u8; 4096]> = Shared::new([0; 4096]);

/// Runs `code` at another level by IRET, RAX and RCX as given, until it
/// raises a trap: [`USER_RETURN_VECTOR`] when it ends as it should.
pub fn far(level: Level, code: unsafe extern "C" fn(), rax: u64, rcx: u64) -> Trap {
    let (cs, ss) = level.selectors();
    resume(&Frame {
        rax,
        rcx,
        rip: code as *const () as u64,
        cs: cs.into(),
        rflags: 2,
        rsp: FAR_STACK.get() as u64 + 4096,
        ss: ss.into(),
        ..Frame::default()
    })
}

/// Goes on in a context by IRET, DS and ES as its SS, until it raises a trap. The
/// context lies where the page tables that count now map it.
pub fn resume(frame: &Frame) -> Trap {
    let returned = trap::catch(|| -> core::convert::Infallible {
        // SAFETY: the code runs on a stack of its own and ends in a trap, by
        // which `catch` takes this stack and these registers back. Interrupts
        // have other stacks, so nothing is pushed onto the frame.
        unsafe {
            asm!(
                "mov ds, {ss:e}",
                "mov es, {ss:e}",
                "mov rsp, {frame}",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "pop r11",
                "pop r10",
                "pop r9",
                "pop r8",
                "pop rbp",
                "pop rdi",
                "pop rsi",
                "pop rdx",
                "pop rcx",
                "pop rbx",
                "pop rax",
                // The vector and the error code.
                "add rsp, 16",
                "iretq",
                ss = in(reg) frame.ss,
                frame = in(reg) frame,
                options(noreturn),
            )
        }
    });
    match returned {
        Err(trap) => trap,
        Ok(never) => match never {},
    }
}

/// Code for [`far`]: VMCALL, then back. The encoding is the same in 32-bit
/// and in 64-bit code.
#[unsafe(naked)]
pub unsafe extern "C" fn vmcall_and_return() {
    naked_asm!("vmcall", "int {vector}", vector = const USER_RETURN_VECTOR)
}

/// Code for [`far`]: CPUID, then back.
#[unsafe(naked)]
pub unsafe extern "C" fn cpuid_and_return() {
    naked_asm!("cpuid", "int {vector}", vector = const USER_RETURN_VECTOR)
}
