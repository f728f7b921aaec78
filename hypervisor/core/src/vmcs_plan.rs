//! The VMX controls, and whether this CPU has what they need.
//!
//! The boot asks [`require_vmx`] and [`plan`] before anything is started, on
//! every CPU; what they refuse is printed as one line that names the thing
//! that is missing. The controls that come out are written to the VMCS as
//! they are.
//!
//! Sources: Intel SDM, vol. 3, appendix A, "VMX Capability Reporting Facility";
//! section 24.7, "Enabling and Entering VMX Operation".

use core::fmt;
use vmcs_inspect::{
    EntryControls, ExitControls, Field, PinBasedControls, PrimaryControls, SecondaryControls,
};

/// Raw values of the VMX capability MSRs that the controls depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmxMsrs {
    /// IA32_VMX_BASIC: 0x480.
    pub basic: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS, or the one without TRUE where there is none.
    pub pin_based: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS, likewise.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2: 0x48B; 0 where it doesn't exist.
    pub secondary: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS, likewise.
    pub exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS, likewise.
    pub entry: u64,
    /// IA32_VMX_MISC: 0x485.
    pub misc: u64,
    /// IA32_VMX_EPT_VPID_CAP: 0x48C; 0 where it doesn't exist.
    pub ept_vpid: u64,
}

impl VmxMsrs {
    const BASIC: Msr = Msr(0x480, "IA32_VMX_BASIC");
    const MISC: Msr = Msr(0x485, "IA32_VMX_MISC");
    const SECONDARY: Msr = Msr(0x48b, "IA32_VMX_PROCBASED_CTLS2");
    const EPT_VPID: Msr = Msr(0x48c, "IA32_VMX_EPT_VPID_CAP");

    /// Reads them with `rdmsr`: only those that the CPU has.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let basic = rdmsr(Self::BASIC.0);
        let mut msrs = Self {
            basic,
            ..Self::default()
        };
        msrs.pin_based = rdmsr(msrs.pin_based_msr().0);
        msrs.primary = rdmsr(msrs.primary_msr().0);
        msrs.exit = rdmsr(msrs.exit_msr().0);
        msrs.entry = rdmsr(msrs.entry_msr().0);
        msrs.misc = rdmsr(Self::MISC.0);
        let secondary = PrimaryControls::ACTIVATE_SECONDARY_CONTROLS.bits();
        if allowed_1(msrs.primary) & secondary != 0 {
            msrs.secondary = rdmsr(Self::SECONDARY.0);
        }
        let ept_or_vpid = SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID;
        if allowed_1(msrs.secondary) & ept_or_vpid.bits() != 0 {
            msrs.ept_vpid = rdmsr(Self::EPT_VPID.0);
        }
        msrs
    }

    /// IA32_VMX_BASIC\[55\]: the TRUE capability MSRs exist.
    const fn has_true_controls(&self) -> bool {
        self.basic & (1 << 55) != 0
    }

    const fn pin_based_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(0x48d, "IA32_VMX_TRUE_PINBASED_CTLS"),
            false => Msr(0x481, "IA32_VMX_PINBASED_CTLS"),
        }
    }

    const fn primary_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(0x48e, "IA32_VMX_TRUE_PROCBASED_CTLS"),
            false => Msr(0x482, "IA32_VMX_PROCBASED_CTLS"),
        }
    }

    const fn exit_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(0x48f, "IA32_VMX_TRUE_EXIT_CTLS"),
            false => Msr(0x483, "IA32_VMX_EXIT_CTLS"),
        }
    }

    const fn entry_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(0x490, "IA32_VMX_TRUE_ENTRY_CTLS"),
            false => Msr(0x484, "IA32_VMX_ENTRY_CTLS"),
        }
    }

    /// May EPT map 1 GiB pages? IA32_VMX_EPT_VPID_CAP\[17\].
    pub const fn ept_pages_1g(&self) -> bool {
        self.ept_vpid & (1 << 17) != 0
    }

    /// The VMX-preemption timer counts down by 1 every time that this bit of
    /// the time-stamp counter changes: IA32_VMX_MISC\[4:0\].
    pub const fn preemption_timer_shift(&self) -> u32 {
        (self.misc & 31) as u32
    }
}

/// An MSR's number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Msr(u32, &'static str);

/// What is asked for besides what the hypervisor always uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanInput {
    /// There is a debugger's port to poll: the VMX-preemption timer runs.
    pub preemption_timer: bool,
    /// I/O ports are hidden: I/O bitmaps are used.
    pub io_bitmaps: bool,
}

/// Features of the guest's that work only where a control lets them.
/// [`crate::cpuid`] hides those that are false.
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

/// The five sets of controls, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlValues {
    /// Pin-based VM-execution controls.
    pub pin_based: PinBasedControls,
    /// Primary processor-based VM-execution controls.
    pub primary: PrimaryControls,
    /// Secondary processor-based VM-execution controls.
    pub secondary: SecondaryControls,
    /// VM-exit controls.
    pub exit: ExitControls,
    /// VM-entry controls, for a guest that isn't in IA-32e mode.
    pub entry: EntryControls,
    /// What the guest's CPUID may offer.
    pub features: GuestFeatures,
    /// VPIDs are used: the VPID field must not be 0.
    pub vpid: bool,
}

impl ControlValues {
    /// The fields to write, with the values.
    pub fn fields(&self) -> [(Field, u64); 5] {
        [
            (Field::PIN_BASED_CONTROLS, self.pin_based.bits().into()),
            (
                Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
                self.primary.bits().into(),
            ),
            (
                Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
                self.secondary.bits().into(),
            ),
            (Field::VM_EXIT_CONTROLS, self.exit.bits().into()),
            (Field::VM_ENTRY_CONTROLS, self.entry.bits().into()),
        ]
    }
}

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

/// The controls for this CPU.
///
/// # Errors
/// The first thing that is missing, in the order of the controls' fields.
pub fn plan(msrs: &VmxMsrs, input: &PlanInput) -> Result<ControlValues, Missing> {
    use EntryControls as Entry;
    use ExitControls as Exit;
    use PinBasedControls as Pin;
    use PrimaryControls as Primary;
    use SecondaryControls as Secondary;

    let only_if = |condition: bool, bits: u32| if condition { bits } else { 0 };

    let pin_based = Controls {
        required: (Pin::NMI_EXITING | Pin::VIRTUAL_NMIS).bits()
            | only_if(
                input.preemption_timer,
                Pin::ACTIVATE_VMX_PREEMPTION_TIMER.bits(),
            ),
        reserved: Pin::RESERVED_DEFAULT1,
        names: Pin::NAMES,
        ..Controls::new(msrs.pin_based_msr(), msrs.pin_based)
    };
    let primary = Controls {
        required: (Primary::USE_MSR_BITMAPS | Primary::ACTIVATE_SECONDARY_CONTROLS).bits()
            | only_if(input.io_bitmaps, Primary::USE_IO_BITMAPS.bits()),
        // Off to begin with; turned on for a while, to deliver an owed NMI
        // and to step.
        available: (Primary::NMI_WINDOW_EXITING | Primary::MONITOR_TRAP_FLAG).bits(),
        reserved: Primary::RESERVED_DEFAULT1,
        names: Primary::NAMES,
        ..Controls::new(msrs.primary_msr(), msrs.primary)
    };
    let secondary = Controls {
        required: (Secondary::ENABLE_EPT | Secondary::UNRESTRICTED_GUEST).bits(),
        // Each lets an instruction work that without it is an invalid
        // opcode, whatever the processor can do.
        optional: (Secondary::ENABLE_RDTSCP
            | Secondary::ENABLE_INVPCID
            | Secondary::ENABLE_XSAVES_XRSTORS
            | Secondary::ENABLE_USER_WAIT_AND_PAUSE)
            .bits()
            | only_if(can_use_vpid(msrs), Secondary::ENABLE_VPID.bits()),
        names: Secondary::NAMES,
        ..Controls::new(VmxMsrs::SECONDARY, msrs.secondary)
    };
    let exit = Controls {
        // What the guest has in DR7, IA32_DEBUGCTL, the PAT and IA32_EFER is
        // its own, and the hypervisor's is the hypervisor's.
        required: (Exit::SAVE_DEBUG_CONTROLS
            | Exit::HOST_ADDRESS_SPACE_SIZE
            | Exit::SAVE_IA32_PAT
            | Exit::LOAD_IA32_PAT
            | Exit::SAVE_IA32_EFER
            | Exit::LOAD_IA32_EFER)
            .bits()
            // Without, every exit would wind the timer up again, and a guest
            // that exits often would keep the debugger's port from being polled.
            | only_if(
                input.preemption_timer,
                Exit::SAVE_VMX_PREEMPTION_TIMER_VALUE.bits(),
            ),
        reserved: Exit::RESERVED_DEFAULT1,
        names: Exit::NAMES,
        ..Controls::new(msrs.exit_msr(), msrs.exit)
    };
    let entry = Controls {
        required: (Entry::LOAD_DEBUG_CONTROLS | Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER)
            .bits(),
        available: Entry::IA_32E_MODE_GUEST.bits(),
        reserved: Entry::RESERVED_DEFAULT1,
        names: Entry::NAMES,
        ..Controls::new(msrs.entry_msr(), msrs.entry)
    };

    let pin_based = Pin::from_bits_retain(pin_based.adjust()?);
    let primary = Primary::from_bits_retain(primary.adjust()?);
    let secondary = Secondary::from_bits_retain(secondary.adjust()?);
    let exit = Exit::from_bits_retain(exit.adjust()?);
    let entry = Entry::from_bits_retain(entry.adjust()?);
    for capability in &CAPABILITIES {
        capability.require(msrs)?;
    }
    Ok(ControlValues {
        pin_based,
        primary,
        secondary,
        exit,
        entry,
        features: GuestFeatures {
            rdtscp: secondary.contains(Secondary::ENABLE_RDTSCP),
            invpcid: secondary.contains(Secondary::ENABLE_INVPCID),
            xsaves: secondary.contains(Secondary::ENABLE_XSAVES_XRSTORS),
            user_wait: secondary.contains(Secondary::ENABLE_USER_WAIT_AND_PAUSE),
        },
        vpid: secondary.contains(Secondary::ENABLE_VPID),
    })
}

/// INVVPID is there, for all contexts: IA32_VMX_EPT_VPID_CAP\[32\] and \[42\].
const fn can_use_vpid(msrs: &VmxMsrs) -> bool {
    const INVVPID: u64 = 1 << 32;
    const ALL_CONTEXTS: u64 = 1 << 42;
    msrs.ept_vpid & (INVVPID | ALL_CONTEXTS) == INVVPID | ALL_CONTEXTS
}

/// The settings that a control's capability MSR allows to be 1.
const fn allowed_1(msr: u64) -> u32 {
    (msr >> 32) as u32
}

/// One field of controls, as it is wanted.
struct Controls {
    msr: Msr,
    value: u64,
    /// These are set, or there is no plan.
    required: u32,
    /// These are set where they can be.
    optional: u32,
    /// These are clear, but it must be possible to set them later.
    available: u32,
    /// Bits without a meaning that processors demand to be 1.
    reserved: u32,
    names: &'static [(u8, &'static str)],
}

impl Controls {
    const fn new(msr: Msr, value: u64) -> Self {
        Self {
            msr,
            value,
            required: 0,
            optional: 0,
            available: 0,
            reserved: 0,
            names: &[],
        }
    }

    fn adjust(&self) -> Result<u32, Missing> {
        let allowed_0 = self.value as u32;
        let allowed_1 = allowed_1(self.value);
        let Msr(msr, msr_name) = self.msr;
        let lacking = (self.required | self.available) & !allowed_1;
        if lacking != 0 {
            let bit = lacking.trailing_zeros() as u8;
            let name = self.names.iter().find(|(number, _)| *number == bit);
            return Err(Missing::Control {
                name: name.map_or("reserved", |(_, name)| name),
                msr_name,
                msr,
                bit,
            });
        }
        let wanted = self.required | self.optional & allowed_1;
        // An exit or a change of behaviour that nobody asked for would come
        // as an exit that nobody planned.
        let forced = allowed_0 & !wanted & !self.reserved;
        if forced != 0 {
            let bit = forced.trailing_zeros() as u8;
            return Err(Missing::Forced { msr_name, msr, bit });
        }
        Ok(wanted | allowed_0)
    }
}

/// A bit that must be 1 though it is no control.
struct Capability {
    name: &'static str,
    msr: Msr,
    value: fn(&VmxMsrs) -> u64,
    bit: u8,
}

const CAPABILITIES: [Capability; 7] = [
    Capability {
        name: "the activity state wait-for-SIPI",
        msr: VmxMsrs::MISC,
        value: |msrs| msrs.misc,
        bit: 8,
    },
    ept("EPT tables of four levels", 6),
    ept("EPT tables in write-back memory", 14),
    ept("EPT pages of 2 MiB", 16),
    ept("INVEPT", 20),
    ept("INVEPT for one context", 25),
    ept("INVEPT for all contexts", 26),
];

const fn ept(name: &'static str, bit: u8) -> Capability {
    Capability {
        name,
        msr: VmxMsrs::EPT_VPID,
        value: |msrs| msrs.ept_vpid,
        bit,
    }
}

impl Capability {
    fn require(&self, msrs: &VmxMsrs) -> Result<(), Missing> {
        if (self.value)(msrs) & (1 << self.bit) != 0 {
            return Ok(());
        }
        let Msr(msr, msr_name) = self.msr;
        Err(Missing::Capability {
            name: self.name,
            msr_name,
            msr,
            bit: self.bit,
        })
    }
}

#[cfg(test)]
mod tests {
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
        io_bitmaps: true,
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
            [0x3e, 0x9400_6172, 0xaa, 0x003f_6fff, 0xd1ff]
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
    fn only_msrs_that_exist_are_read() {
        let read = |basic: u64, primary: u64, secondary: u64| {
            let mut read = std::vec::Vec::new();
            VmxMsrs::read(|msr| {
                read.push(msr);
                match msr {
                    0x480 => basic,
                    0x482 | 0x48e => primary,
                    0x48b => secondary,
                    _ => 0,
                }
            });
            read
        };
        assert_eq!(read(0, 0, 0), [0x480, 0x481, 0x482, 0x483, 0x484, 0x485]);
        let truly = [0x480, 0x48d, 0x48e, 0x48f, 0x490, 0x485, 0x48b, 0x48c];
        assert_eq!(read(1 << 55, u64::MAX, u64::MAX), truly);
        assert_eq!(read(1 << 55, u64::MAX, 0), truly[..7]);
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
            locked.to_string().starts_with(
                "VMX is locked off by firmware: IA32_FEATURE_CONTROL (MSR 0x3a) is 0x3"
            )
        );
    }
}
