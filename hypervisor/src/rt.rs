//! What the compiler expects of a platform: the memory functions. The
//! precompiled `compiler_builtins` of a hosted target exports none.

use core::arch::asm;

/// C's `memcpy`.
///
/// # Safety
/// As in C: both ranges valid, not overlapping.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise is that of the two instructions together, which copy
    // len bytes; DF is clear by the ABI.
    unsafe {
        asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) len & 7,
             inout("rcx") len >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C: both ranges valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: copying upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the ranges overlap with `to` above `from`, so the copy runs
    // downwards from the last byte; len > 0 here. DF is clear again after it.
    unsafe {
        asm!("std", "rep movsb", "cld",
             inout("rcx") len => _,
             inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
             options(nostack));
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C: the range valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let word = u64::from(byte as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise is that of the two instructions together, which fill
    // len bytes; DF is clear by the ABI.
    unsafe {
        asm!("rep stosq", "mov ecx, {rest:e}", "rep stosb", rest = in(reg) len & 7,
             inout("rcx") len >> 3 => _, inout("rdi") to => _, in("rax") word,
             options(nostack, preserves_flags));
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C: both ranges valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: i < len, and the caller vouches for len bytes of both.
        let (x, y) = unsafe { (a.add(i).read(), b.add(i).read()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// C's `bcmp`.
///
/// # Safety
/// As for [`memcmp`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise is the same.
    unsafe { memcmp(a, b, len) }
}

/// C's `strlen`, which `core` wants for `CStr`.
///
/// # Safety
/// As in C: a terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller vouches for every byte up to the terminator.
    while unsafe { s.add(len).read() } != 0 {
        len += 1;
    }
    len
}

/// Named by the precompiled `core`; never called, since a panic aborts.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    crate::cpu::halt_forever()
}
