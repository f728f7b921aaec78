//! Reading and writing the hypervisor's own memory at any address, with the
//! fault caught.

use core::arch::asm;

/// Copies, and returns how many bytes were copied before the first that faults.
///
/// # Safety
/// `to` and `from` are each either valid for `len` bytes or an address whose
/// access at worst faults, and whose change at worst is what a person at the
/// debugger asked for.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
    let left: usize;
    // SAFETY: a fault at label 2 continues at label 3, with RCX saying how many
    // bytes are left.
    unsafe {
        asm!(
            "2: rep movsb",
            "3:",
            ".pushsection .fault_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            inout("rcx") len => left,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    len - left
}

/// Reads; returns how many bytes could be.
pub fn read(address: u64, into: &mut [u8]) -> usize {
    let from = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: `into` is valid; reading anything else at worst faults.
    unsafe { copy(into.as_mut_ptr(), from, into.len()) }
}

/// Writes; returns how many bytes could be. Code and constants of the image are
/// mapped read-only and fault.
pub fn write(address: u64, bytes: &[u8]) -> usize {
    let to = core::ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: `bytes` is valid; a person asked for the rest.
    unsafe { copy(to, bytes.as_ptr(), bytes.len()) }
}
