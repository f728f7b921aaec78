//! The memory functions that compiled code calls by name, and the symbol that
//! a precompiled `core` wants: the toolchain's are a hosted program's.

use core::arch::asm;

/// C's memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller passes two ranges of `count` bytes; DF is clear, as
    // the calling convention has it.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
             options(nostack, preserves_flags));
    }
    to
}

/// C's memmove.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: copying upwards never writes a byte that is still to be read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: as above, downwards from the last bytes; `count` is not 0 here.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") to.add(count - 1) => _,
             inout("rsi") from.add(count - 1) => _, inout("rcx") count => _, options(nostack));
    }
    to
}

/// C's memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller passes a range of `count` bytes.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// C's memcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for i in 0..count {
        // SAFETY: the caller passes two ranges of `count` bytes. The volatile
        // reads keep the compiler from turning the loop into a call of memcmp.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// memcmp for equality alone.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(a, b, count) }
}

/// Nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
