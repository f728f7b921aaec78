//! What CPUID answers to the guest.
//!
//! CPUID always exits. The hypervisor executes it with the guest's EAX and
//! ECX, and passes the answer through [`adjust`]. The guest sees the machine
//! that it has, but for what this hypervisor keeps for itself or cannot let
//! through, and the leaves by which it is recognised.
//!
//! Source: Intel SDM, vol. 2, "CPUID—CPU Identification".

use crate::control_regs::{CR4_OSXSAVE, CR4_PKE};
use crate::vmcs_plan::GuestFeatures;
use stillpoint_abi::detect;

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
    /// CPUID is executed in 64-bit mode: IA32_EFER.LMA and CS.L. Counts for
    /// [`detect::TRUSTVISOR_LEAF`] and leaf 80000001H alone.
    pub in_64_bit_mode: bool,
    /// The PAL that runs on this CPU.
    pub pal: Option<u32>,
    /// Stillpoint's version, packed by [`detect::pack_version`].
    pub version: u32,
    /// The guest's own CR4: CPUID is executed under the hypervisor's. Counts
    /// for leaves 1 and 7 alone.
    pub guest_cr4: u64,
    /// Which features the VM-execution controls let through.
    pub features: GuestFeatures,
}

/// What CPUID with this leaf (EAX) and subleaf (ECX) answers, `raw` being the
/// processor's own answer to the same.
#[inline]
pub const fn adjust(
    leaf: u32,
    subleaf: u32,
    raw: CpuidResult,
    context: &CpuidContext,
) -> CpuidResult {
    match leaf {
        0x1 => leaf_1(raw, context),
        0x6 => leaf_6(raw),
        0x7 => leaf_7(subleaf, raw, context),
        0xd => leaf_d(subleaf, raw, context),
        // Processor trace, PCONFIG, Key Locker and architectural LBRs, all hidden in leaf 7.
        0x14 | 0x1b | 0x19 | 0x1c => NOTHING,
        detect::HYPERVISOR_LEAF..=0x4000_00ff => hypervisor(leaf, context),
        detect::TRUSTVISOR_LEAF if subleaf == 0 => trustvisor(context),
        0x8000_0001 => leaf_8000_0001(raw, context),
        _ => raw,
    }
}

const NOTHING: CpuidResult = CpuidResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

const fn with(bits: u32, mask: u32, on: bool) -> u32 {
    if on { bits | mask } else { bits & !mask }
}

const fn leaf_1(raw: CpuidResult, context: &CpuidContext) -> CpuidResult {
    /// The debug store: records of branches and of events, which the processor
    /// writes to linear addresses, in the hypervisor too.
    const EDX_DS: u32 = 1 << 21;
    /// The same, of 64-bit records.
    const DTES64: u32 = 1 << 2;
    /// The same, by privilege level.
    const DS_CPL: u32 = 1 << 4;
    /// The guest cannot use VMX: its instructions are invalid opcodes.
    const VMX: u32 = 1 << 5;
    /// GETSEC would leave VMX operation.
    const SMX: u32 = 1 << 6;
    const XSAVE: u32 = 1 << 26;
    /// Mirrors CR4.OSXSAVE.
    const OSXSAVE: u32 = 1 << 27;
    /// Set by hypervisors, 0 on every processor.
    const HYPERVISOR: u32 = 1 << 31;

    let os_xsave = raw.ecx & XSAVE != 0 && context.guest_cr4 & CR4_OSXSAVE != 0;
    let ecx = raw.ecx & !(DTES64 | DS_CPL | VMX | SMX) | HYPERVISOR;
    CpuidResult {
        ecx: with(ecx, OSXSAVE, os_xsave),
        edx: raw.edx & !EDX_DS,
        ..raw
    }
}

const fn leaf_6(raw: CpuidResult) -> CpuidResult {
    /// The processor writes a table of its own to physical memory, past EPT.
    const EAX_HW_FEEDBACK: u32 = 1 << 19;
    /// Thread director: more of the same table.
    const EAX_THREAD_DIRECTOR: u32 = 1 << 23;

    CpuidResult {
        eax: raw.eax & !(EAX_HW_FEEDBACK | EAX_THREAD_DIRECTOR),
        ..raw
    }
}

const fn leaf_7(subleaf: u32, raw: CpuidResult, context: &CpuidContext) -> CpuidResult {
    match subleaf {
        0 => leaf_7_0(raw, context),
        1 => leaf_7_1(raw),
        _ => raw,
    }
}

const fn leaf_7_0(raw: CpuidResult, context: &CpuidContext) -> CpuidResult {
    /// An invalid opcode without the control "enable INVPCID".
    const EBX_INVPCID: u32 = 1 << 10;
    /// Processor trace would trace the hypervisor, and write to memory by
    /// addresses of its own.
    const EBX_PT: u32 = 1 << 25;

    const ECX_PKU: u32 = 1 << 3;
    /// Mirrors CR4.PKE.
    const ECX_OSPKE: u32 = 1 << 4;
    /// An invalid opcode without "enable user wait and pause".
    const ECX_WAITPKG: u32 = 1 << 5;
    /// An invalid opcode without "enable RDTSCP".
    const ECX_RDPID: u32 = 1 << 22;
    /// Key Locker: leaf 19H mirrors CR4.KL and the state of a key that the
    /// hypervisor does not know.
    const ECX_KL: u32 = 1 << 23;

    /// An invalid opcode without "enable PCONFIG"; it changes how memory is
    /// encrypted, the hypervisor's too.
    const EDX_PCONFIG: u32 = 1 << 18;
    /// Architectural LBRs would record the hypervisor's branches, and a PAL's.
    const EDX_ARCH_LBR: u32 = 1 << 19;

    let features = &context.features;
    let os_pke = raw.ecx & ECX_PKU != 0 && context.guest_cr4 & CR4_PKE != 0;
    let mut ebx = raw.ebx & !EBX_PT;
    let mut ecx = with(raw.ecx & !ECX_KL, ECX_OSPKE, os_pke);
    if !features.invpcid {
        ebx &= !EBX_INVPCID;
    }
    if !features.user_wait {
        ecx &= !ECX_WAITPKG;
    }
    if !features.rdtscp {
        ecx &= !ECX_RDPID;
    }
    CpuidResult {
        eax: raw.eax,
        ebx,
        ecx,
        edx: raw.edx & !(EDX_PCONFIG | EDX_ARCH_LBR),
    }
}

const fn leaf_7_1(raw: CpuidResult) -> CpuidResult {
    /// Flexible return and event delivery needs VMCS fields that are not
    /// switched here.
    const EAX_FRED: u32 = 1 << 17;
    /// Invalid opcodes without "enable MSR-list instructions".
    const EAX_MSRLIST: u32 = 1 << 27;
    /// A promise that supervisor shadow stacks never become busy too early;
    /// a VM exit in the middle of event delivery can break it.
    const EDX_CET_SSS: u32 = 1 << 18;

    CpuidResult {
        eax: raw.eax & !(EAX_FRED | EAX_MSRLIST),
        edx: raw.edx & !EDX_CET_SSS,
        ..raw
    }
}

const fn leaf_d(subleaf: u32, raw: CpuidResult, context: &CpuidContext) -> CpuidResult {
    /// An invalid opcode without "enable XSAVES/XRSTORS".
    const EAX_XSAVES: u32 = 1 << 3;
    /// IA32_XSS bit 8, and the subleaf for it: the state of processor trace.
    const PT: u32 = 8;

    match subleaf {
        1 if context.features.xsaves => CpuidResult {
            ecx: raw.ecx & !(1 << PT),
            ..raw
        },
        // Without XSAVES no bit of IA32_XSS can be set.
        1 => CpuidResult {
            eax: raw.eax & !EAX_XSAVES,
            ebx: raw.ebx,
            ecx: 0,
            edx: 0,
        },
        PT => NOTHING,
        _ => raw,
    }
}

const fn leaf_8000_0001(raw: CpuidResult, context: &CpuidContext) -> CpuidResult {
    /// SYSCALL in 64-bit mode, and 1 there alone: the processor's own answer is one to
    /// the hypervisor.
    const EDX_SYSCALL: u32 = 1 << 11;
    /// An invalid opcode without "enable RDTSCP".
    const EDX_RDTSCP: u32 = 1 << 27;

    let mut edx = raw.edx;
    if !context.in_64_bit_mode {
        edx &= !EDX_SYSCALL;
    }
    if !context.features.rdtscp {
        edx &= !EDX_RDTSCP;
    }
    CpuidResult { edx, ..raw }
}

const fn hypervisor(leaf: u32, context: &CpuidContext) -> CpuidResult {
    match leaf {
        detect::HYPERVISOR_LEAF => {
            let [ebx, ecx, edx] = detect::signature_registers();
            CpuidResult {
                eax: detect::LAST_HYPERVISOR_LEAF,
                ebx,
                ecx,
                edx,
            }
        }
        detect::VERSION_LEAF => CpuidResult {
            eax: context.version,
            ..NOTHING
        },
        // Another hypervisor's, under this one: it isn't the guest's.
        _ => NOTHING,
    }
}

const fn trustvisor(context: &CpuidContext) -> CpuidResult {
    CpuidResult {
        eax: detect::TRUSTVISOR_PRESENT,
        ebx: match context.pal {
            Some(index) => index,
            None => detect::NO_PAL,
        },
        ecx: context.in_64_bit_mode as u32,
        edx: 0,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;

    const ALL: GuestFeatures = GuestFeatures {
        rdtscp: true,
        invpcid: true,
        xsaves: true,
        user_wait: true,
    };

    const CONTEXT: CpuidContext = CpuidContext {
        in_64_bit_mode: true,
        pal: None,
        version: 0x0102_0003,
        guest_cr4: 0,
        features: ALL,
    };

    const NO_FEATURES: CpuidContext = CpuidContext {
        features: GuestFeatures {
            rdtscp: false,
            invpcid: false,
            xsaves: false,
            user_wait: false,
        },
        ..CONTEXT
    };

    const ONES: CpuidResult = CpuidResult {
        eax: !0,
        ebx: !0,
        ecx: !0,
        edx: !0,
    };

    #[test]
    fn leaf_1_hides_vmx_and_smx_and_tells_of_a_hypervisor() {
        let raw = CpuidResult {
            ecx: 1 << 5 | 1 << 6 | 1 << 9,
            ..NOTHING
        };
        assert_eq!(adjust(1, 0, raw, &CONTEXT).ecx, 1 << 9 | 1 << 31);
        let answer = adjust(1, 0, ONES, &CONTEXT);
        assert_eq!((answer.eax, answer.ebx, answer.edx), (!0, !0, !(1 << 21)));
    }

    #[test]
    fn osxsave_and_ospke_are_the_guests() {
        let on = CpuidContext {
            guest_cr4: CR4_OSXSAVE | CR4_PKE,
            ..CONTEXT
        };
        let (osxsave, ospke) = (1 << 27, 1 << 4);
        for (raw, context, expected) in [
            (ONES, on, true),
            (ONES, CONTEXT, false),
            (NOTHING, on, false),
        ] {
            assert_eq!(adjust(1, 0, raw, &context).ecx & osxsave != 0, expected);
            assert_eq!(adjust(7, 0, raw, &context).ecx & ospke != 0, expected);
        }
        // Off in the hypervisor, on in the guest.
        let raw = CpuidResult {
            ecx: 1 << 26,
            ..NOTHING
        };
        assert_eq!(adjust(1, 0, raw, &on).ecx & osxsave, osxsave);
    }

    /// Every bit that is hidden, whether a control could let it through, and
    /// that it is hidden only then.
    #[test]
    fn features_follow_their_controls() {
        type Register = fn(&CpuidResult) -> u32;
        let eax: Register = |r| r.eax;
        let ebx: Register = |r| r.ebx;
        let ecx: Register = |r| r.ecx;
        let edx: Register = |r| r.edx;
        for (leaf, subleaf, register, bit, let_through) in [
            (1, 0, ecx, 2, false),
            (1, 0, ecx, 4, false),
            (1, 0, edx, 21, false),
            (6, 0, eax, 19, false),
            (6, 0, eax, 23, false),
            (7, 0, ebx, 10, true),
            (7, 0, ebx, 25, false),
            (7, 0, ecx, 5, true),
            (7, 0, ecx, 22, true),
            (7, 0, ecx, 23, false),
            (7, 0, edx, 18, false),
            (7, 0, edx, 19, false),
            (7, 1, eax, 17, false),
            (7, 1, eax, 27, false),
            (7, 1, edx, 18, false),
            (0xd, 1, eax, 3, true),
            (0xd, 1, ecx, 8, false),
            (0xd, 1, ecx, 11, true),
            (0x8000_0001, 0, edx, 27, true),
        ] {
            let shown = |context: &CpuidContext| {
                register(&adjust(leaf, subleaf, ONES, context)) >> bit & 1 == 1
            };
            assert_eq!(
                shown(&CONTEXT),
                let_through,
                "{leaf:#x}.{subleaf} bit {bit}"
            );
            assert!(!shown(&NO_FEATURES), "{leaf:#x}.{subleaf} bit {bit}");
        }
    }

    #[test]
    fn leaves_of_hidden_features_are_empty() {
        for (leaf, subleaf) in [(0x14, 0), (0x14, 1), (0x19, 0), (0x1b, 0), (0xd, 8)] {
            assert_eq!(adjust(leaf, subleaf, ONES, &CONTEXT), NOTHING);
        }
    }

    #[test]
    fn stillpoint_names_itself() {
        let answer = adjust(0x4000_0000, 7, ONES, &CONTEXT);
        assert_eq!(answer.eax, 0x4000_0001);
        let bytes = [answer.ebx, answer.ecx, answer.edx].map(u32::to_le_bytes);
        assert_eq!(bytes.as_flattened(), b"StillpointHV");
        let version = adjust(0x4000_0001, 0, ONES, &CONTEXT);
        assert_eq!(
            version,
            CpuidResult {
                eax: 0x0102_0003,
                ..NOTHING
            }
        );
        assert_eq!(adjust(0x4000_0002, 0, ONES, &CONTEXT), NOTHING);
        assert_eq!(adjust(0x4000_00ff, 0, ONES, &CONTEXT), NOTHING);
        assert_eq!(adjust(0x4000_0100, 0, ONES, &CONTEXT), ONES);
    }

    #[test]
    fn trustvisors_programs_find_it() {
        let expected = CpuidResult {
            eax: 0x7a76_7274,
            ebx: 0xffff_ffff,
            ecx: 1,
            edx: 0,
        };
        assert_eq!(adjust(0x7a56_7254, 0, ONES, &CONTEXT), expected);
        let in_pal = CpuidContext {
            pal: Some(3),
            in_64_bit_mode: false,
            ..CONTEXT
        };
        assert_eq!(
            adjust(0x7a56_7254, 0, ONES, &in_pal),
            CpuidResult {
                ebx: 3,
                ecx: 0,
                ..expected
            }
        );
        assert_eq!(adjust(0x7a56_7254, 1, ONES, &CONTEXT), ONES);
    }

    #[test]
    fn syscall_is_there_in_64_bit_mode_alone() {
        let elsewhere = CpuidContext {
            in_64_bit_mode: false,
            ..CONTEXT
        };
        assert_eq!(adjust(0x8000_0001, 0, ONES, &CONTEXT), ONES);
        assert_eq!(adjust(0x8000_0001, 0, ONES, &elsewhere).edx, !(1 << 11));
    }

    proptest! {
        /// Nothing is offered that the processor lacks.
        #[test]
        fn bits_only_go_away(
            leaf in prop_oneof![0..0x20u32, 0x8000_0000..0x8000_0009u32],
            subleaf in 0..20u32,
            bits in any::<[u32; 4]>(),
            features in any::<bool>(),
        ) {
            let raw = CpuidResult { eax: bits[0], ebx: bits[1], ecx: bits[2], edx: bits[3] };
            let context = if features { CONTEXT } else { NO_FEATURES };
            let answer = adjust(leaf, subleaf, raw, &context);
            let hypervisor = if leaf == 1 { 1 << 31 } else { 0 };
            prop_assert_eq!(answer.eax & !raw.eax, 0);
            prop_assert_eq!(answer.ebx & !raw.ebx, 0);
            prop_assert_eq!(answer.ecx & !raw.ecx & !hypervisor, 0);
            prop_assert_eq!(answer.edx & !raw.edx, 0);
        }
    }
}
