//! CR0 and CR4: which bits the guest owns, and what its moves to them do.

/// What a CPU demands of CR0 and CR4 in VMX operation: IA32_VMX_CR0_FIXED0, _FIXED1, IA32_VMX_CR4_FIXED0, _FIXED1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the MSRs' names")]
pub struct FixedBits {
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
}

/// What the VMCS holds for a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlRegister {
    /// Guest-state field: what the processor runs with.
    pub real: u64,
    /// Read shadow: what the guest reads in the bits that the mask holds.
    pub shadow: u64,
    /// Guest/host mask.
    pub mask: u64,
}

impl ControlRegister {
    /// What the guest reads.
    pub const fn guest_view(self) -> u64 {
        (self.real & !self.mask) | (self.shadow & self.mask)
    }
}

/// What a move to a control register becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Write these to the VMCS, and IA32_EFER.LMA and the entry control "IA-32e mode guest" if `efer` says so.
    Set {
        /// New guest-state field and shadow.
        register: ControlRegister,
        /// The new IA32_EFER, if it changes.
        efer: Option<u64>,
        /// The PDPTEs are to be loaded from CR3 first (a bad one is #GP).
        load_pdptes: bool,
    },
    /// #GP(0), nothing changed.
    GeneralProtection,
}

/// State that the rules for a move to a control register look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestModes {
    /// CR0's fields.
    pub cr0: ControlRegister,
    /// CR4's fields.
    pub cr4: ControlRegister,
    /// IA32_EFER.
    pub efer: u64,
    /// CR3.
    pub cr3: u64,
    /// CS.L.
    pub cs_l: bool,
    /// Is TR a 16-bit busy TSS?
    pub tr_is_16_bit: bool,
}

impl FixedBits {
    /// CR0's guest/host mask.
    pub const fn cr0_mask(&self) -> u64 {
        todo!()
    }
    /// CR4's guest/host mask.
    pub const fn cr4_mask(&self) -> u64 {
        todo!()
    }
    /// CR0's three fields for a value that the guest believes in.
    pub const fn cr0(&self, _guest: u64) -> ControlRegister {
        todo!()
    }
    /// CR4's three fields for a value that the guest believes in.
    pub const fn cr4(&self, _guest: u64) -> ControlRegister {
        todo!()
    }
    /// MOV to CR0.
    pub fn mov_to_cr0(&self, _modes: &GuestModes, _value: u64) -> Outcome {
        todo!()
    }
    /// MOV to CR4. `supported` is the bits of CR4 that the guest's CPUID offers.
    pub fn mov_to_cr4(&self, _modes: &GuestModes, _value: u64) -> Outcome {
        todo!()
    }
    /// LMSW.
    pub fn lmsw(&self, _modes: &GuestModes, _source: u16) -> Outcome {
        todo!()
    }
    /// CLTS.
    pub fn clts(&self, _modes: &GuestModes) -> Outcome {
        todo!()
    }
}
