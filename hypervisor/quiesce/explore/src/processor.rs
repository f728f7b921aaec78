//! What a logical processor does with NMIs, INIT and SIPI while it runs Stillpoint:
//! the hardware's half of the model. Called by the program (`program.rs`) and by the
//! environment (`model.rs`).
//!
//! "NMI exiting" and "virtual NMIs" are 1, as Stillpoint has them. Source: Intel SDM
//! vol. 3, chapter 6 "Interrupt and Exception Handling", chapter 25 "VMX Non-Root
//! Operation", chapter 27 "VM Entries", chapter 28 "VM Exits".

/// One logical processor, with the parts of its VMCS that NMIs depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Processor {
    /// In VMX non-root operation.
    pub non_root: bool,
    /// An NMI has arrived and waits: one at most, others merge into it.
    pub latched: bool,
    /// "Blocking by NMI" of root operation: from an NMI, or from an exit that an NMI
    /// caused, until the next IRET.
    pub blocked: bool,
    /// Kicks sent to it that have not arrived.
    pub kicks_coming: u8,
    /// The guest's NMIs sent to it that have not arrived: those sent before the
    /// latest stop began, and those sent after.
    pub nmis_coming: [u8; 2],
    /// An INIT waits for non-root operation.
    pub init: bool,
    /// The guest's activity state is wait-for-SIPI.
    pub waits_for_sipi: bool,
    /// Bit 3 of the guest's interruptibility state: virtual-NMI blocking.
    pub virtual_blocking: bool,
    /// The VM-entry interruption-information field holds an NMI.
    pub injecting: bool,
    /// "NMI-window exiting"
    pub window: bool,
}

/// How an NMI is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It causes a VM exit.
    Exit,
    /// It interrupts the hypervisor: through the IDT.
    Interrupt,
}

impl Processor {
    /// Whether an NMI that arrives has to wait. In non-root operation it exits, whatever
    /// the guest blocks; but not from wait-for-SIPI.
    pub const fn nmis_blocked(&self) -> bool {
        if self.non_root {
            self.waits_for_sipi
        } else {
            self.blocked
        }
    }

    /// An NMI arrives. False if it merged into the one that waits.
    pub const fn arrive(&mut self) -> bool {
        !core::mem::replace(&mut self.latched, true)
    }

    /// At the next instruction boundary: takes the NMI that waits, if it may. NMIs are
    /// blocked from then on.
    pub const fn take_nmi(&mut self) -> Option<Taken> {
        if !self.latched || self.nmis_blocked() {
            return None;
        }
        self.latched = false;
        let taken = if self.non_root {
            Taken::Exit
        } else {
            Taken::Interrupt
        };
        self.non_root = false;
        self.blocked = true;
        Some(taken)
    }

    /// An IRET of the hypervisor's.
    pub const fn iret(&mut self) {
        self.blocked = false;
    }

    /// VMRESUME. True if the guest takes an NMI with it.
    pub const fn vm_entry(&mut self) -> bool {
        self.non_root = true;
        self.blocked = false;
        let injected = core::mem::replace(&mut self.injecting, false);
        if injected {
            self.virtual_blocking = true;
        }
        injected
    }

    /// A VM exit that no NMI caused: NMIs are not blocked after it.
    pub const fn vm_exit(&mut self) {
        self.non_root = false;
    }

    /// The guest runs: in non-root operation, and not waiting for a SIPI.
    pub const fn runs_guest(&self) -> bool {
        self.non_root && !self.waits_for_sipi
    }

    /// An NMI-window exit is due.
    pub const fn window_exit_due(&self) -> bool {
        self.runs_guest() && self.window && !self.virtual_blocking
    }
}
