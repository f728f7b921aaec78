//! Plans for CPUs that were and might be, and the lines that refuse others.

extern crate std;

use super::*;
use std::string::ToString;

/// A Broadwell.
const BROADWELL: VmxMsrs = VmxMsrs {
    basic: 0x00da_0400_0000_0012,
    pin_based: 0x0000_007f_0000_0016,
    primary: 0xfff9_fffe_0400_6172,
    secondary: 0x0005_7cff_0000_0000,
    exit: 0x007f_ffff_0003_6dfb,
    entry: 0x0000_ffff_0000_11fb,
    misc: 0x3004_81e5,
    ept_vpid: 0x0000_0f01_0633_4141,
};

/// The first processors with unrestricted guest: no INVPCID, no 1 GiB pages here.
const WESTMERE: VmxMsrs = VmxMsrs {
    secondary: 0x0000_00ff_0000_0000,
    ept_vpid: 0x0000_0f01_0611_4141,
    ..BROADWELL
};

const DEBUGGER: PlanInput = PlanInput {
    preemption_timer: true,
};

#[test]
fn a_broadwell_with_a_debugger() {
    let plan = plan(&BROADWELL, &DEBUGGER).unwrap();
    assert_eq!(
        plan.pin_based.to_string(),
        "NMI exiting, virtual NMIs, activate VMX-preemption timer"
    );
    assert_eq!(
        plan.primary.to_string(),
        "use I/O bitmaps, use MSR bitmaps, activate secondary controls"
    );
    assert_eq!(
        plan.secondary.to_string(),
        "enable EPT, enable RDTSCP, enable VPID, unrestricted guest, enable INVPCID"
    );
    assert_eq!(
        plan.fields(),
        [
            (Field::PIN_BASED_CONTROLS, 0x7e),
            (Field::PRIMARY_PROCESSOR_BASED_CONTROLS, 0x9600_6172),
            (Field::SECONDARY_PROCESSOR_BASED_CONTROLS, 0x10aa),
            (Field::VM_EXIT_CONTROLS, 0x007f_6fff),
            (Field::VM_ENTRY_CONTROLS, 0xd1ff),
        ]
    );
    assert!(plan.vpid);
    assert_eq!(
        plan.features,
        GuestFeatures {
            rdtscp: true,
            invpcid: true,
            ..GuestFeatures::default()
        }
    );
    assert!(BROADWELL.ept_pages_1g());
    assert_eq!(BROADWELL.preemption_timer_shift(), 5);
}

#[test]
fn a_westmere_without_a_debugger() {
    let plan = plan(&WESTMERE, &PlanInput::default()).unwrap();
    assert_eq!(
        plan.fields().map(|(_, value)| value),
        [0x3e, 0x9600_6172, 0xaa, 0x003f_6fff, 0xd1ff]
    );
    assert!(!plan.features.invpcid && plan.features.rdtscp);
    assert!(!WESTMERE.ept_pages_1g());
}

#[test]
fn newer_features_are_let_through() {
    let secondary = BROADWELL.secondary | ((1 << 20 | 1 << 26) << 32);
    let msrs = VmxMsrs {
        secondary,
        ..BROADWELL
    };
    let features = plan(&msrs, &DEBUGGER).unwrap().features;
    assert!(features.xsaves && features.user_wait);
}

#[test]
fn vpids_need_their_invalidation() {
    for bit in [32, 42] {
        let msrs = VmxMsrs {
            ept_vpid: BROADWELL.ept_vpid & !(1 << bit),
            ..BROADWELL
        };
        assert!(!plan(&msrs, &DEBUGGER).unwrap().vpid);
    }
}

#[test]
fn each_missing_control_is_named() {
    let without = |change: fn(&mut VmxMsrs), text: &str| {
        let mut msrs = BROADWELL;
        change(&mut msrs);
        assert_eq!(plan(&msrs, &DEBUGGER).unwrap_err().to_string(), text);
    };
    without(
        |m| m.pin_based &= !(1 << 37),
        "this CPU lacks \"virtual NMIs\": bit 5 of the allowed-1 settings in \
         IA32_VMX_TRUE_PINBASED_CTLS (MSR 0x48d) is 0",
    );
    without(
        |m| m.secondary &= !(1 << 33),
        "this CPU lacks \"enable EPT\": bit 1 of the allowed-1 settings in \
         IA32_VMX_PROCBASED_CTLS2 (MSR 0x48b) is 0",
    );
    without(
        |m| m.secondary &= !(1 << 39),
        "this CPU lacks \"unrestricted guest\": bit 7 of the allowed-1 settings in \
         IA32_VMX_PROCBASED_CTLS2 (MSR 0x48b) is 0",
    );
    without(
        |m| m.primary &= !(1 << 59),
        "this CPU lacks \"monitor trap flag\": bit 27 of the allowed-1 settings in \
         IA32_VMX_TRUE_PROCBASED_CTLS (MSR 0x48e) is 0",
    );
    without(
        |m| m.primary |= 1 << 15,
        "this CPU cannot do without control bit 15: bit 15 of the allowed-0 settings in \
         IA32_VMX_TRUE_PROCBASED_CTLS (MSR 0x48e) is 1",
    );
    without(
        |m| m.misc &= !(1 << 8),
        "this CPU lacks the activity state wait-for-SIPI: bit 8 of IA32_VMX_MISC (MSR 0x485) is 0",
    );
    without(
        |m| m.ept_vpid &= !(1 << 20),
        "this CPU lacks INVEPT: bit 20 of IA32_VMX_EPT_VPID_CAP (MSR 0x48c) is 0",
    );
}

#[test]
fn each_missing_capability_is_named() {
    for bit in [6, 14, 16, 20, 26] {
        let msrs = VmxMsrs {
            ept_vpid: BROADWELL.ept_vpid & !(1 << bit),
            ..BROADWELL
        };
        let missing = plan(&msrs, &DEBUGGER).unwrap_err();
        assert!(
            matches!(missing, Missing::Capability { msr: 0x48c, bit: named, .. } if named == bit),
            "{missing}"
        );
    }
    // What is only nice to have: execute-only and 1 GiB pages, accessed flags.
    for bit in [0, 17, 21] {
        let msrs = VmxMsrs {
            ept_vpid: BROADWELL.ept_vpid & !(1 << bit),
            ..BROADWELL
        };
        assert!(plan(&msrs, &DEBUGGER).is_ok());
    }
}

#[test]
fn the_older_msrs_are_named_where_they_speak() {
    // Without TRUE MSRs, exits for CR3 cannot be turned off.
    let msrs = VmxMsrs {
        basic: BROADWELL.basic & !(1 << 55),
        primary: BROADWELL.primary | 0x0401_e172,
        ..BROADWELL
    };
    let forced = Missing::Forced {
        msr_name: "IA32_VMX_PROCBASED_CTLS",
        msr: 0x482,
        bit: 15,
    };
    assert_eq!(plan(&msrs, &DEBUGGER), Err(forced));
}

#[test]
fn vmx_must_be_there_and_on() {
    let never = || -> u64 { panic!("an MSR that need not exist was read") };
    assert_eq!(require_vmx(!(1 << 5), never), Err(Missing::Vmx));
    assert_eq!(
        Missing::Vmx.to_string(),
        "this CPU has no VMX: CPUID.1:ECX.VMX[bit 5] is 0"
    );
    assert_eq!(require_vmx(1 << 5, || 5), Ok(FeatureControl::Ready));
    assert_eq!(require_vmx(1 << 5, || 0), Ok(FeatureControl::Write(5)));
    assert_eq!(
        require_vmx(1 << 5, || 0x10_0000),
        Ok(FeatureControl::Write(0x10_0005))
    );
    let locked = require_vmx(1 << 5, || 3).unwrap_err();
    assert_eq!(locked, Missing::LockedOff { feature_control: 3 });
    assert!(
        locked
            .to_string()
            .starts_with("VMX is locked off by firmware: IA32_FEATURE_CONTROL (MSR 0x3a) is 0x3")
    );
}
