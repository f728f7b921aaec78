//! I/O ports that the guest does not have: the debugger's UART. To the guest
//! nothing is there, and reads float to all-ones.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use stillpoint_core::registers::Gpr;
use stillpoint_core::string_io::{GuestContext, Progress, StringIo};
use vmcs_inspect::qualification::IoAccess;
use vmcs_inspect::{Field, InstructionInfo, SegmentRegister};

use super::guest_state;
use super::instructions::{Current, get};
use super::vcpu::Vcpu;
use crate::memory::guest::GuestView;
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

/// Exit reason 30: an access to a hidden port.
pub fn access(vcpu: &mut Vcpu) {
    let access = IoAccess::from_raw(get(Field::EXIT_QUALIFICATION));
    let size = access.size().unwrap_or(4);
    if access.is_string() {
        return string(vcpu, access, size);
    }
    if access.is_in() {
        let rax = &mut vcpu.registers.gprs[Gpr::Rax];
        *rax = match size {
            1 => *rax | 0xff,
            2 => *rax | 0xffff,
            // A 32-bit result clears the upper half, as any 32-bit write does.
            _ => 0xffff_ffff,
        };
    }
    vcpu.skip_instruction();
}

fn string(vcpu: &mut Vcpu, access: IoAccess, size: u8) {
    let info = InstructionInfo::from_raw(get(Field::VM_EXIT_INSTRUCTION_INFO) as u32);
    let register = if access.is_in() {
        SegmentRegister::Es
    } else {
        info.segment().unwrap_or(SegmentRegister::Ds)
    };
    let io = StringIo {
        input: access.is_in(),
        size,
        rep: access.is_rep(),
        address_size: info.address_size().unwrap_or(32) / 8,
        register,
        segment: guest_state::segment(register),
    };
    let context = GuestContext {
        paging: guest_state::paging(&mut Current),
        cs_l: get(Field::GUEST_CS_ACCESS_RIGHTS) & (1 << 13) != 0,
        cpl: vcpu.cpl(),
    };
    match io.execute(&mut GuestView(vcpu.cpu), &context, &mut vcpu.registers.gprs) {
        Progress::Finished => vcpu.skip_instruction(),
        Progress::Again => vcpu.end_shadows(),
        Progress::Fault { event, cr2 } => {
            if let Some(cr2) = cr2 {
                vcpu.set_cr2(cr2);
            }
            vcpu.inject(event);
        }
    }
}
