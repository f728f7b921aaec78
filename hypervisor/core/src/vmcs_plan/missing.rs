//! What a CPU can lack, in words, and the first thing to look for: VMX itself.

use core::fmt;

/// Why this CPU cannot run Stillpoint. Printed, it is one line that names the
/// CPUID bit or the MSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// CPUID.1:ECX.VMX is 0.
    Vmx,
    /// Firmware has locked IA32_FEATURE_CONTROL with VMX off.
    LockedOff {
        /// Its value.
        feature_control: u64,
    },
    /// A control cannot be set.
    Control {
        /// The control's name in the SDM.
        name: &'static str,
        /// The name of the MSR whose allowed-1 settings lack it.
        msr_name: &'static str,
        /// That MSR's number.
        msr: u32,
        /// The control's bit.
        bit: u8,
    },
    /// A control that must be clear cannot be cleared.
    Forced {
        /// The name of the MSR whose allowed-0 settings hold it.
        msr_name: &'static str,
        /// That MSR's number.
        msr: u32,
        /// The control's bit.
        bit: u8,
    },
    /// A capability that is no control.
    Capability {
        /// What it is.
        name: &'static str,
        /// The name of the MSR that lacks it.
        msr_name: &'static str,
        /// That MSR's number.
        msr: u32,
        /// The bit that is 0.
        bit: u8,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx => f.write_str("this CPU has no VMX: CPUID.1:ECX.VMX[bit 5] is 0"),
            Self::LockedOff { feature_control } => write!(
                f,
                "VMX is locked off by firmware: IA32_FEATURE_CONTROL (MSR 0x3a) is \
                 {feature_control:#x}, with bit 2 (VMX outside SMX) 0 and bit 0 (lock) 1; \
                 turn VT-x on in the firmware's set-up"
            ),
            Self::Control {
                name,
                msr_name,
                msr,
                bit,
            } => write!(
                f,
                "this CPU lacks \"{name}\": bit {bit} of the allowed-1 settings in \
                 {msr_name} (MSR {msr:#x}) is 0"
            ),
            Self::Forced { msr_name, msr, bit } => write!(
                f,
                "this CPU cannot do without control bit {bit}: bit {bit} of the allowed-0 \
                 settings in {msr_name} (MSR {msr:#x}) is 1"
            ),
            Self::Capability {
                name,
                msr_name,
                msr,
                bit,
            } => write!(
                f,
                "this CPU lacks {name}: bit {bit} of {msr_name} (MSR {msr:#x}) is 0"
            ),
        }
    }
}

impl core::error::Error for Missing {}

/// What is to be done with IA32_FEATURE_CONTROL before VMXON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureControl {
    /// Nothing: it is locked, with VMX on outside SMX.
    Ready,
    /// It is not locked, and VMXON would fault: write this first.
    Write(u64),
}

/// Has the CPU VMX, and did firmware leave it on?
///
/// `cpuid_1_ecx` is CPUID.1:ECX. `feature_control` reads
/// IA32_FEATURE_CONTROL, and is called only if VMX is there, as without it
/// the MSR need not exist.
///
/// # Errors
/// [`Missing::Vmx`], [`Missing::LockedOff`].
pub fn require_vmx(
    cpuid_1_ecx: u32,
    feature_control: impl FnOnce() -> u64,
) -> Result<FeatureControl, Missing> {
    const VMX: u32 = 1 << 5;
    const LOCK: u64 = 1 << 0;
    const VMX_OUTSIDE_SMX: u64 = 1 << 2;
    if cpuid_1_ecx & VMX == 0 {
        return Err(Missing::Vmx);
    }
    let value = feature_control();
    match (value & LOCK != 0, value & VMX_OUTSIDE_SMX != 0) {
        (true, true) => Ok(FeatureControl::Ready),
        (true, false) => Err(Missing::LockedOff {
            feature_control: value,
        }),
        (false, _) => Ok(FeatureControl::Write(value | VMX_OUTSIDE_SMX | LOCK)),
    }
}
