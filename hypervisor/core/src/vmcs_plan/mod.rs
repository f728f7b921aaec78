//! The VMX controls, and whether this CPU has what they need.
//!
//! The boot asks [`require_vmx`] and [`plan`] before anything is started, on
//! every CPU; what they refuse is printed as one line that names the thing
//! that is missing. The controls that come out are written to the VMCS as
//! they are.
//!
//! Sources: Intel SDM, vol. 3, appendix A, "VMX Capability Reporting Facility";
//! section 24.7, "Enabling and Entering VMX Operation".

mod controls;
mod missing;
#[cfg(test)]
mod tests;

pub use missing::{FeatureControl, Missing, require_vmx};

use controls::{CAPABILITIES, Controls};
use vmcs_inspect::{
    Capabilities, EntryControls, ExitControls, Field, PinBasedControls, PrimaryControls,
    SecondaryControls, msr,
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

impl From<&Capabilities> for VmxMsrs {
    fn from(capabilities: &Capabilities) -> Self {
        Self {
            basic: capabilities.basic,
            pin_based: capabilities.pinbased_ctls,
            primary: capabilities.procbased_ctls,
            secondary: capabilities.procbased_ctls2,
            exit: capabilities.exit_ctls,
            entry: capabilities.entry_ctls,
            misc: capabilities.misc,
            ept_vpid: capabilities.ept_vpid_cap,
        }
    }
}

impl VmxMsrs {
    const MISC: Msr = Msr(msr::IA32_VMX_MISC, "IA32_VMX_MISC");
    const SECONDARY: Msr = Msr(msr::IA32_VMX_PROCBASED_CTLS2, "IA32_VMX_PROCBASED_CTLS2");
    const EPT_VPID: Msr = Msr(msr::IA32_VMX_EPT_VPID_CAP, "IA32_VMX_EPT_VPID_CAP");

    /// IA32_VMX_BASIC\[55\]: the TRUE capability MSRs exist.
    const fn has_true_controls(&self) -> bool {
        self.basic & (1 << 55) != 0
    }

    const fn pin_based_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
                "IA32_VMX_TRUE_PINBASED_CTLS",
            ),
            false => Msr(msr::IA32_VMX_PINBASED_CTLS, "IA32_VMX_PINBASED_CTLS"),
        }
    }

    const fn primary_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                "IA32_VMX_TRUE_PROCBASED_CTLS",
            ),
            false => Msr(msr::IA32_VMX_PROCBASED_CTLS, "IA32_VMX_PROCBASED_CTLS"),
        }
    }

    const fn exit_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(msr::IA32_VMX_TRUE_EXIT_CTLS, "IA32_VMX_TRUE_EXIT_CTLS"),
            false => Msr(msr::IA32_VMX_EXIT_CTLS, "IA32_VMX_EXIT_CTLS"),
        }
    }

    const fn entry_msr(&self) -> Msr {
        match self.has_true_controls() {
            true => Msr(msr::IA32_VMX_TRUE_ENTRY_CTLS, "IA32_VMX_TRUE_ENTRY_CTLS"),
            false => Msr(msr::IA32_VMX_ENTRY_CTLS, "IA32_VMX_ENTRY_CTLS"),
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
        required: (Primary::USE_IO_BITMAPS
            | Primary::USE_MSR_BITMAPS
            | Primary::ACTIVATE_SECONDARY_CONTROLS)
            .bits(),
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
