//! XSETBV: may the guest load this into XCR0?
//!
//! XSETBV always exits. The hypervisor executes it for the guest if
//! [`allowed`] says so, and passes on the #GP if the processor has more to object.
//!
//! Source: Intel SDM, vol. 1, section 13.3, "Enabling the XSAVE Feature Set and
//! XSAVE-Enabled Features".

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const MPX: u64 = 1 << 3 | 1 << 4;
const AVX512: u64 = 1 << 5 | 1 << 6 | 1 << 7;
const AMX: u64 = 1 << 17 | 1 << 18;
const APX: u64 = 1 << 19;

/// Should XSETBV be executed for the guest? If not, it gets #GP(0).
///
/// `ecx` names the register, of which only XCR0 can be written; `value` is
/// EDX:EAX; `supported` is CPUID.(EAX=0DH,ECX=0):EDX:EAX; `cpl` the guest's
/// privilege level.
pub const fn allowed(ecx: u32, value: u64, supported: u64, cpl: u8) -> bool {
    const fn all_or_none(value: u64, bits: u64) -> bool {
        value & bits == 0 || value & bits == bits
    }
    const fn needs(value: u64, bits: u64, needed: u64) -> bool {
        value & bits == 0 || value & needed == needed
    }
    ecx == 0
        && cpl == 0
        && value & !supported == 0
        && value & X87 != 0
        && needs(value, AVX, SSE)
        && needs(value, AVX512, AVX)
        && all_or_none(value, AVX512)
        && all_or_none(value, MPX)
        && all_or_none(value, AMX)
        && !(value & APX != 0 && value & MPX != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xcr0_takes() {
        let all = !0;
        for (value, expected) in [
            (0, false),
            (X87, true),
            (SSE, false),
            (X87 | SSE, true),
            (X87 | AVX, false),
            (X87 | SSE | AVX, true),
            (X87 | SSE | AVX | AVX512, true),
            (X87 | SSE | AVX512, false),
            (X87 | SSE | AVX | 1 << 5, false),
            (X87 | SSE | AVX | 1 << 6 | 1 << 7, false),
            (X87 | SSE | AVX | 1 << 5 | 1 << 6, false),
            (X87 | SSE | AVX | 1 << 5 | 1 << 7, false),
            (X87 | MPX, true),
            (X87 | 1 << 3, false),
            (X87 | 1 << 4, false),
            (X87 | AMX, true),
            (X87 | 1 << 17, false),
            (X87 | APX, true),
            (X87 | APX | MPX, false),
            (X87 | 1 << 9, true),
        ] {
            assert_eq!(allowed(0, value, all, 0), expected, "{value:#x}");
        }
    }

    #[test]
    fn only_what_the_processor_has() {
        assert!(allowed(0, X87 | SSE | AVX, 7, 0));
        assert!(!allowed(0, X87 | SSE | AVX, 3, 0));
        assert!(!allowed(0, X87 | 1 << 63, 7, 0));
    }

    #[test]
    fn only_xcr0_and_only_the_kernel() {
        assert!(!allowed(1, X87, 7, 0));
        assert!(!allowed(0, X87, 7, 3));
    }
}
