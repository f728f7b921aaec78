//! XSETBV: may the guest load this into XCR0?

/// Should XSETBV with these registers be executed for the guest? If not, it gets #GP(0).
///
/// `supported` is CPUID.(EAX=0DH,ECX=0):EDX:EAX, `cpl` the guest's privilege level.
pub fn allowed(_ecx: u32, _value: u64, _supported: u64, _cpl: u8) -> bool {
    todo!()
}
