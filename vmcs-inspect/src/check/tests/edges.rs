//! Where the rules end: states at the edge that must pass, and for each set of bits
//! that a rule keeps clear, every bit one by one.

extern crate std;

use std::vec::Vec;

use super::{Rule, Scene, Step, as_is};
use crate::{EntryControls, ExitControls, Field, PrimaryControls, TertiaryControls};

/// States that are as near to breaking a rule as can be.
const SOUND: &[(&str, Step)] = &[
    ("an exception of the highest vector", |s| {
        s.inject(0x8000_031f)
    }),
    ("an error code of 16 bits", |s| {
        s.inject(0x8000_0b0d);
        s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0xffff);
    }),
    ("a pending MTF exit in HLT", |s| {
        s.set(Field::GUEST_ACTIVITY_STATE, 1);
        s.inject(0x8000_0700);
    }),
    ("a machine check in shutdown", |s| {
        s.set(Field::GUEST_ACTIVITY_STATE, 2);
        s.inject(0x8000_0312);
    }),
    ("a debug exception in HLT", |s| {
        s.set(Field::GUEST_ACTIVITY_STATE, 1);
        s.inject(0x8000_0301);
    }),
    ("an INT instruction of 15 bytes", |s| {
        s.inject(0x8000_0480);
        s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 15);
    }),
    ("an event that is not valid", |s| s.inject(0x7fff_ffff)),
    ("a processor without EPT accessed and dirty flags", |s| {
        s.caps.ept_vpid_cap &= !(1 << 21)
    }),
    ("a host without write protection", |s| {
        s.off(Field::HOST_CR0, 1u64 << 16)
    }),
    ("a guest without write protection", |s| {
        s.off(Field::GUEST_CR0, 1u64 << 16)
    }),
    ("long mode enabled, not yet active", |s| {
        s.protected_mode();
        s.off(Field::GUEST_CR0, 1u64 << 31);
        s.set(Field::GUEST_IA32_EFER, 0x100);
    }),
    ("the PDPTEs of a guest without paging", |s| {
        s.protected_mode();
        s.off(Field::GUEST_CR0, 1u64 << 31);
        s.set(Field::GUEST_PDPTE2, 3);
    }),
    (
        "an unrestricted guest with a data segment above its RPL",
        |s| {
            s.on(Field::GUEST_DS_SELECTOR, 3u64);
        },
    ),
    ("conforming code in a data-segment register", |s| {
        s.restricted();
        s.on(Field::GUEST_DS_SELECTOR, 3u64);
        s.set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc09f);
    }),
    ("data and readable code in data-segment registers", |s| {
        s.set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc091);
        s.set(Field::GUEST_ES_ACCESS_RIGHTS, 0xc09b);
    }),
    ("a 16-bit TSS outside IA-32e mode", |s| {
        s.protected_mode();
        s.set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83);
    }),
    ("the last page below the physical-address width", |s| {
        s.set(Field::IO_BITMAP_A, (1 << 40) - 0x1000);
    }),
    ("an empty MSR area anywhere", |s| {
        s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, u64::MAX)
    }),
    ("the largest descriptor tables", |s| {
        s.set(Field::GUEST_GDTR_LIMIT, 0xffff);
        s.set(Field::GUEST_IDTR_LIMIT, 0xffff);
    }),
    ("the highest user-interrupt vector", |s| {
        s.entry(EntryControls::LOAD_UINV);
        s.set(Field::GUEST_UINV, 0xff);
    }),
    ("a PDPTE that is not present", |s| {
        s.protected_mode();
        s.set(Field::GUEST_PDPTE0, u64::MAX - 1);
    }),
];

#[test]
fn states_at_the_edge_are_sound() {
    for (name, setup) in SOUND {
        let mut scene = Scene::well_formed();
        setup(&mut scene);
        assert_eq!(scene.texts(), [""; 0], "{name}");
    }
}

/// A rule that keeps bits of a field clear.
struct ClearBits {
    field: Field,
    rule: Rule,
    setup: Step,
    bits: u64,
}

macro_rules! clear_bits {
    ($field:ident, $rule:ident, $setup:expr, $bits:expr) => {
        ClearBits {
            field: Field::$field,
            rule: Rule::$rule,
            setup: $setup,
            bits: $bits,
        }
    };
}

const WIDTH: u64 = !0 << 40;
const HIGH: u64 = !0 << 32;

fn hlat(s: &mut Scene) {
    s.tertiary(TertiaryControls::ENABLE_HLAT);
}

fn tpr_shadow(s: &mut Scene) {
    s.primary(PrimaryControls::USE_TPR_SHADOW);
}

const CLEAR_BITS: &[ClearBits] = &[
    clear_bits!(IO_BITMAP_B, ControlAddressAligned, as_is, 0xfff),
    clear_bits!(IO_BITMAP_B, ControlAddressWidth, as_is, WIDTH),
    clear_bits!(TPR_THRESHOLD, TprThreshold, tpr_shadow, 0xffff_fff0),
    clear_bits!(HLAT_POINTER, HlatReserved, hlat, WIDTH | 0xfe7),
    clear_bits!(EPT_POINTER, EptReserved, as_is, WIDTH | 0xf00),
    clear_bits!(
        VM_ENTRY_MSR_LOAD_ADDRESS,
        EntryMsrAreaAligned,
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
        0xf
    ),
    clear_bits!(
        VM_ENTRY_INTERRUPTION_INFO,
        InjectedReserved,
        |s| s.inject(0x8000_0202),
        0x7fff_f000
    ),
    clear_bits!(
        VM_ENTRY_EXCEPTION_ERROR_CODE,
        ErrorCodeReserved,
        |s| s.inject(0x8000_0b0d),
        0xffff_0000
    ),
    clear_bits!(HOST_CR3, HostCr3Width, as_is, WIDTH),
    clear_bits!(HOST_SS_SELECTOR, HostSelector, as_is, 7),
    clear_bits!(HOST_IA32_EFER, HostEferReserved, as_is, !0xd01),
    clear_bits!(
        HOST_IA32_PKRS,
        HostPkrs,
        |s| s.exit(ExitControls::LOAD_PKRS),
        HIGH
    ),
    clear_bits!(
        HOST_SSP,
        HostSsp,
        |s| s.exit(ExitControls::LOAD_CET_STATE),
        3 | !0 << 47
    ),
    clear_bits!(
        HOST_IA32_S_CET,
        HostSCet,
        |s| s.exit(ExitControls::LOAD_CET_STATE),
        0x3c0 | !0 << 47
    ),
    clear_bits!(GUEST_CR3, GuestCr3Width, as_is, WIDTH),
    clear_bits!(GUEST_DR7, GuestDr7, as_is, HIGH),
    clear_bits!(GUEST_IA32_DEBUGCTL, GuestDebugctl, as_is, !0x7fc3),
    clear_bits!(
        GUEST_IA32_DEBUGCTL,
        GuestDebugctl,
        |s| {
            s.caps.cpuid.rtm = true;
            s.caps.cpuid.bus_lock_detect = true;
        },
        !0xffc7
    ),
    clear_bits!(
        GUEST_IA32_RTIT_CTL,
        GuestRtitCtl,
        |s| s.entry(EntryControls::LOAD_IA32_RTIT_CTL),
        0xfe7f << 48
    ),
    clear_bits!(
        GUEST_IA32_LBR_CTL,
        GuestLbrCtl,
        |s| s.entry(EntryControls::LOAD_GUEST_IA32_LBR_CTL),
        !0x7f_000f
    ),
    clear_bits!(
        GUEST_IA32_BNDCFGS,
        GuestBndcfgs,
        |s| s.entry(EntryControls::LOAD_IA32_BNDCFGS),
        0xffc | !0 << 47
    ),
    clear_bits!(
        GUEST_UINV,
        GuestUinv,
        |s| s.entry(EntryControls::LOAD_UINV),
        0xff00
    ),
    clear_bits!(GUEST_CS_ACCESS_RIGHTS, RightsReserved, as_is, 0xfffe_0f00),
    clear_bits!(GUEST_IDTR_LIMIT, TableLimit, as_is, 0xffff_0000),
    clear_bits!(GUEST_RFLAGS, RflagsReserved, as_is, !0x3f_ffff | 0x8028),
    clear_bits!(GUEST_RIP, RipHigh, Scene::protected_mode, HIGH),
    clear_bits!(
        GUEST_INTERRUPTIBILITY,
        InterruptibilityReserved,
        as_is,
        0xffff_ffe0
    ),
    clear_bits!(
        GUEST_PENDING_DEBUG_EXCEPTIONS,
        PendingDebugReserved,
        as_is,
        !0x1_500f
    ),
    clear_bits!(
        VMCS_LINK_POINTER,
        LinkPointerAligned,
        |s| s.set(Field::VMCS_LINK_POINTER, 0),
        0xfff
    ),
    clear_bits!(
        GUEST_PDPTE3,
        PdpteReserved,
        |s| {
            s.protected_mode();
            s.set(Field::GUEST_PDPTE3, 1);
        },
        WIDTH | 0x1e6
    ),
];

#[test]
fn each_reserved_bit_is_refused_and_no_other() {
    for case in CLEAR_BITS {
        let mut refused = 0;
        for bit in (0..64).map(|bit| 1u64 << bit) {
            let mut scene = Scene::well_formed();
            (case.setup)(&mut scene);
            if bit > case.field.width().max_value() || scene.get(case.field) & bit != 0 {
                continue;
            }
            scene.on(case.field, bit);
            let rules: Vec<Rule> = scene.violations().iter().map(|v| v.rule).collect();
            if rules.contains(&case.rule) {
                refused |= bit;
            }
        }
        // Bits that the sound value has set already cannot be tried by setting them.
        let mut scene = Scene::well_formed();
        (case.setup)(&mut scene);
        let tried = !scene.get(case.field);
        assert_eq!(refused, case.bits & tried, "{:?} {}", case.rule, case.field);
    }
}
