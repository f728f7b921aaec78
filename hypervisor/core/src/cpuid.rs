//! What CPUID answers to the guest.

/// The four registers that CPUID writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say all")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What the answer depends on besides the processor's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidContext {
    /// CS.L of the code that executes CPUID.
    pub cs_l: bool,
    /// The PAL that runs on this CPU.
    pub pal: Option<u32>,
    /// Stillpoint's version, packed by `stillpoint_abi::detect::pack_version`.
    pub version: u32,
    /// The guest's own CR4.
    pub guest_cr4: u64,
    /// Which features the VMCS lets through.
    pub features: crate::vmcs_plan::GuestFeatures,
}

/// What CPUID with this leaf (EAX) and subleaf (ECX) answers, `raw` being the processor's own answer to the same.
pub fn adjust(
    _leaf: u32,
    _subleaf: u32,
    _raw: CpuidResult,
    _context: &CpuidContext,
) -> CpuidResult {
    todo!()
}
