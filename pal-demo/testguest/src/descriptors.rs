//! Each CPU's TSS and the one IDT.
//!
//! Every vector has an interrupt stack: the precompiled `core` uses the red
//! zone, which an interrupt on the same stack would overwrite.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::boot::{MAX_CPUS, selector};

/// Interrupt stacks of a CPU, by IST number less one.
pub const STACKS: usize = 5;

/// Bytes of an interrupt stack.
const STACK_SIZE: usize = 8192;

/// IST number of everything that has none of its own.
const IST_COMMON: u8 = 1;
/// IST number of NMIs.
pub const IST_NMI: usize = 2;
/// IST number of #DB.
const IST_DEBUG: u8 = 3;
/// IST number of #DF.
const IST_DOUBLE_FAULT: u8 = 4;
/// IST number of the vector whose stack a test moves.
pub const IST_SPARE: usize = 5;

/// A vector that ring 3 may raise with INT, to come back to the test.
pub const USER_RETURN_VECTOR: u8 = 0x41;
/// A vector with a stack of its own ([`IST_SPARE`]).
pub const SPARE_STACK_VECTOR: u8 = 0x42;

/// A 64-bit TSS (Intel SDM vol. 3, ch. 8, Task management in 64-bit mode), as
/// its 26 32-bit words.
type Tss = [u32; 26];

/// A cell that this guest's CPUs share by convention: each touches its own
/// part, or only CPU 0 does while the others wait.
#[repr(C, align(64))]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: see the type: the users divide the contents among the CPUs.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where the value of a cell that assembly defines is.
    pub const fn raw(cell: *const Self) -> *mut T {
        UnsafeCell::raw_get(cell.cast())
    }

    /// Where the value is.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

static TSS: Shared<[Tss; MAX_CPUS]> = Shared::new([[0; 26]; MAX_CPUS]);
static TRAP_STACKS: Shared<[[[u8; STACK_SIZE]; STACKS]; MAX_CPUS]> =
    Shared::new([[[0; STACK_SIZE]; STACKS]; MAX_CPUS]);
static IDT: [[AtomicU64; 2]; 256] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; 256];

unsafe extern "C" {
    static gdt_tss: UnsafeCell<[[u64; 2]; MAX_CPUS]>;
    static trap_stubs: [[u8; 16]; 256];
}

/// The operand of LGDT, LIDT and their stores.
#[repr(C, packed)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct TablePointer {
    /// Offset of the last byte.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// The IDT's address and limit.
pub fn idt_pointer() -> TablePointer {
    TablePointer {
        limit: 4095,
        base: IDT.as_ptr() as u64,
    }
}

/// Loads the task register and the IDT of the CPU with this index.
pub fn load(index: usize) {
    let tss = TSS.get().cast::<Tss>().wrapping_add(index);
    for ist in 1..=STACKS {
        set_interrupt_stack(index, ist, default_stack(index, ist));
    }
    let base = tss as u64;
    // An available 64-bit TSS; no I/O permission map, so its base is the limit.
    let low = (size_of::<Tss>() as u64 - 1)
        | (base & 0xff_ffff) << 16
        | 0x89 << 40
        | (base >> 24 & 0xff) << 56;
    // SAFETY: each CPU writes its own TSS and its own descriptor, before it
    // loads the selector; the TSS lives for ever.
    unsafe {
        (*tss)[25] = (size_of::<Tss>() as u32) << 16;
        (*gdt_tss.get())[index] = [low, base >> 32];
        let selector = selector::TSS + 16 * index as u16;
        asm!("ltr {:x}", in(reg) selector, options(nostack));
    }
    load_idt(&build_idt());
}

/// LIDT.
pub fn load_idt(pointer: &TablePointer) {
    // SAFETY: the callers load the IDT of this file, or restore it before
    // anything can trap.
    unsafe { asm!("lidt [{}]", in(reg) pointer, options(nostack, readonly)) };
}

fn build_idt() -> TablePointer {
    for vector in 0..=255 {
        set_gate(vector, true);
    }
    idt_pointer()
}

/// Sets the gate of `vector` to its stub, present or not.
pub fn set_gate(vector: u8, present: bool) {
    // SAFETY: only the address is taken.
    let stub = unsafe { trap_stubs[vector as usize].as_ptr() } as u64;
    let ist = match vector {
        1 => IST_DEBUG,
        2 => IST_NMI as u8,
        8 => IST_DOUBLE_FAULT,
        SPARE_STACK_VECTOR => IST_SPARE as u8,
        _ => IST_COMMON,
    };
    let user = matches!(vector, 3 | USER_RETURN_VECTOR);
    // A 64-bit interrupt gate (Intel SDM vol. 3, section 6.14.1, 64-bit mode IDT).
    let attributes = 0x0e | if user { 3 << 5 } else { 0 } | u64::from(present) << 7;
    let low = stub & 0xffff
        | u64::from(selector::CODE64) << 16
        | u64::from(ist) << 32
        | attributes << 40
        | (stub >> 16 & 0xffff) << 48;
    IDT[vector as usize][1].store(stub >> 32, Relaxed);
    IDT[vector as usize][0].store(low, Relaxed);
}

/// Top of the interrupt stack that [`load`] gives.
pub fn default_stack(index: usize, ist: usize) -> u64 {
    let stacks = TRAP_STACKS
        .get()
        .cast::<[[u8; STACK_SIZE]; STACKS]>()
        .wrapping_add(index);
    stacks.cast::<[u8; STACK_SIZE]>().wrapping_add(ist) as u64
}

/// Sets the top of an interrupt stack of a CPU; it counts from the next
/// interrupt on.
pub fn set_interrupt_stack(index: usize, ist: usize, top: u64) {
    let tss = TSS.get().cast::<Tss>().wrapping_add(index);
    let word = 7 + 2 * ist;
    // SAFETY: the words are inside the TSS; the processor reads them at the
    // next interrupt only.
    unsafe {
        let words = tss.cast::<u32>();
        words.add(word).write_volatile(top as u32);
        words.add(word + 1).write_volatile((top >> 32) as u32);
    }
}
