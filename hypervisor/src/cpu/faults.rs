//! Exceptions in the hypervisor. Those at an instruction that expects them (see
//! [`super::msr`]) continue at its fix-up; any other enters the debugger.

use super::interrupts::Frame;
use crate::debug;

/// An instruction that may fault, and where to go on if it does. The linker
/// collects them in `.fault_table`.
#[repr(C)]
struct Entry {
    instruction: u64,
    fix_up: u64,
}

unsafe extern "C" {
    static fault_table_start: Entry;
    static fault_table_end: Entry;
}

fn table() -> &'static [Entry] {
    let start = &raw const fault_table_start;
    let bytes = &raw const fault_table_end as usize - start as usize;
    // SAFETY: image.ld puts the table between the two symbols, entries alone.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Entry>()) }
}

/// Continues at the fix-up, or stops in the debugger.
pub fn handle(frame: &mut Frame) {
    #[cfg(feature = "test-hooks")]
    if crate::test_hooks::aim::debug_exception(frame) {
        return;
    }
    if let Some(entry) = table().iter().find(|e| e.instruction == frame.rip) {
        frame.rip = entry.fix_up;
        return;
    }
    debug::host::fault(frame)
}
