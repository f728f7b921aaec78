//! Cases for the rest of the guest-state area: Intel SDM, vol. 3, sections 27.3.1.1 and
//! 27.3.1.3 to 27.3.1.6.

use super::{Case, EntryControls, ExitControls, Field, Rule, Scene, Step, as_is, case};

const NON_CANONICAL: u64 = 0x8000_0000_0000;
const NMI: u64 = 0x8000_0202;
const STI: u64 = 1;
const MOV_SS: u64 = 2;

fn cet(s: &mut Scene) {
    s.entry(EntryControls::LOAD_CET_STATE);
}

fn activity(s: &mut Scene, state: u64) {
    s.set(Field::GUEST_ACTIVITY_STATE, state);
}

fn blocking(s: &mut Scene, bits: u64) {
    s.set(Field::GUEST_INTERRUPTIBILITY, bits);
}

fn pending_debug(s: &mut Scene, bits: u64) {
    s.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, bits);
}

/// The guest at privilege level 3.
fn user(s: &mut Scene) {
    s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
    s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
}

pub(super) const CASES: &[Case] = &[
    // Control registers.
    case!(GuestCr0Fixed, GUEST_CR0, |s| s
        .off(Field::GUEST_CR0, 0x20u64)),
    case!(GuestCr0Fixed, GUEST_CR0, |s| s
        .on(Field::GUEST_CR0, 1u64 << 32)),
    case!(
        GuestCr0Fixed,
        GUEST_CR0,
        |s| {
            s.protected_mode();
            s.off(Field::GUEST_CR0, 1u64 << 31);
        },
        // Unpaged protected mode is for unrestricted guests.
        Scene::restricted
    ),
    case!(GuestPagingNeedsProtection, GUEST_CR0, |s| s
        .off(Field::GUEST_CR0, 1u64)),
    case!(GuestCr4Fixed, GUEST_CR4, |s| s
        .off(Field::GUEST_CR4, 0x2000u64)),
    case!(GuestCr4Fixed, GUEST_CR4, |s| s
        .on(Field::GUEST_CR4, 1u64 << 25)),
    case!(
        GuestCetNeedsWp,
        GUEST_CR4,
        |s| s.on(Field::GUEST_CR4, 1u64 << 23),
        |s| {
            s.off(Field::GUEST_CR0, 1u64 << 16);
        }
    ),
    case!(
        GuestLongModeNeedsPaging,
        GUEST_CR0,
        // LMA without paging is one more mistake: leave IA32_EFER alone.
        |s| s.off(
            Field::VM_ENTRY_CONTROLS,
            EntryControls::LOAD_IA32_EFER.bits()
        ),
        |s| s.off(Field::GUEST_CR0, 1u64 << 31)
    ),
    case!(GuestLongModeNeedsPae, GUEST_CR4, |s| s
        .off(Field::GUEST_CR4, 0x20u64)),
    case!(
        GuestPcideNeedsLongMode,
        GUEST_CR4,
        Scene::protected_mode,
        |s| {
            s.on(Field::GUEST_CR4, 1u64 << 17);
        }
    ),
    case!(GuestCr3Width, GUEST_CR3, |s| s
        .on(Field::GUEST_CR3, 1u64 << 63)),
    // Debug registers and MSRs.
    case!(
        GuestDebugctl,
        GUEST_IA32_DEBUGCTL,
        |s| s.set(Field::GUEST_IA32_DEBUGCTL, 0x7fc3),
        |s| {
            s.on(Field::GUEST_IA32_DEBUGCTL, 4u64);
        }
    ),
    case!(GuestDr7, GUEST_DR7, |s| s.on(Field::GUEST_DR7, 1u64 << 32)),
    case!(GuestSysenterCanonical, GUEST_IA32_SYSENTER_ESP, |s| {
        s.set(Field::GUEST_IA32_SYSENTER_ESP, NON_CANONICAL);
    }),
    case!(GuestSysenterCanonical, GUEST_IA32_SYSENTER_EIP, |s| {
        s.set(Field::GUEST_IA32_SYSENTER_EIP, NON_CANONICAL);
    }),
    case!(GuestSCet, GUEST_IA32_S_CET, cet, |s| s
        .set(Field::GUEST_IA32_S_CET, 0x200)),
    case!(GuestSCet, GUEST_IA32_S_CET, cet, |s| s
        .set(Field::GUEST_IA32_S_CET, NON_CANONICAL)),
    case!(
        GuestSspTable,
        GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR,
        cet,
        |s| {
            s.set(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, NON_CANONICAL);
        }
    ),
    case!(
        GuestPerfGlobalCtrl,
        GUEST_IA32_PERF_GLOBAL_CTRL,
        |s| s.entry(EntryControls::LOAD_IA32_PERF_GLOBAL_CTRL),
        |s| s.set(Field::GUEST_IA32_PERF_GLOBAL_CTRL, 1 << 63)
    ),
    case!(GuestPat, GUEST_IA32_PAT, |s| s
        .on(Field::GUEST_IA32_PAT, 3u64 << 24)),
    case!(GuestEferReserved, GUEST_IA32_EFER, |s| s
        .on(Field::GUEST_IA32_EFER, 2u64)),
    case!(GuestEferLma, GUEST_IA32_EFER, |s| {
        // Both go, so that LME still equals LMA.
        s.off(Field::GUEST_IA32_EFER, 0x500u64);
    }),
    case!(GuestEferLme, GUEST_IA32_EFER, |s| s
        .off(Field::GUEST_IA32_EFER, 0x100u64)),
    case!(
        GuestBndcfgs,
        GUEST_IA32_BNDCFGS,
        |s| s.entry(EntryControls::LOAD_IA32_BNDCFGS),
        |s| {
            s.set(Field::GUEST_IA32_BNDCFGS, 4);
        }
    ),
    case!(
        GuestBndcfgs,
        GUEST_IA32_BNDCFGS,
        |s| s.entry(EntryControls::LOAD_IA32_BNDCFGS),
        |s| {
            s.set(Field::GUEST_IA32_BNDCFGS, NON_CANONICAL);
        }
    ),
    case!(
        GuestRtitCtl,
        GUEST_IA32_RTIT_CTL,
        |s| s.entry(EntryControls::LOAD_IA32_RTIT_CTL),
        |s| {
            s.set(Field::GUEST_IA32_RTIT_CTL, 1 << 60);
        }
    ),
    case!(
        GuestLbrCtl,
        GUEST_IA32_LBR_CTL,
        |s| {
            s.entry(EntryControls::LOAD_GUEST_IA32_LBR_CTL);
            s.exit(ExitControls::CLEAR_IA32_LBR_CTL);
            s.set(Field::GUEST_IA32_LBR_CTL, 0x7f_000f);
        },
        |s| s.on(Field::GUEST_IA32_LBR_CTL, 0x10u64)
    ),
    case!(
        GuestPkrs,
        GUEST_IA32_PKRS,
        |s| s.entry(EntryControls::LOAD_PKRS),
        |s| {
            s.set(Field::GUEST_IA32_PKRS, 1 << 32);
        }
    ),
    case!(
        GuestUinv,
        GUEST_UINV,
        |s| s.entry(EntryControls::LOAD_UINV),
        |s| {
            s.set(Field::GUEST_UINV, 0x100);
        }
    ),
    // Descriptor tables.
    case!(TableBaseCanonical, GUEST_GDTR_BASE, |s| s
        .set(Field::GUEST_GDTR_BASE, NON_CANONICAL)),
    case!(TableBaseCanonical, GUEST_IDTR_BASE, |s| s
        .set(Field::GUEST_IDTR_BASE, NON_CANONICAL)),
    case!(TableLimit, GUEST_GDTR_LIMIT, |s| s
        .set(Field::GUEST_GDTR_LIMIT, 0x1_0000)),
    case!(TableLimit, GUEST_IDTR_LIMIT, |s| s
        .set(Field::GUEST_IDTR_LIMIT, 0x1_0000)),
    // RIP, RFLAGS, SSP.
    case!(RipHigh, GUEST_RIP, Scene::protected_mode, |s| s
        .set(Field::GUEST_RIP, 1 << 32)),
    case!(
        RipHigh,
        GUEST_RIP,
        |s| s.set(Field::GUEST_RIP, 0x1000),
        // Compatibility mode.
        |s| {
            s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
            s.set(Field::GUEST_RIP, 0xffff_ffff_8000_0000);
        }
    ),
    // Bits 63:48 must agree; bit 47 need not.
    case!(
        RipWidth,
        GUEST_RIP,
        |s| s.set(Field::GUEST_RIP, NON_CANONICAL),
        |s| {
            s.set(Field::GUEST_RIP, 1 << 48);
        }
    ),
    case!(RflagsReserved, GUEST_RFLAGS, |s| s
        .off(Field::GUEST_RFLAGS, 2u64)),
    case!(RflagsReserved, GUEST_RFLAGS, |s| s
        .on(Field::GUEST_RFLAGS, 0x20u64)),
    case!(RflagsReserved, GUEST_RFLAGS, |s| s
        .on(Field::GUEST_RFLAGS, 1u64 << 22)),
    case!(
        RflagsVm,
        GUEST_RFLAGS,
        |s| {
            s.virtual_8086();
        },
        // Without protection there is no virtual-8086 mode (nor paging).
        |s| s.off(Field::GUEST_CR0, 1u64 << 31 | 1)
    ),
    case!(RflagsIf, GUEST_RFLAGS, |s| s.inject(0x8000_0030), |s| s
        .off(Field::GUEST_RFLAGS, 0x200u64)),
    case!(GuestSsp, GUEST_SSP, cet, |s| s.set(Field::GUEST_SSP, 1)),
    case!(
        GuestSsp,
        GUEST_SSP,
        |s| {
            s.protected_mode();
            cet(s);
        },
        |s| s.set(Field::GUEST_SSP, 1 << 32)
    ),
    // Activity state.
    case!(ActivitySupported, GUEST_ACTIVITY_STATE, |s| activity(s, 4)),
    case!(
        ActivitySupported,
        GUEST_ACTIVITY_STATE,
        |s| activity(s, 3),
        |s| {
            s.caps.misc &= !(1 << 8);
        }
    ),
    case!(HltNeedsDplZero, GUEST_ACTIVITY_STATE, user, |s| activity(
        s, 1
    )),
    case!(
        BlockedNeedsActive,
        GUEST_ACTIVITY_STATE,
        |s| blocking(s, STI),
        |s| activity(s, 1)
    ),
    case!(
        InjectionNeedsActivity,
        GUEST_ACTIVITY_STATE,
        |s| {
            activity(s, 1);
            s.inject(NMI);
        },
        // Of the exceptions, HLT lets #DB and #MC through.
        |s| s.inject(0x8000_0306)
    ),
    case!(
        InjectionNeedsActivity,
        GUEST_ACTIVITY_STATE,
        |s| {
            activity(s, 2);
            s.inject(NMI);
        },
        |s| s.inject(0x8000_0030)
    ),
    case!(
        InjectionNeedsActivity,
        GUEST_ACTIVITY_STATE,
        |s| activity(s, 3),
        |s| s.inject(NMI)
    ),
    // Interruptibility.
    case!(InterruptibilityReserved, GUEST_INTERRUPTIBILITY, |s| {
        blocking(s, 0x20)
    }),
    case!(StiExcludesMovSs, GUEST_INTERRUPTIBILITY, |s| blocking(
        s,
        STI | MOV_SS
    )),
    case!(
        StiNeedsIf,
        GUEST_INTERRUPTIBILITY,
        |s| blocking(s, STI),
        |s| {
            s.off(Field::GUEST_RFLAGS, 0x200u64);
        }
    ),
    case!(
        InterruptWhileBlocked,
        GUEST_INTERRUPTIBILITY,
        |s| s.inject(0x8000_0030),
        |s| {
            blocking(s, STI);
        }
    ),
    case!(
        InterruptWhileBlocked,
        GUEST_INTERRUPTIBILITY,
        |s| s.inject(0x8000_0030),
        |s| {
            blocking(s, MOV_SS);
        }
    ),
    case!(
        NmiWhileShadowed,
        GUEST_INTERRUPTIBILITY,
        |s| s.inject(NMI),
        |s| blocking(s, STI)
    ),
    case!(
        NmiWhileShadowed,
        GUEST_INTERRUPTIBILITY,
        |s| s.inject(NMI),
        |s| blocking(s, MOV_SS)
    ),
    case!(SmiBlockedOutsideSmm, GUEST_INTERRUPTIBILITY, |s| blocking(
        s, 4
    )),
    case!(
        NmiWhileBlocked,
        GUEST_INTERRUPTIBILITY,
        |s| s.inject(NMI),
        |s| blocking(s, 8)
    ),
    case!(EnclaveInterruption, GUEST_INTERRUPTIBILITY, |s| blocking(
        s, 0x10
    )),
    case!(
        EnclaveInterruption,
        GUEST_INTERRUPTIBILITY,
        |s| {
            s.caps.cpuid.sgx = true;
            blocking(s, 0x10);
        },
        |s| blocking(s, 0x10 | MOV_SS)
    ),
    // Pending debug exceptions.
    case!(PendingDebugReserved, GUEST_PENDING_DEBUG_EXCEPTIONS, |s| {
        pending_debug(s, 0x20)
    }),
    case!(
        PendingDebugReserved,
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        |s| {
            s.caps.cpuid.bus_lock_detect = true;
            pending_debug(s, 0x800);
        },
        |s| s.caps.cpuid.bus_lock_detect = false
    ),
    case!(
        PendingDebugBs,
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        |s| {
            blocking(s, MOV_SS);
            s.on(Field::GUEST_RFLAGS, 0x100u64);
            pending_debug(s, 0x4000);
        },
        |s| pending_debug(s, 0)
    ),
    case!(
        PendingDebugBs,
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        |s| activity(s, 1),
        |s| pending_debug(s, 0x4000)
    ),
    case!(
        PendingDebugBs,
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        |s| {
            blocking(s, STI);
            s.on(Field::GUEST_RFLAGS, 0x100u64);
            pending_debug(s, 0x4000);
        },
        // Stepping on branches.
        |s| s.set(Field::GUEST_IA32_DEBUGCTL, 2)
    ),
    case!(PendingDebugRtm, GUEST_PENDING_DEBUG_EXCEPTIONS, |s| {
        pending_debug(s, 0x1_1000)
    }),
    case!(
        PendingDebugRtm,
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        |s| {
            s.caps.cpuid.rtm = true;
            pending_debug(s, 0x1_1000);
        },
        |s| pending_debug(s, 0x1_1001)
    ),
    // VMCS link pointer.
    case!(LinkPointerAligned, VMCS_LINK_POINTER, |s| s
        .set(Field::VMCS_LINK_POINTER, 0x10)),
    case!(LinkPointerWidth, VMCS_LINK_POINTER, |s| s
        .set(Field::VMCS_LINK_POINTER, 1 << 40)),
    // PDPTEs.
    case!(
        PdpteReserved,
        GUEST_PDPTE1,
        |s| {
            s.protected_mode();
            // Not present, so nothing is reserved there.
            s.set(Field::GUEST_PDPTE1, !1);
            s.set(Field::GUEST_PDPTE3, 0x1019);
        },
        |s| s.set(Field::GUEST_PDPTE1, 3)
    ),
];

#[test]
fn pdptes_count_only_with_pae_paging_and_ept() {
    let bad = |s: &mut Scene| s.set(Field::GUEST_PDPTE0, 3);
    let setups: [Step; 3] = [
        as_is,
        |s| {
            s.protected_mode();
            s.off(Field::GUEST_CR4, 0x20u64);
        },
        |s| {
            s.protected_mode();
            s.without_ept();
        },
    ];
    for setup in setups {
        let mut scene = Scene::well_formed();
        setup(&mut scene);
        bad(&mut scene);
        assert_eq!(scene.texts(), [""; 0]);
    }
}
