//! Cases for the host-state area: Intel SDM, vol. 3, sections 27.2.2 to 27.2.4.

use super::{Case, ExitControls, Field, Rule, Scene, as_is, case};

fn cet(s: &mut Scene) {
    s.exit(ExitControls::LOAD_CET_STATE);
}

const NON_CANONICAL: u64 = 0x8000_0000_0000;

pub(super) const CASES: &[Case] = &[
    case!(HostCr0Fixed, HOST_CR0, |s| s.off(Field::HOST_CR0, 1u64)),
    case!(HostCr0Fixed, HOST_CR0, |s| s
        .on(Field::HOST_CR0, 1u64 << 32)),
    case!(HostCr4Fixed, HOST_CR4, |s| s
        .off(Field::HOST_CR4, 0x2000u64)),
    case!(HostCr4Fixed, HOST_CR4, |s| s
        .on(Field::HOST_CR4, 1u64 << 25)),
    case!(
        HostCetNeedsWp,
        HOST_CR4,
        |s| s.on(Field::HOST_CR4, 1u64 << 23),
        |s| {
            s.off(Field::HOST_CR0, 1u64 << 16);
        }
    ),
    case!(HostCr3Width, HOST_CR3, |s| s
        .on(Field::HOST_CR3, 1u64 << 40)),
    case!(HostCr3Width, HOST_CR3, |s| s
        .on(Field::HOST_CR3, 1u64 << 61)),
    case!(HostSysenterCanonical, HOST_IA32_SYSENTER_ESP, |s| {
        s.set(Field::HOST_IA32_SYSENTER_ESP, NON_CANONICAL);
    }),
    case!(HostSysenterCanonical, HOST_IA32_SYSENTER_EIP, |s| {
        s.set(Field::HOST_IA32_SYSENTER_EIP, NON_CANONICAL);
    }),
    case!(
        HostPerfGlobalCtrl,
        HOST_IA32_PERF_GLOBAL_CTRL,
        |s| {
            s.exit(ExitControls::LOAD_IA32_PERF_GLOBAL_CTRL);
            s.set(Field::HOST_IA32_PERF_GLOBAL_CTRL, 0x7_0000_000f);
        },
        |s| s.on(Field::HOST_IA32_PERF_GLOBAL_CTRL, 0x10u64)
    ),
    case!(HostPat, HOST_IA32_PAT, |s| s
        .on(Field::HOST_IA32_PAT, 2u64 << 56)),
    case!(HostEferReserved, HOST_IA32_EFER, |s| s
        .on(Field::HOST_IA32_EFER, 2u64)),
    case!(HostEferMode, HOST_IA32_EFER, |s| s
        .off(Field::HOST_IA32_EFER, 1u64 << 10)),
    case!(HostEferMode, HOST_IA32_EFER, |s| s
        .off(Field::HOST_IA32_EFER, 1u64 << 8)),
    case!(HostSCet, HOST_IA32_S_CET, cet, |s| s
        .set(Field::HOST_IA32_S_CET, 0x40)),
    case!(HostSCet, HOST_IA32_S_CET, cet, |s| s
        .set(Field::HOST_IA32_S_CET, 0xc00)),
    case!(HostSsp, HOST_SSP, cet, |s| s.set(Field::HOST_SSP, 2)),
    case!(HostSsp, HOST_SSP, cet, |s| s
        .set(Field::HOST_SSP, NON_CANONICAL)),
    case!(HostSspTable, HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, cet, |s| {
        s.set(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, NON_CANONICAL);
    }),
    case!(
        HostPkrs,
        HOST_IA32_PKRS,
        |s| s.exit(ExitControls::LOAD_PKRS),
        |s| {
            s.set(Field::HOST_IA32_PKRS, 1 << 32);
        }
    ),
    case!(HostSelector, HOST_CS_SELECTOR, |s| s
        .on(Field::HOST_CS_SELECTOR, 1u64)),
    case!(HostSelector, HOST_GS_SELECTOR, |s| s
        .on(Field::HOST_GS_SELECTOR, 4u64)),
    case!(HostSelectorNotNull, HOST_CS_SELECTOR, |s| s
        .set(Field::HOST_CS_SELECTOR, 0)),
    case!(HostSelectorNotNull, HOST_TR_SELECTOR, |s| s
        .set(Field::HOST_TR_SELECTOR, 0)),
    case!(HostBaseCanonical, HOST_FS_BASE, |s| s
        .set(Field::HOST_FS_BASE, NON_CANONICAL)),
    case!(HostBaseCanonical, HOST_GS_BASE, |s| s
        .set(Field::HOST_GS_BASE, NON_CANONICAL)),
    case!(HostBaseCanonical, HOST_TR_BASE, |s| s
        .set(Field::HOST_TR_BASE, NON_CANONICAL)),
    case!(HostBaseCanonical, HOST_GDTR_BASE, |s| s
        .set(Field::HOST_GDTR_BASE, NON_CANONICAL)),
    case!(HostBaseCanonical, HOST_IDTR_BASE, |s| s
        .set(Field::HOST_IDTR_BASE, NON_CANONICAL)),
    case!(
        HostSizeInLongMode,
        VM_EXIT_CONTROLS,
        // Without IA32_EFER in the VMCS, or that would not fit either.
        |s| s.off(Field::VM_EXIT_CONTROLS, ExitControls::LOAD_IA32_EFER.bits()),
        |s| s.off(
            Field::VM_EXIT_CONTROLS,
            ExitControls::HOST_ADDRESS_SPACE_SIZE.bits()
        )
    ),
    case!(HostPae, HOST_CR4, |s| s.off(Field::HOST_CR4, 0x20u64)),
    case!(HostRipCanonical, HOST_RIP, |s| s
        .set(Field::HOST_RIP, NON_CANONICAL)),
];

#[test]
fn linear_address_masking_frees_two_bits_of_cr3() {
    let mut scene = Scene::well_formed();
    scene.caps.cpuid.lam = true;
    scene.on(Field::HOST_CR3, 3u64 << 61);
    scene.on(Field::GUEST_CR3, 3u64 << 61);
    assert_eq!(scene.texts(), [""; 0]);
    scene.on(Field::GUEST_CR3, 1u64 << 63);
    assert_eq!(scene.violations().len(), 1);
}
