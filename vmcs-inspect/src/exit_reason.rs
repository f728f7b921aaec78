//! Basic exit reasons and the exit-reason field.

use core::fmt;

macro_rules! reasons {
    ($( $Name:ident = $number:literal, $text:literal; )+) => {
        /// Why a VM exit came: the basic exit reason.
        ///
        /// Source: Intel SDM, vol. 3, appendix C, "VMX Basic Exit Reasons".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ExitReason {
            $(
                #[doc = concat!("Exit reason ", $number, ": ", $text, ".")]
                $Name = $number,
            )+
        }

        impl ExitReason {
            /// Every defined reason, in ascending order.
            pub const ALL: &'static [ExitReason] = &[$( ExitReason::$Name, )+];

            /// The reason with this number; `None` if the SDM defines none.
            #[inline(always)] // On the path of every exit.
            pub const fn from_raw(number: u16) -> Option<ExitReason> {
                match number {
                    $( $number => Some(ExitReason::$Name), )+
                    _ => None,
                }
            }

            /// The SDM's number.
            pub const fn raw(self) -> u16 {
                self as u16
            }

            /// A short name.
            pub const fn name(self) -> &'static str {
                match self {
                    $( ExitReason::$Name => $text, )+
                }
            }
        }
    };
}

reasons! {
    ExceptionOrNmi = 0, "exception or NMI";
    ExternalInterrupt = 1, "external interrupt";
    TripleFault = 2, "triple fault";
    InitSignal = 3, "INIT signal";
    StartUpIpi = 4, "start-up IPI";
    IoSmi = 5, "I/O SMI";
    OtherSmi = 6, "other SMI";
    InterruptWindow = 7, "interrupt window";
    NmiWindow = 8, "NMI window";
    TaskSwitch = 9, "task switch";
    Cpuid = 10, "CPUID";
    Getsec = 11, "GETSEC";
    Hlt = 12, "HLT";
    Invd = 13, "INVD";
    Invlpg = 14, "INVLPG";
    Rdpmc = 15, "RDPMC";
    Rdtsc = 16, "RDTSC";
    Rsm = 17, "RSM";
    Vmcall = 18, "VMCALL";
    Vmclear = 19, "VMCLEAR";
    Vmlaunch = 20, "VMLAUNCH";
    Vmptrld = 21, "VMPTRLD";
    Vmptrst = 22, "VMPTRST";
    Vmread = 23, "VMREAD";
    Vmresume = 24, "VMRESUME";
    Vmwrite = 25, "VMWRITE";
    Vmxoff = 26, "VMXOFF";
    Vmxon = 27, "VMXON";
    ControlRegisterAccess = 28, "control-register access";
    MovDr = 29, "MOV DR";
    IoInstruction = 30, "I/O instruction";
    Rdmsr = 31, "RDMSR";
    Wrmsr = 32, "WRMSR";
    EntryFailureGuestState = 33, "VM-entry failure: guest state";
    EntryFailureMsrLoading = 34, "VM-entry failure: MSR loading";
    Mwait = 36, "MWAIT";
    MonitorTrapFlag = 37, "monitor trap flag";
    Monitor = 39, "MONITOR";
    Pause = 40, "PAUSE";
    EntryFailureMachineCheck = 41, "VM-entry failure: machine check";
    TprBelowThreshold = 43, "TPR below threshold";
    ApicAccess = 44, "APIC access";
    VirtualizedEoi = 45, "virtualized EOI";
    GdtrOrIdtrAccess = 46, "access to GDTR or IDTR";
    LdtrOrTrAccess = 47, "access to LDTR or TR";
    EptViolation = 48, "EPT violation";
    EptMisconfiguration = 49, "EPT misconfiguration";
    Invept = 50, "INVEPT";
    Rdtscp = 51, "RDTSCP";
    PreemptionTimerExpired = 52, "VMX-preemption timer expired";
    Invvpid = 53, "INVVPID";
    WbinvdOrWbnoinvd = 54, "WBINVD or WBNOINVD";
    Xsetbv = 55, "XSETBV";
    ApicWrite = 56, "APIC write";
    Rdrand = 57, "RDRAND";
    Invpcid = 58, "INVPCID";
    Vmfunc = 59, "VMFUNC";
    Encls = 60, "ENCLS";
    Rdseed = 61, "RDSEED";
    PageModificationLogFull = 62, "page-modification log full";
    Xsaves = 63, "XSAVES";
    Xrstors = 64, "XRSTORS";
    Pconfig = 65, "PCONFIG";
    SppRelatedEvent = 66, "SPP-related event";
    Umwait = 67, "UMWAIT";
    Tpause = 68, "TPAUSE";
    Loadiwkey = 69, "LOADIWKEY";
    Enclv = 70, "ENCLV";
    EnqcmdPasidTranslationFailure = 72, "ENQCMD PASID translation failure";
    EnqcmdsPasidTranslationFailure = 73, "ENQCMDS PASID translation failure";
    BusLock = 74, "bus lock";
    InstructionTimeout = 75, "instruction timeout";
    Seamcall = 76, "SEAMCALL";
    Tdcall = 77, "TDCALL";
    Rdmsrlist = 78, "RDMSRLIST";
    Wrmsrlist = 79, "WRMSRLIST";
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The exit-reason field, of which the basic reason is the lower half.
///
/// Source: Intel SDM, vol. 3, section 25.9.1, "Basic VM-Exit Information".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitReasonField(u32);

impl ExitReasonField {
    /// The field with this value.
    pub const fn from_raw(value: u32) -> ExitReasonField {
        ExitReasonField(value)
    }

    /// The field's value.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Bits 15:0 as a number.
    pub const fn basic(self) -> u16 {
        self.0 as u16
    }

    /// Bits 15:0, if the SDM defines that number.
    pub const fn reason(self) -> Option<ExitReason> {
        ExitReason::from_raw(self.basic())
    }

    /// Bit 25: the exit left a shadow stack prematurely busy.
    pub const fn prematurely_busy_shadow_stack(self) -> bool {
        self.0 & (1 << 25) != 0
    }

    /// Bit 26: a bus lock was asserted before the exit.
    pub const fn bus_lock(self) -> bool {
        self.0 & (1 << 26) != 0
    }

    /// Bit 27: the exit came in enclave mode.
    pub const fn enclave_mode(self) -> bool {
        self.0 & (1 << 27) != 0
    }

    /// Bit 28: a monitor-trap-flag exit was pending (SMM VM exits only).
    pub const fn pending_mtf(self) -> bool {
        self.0 & (1 << 28) != 0
    }

    /// Bit 29: the exit came from VMX root operation (SMM VM exits only).
    pub const fn from_vmx_root_operation(self) -> bool {
        self.0 & (1 << 29) != 0
    }

    /// Bit 31: a VM entry failed after its checks on controls and host state; the
    /// guest did not run.
    pub const fn entry_failure(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

impl fmt::Display for ExitReasonField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{reason}")?,
            None => write!(f, "unknown reason {}", self.basic())?,
        }
        let flags = [
            (
                self.prematurely_busy_shadow_stack(),
                "prematurely busy shadow stack",
            ),
            (self.bus_lock(), "bus lock"),
            (self.enclave_mode(), "enclave mode"),
            (self.pending_mtf(), "pending MTF"),
            (self.from_vmx_root_operation(), "from VMX root operation"),
            (self.entry_failure(), "VM entry failed"),
        ];
        for (set, name) in flags {
            if set {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ExitReasonField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExitReasonField({:#010x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn the_numbers_left_out_by_the_manual_are_left_out() {
        for number in 0..=100 {
            let defined = number <= 79 && ![35, 38, 42, 71].contains(&number);
            let reason = ExitReason::from_raw(number);
            assert_eq!(reason.is_some(), defined, "{number}");
            assert!(reason.is_none_or(|r| r.raw() == number));
        }
        assert!(ExitReason::ALL.is_sorted());
        assert_eq!(ExitReason::ALL.len(), 76);
    }

    #[test]
    fn the_field_tells_a_failed_entry() {
        let failed = ExitReasonField::from_raw(0x8000_0021);
        assert!(failed.entry_failure());
        assert_eq!(failed.reason(), Some(ExitReason::EntryFailureGuestState));
        assert_eq!(
            failed.to_string(),
            "VM-entry failure: guest state, VM entry failed"
        );
        assert_eq!(
            ExitReasonField::from_raw(71).to_string(),
            "unknown reason 71"
        );
        assert_eq!(ExitReasonField::from_raw(18).to_string(), "VMCALL");
    }
}
