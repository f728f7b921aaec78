//! CPU start-up: INIT, SIPI, reset.

use crate::control_regs::FixedBits;
use crate::registers::Gprs;
use vmcs_inspect::Field;

/// What reached a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// INIT (exit reason 3).
    Init,
    /// SIPI with this vector (exit reason 4).
    Sipi(u8),
    /// Triple fault (exit reason 2).
    TripleFault,
}

/// Where a CPU is in its start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartState {
    /// It waits for a SIPI.
    WaitForSipi,
    /// It runs the guest's code.
    Running,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAction {
    /// Load the state after INIT; the CPU then waits for a SIPI.
    Park,
    /// Start at this vector: load the SIPI's code segment, activity state active.
    Start(u8),
    /// Reset the whole machine.
    ResetMachine,
    /// Nothing comes of it.
    Ignore,
}

/// What a signal does to a CPU. `bsp`: IA32_APIC_BASE.BSP is set.
pub fn on_signal(_state: StartState, _bsp: bool, _signal: Signal) -> StartAction {
    todo!()
}

/// How many guest-state fields a reset writes.
pub const RESET_FIELDS: usize = 56;

/// A guest state to load: VMCS fields and the registers that the VMCS doesn't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestReset {
    /// Guest-state fields, with the values.
    pub fields: [(Field, u64); RESET_FIELDS],
    /// General-purpose registers.
    pub gprs: Gprs,
    /// CR2.
    pub cr2: u64,
    /// DR0 to DR3 are 0; DR6 is this.
    pub dr6: u64,
}

/// What states depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetInput {
    /// CR0's and CR4's fixed bits.
    pub fixed: FixedBits,
    /// CPUID.1:EAX, which EDX holds after INIT.
    pub signature: u32,
    /// The guest's CR0 before INIT; CD and NW stay.
    pub cr0: u64,
}

/// The state after INIT, with the activity state wait-for-SIPI.
pub fn after_init(_input: &ResetInput) -> GuestReset {
    todo!()
}

/// Code segment and activity state that a SIPI loads over [`after_init`].
pub fn sipi_fields(_vector: u8) -> [(Field, u64); 4] {
    todo!()
}

/// The state in which the BSP enters the boot sector: real mode, 0000:7C00, DL = the drive.
pub fn at_boot_sector(_input: &ResetInput, _boot_drive: u8) -> GuestReset {
    todo!()
}
