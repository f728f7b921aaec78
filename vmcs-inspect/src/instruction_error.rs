//! VM-instruction error numbers.

use core::fmt;

macro_rules! errors {
    ($( $Name:ident = $number:literal, $text:literal; )+) => {
        /// Why a VMX instruction failed with VMfailValid: the VM-instruction error field.
        ///
        /// Source: Intel SDM, vol. 3, section 31.4, "VM Instruction Error Numbers".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum VmInstructionError {
            $(
                #[doc = concat!("Error ", $number, ": ", $text, ".")]
                $Name = $number,
            )+
        }

        impl VmInstructionError {
            /// The error with this number; `None` if the SDM defines none.
            pub const fn from_raw(number: u32) -> Option<VmInstructionError> {
                match number {
                    $( $number => Some(VmInstructionError::$Name), )+
                    _ => None,
                }
            }

            /// The number in the VM-instruction error field.
            pub const fn raw(self) -> u32 {
                self as u32
            }
        }

        impl fmt::Display for VmInstructionError {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $( VmInstructionError::$Name => $text, )+
                })
            }
        }
    };
}

errors! {
    VmcallInRootOperation = 1, "VMCALL executed in VMX root operation";
    VmclearInvalidAddress = 2, "VMCLEAR with invalid physical address";
    VmclearVmxonPointer = 3, "VMCLEAR with VMXON pointer";
    VmlaunchNonClearVmcs = 4, "VMLAUNCH with non-clear VMCS";
    VmresumeNonLaunchedVmcs = 5, "VMRESUME with non-launched VMCS";
    VmresumeAfterVmxoff = 6, "VMRESUME after VMXOFF";
    EntryInvalidControlFields = 7, "VM entry with invalid control fields";
    EntryInvalidHostState = 8, "VM entry with invalid host-state fields";
    VmptrldInvalidAddress = 9, "VMPTRLD with invalid physical address";
    VmptrldVmxonPointer = 10, "VMPTRLD with VMXON pointer";
    VmptrldWrongRevision = 11, "VMPTRLD with incorrect VMCS revision identifier";
    UnsupportedComponent = 12, "VMREAD or VMWRITE from or to unsupported VMCS component";
    ReadOnlyComponent = 13, "VMWRITE to read-only VMCS component";
    VmxonInRootOperation = 15, "VMXON executed in VMX root operation";
    EntryInvalidExecutiveVmcs = 16, "VM entry with invalid executive-VMCS pointer";
    EntryNonLaunchedExecutiveVmcs = 17, "VM entry with non-launched executive VMCS";
    EntryExecutiveVmcsNotVmxon = 18, "VM entry with executive-VMCS pointer not VMXON pointer";
    VmcallNonClearVmcs = 19, "VMCALL with non-clear VMCS";
    VmcallInvalidExitControls = 20, "VMCALL with invalid VM-exit control fields";
    VmcallWrongMsegRevision = 22, "VMCALL with incorrect MSEG revision identifier";
    VmxoffUnderDualMonitor = 23, "VMXOFF under dual-monitor treatment of SMIs and SMM";
    VmcallInvalidSmmMonitorFeatures = 24, "VMCALL with invalid SMM-monitor features";
    EntryInvalidExecutiveControls = 25, "VM entry with invalid VM-execution control fields in executive VMCS";
    EntryBlockedByMovSs = 26, "VM entry with events blocked by MOV SS";
    InvalidOperandToInvalidation = 28, "invalid operand to INVEPT or INVVPID";
}

impl VmInstructionError {
    /// Whether VMLAUNCH or VMRESUME fails with this error.
    pub const fn is_entry_failure(self) -> bool {
        matches!(self.raw(), 4..=8 | 16..=18 | 25 | 26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_left_out_by_the_manual_are_left_out() {
        for number in 0..=40 {
            let defined = matches!(number, 1..=28) && !matches!(number, 14 | 21 | 27);
            let error = VmInstructionError::from_raw(number);
            assert_eq!(error.is_some(), defined, "{number}");
            assert!(error.is_none_or(|e| e.raw() == number));
        }
    }
}
