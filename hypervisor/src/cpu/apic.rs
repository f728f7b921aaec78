//! The local APIC, as far as the hypervisor uses it: to send INIT, SIPI and NMI.
//! The guest owns the APIC and may be in the middle of using it.

use stillpoint_core::addr::Hpa;
use stillpoint_core::msr::{APIC_ENABLED, APIC_X2APIC, apic_base_allowed};
use stillpoint_quiesce::Kicker;

use super::msr::{self, MsrFault};
use super::percpu::{self, PerCpu};
use super::tsc;
use crate::memory::layout;
use crate::{RENDEZVOUS, clock, trace};

const ID: u64 = 0x20;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const DELIVERY_PENDING: u32 = 1 << 12;
const MSR_X2APIC_ID: u32 = 0x802;
const MSR_X2APIC_ICR: u32 = 0x830;

/// What is sent: the low half of the ICR (Intel SDM vol. 3, 11.6.1 "Interrupt
/// Command Register (ICR)").
#[derive(Clone, Copy)]
pub enum Ipi {
    /// NMI
    Nmi,
    /// INIT, asserted.
    Init,
    /// Start-up, with the page number of the code.
    StartUp(u8),
}

impl Ipi {
    fn command(self) -> u32 {
        const LEVEL_ASSERT: u32 = 1 << 14;
        match self {
            Self::Nmi => 0x400 | LEVEL_ASSERT,
            Self::Init => 0x500 | LEVEL_ASSERT,
            Self::StartUp(page) => 0x600 | LEVEL_ASSERT | u32::from(page),
        }
    }
}

/// The APIC of the CPU that runs this, in the mode that the guest has put it in.
enum Mode {
    XApic(*mut u8),
    X2Apic,
    Disabled,
}

fn mode() -> Mode {
    match msr::read(msr::IA32_APIC_BASE) {
        Ok(base) if base & APIC_ENABLED == 0 => Mode::Disabled,
        Ok(base) if base & APIC_X2APIC != 0 => Mode::X2Apic,
        Ok(base) => Mode::XApic(layout::direct(Hpa::new(base & 0x000f_ffff_ffff_f000))),
        Err(_) => Mode::Disabled,
    }
}

fn read(base: *mut u8, register: u64) -> u32 {
    // SAFETY: a register of the local APIC, in the direct map, 32-bit access.
    unsafe { base.add(register as usize).cast::<u32>().read_volatile() }
}

fn write(base: *mut u8, register: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe {
        base.add(register as usize)
            .cast::<u32>()
            .write_volatile(value);
    }
}

/// The identifier of this CPU's APIC.
pub fn id() -> u32 {
    match mode() {
        Mode::XApic(base) => read(base, ID) >> 24,
        Mode::X2Apic => msr::read(MSR_X2APIC_ID).unwrap_or(0) as u32,
        Mode::Disabled => 0,
    }
}

/// Sends an IPI to one CPU by its APIC identifier. A disabled APIC sends nothing.
pub fn send(apic_id: u32, ipi: Ipi) {
    match mode() {
        Mode::XApic(base) => {
            // The guest writes the ICR in two halves, and may stand between them.
            let high = read(base, ICR_HIGH);
            wait_until_sent(base);
            write(base, ICR_HIGH, apic_id << 24);
            write(base, ICR_LOW, ipi.command());
            wait_until_sent(base);
            write(base, ICR_HIGH, high);
        }
        Mode::X2Apic => {
            let command = u64::from(apic_id) << 32 | u64::from(ipi.command());
            // SAFETY: sends an IPI; the hypervisor's own state stays as it is.
            let _sent = unsafe { msr::write(MSR_X2APIC_ICR, command) };
        }
        Mode::Disabled => {}
    }
}

/// A send that takes a millisecond is none that will come to an end.
fn wait_until_sent(base: *mut u8) {
    let since = tsc();
    while read(base, ICR_LOW) & DELIVERY_PENDING != 0 && tsc() - since < clock::ticks_per_ms() {
        core::hint::spin_loop();
    }
}

/// The guest of this CPU writes IA32_APIC_BASE.
///
/// # Errors
/// [`MsrFault`] where the guest may not, or the processor faults.
pub fn write_base(cpu: &PerCpu, value: u64) -> Result<(), MsrFault> {
    if !apic_base_allowed(msr::read(msr::IA32_APIC_BASE)?, value) {
        return Err(MsrFault);
    }
    if value & APIC_ENABLED == 0 {
        while !RENDEZVOUS.try_deafen(cpu.index) {
            core::hint::spin_loop();
        }
    }
    // SAFETY: the APIC stays where it is; each use of it asks for its mode.
    let written = unsafe { msr::write(msr::IA32_APIC_BASE, value) };
    if !matches!(mode(), Mode::Disabled) {
        RENDEZVOUS.hear(cpu.index);
    }
    written
}

/// How long a stop waits for the CPUs that it has asked before it kicks them, in
/// microseconds. Every NMI IPI that was sent before arrives in that time.
const PATIENCE_US: u64 = 3;

/// Kicks by NMI IPI. One for each stop.
#[derive(Default)]
pub struct ApicKicker {
    /// When patience began, in ticks.
    since: Option<u64>,
}

impl Kicker for ApicKicker {
    fn patience_is_over(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(tsc);
        let limit = clock::ticks_per_ms() * PATIENCE_US / 1000;
        tsc() - since > limit && !matches!(mode(), Mode::Disabled)
    }

    fn send_nmi(&mut self, cpu: usize) {
        if let Some(target) = percpu::all().get(cpu) {
            trace::event(trace::Event::KickSent { to: cpu as u16 });
            send(target.apic_id, Ipi::Nmi);
        }
    }
}
