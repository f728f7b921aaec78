//! The guest's non-register state: interruptibility, pending debug exceptions and
//! activity. These fields, with the interruption-information fields, are what a
//! person debugging NMIs looks at first.

use core::fmt;

use crate::bits::named_bits;

named_bits! {
    /// Guest interruptibility state.
    ///
    /// With the "virtual NMIs" control, "blocking by NMI" speaks of virtual NMIs.
    ///
    /// Source: Intel SDM, vol. 3, section 25.4.2, "Guest Non-Register State".
    pub struct GuestInterruptibility: u32 {
        BLOCKING_BY_STI = 0, "blocking by STI";
        BLOCKING_BY_MOV_SS = 1, "blocking by MOV SS";
        BLOCKING_BY_SMI = 2, "blocking by SMI";
        BLOCKING_BY_NMI = 3, "blocking by NMI";
        ENCLAVE_INTERRUPTION = 4, "enclave interruption";
    }
}

named_bits! {
    /// Guest pending debug exceptions.
    ///
    /// Source: Intel SDM, vol. 3, section 25.4.2, "Guest Non-Register State".
    pub struct PendingDebugExceptions: u64 {
        B0 = 0, "B0";
        B1 = 1, "B1";
        B2 = 2, "B2";
        B3 = 3, "B3";
        BLD = 11, "BLD";
        ENABLED_BREAKPOINT = 12, "enabled breakpoint";
        BS = 14, "BS";
        RTM = 16, "RTM";
    }
}

/// Guest activity state.
///
/// Source: Intel SDM, vol. 3, section 25.4.2, "Guest Non-Register State".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ActivityState {
    /// The processor executes instructions.
    Active = 0,
    /// It executed HLT.
    Hlt = 1,
    /// It met a triple fault or another serious error.
    Shutdown = 2,
    /// It waits for a start-up IPI; NMIs are blocked.
    WaitForSipi = 3,
}

impl ActivityState {
    /// The state with this value in the VMCS; `None` if the SDM defines none.
    pub const fn from_raw(value: u32) -> Option<ActivityState> {
        match value {
            0 => Some(ActivityState::Active),
            1 => Some(ActivityState::Hlt),
            2 => Some(ActivityState::Shutdown),
            3 => Some(ActivityState::WaitForSipi),
            _ => None,
        }
    }

    /// The value in the VMCS.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for ActivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ActivityState::Active => "active",
            ActivityState::Hlt => "HLT",
            ActivityState::Shutdown => "shutdown",
            ActivityState::WaitForSipi => "wait-for-SIPI",
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn activity_states_are_the_sdms() {
        let names = ["active", "HLT", "shutdown", "wait-for-SIPI"];
        for (raw, name) in (0..).zip(names) {
            let state = ActivityState::from_raw(raw).unwrap();
            assert_eq!(state.raw(), raw);
            assert_eq!(state.to_string(), name);
        }
        assert_eq!(ActivityState::from_raw(4), None);
    }

    #[test]
    fn interruptibility_names_its_bits() {
        assert_eq!(GuestInterruptibility::empty().to_string(), "none");
        assert_eq!(
            GuestInterruptibility::from_bits_retain(0x8).to_string(),
            "blocking by NMI"
        );
        assert_eq!(
            GuestInterruptibility::from_bits_retain(0x3f).to_string(),
            "blocking by STI, blocking by MOV SS, blocking by SMI, blocking by NMI, \
             enclave interruption, 0x20"
        );
    }

    #[test]
    fn pending_debug_exceptions_name_their_bits() {
        let pending = PendingDebugExceptions::from_bits_retain(0x1_5801);
        assert_eq!(pending.to_string(), "B0, BLD, enabled breakpoint, BS, RTM");
    }
}
