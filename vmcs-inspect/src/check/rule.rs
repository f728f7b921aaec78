//! The rules that a VM entry checks, one line each, by section of the SDM.
//!
//! Whoever reports a failed entry shows these texts; tests name the rules.

use core::fmt;

macro_rules! sections {
    ($( $Name:ident = $number:literal, $title:literal; )+) => {
        /// A section of the SDM, vol. 3, that states rules for VM entry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Section {
            $(
                #[doc = concat!("Section ", $number, ", \"", $title, "\".")]
                $Name,
            )+
        }

        impl Section {
            /// The section's number.
            pub const fn number(self) -> &'static str {
                match self { $( Section::$Name => $number, )+ }
            }
        }
    };
}

sections! {
    ExecutionControls = "27.2.1.1", "VM-Execution Control Fields";
    ExitControls = "27.2.1.2", "VM-Exit Control Fields";
    EntryControls = "27.2.1.3", "VM-Entry Control Fields";
    HostRegisters = "27.2.2", "Checks on Host Control Registers, MSRs, and SSP";
    HostSegments = "27.2.3", "Checks on Host Segment and Descriptor-Table Registers";
    AddressSpaceSize = "27.2.4", "Checks Related to Address-Space Size";
    GuestRegisters = "27.3.1.1", "Checks on Guest Control Registers, Debug Registers, and MSRs";
    GuestSegments = "27.3.1.2", "Checks on Guest Segment Registers";
    GuestDescriptorTables = "27.3.1.3", "Checks on Guest Descriptor-Table Registers";
    GuestRipRflagsSsp = "27.3.1.4", "Checks on Guest RIP, RFLAGS, and SSP";
    GuestNonRegister = "27.3.1.5", "Checks on Guest Non-Register State";
    GuestPdptes = "27.3.1.6", "Checks on Guest Page-Directory-Pointer-Table Entries";
}

macro_rules! rules {
    ($( $Section:ident { $( $Name:ident: $text:literal; )+ } )+) => {
        /// One rule of a VM entry. The field that breaks it is told beside it, since many
        /// rules hold for several fields alike.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $( $(
                #[doc = concat!($text, ".")]
                $Name,
            )+ )+
        }

        impl Rule {
            /// Every rule, in the order in which they are checked.
            pub const ALL: &'static [Rule] = &[$( $( Rule::$Name, )+ )+];

            /// The section that states the rule.
            pub const fn section(self) -> Section {
                match self { $( $( Rule::$Name => Section::$Section, )+ )+ }
            }

            /// The rule in our words: what must hold.
            pub const fn text(self) -> &'static str {
                match self { $( $( Rule::$Name => $text, )+ )+ }
            }
        }
    };
}

rules! {
    ExecutionControls {
        PinBasedAllowed: "the processor must allow these pin-based controls";
        PrimaryAllowed: "the processor must allow these primary processor-based controls";
        SecondaryAllowed: "the processor must allow these secondary processor-based controls";
        TertiaryAllowed: "the processor must allow these tertiary processor-based controls";
        Cr3TargetCount: "the CR3-target count must not exceed the number of CR3-target values";
        ControlAddressAligned: "the low bits of the address must be 0";
        ControlAddressWidth: "the address must not exceed the physical-address width";
        TprThreshold: "bits 31:4 must be 0 without virtual-interrupt delivery";
        ApicNeedsTprShadow: "x2APIC mode, APIC registers, interrupt delivery and IPIs are virtualized only with \"use TPR shadow\"";
        VirtualNmisNeedNmiExiting: "\"virtual NMIs\" needs \"NMI exiting\"";
        NmiWindowNeedsVirtualNmis: "\"NMI-window exiting\" needs \"virtual NMIs\"";
        X2apicExcludesApicAccesses: "\"virtualize x2APIC mode\" excludes \"virtualize APIC accesses\"";
        InterruptDeliveryNeedsExiting: "\"virtual-interrupt delivery\" needs \"external-interrupt exiting\"";
        PostedInterruptsNeedDelivery: "\"process posted interrupts\" needs \"virtual-interrupt delivery\"";
        PostedInterruptsNeedAcknowledge: "\"process posted interrupts\" needs \"acknowledge interrupt on exit\"";
        PostedInterruptVector: "the notification vector must be at most 255";
        VpidNotZero: "with \"enable VPID\" the VPID must not be 0";
        EptMemoryType: "the EPT memory type (bits 2:0) must be one that the processor supports";
        EptWalkLength: "the EPT page-walk length (bits 5:3) must be one that the processor supports";
        EptAccessedDirty: "bit 6 needs a processor with accessed and dirty flags for EPT";
        EptShadowStack: "bit 7 needs a processor with supervisor shadow-stack control";
        EptReserved: "bits 11:8 and those beyond the physical-address width must be 0";
        NeedsEpt: "this control needs \"enable EPT\"";
        VmFunctionsAllowed: "the processor must support these VM functions";
        PtNeedsRtitControls: "\"Intel PT uses guest physical addresses\" needs IA32_RTIT_CTL loaded at entry and cleared at exit";
        TscMultiplierNotZero: "with \"use TSC scaling\" the TSC multiplier must not be 0";
        HlatReserved: "bits 2:0, bits 11:5 and those beyond the physical-address width must be 0";
    }
    ExitControls {
        ExitAllowed: "the processor must allow these VM-exit controls";
        SecondaryExitAllowed: "the processor must allow these secondary VM-exit controls";
        SaveTimerNeedsTimer: "\"save VMX-preemption timer value\" needs \"activate VMX-preemption timer\"";
        ExitMsrAreaAligned: "bits 3:0 of the address must be 0";
        ExitMsrAreaWidth: "the whole area must lie within the physical-address width";
    }
    EntryControls {
        EntryAllowed: "the processor must allow these VM-entry controls";
        EntryMsrAreaAligned: "bits 3:0 of the address must be 0";
        EntryMsrAreaWidth: "the whole area must lie within the physical-address width";
        EntryOutsideSmm: "\"entry to SMM\" and \"deactivate dual-monitor treatment\" must be 0 outside SMM";
        InjectedType: "the interruption type must be defined, and 7 (other event) needs the monitor trap flag";
        InjectedVector: "the vector must suit the type: 2 for an NMI, at most 31 for an exception, 0 for another event";
        ErrorCodeType: "an error code goes with a hardware exception alone";
        ErrorCodeRealMode: "no error code may be delivered while the guest's CR0.PE is 0";
        ErrorCodeVector: "an error code must be delivered if and only if the exception has one";
        InjectedReserved: "bits 30:12 must be 0";
        ErrorCodeReserved: "bits 31:16 must be 0";
        InjectedLength: "the instruction length of a software event must be 1 to 15";
    }
    HostRegisters {
        HostCr0Fixed: "CR0 must have the bits that VMX operation fixes";
        HostCr4Fixed: "CR4 must have the bits that VMX operation fixes";
        HostCetNeedsWp: "CR4.CET needs CR0.WP";
        HostCr3Width: "CR3 must not exceed the physical-address width";
        HostSysenterCanonical: "the address must be canonical";
        HostPerfGlobalCtrl: "reserved bits must be 0";
        HostPat: "each byte must be a memory type: 0, 1, 4, 5, 6 or 7";
        HostEferReserved: "reserved bits must be 0";
        HostEferMode: "LMA and LME must equal \"host address-space size\"";
        HostSCet: "the value must be canonical, bits 9:6 must be 0, and bits 11:10 not both 1";
        HostSsp: "SSP must be canonical, and its bits 1:0 must be 0";
        HostSspTable: "the address must be canonical";
        HostPkrs: "bits 63:32 must be 0";
    }
    HostSegments {
        HostSelector: "RPL and TI must be 0";
        HostSelectorNotNull: "CS and TR must not be null";
        HostBaseCanonical: "the base must be canonical";
    }
    AddressSpaceSize {
        HostSizeInLongMode: "\"host address-space size\" must be 1 for a hypervisor in IA-32e mode";
        HostPae: "a 64-bit host needs CR4.PAE";
        HostRipCanonical: "RIP must be canonical";
    }
    GuestRegisters {
        GuestCr0Fixed: "CR0 must have the bits that VMX operation fixes; \"unrestricted guest\" frees PE and PG";
        GuestPagingNeedsProtection: "CR0.PG needs CR0.PE";
        GuestCr4Fixed: "CR4 must have the bits that VMX operation fixes";
        GuestCetNeedsWp: "CR4.CET needs CR0.WP";
        GuestDebugctl: "reserved bits must be 0";
        GuestLongModeNeedsPaging: "\"IA-32e mode guest\" needs CR0.PG";
        GuestLongModeNeedsPae: "\"IA-32e mode guest\" needs CR4.PAE";
        GuestPcideNeedsLongMode: "CR4.PCIDE needs \"IA-32e mode guest\"";
        GuestCr3Width: "CR3 must not exceed the physical-address width";
        GuestDr7: "bits 63:32 must be 0";
        GuestSysenterCanonical: "the address must be canonical";
        GuestSCet: "the value must be canonical, bits 9:6 must be 0, and bits 11:10 not both 1";
        GuestSspTable: "the address must be canonical";
        GuestPerfGlobalCtrl: "reserved bits must be 0";
        GuestPat: "each byte must be a memory type: 0, 1, 4, 5, 6 or 7";
        GuestEferReserved: "reserved bits must be 0";
        GuestEferLma: "LMA must equal \"IA-32e mode guest\"";
        GuestEferLme: "with CR0.PG, LME must equal LMA";
        GuestBndcfgs: "bits 11:2 must be 0, and the bound directory's address canonical";
        GuestRtitCtl: "reserved bits must be 0";
        GuestLbrCtl: "reserved bits must be 0";
        GuestPkrs: "bits 63:32 must be 0";
        GuestUinv: "bits 15:8 must be 0";
    }
    GuestSegments {
        SelectorTi: "TI must be 0";
        SsRplIsCsRpl: "without \"unrestricted guest\" the RPL of SS must equal that of CS";
        Virtual8086Base: "in virtual-8086 mode the base must be the selector times 16";
        SegmentBaseCanonical: "the base must be canonical";
        SegmentBaseHigh: "bits 63:32 of the base must be 0";
        Virtual8086Limit: "in virtual-8086 mode the limit must be 0xffff";
        Virtual8086Rights: "in virtual-8086 mode the access rights must be 0xf3";
        CsType: "the type of CS must be 9, 11, 13 or 15, or 3 with \"unrestricted guest\"";
        SsType: "the type of SS must be 3 or 7";
        DataSegmentAccessed: "the type must have the accessed bit";
        DataSegmentReadable: "a code segment in a data-segment register must be readable";
        SegmentS: "S must be 1";
        CsDplOfData: "with CS of type 3 its DPL must be 0";
        CsDplNonConforming: "the DPL of non-conforming CS must equal that of SS";
        CsDplConforming: "the DPL of conforming CS must not exceed that of SS";
        SsDplIsRpl: "without \"unrestricted guest\" the DPL of SS must equal its RPL";
        SsDplZero: "with CS of type 3, or CR0.PE = 0, the DPL of SS must be 0";
        DataSegmentDpl: "without \"unrestricted guest\" the DPL must not be less than the RPL";
        SegmentPresent: "P must be 1";
        RightsReserved: "bits 11:8 and 31:17 must be 0";
        CsDefaultSize: "D/B must be 0 in a 64-bit code segment";
        LimitGranularity: "G must suit the limit: 0 if bits 11:0 are not all 1, 1 if bits 31:20 are not all 0";
        TrType: "TR must be a busy TSS: type 11, or 3 for a 16-bit one outside IA-32e mode";
        TrUsable: "TR must be usable";
        LdtrType: "LDTR must be of type 2";
        SystemSegmentS: "S must be 0";
    }
    GuestDescriptorTables {
        TableBaseCanonical: "the base must be canonical";
        TableLimit: "bits 31:16 of the limit must be 0";
    }
    GuestRipRflagsSsp {
        RipHigh: "bits 63:32 must be 0 outside 64-bit mode";
        RipWidth: "the bits beyond the linear-address width must be all alike";
        RflagsReserved: "bits 63:22, 15, 5 and 3 must be 0, and bit 1 must be 1";
        RflagsVm: "VM must be 0 in IA-32e mode and while CR0.PE is 0";
        RflagsIf: "IF must be 1 to inject an external interrupt";
        GuestSsp: "bits 1:0 must be 0, and the address must suit the mode";
    }
    GuestNonRegister {
        ActivitySupported: "the processor must support the activity state";
        HltNeedsDplZero: "the HLT state needs SS with DPL 0";
        BlockedNeedsActive: "blocking by STI or by MOV SS needs the active state";
        InjectionNeedsActivity: "the injected event must be one that the activity state lets through";
        InterruptibilityReserved: "reserved bits must be 0";
        StiExcludesMovSs: "blocking by STI and by MOV SS exclude each other";
        StiNeedsIf: "blocking by STI needs RFLAGS.IF";
        InterruptWhileBlocked: "no external interrupt may be injected while STI or MOV SS blocks";
        NmiWhileShadowed: "no NMI may be injected while STI or MOV SS blocks";
        SmiBlockedOutsideSmm: "blocking by SMI must be 0 outside SMM";
        NmiWhileBlocked: "no NMI may be injected while virtual NMIs are blocked";
        EnclaveInterruption: "enclave interruption needs Intel SGX, and excludes blocking by MOV SS";
        PendingDebugReserved: "reserved bits must be 0";
        PendingDebugBs: "while STI or MOV SS blocks, or in HLT, BS must be RFLAGS.TF without DEBUGCTL.BTF";
        PendingDebugRtm: "RTM needs a processor with RTM, \"enabled breakpoint\" alone beside it, and no blocking by MOV SS";
        LinkPointerAligned: "bits 11:0 of the VMCS link pointer must be 0";
        LinkPointerWidth: "the VMCS link pointer must not exceed the physical-address width";
    }
    GuestPdptes {
        PdpteReserved: "reserved bits of a present PDPTE must be 0";
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}
