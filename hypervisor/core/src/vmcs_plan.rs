//! The VMX controls, and whether this CPU has what they need.

use core::fmt;
use vmcs_inspect::Field;

/// Raw values of the VMX capability MSRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmxMsrs {
    /// IA32_VMX_BASIC: 0x480.
    pub basic: u64,
    /// IA32_VMX_PINBASED_CTLS or the TRUE one: 0x481, 0x48D.
    pub pin_based: u64,
    /// IA32_VMX_PROCBASED_CTLS or the TRUE one: 0x482, 0x48E.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2: 0x48B; 0 without.
    pub secondary: u64,
    /// IA32_VMX_EXIT_CTLS or the TRUE one: 0x483, 0x48F.
    pub exit: u64,
    /// IA32_VMX_ENTRY_CTLS or the TRUE one: 0x484, 0x490.
    pub entry: u64,
    /// IA32_VMX_MISC: 0x485.
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP: 0x48C; 0 without.
    pub ept_vpid: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanInput {
    /// There is a debugger's port to poll: the VMX-preemption timer runs.
    pub preemption_timer: bool,
    /// I/O ports are hidden: I/O bitmaps are used.
    pub io_bitmaps: bool,
}

/// Guest features that work only if a secondary control lets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestFeatures {
    /// "Enable RDTSCP": RDTSCP and RDPID.
    pub rdtscp: bool,
    /// "Enable INVPCID".
    pub invpcid: bool,
    /// "Enable XSAVES/XRSTORS".
    pub xsaves: bool,
    /// "Enable user wait and pause": TPAUSE, UMONITOR, UMWAIT.
    pub user_wait: bool,
}

/// The five sets of controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlValues {
    /// Pin-based VM-execution controls.
    pub pin_based: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
    /// What the guest's CPUID may offer.
    pub features: GuestFeatures,
    /// VPIDs are used.
    pub vpid: bool,
    /// The monitor trap flag can be used.
    pub monitor_trap_flag: bool,
    /// The VMX-preemption timer runs.
    pub preemption_timer: bool,
}

impl ControlValues {
    /// The fields to write, with the values.
    pub fn fields(&self) -> [(Field, u64); 5] {
        todo!()
    }
}

/// What the CPU lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// CPUID.1:ECX.VMX.
    Vmx,
    /// IA32_FEATURE_CONTROL is locked without VMX.
    LockedOff,
    /// A control: an MSR's bit is 0.
    Control {
        /// What it is called.
        name: &'static str,
        /// The MSR's name.
        msr_name: &'static str,
        /// The MSR's number.
        msr: u32,
        /// The bit that is 0.
        bit: u8,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// What of IA32_FEATURE_CONTROL is to be done before VMXON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureControl {
    /// It is locked, and VMX is on outside SMX.
    Ready,
    /// It is not locked: write this first.
    Write(u64),
}

/// Has the CPU VMX, and did firmware leave it on?
///
/// `cpuid_1_ecx` is CPUID.1:ECX; `feature_control` reads IA32_FEATURE_CONTROL,
/// and is called only if VMX is there.
pub fn require_vmx(
    _cpuid_1_ecx: u32,
    _feature_control: impl FnOnce() -> u64,
) -> Result<FeatureControl, Missing> {
    todo!()
}

/// The controls for this CPU.
pub fn plan(_msrs: &VmxMsrs, _input: &PlanInput) -> Result<ControlValues, Missing> {
    todo!()
}
