//! One field of controls, adjusted to what the CPU allows; and the capabilities
//! that are no controls.

use super::{Missing, Msr, VmxMsrs};

/// The settings that a control's capability MSR allows to be 1.
const fn allowed_1(msr: u64) -> u32 {
    (msr >> 32) as u32
}

/// One field of controls, as it is wanted.
pub(super) struct Controls {
    pub msr: Msr,
    pub value: u64,
    /// These are set, or there is no plan.
    pub required: u32,
    /// These are set where they can be.
    pub optional: u32,
    /// These are clear, but it must be possible to set them later.
    pub available: u32,
    /// Bits without a meaning that processors demand to be 1.
    pub reserved: u32,
    pub names: &'static [(u8, &'static str)],
}

impl Controls {
    pub const fn new(msr: Msr, value: u64) -> Self {
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

    pub fn adjust(&self) -> Result<u32, Missing> {
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
pub(super) struct Capability {
    name: &'static str,
    pub msr: Msr,
    value: fn(&VmxMsrs) -> u64,
    bit: u8,
}

pub(super) const CAPABILITIES: [Capability; 6] = [
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
    pub fn require(&self, msrs: &VmxMsrs) -> Result<(), Missing> {
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
