//! What CPUID says, as far as the VM-entry checks depend on it.

use crate::capabilities::beyond;

/// What the checks need to know of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidFacts {
    /// The physical-address width in bits: CPUID.80000008H:EAX\[7:0\].
    pub physical_address_width: u8,
    /// The linear-address width in bits, 48 or 57: CPUID.80000008H:EAX\[15:8\].
    pub linear_address_width: u8,
    /// The bits of IA32_EFER that are not reserved. SCE, LME, LMA, and NXE
    /// if CPUID.80000001H:EDX\[20\] is 1.
    pub efer_supported: u64,
    /// The bits of IA32_PERF_GLOBAL_CTRL that are not reserved, from CPUID.0AH.
    pub perf_global_ctrl_supported: u64,
    /// Intel SGX: CPUID.(07H,0):EBX\[2\].
    pub sgx: bool,
    /// Restricted transactional memory, with its debug bits: CPUID.(07H,0):EBX\[11\].
    pub rtm: bool,
    /// Bus-lock detection by debug exceptions: CPUID.(07H,0):ECX\[24\].
    pub bus_lock_detect: bool,
    /// Linear-address masking, which gives CR3 two more bits: CPUID.(07H,1):EAX\[26\].
    pub lam: bool,
}

impl Default for CpuidFacts {
    /// A plain Intel 64 processor with 36 bits of physical address.
    fn default() -> Self {
        CpuidFacts {
            physical_address_width: 36,
            linear_address_width: 48,
            efer_supported: 0xd01,
            perf_global_ctrl_supported: 0,
            sgx: false,
            rtm: false,
            bus_lock_detect: false,
            lam: false,
        }
    }
}

impl CpuidFacts {
    /// Asks CPUID for the facts. `cpuid` takes a leaf and a subleaf and gives EAX, EBX, ECX and
    /// EDX; it is asked only for leaves that the processor has.
    ///
    /// Source: Intel SDM, vol. 2, "CPUID - CPU Identification".
    pub fn read(mut cpuid: impl FnMut(u32, u32) -> [u32; 4]) -> CpuidFacts {
        let mut facts = CpuidFacts::default();
        let [most, ..] = cpuid(0, 0);
        let [most_extended, ..] = cpuid(0x8000_0000, 0);
        if most_extended >= 0x8000_0001 {
            let [_, _, _, edx] = cpuid(0x8000_0001, 0);
            facts.set_nxe(edx & (1 << 20) != 0);
        }
        if most_extended >= 0x8000_0008 {
            let [eax, ..] = cpuid(0x8000_0008, 0);
            let [physical, linear, ..] = eax.to_le_bytes();
            facts.physical_address_width = physical;
            facts.linear_address_width = linear;
        }
        if most >= 7 {
            let [subleaves, ebx, ecx, _] = cpuid(7, 0);
            facts.sgx = ebx & (1 << 2) != 0;
            facts.rtm = ebx & (1 << 11) != 0;
            facts.bus_lock_detect = ecx & (1 << 24) != 0;
            if subleaves >= 1 {
                let [eax, ..] = cpuid(7, 1);
                facts.lam = eax & (1 << 26) != 0;
            }
        }
        if most >= 0xa {
            let [eax, _, _, edx] = cpuid(0xa, 0);
            let [version, counters, ..] = eax.to_le_bytes();
            // IA32_PERF_GLOBAL_CTRL came with version 2.
            if version >= 2 {
                let low = |bits| !beyond(bits);
                let fixed = (edx & 0x1f) as u8;
                facts.perf_global_ctrl_supported = low(counters) | low(fixed) << 32;
            }
        }
        facts
    }

    fn set_nxe(&mut self, supported: bool) {
        const NXE: u64 = 1 << 11;
        self.efer_supported &= !NXE;
        if supported {
            self.efer_supported |= NXE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_facts_are_read_from_their_bits() {
        let facts = CpuidFacts::read(|leaf, subleaf| match (leaf, subleaf) {
            (0, 0) => [0x14, 0, 0, 0],
            (0x8000_0000, 0) => [0x8000_0008, 0, 0, 0],
            (0x8000_0001, 0) => [0, 0, 0, 1 << 20],
            (0x8000_0008, 0) => [0x3927, 0, 0, 0],
            (7, 0) => [1, 1 << 2 | 1 << 11, 1 << 24, 0],
            (7, 1) => [1 << 26, 0, 0, 0],
            // Version 2, four counters, three fixed ones.
            (0xa, 0) => [0x0730_0402, 0, 0, 0x603],
            other => panic!("{other:x?} was not to be asked"),
        });
        assert_eq!(
            facts,
            CpuidFacts {
                physical_address_width: 39,
                linear_address_width: 57,
                efer_supported: 0xd01,
                perf_global_ctrl_supported: 0x7_0000_000f,
                sgx: true,
                rtm: true,
                bus_lock_detect: true,
                lam: true,
            }
        );
    }

    #[test]
    fn an_old_processor_is_not_asked_for_new_leaves() {
        let facts = CpuidFacts::read(|leaf, _| match leaf {
            0 => [5, 0, 0, 0],
            0x8000_0000 => [0x8000_0001, 0, 0, 0],
            0x8000_0001 => [0; 4],
            other => panic!("{other:#x} was not to be asked"),
        });
        let plain = CpuidFacts {
            efer_supported: 0x501,
            ..CpuidFacts::default()
        };
        assert_eq!(facts, plain);
    }
}
