//! What `monitor vmcs` asks of the machine: implemented by the debugger's stub over
//! the stopped machine, and by a fake in tests.

use crate::{Capabilities, VmcsAccess, VmcsError, VmcsSnapshot};

/// What the hypervisor itself keeps about the NMIs of one CPU, as far as the overview
/// shows it.
///
/// It is no part of the VMCS, but without it the VMCS tells half the story: an owed NMI shows
/// in no field until it is injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NmiState {
    /// NMIs that the guest is owed on this CPU and has not been given yet.
    pub owed: u32,
    /// Whether a kick was sent to this CPU whose NMI has not been seen yet.
    pub kick_outstanding: bool,
    /// NMIs that merged into one already owed, as the processor would have merged them.
    pub merged: u64,
    /// The quiesce generation that this CPU acknowledged last.
    pub quiesce_generation: u64,
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
    fn nmi_state(&mut self, cpu: usize) -> NmiState;

    /// What the processor's VMX can do.
    fn capabilities(&self) -> Capabilities;

    /// The VMCS of `cpu` as it was at the last stop but this one; `None` at the first
    /// stop.
    fn previous(&self, cpu: usize) -> Option<&VmcsSnapshot>;
}
