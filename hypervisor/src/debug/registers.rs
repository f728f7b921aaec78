//! The debug registers, which guest and debugger share.
//!
//! While the debugger has hardware breakpoints, the processor's DR0 to DR3 and
//! DR7 are the debugger's; the guest's are kept here, its moves to and from them
//! exit and see its own values. Its own breakpoints do not trigger meanwhile.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use gdb_stub::StopKind;
use gdb_stub::machine::{HardwareBreakpoints, WatchCondition};
use spin::Mutex;
use vmcs_inspect::qualification::DebugRegisterAccess;
use vmcs_inspect::{Field, PrimaryControls};

use crate::vmx::instructions::{get, set};
use crate::vmx::vcpu::Vcpu;

/// The guest's debug registers, while the debugger uses the real ones.
#[derive(Clone, Copy, Default)]
pub struct GuestDebug {
    /// DR0 to DR3.
    pub address: [u64; 4],
    /// DR7
    pub dr7: u64,
}

/// What the debugger wants on every CPU.
#[derive(Clone, Copy)]
struct Plan {
    hardware: HardwareBreakpoints,
    int3_exits: bool,
}

static PLAN: Mutex<Plan> = Mutex::new(Plan {
    hardware: HardwareBreakpoints { slots: [None; 4] },
    int3_exits: false,
});

/// Grows with each change of the plan; every CPU catches up when it next looks.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Changes the hardware breakpoints, with the machine stopped.
pub fn set_hardware(hardware: HardwareBreakpoints) {
    PLAN.lock().hardware = hardware;
    EPOCH.fetch_add(1, SeqCst);
}

/// Makes #BP exit or not, with the machine stopped.
pub fn set_int3_exits(on: bool) {
    PLAN.lock().int3_exits = on;
    EPOCH.fetch_add(1, SeqCst);
}

/// Puts the plan into use on this CPU, if it has changed.
pub fn catch_up(vcpu: &mut Vcpu) {
    let epoch = EPOCH.load(SeqCst);
    if vcpu.debug_epoch == epoch {
        return;
    }
    vcpu.debug_epoch = epoch;
    let plan = *PLAN.lock();
    let own = plan.hardware.is_empty();
    match (vcpu.guest_debug, own) {
        (None, true) => {}
        (Some(guest), true) => {
            write_addresses(&guest.address);
            set(Field::GUEST_DR7, guest.dr7);
            vcpu.guest_debug = None;
        }
        (kept, false) => {
            vcpu.guest_debug = kept.or_else(|| {
                Some(GuestDebug {
                    address: read_addresses(),
                    dr7: get(Field::GUEST_DR7),
                })
            });
            let slots = plan.hardware.slots;
            write_addresses(&slots.map(|slot| slot.map_or(0, |b| b.address)));
            set(Field::GUEST_DR7, plan.hardware.dr7());
        }
    }
    vcpu.control(PrimaryControls::MOV_DR_EXITING, !own);
    set_exceptions(vcpu);
}

/// Makes the exceptions exit that the debugger wants; inside a PAL, all of them.
pub fn set_exceptions(vcpu: &Vcpu) {
    let exceptions = if vcpu.pal.is_some() {
        u64::from(u32::MAX)
    } else {
        let int3 = PLAN.lock().int3_exits;
        u64::from(vcpu.guest_debug.is_some()) << 1 | u64::from(int3) << 3
    };
    set(Field::EXCEPTION_BITMAP, exceptions);
}

/// DR7 as the guest has it, whoever uses the register.
pub fn guest_dr7(vcpu: &Vcpu) -> u64 {
    vcpu.guest_debug
        .map_or_else(|| get(Field::GUEST_DR7), |guest| guest.dr7)
}

/// Sets the DR7 that the guest has.
pub fn set_guest_dr7(vcpu: &mut Vcpu, value: u64) {
    match &mut vcpu.guest_debug {
        Some(guest) => guest.dr7 = value,
        None => set(Field::GUEST_DR7, value),
    }
}

/// Whose a #DB is.
pub enum DebugException {
    /// The debugger's breakpoint.
    Stop(StopKind),
    /// The guest's: single-stepping by itself, or INT1.
    Guests,
}

/// A #DB that has exited (Intel SDM vol. 3, 28.2.1, table "Exit Qualification for
/// Debug Exceptions").
pub fn debug_exception(vcpu: &Vcpu) -> DebugException {
    let hit = get(Field::EXIT_QUALIFICATION);
    let slots = PLAN.lock().hardware.slots;
    for (n, slot) in (0u8..).zip(slots) {
        if let Some(breakpoint) = slot
            && hit & (1 << n) != 0
        {
            return DebugException::Stop(match breakpoint.condition {
                WatchCondition::Execute => StopKind::HardwareBreakpoint(n),
                WatchCondition::Write | WatchCondition::ReadWrite => StopKind::Watchpoint(n),
            });
        }
    }
    // The exit came before DR6 was written: the guest is to find there what it
    // would have found.
    const STICKY: u64 = 0xf | 1 << 13 | 1 << 14;
    if vcpu.guest_debug.is_some() {
        write_dr6(read_dr6() | hit & STICKY);
    }
    DebugException::Guests
}

/// DR6 as a task switch into a task with the T flag leaves it.
pub fn set_task_trap() {
    const BT: u64 = 1 << 15;
    write_dr6(read_dr6() | BT);
}

/// After INIT: DR0 to DR3 are 0, DR6 is as given. DR7 is in the VMCS.
pub fn reset(vcpu: &mut Vcpu, dr6: u64) {
    write_dr6(dr6);
    match &mut vcpu.guest_debug {
        None => write_addresses(&[0; 4]),
        Some(guest) => {
            *guest = GuestDebug {
                address: [0; 4],
                dr7: get(Field::GUEST_DR7),
            };
            set(Field::GUEST_DR7, PLAN.lock().hardware.dr7());
        }
    }
}

/// Exit reason 29: MOV to or from a debug register, while the debugger has them.
pub fn mov_dr(vcpu: &mut Vcpu) {
    const CR4_DE: u64 = 1 << 3;
    let access = DebugRegisterAccess::from_raw(get(Field::EXIT_QUALIFICATION));
    let number = match usize::from(access.register()) {
        4 | 5 if get(Field::GUEST_CR4) & CR4_DE != 0 => return vcpu.invalid_opcode(),
        4 | 6 => 6,
        5 | 7 => 7,
        n => n,
    };
    let mut guest = vcpu.guest_debug.unwrap_or_default();
    if access.is_read() {
        let value = match number {
            6 => read_dr6(),
            7 => guest.dr7,
            n => guest.address[n],
        };
        vcpu.set_gpr(access.gpr(), value);
    } else {
        let mut value = vcpu.gpr(access.gpr());
        if !vcpu.in_64_bit_code() {
            value &= 0xffff_ffff;
        }
        if number >= 6 && value >> 32 != 0 {
            return vcpu.general_protection();
        }
        match number {
            6 => write_dr6(value & 0xe00f | 0xffff_0ff0),
            7 => guest.dr7 = value & 0xffff_2fff | 1 << 10,
            n => guest.address[n] = value,
        }
        vcpu.guest_debug = Some(guest);
    }
    vcpu.skip_instruction();
}

fn read_addresses() -> [u64; 4] {
    let mut address = [0u64; 4];
    // SAFETY: reading debug registers in ring 0; DR7.GD is clear after a VM exit.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
             out(reg) address[0], out(reg) address[1], out(reg) address[2], out(reg) address[3],
             options(nomem, nostack, preserves_flags));
    }
    address
}

fn write_addresses(address: &[u64; 4]) {
    // SAFETY: DR7 enables no breakpoint in VMX root operation (Intel SDM vol. 3,
    // 28.5.1: VM exits set it to 400H), so the addresses are inert here.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
             in(reg) address[0], in(reg) address[1], in(reg) address[2], in(reg) address[3],
             options(nomem, nostack, preserves_flags));
    }
}

fn read_dr6() -> u64 {
    let value: u64;
    // SAFETY: as in `read_addresses`.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write_dr6(value: u64) {
    // SAFETY: DR6 is a status register; the hypervisor does not look at it.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}
