//! I/O ports that exit. The debugger's UART the guest does not have: to it nothing is
//! there, and reads float to all-ones. The ports that restart the machine are watched
//! while there are PALs, whose memory is wiped before.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use spin::Mutex;
use stillpoint_core::registers::Gpr;
use stillpoint_core::reset_ports::ResetPorts;
use stillpoint_core::string_io::{GuestContext, Progress, StringIo};
use vmcs_inspect::qualification::IoAccess;
use vmcs_inspect::{Field, InstructionInfo, SegmentRegister};
use x86_64::instructions::port::Port;

use super::instructions::get;
use super::vcpu::Vcpu;
use super::{guest_state, state};
use crate::memory::guest::GuestView;
use crate::memory::layout;
use crate::pal;
use crate::serial::COM2;

const KEYBOARD_STATUS: u16 = 0x64;

static DEBUG_PORT_HIDDEN: AtomicBool = AtomicBool::new(false);

/// Do these ports exit?
static WATCHED: AtomicBool = AtomicBool::new(false);

static RESET_PORTS: Mutex<ResetPorts> = Mutex::new(ResetPorts::new(None));

/// Hides COM2. Before the bitmaps are made.
pub fn hide_debug_port() {
    DEBUG_PORT_HIDDEN.store(true, Relaxed);
}

/// Is COM2 hidden?
pub fn debug_port_hidden() -> bool {
    DEBUG_PORT_HIDDEN.load(Relaxed)
}

/// Does an access touch a hidden port?
fn is_hidden(port: u16, size: u8) -> bool {
    debug_port_hidden() && port < COM2 + 8 && COM2 < port.saturating_add(size.into())
}

/// Sets the bits of hidden ports in I/O bitmaps A and B, which follow each other.
pub fn fill_bitmaps(pages: &mut [u8; 8192]) {
    if debug_port_hidden() {
        for port in COM2..COM2 + 8 {
            pages[usize::from(port) / 8] |= 1 << (port % 8);
        }
    }
}

/// Notes ACPI's reset register, if it is a port.
pub fn init_reset_ports(acpi: Option<(u16, u8)>) {
    *RESET_PORTS.lock() = ResetPorts::new(acpi);
}

/// Makes accesses to the ports that restart the machine exit, or no longer. With the
/// machine stopped.
pub fn watch_resets(on: bool) {
    let Some(pages) = state::pages() else { return };
    let mut ports = RESET_PORTS.lock();
    if !WATCHED.swap(on, Relaxed) {
        // SAFETY: the keyboard controller's status, which reading does not change.
        ports.begin(unsafe { Port::new(KEYBOARD_STATUS).read() });
    }
    for port in ports.ports() {
        let byte = layout::direct(pages.io_bitmaps).wrapping_add(usize::from(port) / 8);
        let bit = 1 << (port % 8);
        // SAFETY: a byte of the bitmaps. No CPU is in the guest, so none reads it now.
        unsafe {
            let old = byte.read_volatile();
            byte.write_volatile(if on { old | bit } else { old & !bit });
        }
    }
}

/// Exit reason 30: an access to a port that is hidden, or that may restart the machine.
pub fn access(vcpu: &mut Vcpu) {
    if vcpu.pal.is_some() {
        return vcpu.general_protection();
    }
    let access = IoAccess::from_raw(get(Field::EXIT_QUALIFICATION));
    let size = access.size().unwrap_or(4);
    if !is_hidden(access.port(), size) {
        return watched(vcpu, access, size);
    }
    if access.is_string() {
        return string(vcpu, access, size);
    }
    if access.is_in() {
        store_in(vcpu, size, u32::MAX);
    }
    vcpu.skip_instruction();
}

/// The result of an IN.
fn store_in(vcpu: &mut Vcpu, size: u8, value: u32) {
    let rax = &mut vcpu.registers.gprs[Gpr::Rax];
    *rax = match size {
        1 => *rax & !0xff | u64::from(value as u8),
        2 => *rax & !0xffff | u64::from(value as u16),
        // A 32-bit result clears the upper half, as any 32-bit write does.
        _ => value.into(),
    };
}

/// A port that restarts the machine, or one in the same access. What does not restart
/// it is done in the guest's place. Before a restart every PAL is ended; then the ports
/// exit no more, and the guest's own instruction restarts the machine.
fn watched(vcpu: &mut Vcpu, access: IoAccess, size: u8) {
    let value = vcpu.registers.gprs[Gpr::Rax] as u32;
    let port = access.port();
    let restarts =
        access.is_string() || !access.is_in() && RESET_PORTS.lock().resets(port, size, value);
    if restarts {
        return pal::ending::end_all(vcpu);
    }
    // SAFETY: what the guest would have done itself, with the privilege to do it: the
    // exit comes after the checks.
    unsafe {
        match (access.is_in(), size) {
            (true, 1) => store_in(vcpu, 1, Port::<u8>::new(port).read().into()),
            (true, 2) => store_in(vcpu, 2, Port::<u16>::new(port).read().into()),
            (true, _) => store_in(vcpu, 4, Port::<u32>::new(port).read()),
            (false, 1) => Port::<u8>::new(port).write(value as u8),
            (false, 2) => Port::<u16>::new(port).write(value as u16),
            (false, _) => Port::<u32>::new(port).write(value),
        }
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
        paging: guest_state::paging(),
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
