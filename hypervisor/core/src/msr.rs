//! RDMSR and WRMSR: which ones exit, and what those that do become.

/// A decision on RDMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDecision {
    /// Read the MSR of the processor; #GP if that faults.
    Native,
    /// Answer this.
    Value(u64),
    /// #GP(0).
    GeneralProtection,
}

/// A decision on WRMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteDecision {
    /// Write the processor's MSR; #GP if that faults.
    Native,
    /// Write it, #GP if that faults, then read the MTRRs again and set the EPT's memory types.
    NativeThenMemoryTypes,
    /// Do nothing, and go on with the next instruction.
    Ignore,
    /// #GP(0).
    GeneralProtection,
}

/// What RDMSR of this MSR answers. `native_feature_control` is IA32_FEATURE_CONTROL's own value.
pub fn read(_msr: u32, _native_feature_control: u64) -> ReadDecision {
    todo!()
}

/// What WRMSR of this MSR does.
pub fn write(_msr: u32, _value: u64) -> WriteDecision {
    todo!()
}

/// The MSR bitmaps: which accesses below 0x2000 and from 0xC0000000 to 0xC0001FFF exit. Others always do.
pub fn fill_bitmaps(_page: &mut [u8; 4096]) {
    todo!()
}
