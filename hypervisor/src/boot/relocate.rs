//! Moving the image to the hypervisor's own memory. Its virtual address stays,
//! so nothing that runs or points anywhere notices.

use core::arch::asm;

use stillpoint_core::addr::Hpa;

use crate::memory::layout;

/// Copies the image to `destination` and puts `root` into use, which maps it
/// there.
///
/// # Safety
/// `destination` is free and in the direct map of both tables; `root` maps the
/// image's addresses to it.
pub unsafe fn move_image(destination: Hpa, root: Hpa) {
    // SAFETY: the stack is part of the image, so nothing may be pushed between
    // the copy and the switch: both are in this one statement.
    unsafe {
        asm!(
            "rep movsb",
            "mov cr3, {root}",
            root = in(reg) root.as_u64(),
            inout("rcx") layout::image_size() => _,
            inout("rsi") layout::IMAGE_VMA => _,
            inout("rdi") layout::direct(destination) => _,
            options(nostack, preserves_flags),
        );
    }
}
