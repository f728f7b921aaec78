//! I/O ports that the guest does not have: the debugger's UART. To the guest
//! nothing is there, and reads float to all-ones.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use gdb_stub::StopKind;
use stillpoint_core::registers::Gpr;
use vmcs_inspect::{ExitReason, Field};

use super::instructions::get;
use super::vcpu::Vcpu;
use crate::serial::COM2;

static DEBUG_PORT_HIDDEN: AtomicBool = AtomicBool::new(false);

/// Hides COM2. Before the bitmaps are made.
pub fn hide_debug_port() {
    DEBUG_PORT_HIDDEN.store(true, Relaxed);
}

/// Are any ports hidden?
pub fn any_hidden() -> bool {
    DEBUG_PORT_HIDDEN.load(Relaxed)
}

/// Sets the bits of hidden ports in I/O bitmaps A and B, which follow each other.
pub fn fill_bitmaps(pages: &mut [u8; 8192]) {
    if any_hidden() {
        for port in COM2..COM2 + 8 {
            pages[usize::from(port) / 8] |= 1 << (port % 8);
        }
    }
}

/// Exit reason 30: an access to a hidden port (Intel SDM vol. 3, 28.2.1, table
/// "Exit Qualification for I/O Instructions").
pub fn access(vcpu: &mut Vcpu) {
    const INPUT: u64 = 1 << 3;
    const STRING: u64 = 1 << 4;
    let qualification = get(Field::EXIT_QUALIFICATION);
    if qualification & STRING != 0 {
        let reason = ExitReason::IoInstruction.raw();
        return vcpu.stop(StopKind::UnknownExit(reason));
    }
    if qualification & INPUT != 0 {
        let mask = match qualification & 7 {
            0 => 0xff,
            1 => 0xffff,
            _ => 0xffff_ffff,
        };
        let rax = &mut vcpu.registers.gprs[Gpr::Rax];
        // A 32-bit result clears the upper half, as any 32-bit write does.
        *rax = if mask == 0xffff_ffff { mask } else { *rax | mask };
    }
    vcpu.skip_instruction();
}
