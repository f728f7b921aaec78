//! Events: what the next VM entry injects.

use vmcs_inspect::GuestInterruptibility;

/// An event in the form of the three VM-entry fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// VM-entry interruption information; the valid bit is set.
    pub info: u32,
    /// VM-entry exception error code; to be written if `info` has bit 11.
    pub error_code: u32,
    /// VM-entry instruction length; counts for software interrupts and exceptions.
    pub instruction_length: u32,
}

impl Event {
    /// A hardware exception.
    pub const fn exception(_vector: u8, _error_code: Option<u32>) -> Self {
        todo!()
    }
    /// An NMI.
    pub const fn nmi() -> Self {
        todo!()
    }
    /// An external interrupt.
    pub const fn external_interrupt(_vector: u8) -> Self {
        todo!()
    }
    /// INT3 or INTO, of this many bytes.
    pub const fn software_exception(_vector: u8, _length: u32) -> Self {
        todo!()
    }
    /// INT n, of this many bytes.
    pub const fn software_interrupt(_vector: u8, _length: u32) -> Self {
        todo!()
    }
    /// #GP(0), #UD, #DB and so on are `exception`.
    pub const fn is_nmi(self) -> bool {
        todo!()
    }
}

/// The event whose delivery a VM exit broke off, to be injected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reinjection {
    /// The event.
    pub event: Event,
    /// It was an NMI: blocking by NMI is to be cleared before the entry.
    pub clear_nmi_blocking: bool,
}

/// Reads the IDT-vectoring fields; `None` if no event was being delivered.
pub fn reinjection(
    _idt_vectoring_info: u32,
    _error_code: u32,
    _instruction_length: u32,
) -> Option<Reinjection> {
    todo!()
}

/// Two events that met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// This is delivered.
    Deliver(Event),
    /// The CPU shuts down.
    TripleFault,
}

/// An exception while `original` (if any) was being delivered.
pub fn merge(_original: Option<Event>, _exception: Event) -> Merged {
    todo!()
}

/// What an exit says about an IRET that faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// Exception or NMI, with this VM-exit interruption information.
    Exception(u32),
    /// EPT violation, EPT misconfiguration or page-modification log full, with this exit qualification.
    EptViolation(u64),
    /// Any other.
    Other,
}

/// Must blocking by NMI be set again, because an IRET that had cleared it did not complete?
pub fn nmi_unblocked_by_iret(_kind: ExitKind, _idt_vectoring_info: u32) -> bool {
    todo!()
}

/// What decides whether the guest gets an NMI that it is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NmiState {
    /// NMIs owed.
    pub owed: u32,
    /// Guest interruptibility state.
    pub interruptibility: GuestInterruptibility,
    /// Another event is injected at this entry.
    pub injecting: bool,
    /// The debugger steps this CPU with interrupts held.
    pub stepping: bool,
    /// A PAL runs.
    pub in_pal: bool,
    /// The activity state is active or HLT, where an NMI can be injected.
    pub can_take: bool,
}

/// What becomes of an NMI that the guest is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NmiAction {
    /// None is owed: NMI-window exiting off.
    Nothing,
    /// Inject one now; one fewer is owed. `window` = NMI-window exiting, for the next.
    Inject {
        /// More are owed.
        window: bool,
    },
    /// NMI-window exiting on.
    OpenWindow,
    /// NMI-window exiting off, though some are owed: they wait for the step or the PAL to end.
    Hold,
}

/// Decides about owed NMIs.
pub fn owed_nmi(_state: &NmiState) -> NmiAction {
    todo!()
}
