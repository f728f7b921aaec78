//! What `monitor vmcs` asks of the machine: implemented by the debugger's stub over
//! the stopped machine, and by a fake in tests.

use crate::{Capabilities, VmcsAccess, VmcsError, VmcsSnapshot};

/// What the hypervisor itself keeps about the NMIs of one CPU.
///
/// It is no part of the VMCS, but without it the VMCS tells half the story: an owed NMI shows
/// in no field until it is injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NmiLedger {
    /// NMIs that the guest is owed on this CPU and has not been given yet.
    pub owed: u32,
    /// Kicks sent to this CPU whose NMIs have not been seen yet.
    pub kicks_outstanding: u32,
    /// NMIs that merged into one already owed, as the processor would have merged them.
    pub merged: u64,
    /// The quiesce generation that this CPU acknowledged last.
    pub quiesce_generation: u64,
    /// NMIs that caused a VM exit.
    pub in_guest: u64,
    /// NMIs that interrupted the hypervisor.
    pub in_hypervisor: u64,
    /// NMIs that a person asked for.
    pub asked: u64,
    /// Kicks sent to this CPU.
    pub kicks_sent: u64,
    /// NMIs that were taken for a kick.
    pub kicks_consumed: u64,
    /// NMIs given to the guest.
    pub injected: u64,
}

/// The stopped machine, as `monitor vmcs` needs it.
pub trait VmcsHost {
    /// The number of CPUs; they are numbered from 0.
    fn cpus(&self) -> usize;

    /// The CPU that the debugger's commands speak of when they name none.
    fn current_cpu(&self) -> usize;

    /// Calls `f` with the VMCS of `cpu`.
    ///
    /// # Errors
    /// If that CPU's VMCS cannot be reached; `f` is then not called.
    fn with_vmcs(
        &mut self,
        cpu: usize,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError>;

    /// What the hypervisor keeps about the NMIs of `cpu`.
    fn ledger(&mut self, cpu: usize) -> NmiLedger;

    /// What the processor's VMX can do.
    fn capabilities(&self) -> Capabilities;

    /// The VMCS of `cpu` as it was at the last stop but this one; `None` at the first
    /// stop.
    fn previous(&self, cpu: usize) -> Option<&VmcsSnapshot>;
}
