//! The VM-execution, VM-exit and VM-entry controls, bit by bit.
//!
//! The hypervisor composes its controls of them; the debugger prints them; the
//! checks ask them which rules apply. `DEFAULT1` masks: Intel SDM, vol. 3, appendix A.2
//! to A.5.

use crate::bits::named_bits;

named_bits! {
    /// Pin-based VM-execution controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.6.1, "Pin-Based VM-Execution Controls".
    pub struct PinBasedControls: u32, default1 0x0000_0016 {
        EXTERNAL_INTERRUPT_EXITING = 0, "external-interrupt exiting";
        NMI_EXITING = 3, "NMI exiting";
        VIRTUAL_NMIS = 5, "virtual NMIs";
        ACTIVATE_VMX_PREEMPTION_TIMER = 6, "activate VMX-preemption timer";
        PROCESS_POSTED_INTERRUPTS = 7, "process posted interrupts";
    }
}

named_bits! {
    /// Primary processor-based VM-execution controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.6.2, "Processor-Based VM-Execution Controls".
    pub struct PrimaryControls: u32, default1 0x0400_6172 {
        INTERRUPT_WINDOW_EXITING = 2, "interrupt-window exiting";
        USE_TSC_OFFSETTING = 3, "use TSC offsetting";
        HLT_EXITING = 7, "HLT exiting";
        INVLPG_EXITING = 9, "INVLPG exiting";
        MWAIT_EXITING = 10, "MWAIT exiting";
        RDPMC_EXITING = 11, "RDPMC exiting";
        RDTSC_EXITING = 12, "RDTSC exiting";
        CR3_LOAD_EXITING = 15, "CR3-load exiting";
        CR3_STORE_EXITING = 16, "CR3-store exiting";
        ACTIVATE_TERTIARY_CONTROLS = 17, "activate tertiary controls";
        CR8_LOAD_EXITING = 19, "CR8-load exiting";
        CR8_STORE_EXITING = 20, "CR8-store exiting";
        USE_TPR_SHADOW = 21, "use TPR shadow";
        NMI_WINDOW_EXITING = 22, "NMI-window exiting";
        MOV_DR_EXITING = 23, "MOV-DR exiting";
        UNCONDITIONAL_IO_EXITING = 24, "unconditional I/O exiting";
        USE_IO_BITMAPS = 25, "use I/O bitmaps";
        MONITOR_TRAP_FLAG = 27, "monitor trap flag";
        USE_MSR_BITMAPS = 28, "use MSR bitmaps";
        MONITOR_EXITING = 29, "MONITOR exiting";
        PAUSE_EXITING = 30, "PAUSE exiting";
        ACTIVATE_SECONDARY_CONTROLS = 31, "activate secondary controls";
    }
}

named_bits! {
    /// Secondary processor-based VM-execution controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.6.2, "Processor-Based VM-Execution Controls".
    pub struct SecondaryControls: u32 {
        VIRTUALIZE_APIC_ACCESSES = 0, "virtualize APIC accesses";
        ENABLE_EPT = 1, "enable EPT";
        DESCRIPTOR_TABLE_EXITING = 2, "descriptor-table exiting";
        ENABLE_RDTSCP = 3, "enable RDTSCP";
        VIRTUALIZE_X2APIC_MODE = 4, "virtualize x2APIC mode";
        ENABLE_VPID = 5, "enable VPID";
        WBINVD_EXITING = 6, "WBINVD exiting";
        UNRESTRICTED_GUEST = 7, "unrestricted guest";
        APIC_REGISTER_VIRTUALIZATION = 8, "APIC-register virtualization";
        VIRTUAL_INTERRUPT_DELIVERY = 9, "virtual-interrupt delivery";
        PAUSE_LOOP_EXITING = 10, "PAUSE-loop exiting";
        RDRAND_EXITING = 11, "RDRAND exiting";
        ENABLE_INVPCID = 12, "enable INVPCID";
        ENABLE_VM_FUNCTIONS = 13, "enable VM functions";
        VMCS_SHADOWING = 14, "VMCS shadowing";
        ENABLE_ENCLS_EXITING = 15, "enable ENCLS exiting";
        RDSEED_EXITING = 16, "RDSEED exiting";
        ENABLE_PML = 17, "enable PML";
        EPT_VIOLATION_VE = 18, "EPT-violation #VE";
        CONCEAL_VMX_FROM_PT = 19, "conceal VMX from PT";
        ENABLE_XSAVES_XRSTORS = 20, "enable XSAVES/XRSTORS";
        PASID_TRANSLATION = 21, "PASID translation";
        MODE_BASED_EXECUTE_CONTROL = 22, "mode-based execute control for EPT";
        SUB_PAGE_WRITE_PERMISSIONS = 23, "sub-page write permissions for EPT";
        PT_USES_GUEST_PHYSICAL_ADDRESSES = 24, "Intel PT uses guest physical addresses";
        USE_TSC_SCALING = 25, "use TSC scaling";
        ENABLE_USER_WAIT_AND_PAUSE = 26, "enable user wait and pause";
        ENABLE_PCONFIG = 27, "enable PCONFIG";
        ENABLE_ENCLV_EXITING = 28, "enable ENCLV exiting";
        VMM_BUS_LOCK_DETECTION = 30, "VMM bus-lock detection";
        INSTRUCTION_TIMEOUT = 31, "instruction timeout";
    }
}

named_bits! {
    /// Tertiary processor-based VM-execution controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.6.2, "Processor-Based VM-Execution Controls".
    pub struct TertiaryControls: u64 {
        LOADIWKEY_EXITING = 0, "LOADIWKEY exiting";
        ENABLE_HLAT = 1, "enable HLAT";
        EPT_PAGING_WRITE_CONTROL = 2, "EPT paging-write control";
        GUEST_PAGING_VERIFICATION = 3, "guest-paging verification";
        IPI_VIRTUALIZATION = 4, "IPI virtualization";
        ENABLE_MSR_LIST_INSTRUCTIONS = 6, "enable MSR-list instructions";
        VIRTUALIZE_IA32_SPEC_CTRL = 7, "virtualize IA32_SPEC_CTRL";
        APIC_TIMER_VIRTUALIZATION = 8, "APIC-timer virtualization";
    }
}

named_bits! {
    /// Primary VM-exit controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.7.1, "VM-Exit Controls".
    pub struct ExitControls: u32, default1 0x0003_6dfb {
        SAVE_DEBUG_CONTROLS = 2, "save debug controls";
        HOST_ADDRESS_SPACE_SIZE = 9, "host address-space size";
        LOAD_IA32_PERF_GLOBAL_CTRL = 12, "load IA32_PERF_GLOBAL_CTRL";
        ACKNOWLEDGE_INTERRUPT_ON_EXIT = 15, "acknowledge interrupt on exit";
        SAVE_IA32_PAT = 18, "save IA32_PAT";
        LOAD_IA32_PAT = 19, "load IA32_PAT";
        SAVE_IA32_EFER = 20, "save IA32_EFER";
        LOAD_IA32_EFER = 21, "load IA32_EFER";
        SAVE_VMX_PREEMPTION_TIMER_VALUE = 22, "save VMX-preemption timer value";
        CLEAR_IA32_BNDCFGS = 23, "clear IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT = 24, "conceal VMX from PT";
        CLEAR_IA32_RTIT_CTL = 25, "clear IA32_RTIT_CTL";
        CLEAR_IA32_LBR_CTL = 26, "clear IA32_LBR_CTL";
        CLEAR_UINV = 27, "clear UINV";
        LOAD_CET_STATE = 28, "load CET state";
        LOAD_PKRS = 29, "load PKRS";
        SAVE_IA32_PERF_GLOBAL_CTRL = 30, "save IA32_PERF_GLOBAL_CTRL";
        ACTIVATE_SECONDARY_CONTROLS = 31, "activate secondary controls";
    }
}

named_bits! {
    /// Secondary VM-exit controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.7.1, "VM-Exit Controls", which defines
    /// bit 3; the others came with later features.
    pub struct SecondaryExitControls: u64 {
        SAVE_IA32_FRED = 0, "save IA32_FRED";
        LOAD_IA32_FRED = 1, "load IA32_FRED";
        LOAD_IA32_SPEC_CTRL = 2, "load IA32_SPEC_CTRL";
        PREMATURELY_BUSY_SHADOW_STACK = 3, "prematurely busy shadow stack";
    }
}

named_bits! {
    /// VM-entry controls.
    ///
    /// Source: Intel SDM, vol. 3, section 25.8.1, "VM-Entry Controls".
    pub struct EntryControls: u32, default1 0x0000_11fb {
        LOAD_DEBUG_CONTROLS = 2, "load debug controls";
        IA_32E_MODE_GUEST = 9, "IA-32e mode guest";
        ENTRY_TO_SMM = 10, "entry to SMM";
        DEACTIVATE_DUAL_MONITOR_TREATMENT = 11, "deactivate dual-monitor treatment";
        LOAD_IA32_PERF_GLOBAL_CTRL = 13, "load IA32_PERF_GLOBAL_CTRL";
        LOAD_IA32_PAT = 14, "load IA32_PAT";
        LOAD_IA32_EFER = 15, "load IA32_EFER";
        LOAD_IA32_BNDCFGS = 16, "load IA32_BNDCFGS";
        CONCEAL_VMX_FROM_PT = 17, "conceal VMX from PT";
        LOAD_IA32_RTIT_CTL = 18, "load IA32_RTIT_CTL";
        LOAD_UINV = 19, "load UINV";
        LOAD_CET_STATE = 20, "load CET state";
        LOAD_GUEST_IA32_LBR_CTL = 21, "load guest IA32_LBR_CTL";
        LOAD_PKRS = 22, "load PKRS";
        LOAD_IA32_FRED = 23, "load IA32_FRED";
        LOAD_IA32_SPEC_CTRL = 24, "load IA32_SPEC_CTRL";
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    /// Intel SDM, vol. 3, appendix A.2 to A.5, lists the default1 bits; those with
    /// a name are the ones that the TRUE capability MSRs may let be 0.
    #[test]
    fn default1_classes_are_the_sdms() {
        assert_eq!(
            PinBasedControls::RESERVED_DEFAULT1,
            1 << 1 | 1 << 2 | 1 << 4
        );
        let primary: u32 = [1, 4, 5, 6, 8, 13, 14, 15, 16, 26]
            .iter()
            .map(|b| 1 << b)
            .sum();
        assert_eq!(
            PrimaryControls::RESERVED_DEFAULT1
                | (PrimaryControls::CR3_LOAD_EXITING | PrimaryControls::CR3_STORE_EXITING).bits(),
            primary
        );
        assert_eq!(
            ExitControls::RESERVED_DEFAULT1 | ExitControls::SAVE_DEBUG_CONTROLS.bits(),
            0x0003_6dff
        );
        assert_eq!(
            EntryControls::RESERVED_DEFAULT1 | EntryControls::LOAD_DEBUG_CONTROLS.bits(),
            0x0000_11ff
        );
    }

    #[test]
    fn named_bits_are_not_called_reserved() {
        assert_eq!(PinBasedControls::from_bits_retain(0x16).unnamed(), 0x16);
        assert_eq!(
            PrimaryControls::from_bits_retain(0x0400_6172).unnamed(),
            0x0400_6172
        );
        assert_eq!(ExitControls::from_bits_retain(0x3_6dfb).unnamed(), 0x3_6dfb);
        assert_eq!(EntryControls::from_bits_retain(0x11fb).unnamed(), 0x11fb);
    }

    #[test]
    fn printing_names_what_is_set_and_shows_what_is_unknown() {
        let pin = PinBasedControls::from_bits_retain(0x3e);
        assert_eq!(pin.to_string(), "NMI exiting, virtual NMIs");
        assert_eq!(PinBasedControls::from_bits_retain(0x16).to_string(), "none");
        let odd = PinBasedControls::from_bits_retain(0x8000_0008);
        assert_eq!(odd.to_string(), "NMI exiting, 0x80000000");
        assert_eq!(TertiaryControls::ENABLE_HLAT.to_string(), "enable HLAT");
    }
}
