//! Every VMCS field, in order of encoding, from which the constants of
//! [`Field`] and the table behind [`Field::all`] are made.
//!
//! Source: Intel SDM, vol. 3, appendix B, "Field Encoding in VMCS". Fields of Intel's that
//! are documented elsewhere, or came after the edition that the documentation cites, are
//! listed too: FRED transitions, virtual IA32_SPEC_CTRL, APIC-timer virtualization, SEAM,
//! extended instruction information. A processor without them answers VMREAD with error 12, and the
//! debugger then shows `-`.

use super::{Field, FieldInfo, Kind, Width};

/// Makes one constant and one table row of each line.
macro_rules! fields {
    ($( ($width:ident, $kind:ident) { $( $name:ident = $encoding:literal, $title:literal; )+ } )+) => {
        /// The fields of the VMCS, named after the SDM's names.
        impl Field {
            $( $(
                #[doc = concat!($title, " (encoding ", stringify!($encoding), ").")]
                pub const $name: Field = Field($encoding);
            )+ )+
        }

        /// Every field, in ascending order of encoding.
        pub(super) static TABLE: &[FieldInfo] = &[
            $( $(
                FieldInfo {
                    field: Field($encoding),
                    name: stringify!($name),
                    width: Width::$width,
                    kind: Kind::$kind,
                },
            )+ )+
        ];

        /// How many fields there are.
        pub(super) const COUNT: usize = [$( $( $encoding as u32, )+ )+].len();
    };
}

fields! {
// 16-bit control fields
(Bits16, Control) {
    VPID = 0x0000, "Virtual-processor identifier (VPID)";
    POSTED_INTERRUPT_NOTIFICATION_VECTOR = 0x0002, "Posted-interrupt notification vector";
    EPTP_INDEX = 0x0004, "EPTP index";
    HLAT_PREFIX_SIZE = 0x0006, "HLAT prefix size";
    LAST_PID_POINTER_INDEX = 0x0008, "Last PID-pointer index";
    VIRTUAL_TIMER_VECTOR = 0x000a, "Virtual timer vector";
}

// 16-bit guest-state fields
(Bits16, GuestState) {
    GUEST_ES_SELECTOR = 0x0800, "Guest ES selector";
    GUEST_CS_SELECTOR = 0x0802, "Guest CS selector";
    GUEST_SS_SELECTOR = 0x0804, "Guest SS selector";
    GUEST_DS_SELECTOR = 0x0806, "Guest DS selector";
    GUEST_FS_SELECTOR = 0x0808, "Guest FS selector";
    GUEST_GS_SELECTOR = 0x080a, "Guest GS selector";
    GUEST_LDTR_SELECTOR = 0x080c, "Guest LDTR selector";
    GUEST_TR_SELECTOR = 0x080e, "Guest TR selector";
    GUEST_INTERRUPT_STATUS = 0x0810, "Guest interrupt status (RVI, SVI)";
    PML_INDEX = 0x0812, "PML index";
    GUEST_UINV = 0x0814, "Guest UINV";
}

// 16-bit host-state fields
(Bits16, HostState) {
    HOST_ES_SELECTOR = 0x0c00, "Host ES selector";
    HOST_CS_SELECTOR = 0x0c02, "Host CS selector";
    HOST_SS_SELECTOR = 0x0c04, "Host SS selector";
    HOST_DS_SELECTOR = 0x0c06, "Host DS selector";
    HOST_FS_SELECTOR = 0x0c08, "Host FS selector";
    HOST_GS_SELECTOR = 0x0c0a, "Host GS selector";
    HOST_TR_SELECTOR = 0x0c0c, "Host TR selector";
}

// 64-bit control fields
(Bits64, Control) {
    IO_BITMAP_A = 0x2000, "Address of I/O bitmap A";
    IO_BITMAP_B = 0x2002, "Address of I/O bitmap B";
    MSR_BITMAPS = 0x2004, "Address of MSR bitmaps";
    VM_EXIT_MSR_STORE_ADDRESS = 0x2006, "VM-exit MSR-store address";
    VM_EXIT_MSR_LOAD_ADDRESS = 0x2008, "VM-exit MSR-load address";
    VM_ENTRY_MSR_LOAD_ADDRESS = 0x200a, "VM-entry MSR-load address";
    EXECUTIVE_VMCS_POINTER = 0x200c, "Executive-VMCS pointer";
    PML_ADDRESS = 0x200e, "PML address";
    TSC_OFFSET = 0x2010, "TSC offset";
    VIRTUAL_APIC_ADDRESS = 0x2012, "Virtual-APIC address";
    APIC_ACCESS_ADDRESS = 0x2014, "APIC-access address";
    POSTED_INTERRUPT_DESCRIPTOR_ADDRESS = 0x2016, "Posted-interrupt descriptor address";
    VM_FUNCTION_CONTROLS = 0x2018, "VM-function controls";
    EPT_POINTER = 0x201a, "EPT pointer (EPTP)";
    EOI_EXIT_BITMAP_0 = 0x201c, "EOI-exit bitmap 0, vectors 0-63";
    EOI_EXIT_BITMAP_1 = 0x201e, "EOI-exit bitmap 1, vectors 64-127";
    EOI_EXIT_BITMAP_2 = 0x2020, "EOI-exit bitmap 2, vectors 128-191";
    EOI_EXIT_BITMAP_3 = 0x2022, "EOI-exit bitmap 3, vectors 192-255";
    EPTP_LIST_ADDRESS = 0x2024, "EPTP-list address";
    VMREAD_BITMAP_ADDRESS = 0x2026, "VMREAD-bitmap address";
    VMWRITE_BITMAP_ADDRESS = 0x2028, "VMWRITE-bitmap address";
    VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS = 0x202a, "Virtualization-exception information address";
    XSS_EXITING_BITMAP = 0x202c, "XSS-exiting bitmap";
    ENCLS_EXITING_BITMAP = 0x202e, "ENCLS-exiting bitmap";
    SUB_PAGE_PERMISSION_TABLE_POINTER = 0x2030, "Sub-page-permission-table pointer";
    TSC_MULTIPLIER = 0x2032, "TSC multiplier";
    TERTIARY_PROCESSOR_BASED_CONTROLS = 0x2034, "Tertiary processor-based VM-execution controls";
    ENCLV_EXITING_BITMAP = 0x2036, "ENCLV-exiting bitmap";
    LOW_PASID_DIRECTORY_ADDRESS = 0x2038, "Low PASID directory address";
    HIGH_PASID_DIRECTORY_ADDRESS = 0x203a, "High PASID directory address";
    SHARED_EPT_POINTER = 0x203c, "Shared EPT pointer";
    PCONFIG_EXITING_BITMAP = 0x203e, "PCONFIG-exiting bitmap";
    HLAT_POINTER = 0x2040, "Hypervisor-managed linear-address translation pointer (HLATP)";
    PID_POINTER_TABLE_ADDRESS = 0x2042, "PID-pointer table address";
    SECONDARY_VM_EXIT_CONTROLS = 0x2044, "Secondary VM-exit controls";
    IA32_SPEC_CTRL_MASK = 0x204a, "IA32_SPEC_CTRL mask";
    IA32_SPEC_CTRL_SHADOW = 0x204c, "IA32_SPEC_CTRL shadow";
    GUEST_DEADLINE_SHADOW = 0x204e, "Guest deadline shadow";
    INJECTED_EVENT_DATA = 0x2052, "Injected-event data";
}

// 64-bit read-only data fields
(Bits64, ReadOnlyData) {
    GUEST_PHYSICAL_ADDRESS = 0x2400, "Guest-physical address";
    MSR_DATA = 0x2402, "MSR data";
    ORIGINAL_EVENT_DATA = 0x2404, "Original-event data";
    EXTENDED_INSTRUCTION_INFORMATION = 0x2406, "Extended instruction information";
}

// 64-bit guest-state fields
(Bits64, GuestState) {
    VMCS_LINK_POINTER = 0x2800, "VMCS link pointer";
    GUEST_IA32_DEBUGCTL = 0x2802, "Guest IA32_DEBUGCTL";
    GUEST_IA32_PAT = 0x2804, "Guest IA32_PAT";
    GUEST_IA32_EFER = 0x2806, "Guest IA32_EFER";
    GUEST_IA32_PERF_GLOBAL_CTRL = 0x2808, "Guest IA32_PERF_GLOBAL_CTRL";
    GUEST_PDPTE0 = 0x280a, "Guest PDPTE0";
    GUEST_PDPTE1 = 0x280c, "Guest PDPTE1";
    GUEST_PDPTE2 = 0x280e, "Guest PDPTE2";
    GUEST_PDPTE3 = 0x2810, "Guest PDPTE3";
    GUEST_IA32_BNDCFGS = 0x2812, "Guest IA32_BNDCFGS";
    GUEST_IA32_RTIT_CTL = 0x2814, "Guest IA32_RTIT_CTL";
    GUEST_IA32_LBR_CTL = 0x2816, "Guest IA32_LBR_CTL";
    GUEST_IA32_PKRS = 0x2818, "Guest IA32_PKRS";
    GUEST_IA32_FRED_CONFIG = 0x281a, "Guest IA32_FRED_CONFIG";
    GUEST_IA32_FRED_RSP1 = 0x281c, "Guest IA32_FRED_RSP1";
    GUEST_IA32_FRED_RSP2 = 0x281e, "Guest IA32_FRED_RSP2";
    GUEST_IA32_FRED_RSP3 = 0x2820, "Guest IA32_FRED_RSP3";
    GUEST_IA32_FRED_STKLVLS = 0x2822, "Guest IA32_FRED_STKLVLS";
    GUEST_IA32_FRED_SSP1 = 0x2824, "Guest IA32_FRED_SSP1";
    GUEST_IA32_FRED_SSP2 = 0x2826, "Guest IA32_FRED_SSP2";
    GUEST_IA32_FRED_SSP3 = 0x2828, "Guest IA32_FRED_SSP3";
    GUEST_IA32_SPEC_CTRL = 0x282e, "Guest IA32_SPEC_CTRL";
    GUEST_DEADLINE = 0x2830, "Guest deadline";
}

// 64-bit host-state fields
(Bits64, HostState) {
    HOST_IA32_PAT = 0x2c00, "Host IA32_PAT";
    HOST_IA32_EFER = 0x2c02, "Host IA32_EFER";
    HOST_IA32_PERF_GLOBAL_CTRL = 0x2c04, "Host IA32_PERF_GLOBAL_CTRL";
    HOST_IA32_PKRS = 0x2c06, "Host IA32_PKRS";
    HOST_IA32_FRED_CONFIG = 0x2c08, "Host IA32_FRED_CONFIG";
    HOST_IA32_FRED_RSP1 = 0x2c0a, "Host IA32_FRED_RSP1";
    HOST_IA32_FRED_RSP2 = 0x2c0c, "Host IA32_FRED_RSP2";
    HOST_IA32_FRED_RSP3 = 0x2c0e, "Host IA32_FRED_RSP3";
    HOST_IA32_FRED_STKLVLS = 0x2c10, "Host IA32_FRED_STKLVLS";
    HOST_IA32_FRED_SSP1 = 0x2c12, "Host IA32_FRED_SSP1";
    HOST_IA32_FRED_SSP2 = 0x2c14, "Host IA32_FRED_SSP2";
    HOST_IA32_FRED_SSP3 = 0x2c16, "Host IA32_FRED_SSP3";
    HOST_IA32_SPEC_CTRL = 0x2c1a, "Host IA32_SPEC_CTRL";
}

// 32-bit control fields
(Bits32, Control) {
    PIN_BASED_CONTROLS = 0x4000, "Pin-based VM-execution controls";
    PRIMARY_PROCESSOR_BASED_CONTROLS = 0x4002, "Primary processor-based VM-execution controls";
    EXCEPTION_BITMAP = 0x4004, "Exception bitmap";
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006, "Page-fault error-code mask";
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008, "Page-fault error-code match";
    CR3_TARGET_COUNT = 0x400a, "CR3-target count";
    VM_EXIT_CONTROLS = 0x400c, "Primary VM-exit controls";
    VM_EXIT_MSR_STORE_COUNT = 0x400e, "VM-exit MSR-store count";
    VM_EXIT_MSR_LOAD_COUNT = 0x4010, "VM-exit MSR-load count";
    VM_ENTRY_CONTROLS = 0x4012, "VM-entry controls";
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014, "VM-entry MSR-load count";
    VM_ENTRY_INTERRUPTION_INFO = 0x4016, "VM-entry interruption-information field";
    VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018, "VM-entry exception error code";
    VM_ENTRY_INSTRUCTION_LENGTH = 0x401a, "VM-entry instruction length";
    TPR_THRESHOLD = 0x401c, "TPR threshold";
    SECONDARY_PROCESSOR_BASED_CONTROLS = 0x401e, "Secondary processor-based VM-execution controls";
    PLE_GAP = 0x4020, "PLE_Gap";
    PLE_WINDOW = 0x4022, "PLE_Window";
    INSTRUCTION_TIMEOUT_CONTROL = 0x4024, "Instruction-timeout control (notify window)";
    SEAM_GUEST_KEYID = 0x4026, "SEAM guest key identifier";
}

// 32-bit read-only data fields
(Bits32, ReadOnlyData) {
    VM_INSTRUCTION_ERROR = 0x4400, "VM-instruction error";
    EXIT_REASON = 0x4402, "Exit reason";
    VM_EXIT_INTERRUPTION_INFO = 0x4404, "VM-exit interruption information";
    VM_EXIT_INTERRUPTION_ERROR_CODE = 0x4406, "VM-exit interruption error code";
    IDT_VECTORING_INFO = 0x4408, "IDT-vectoring information field";
    IDT_VECTORING_ERROR_CODE = 0x440a, "IDT-vectoring error code";
    VM_EXIT_INSTRUCTION_LENGTH = 0x440c, "VM-exit instruction length";
    VM_EXIT_INSTRUCTION_INFO = 0x440e, "VM-exit instruction information";
}

// 32-bit guest-state fields
(Bits32, GuestState) {
    GUEST_ES_LIMIT = 0x4800, "Guest ES limit";
    GUEST_CS_LIMIT = 0x4802, "Guest CS limit";
    GUEST_SS_LIMIT = 0x4804, "Guest SS limit";
    GUEST_DS_LIMIT = 0x4806, "Guest DS limit";
    GUEST_FS_LIMIT = 0x4808, "Guest FS limit";
    GUEST_GS_LIMIT = 0x480a, "Guest GS limit";
    GUEST_LDTR_LIMIT = 0x480c, "Guest LDTR limit";
    GUEST_TR_LIMIT = 0x480e, "Guest TR limit";
    GUEST_GDTR_LIMIT = 0x4810, "Guest GDTR limit";
    GUEST_IDTR_LIMIT = 0x4812, "Guest IDTR limit";
    GUEST_ES_ACCESS_RIGHTS = 0x4814, "Guest ES access rights";
    GUEST_CS_ACCESS_RIGHTS = 0x4816, "Guest CS access rights";
    GUEST_SS_ACCESS_RIGHTS = 0x4818, "Guest SS access rights";
    GUEST_DS_ACCESS_RIGHTS = 0x481a, "Guest DS access rights";
    GUEST_FS_ACCESS_RIGHTS = 0x481c, "Guest FS access rights";
    GUEST_GS_ACCESS_RIGHTS = 0x481e, "Guest GS access rights";
    GUEST_LDTR_ACCESS_RIGHTS = 0x4820, "Guest LDTR access rights";
    GUEST_TR_ACCESS_RIGHTS = 0x4822, "Guest TR access rights";
    GUEST_INTERRUPTIBILITY = 0x4824, "Guest interruptibility state";
    GUEST_ACTIVITY_STATE = 0x4826, "Guest activity state";
    GUEST_SMBASE = 0x4828, "Guest SMBASE";
    GUEST_IA32_SYSENTER_CS = 0x482a, "Guest IA32_SYSENTER_CS";
    GUEST_PREEMPTION_TIMER_VALUE = 0x482e, "VMX-preemption timer value";
}

// 32-bit host-state field
(Bits32, HostState) {
    HOST_IA32_SYSENTER_CS = 0x4c00, "Host IA32_SYSENTER_CS";
}

// Natural-width control fields
(Natural, Control) {
    CR0_GUEST_HOST_MASK = 0x6000, "CR0 guest/host mask";
    CR4_GUEST_HOST_MASK = 0x6002, "CR4 guest/host mask";
    CR0_READ_SHADOW = 0x6004, "CR0 read shadow";
    CR4_READ_SHADOW = 0x6006, "CR4 read shadow";
    CR3_TARGET_VALUE_0 = 0x6008, "CR3-target value 0";
    CR3_TARGET_VALUE_1 = 0x600a, "CR3-target value 1";
    CR3_TARGET_VALUE_2 = 0x600c, "CR3-target value 2";
    CR3_TARGET_VALUE_3 = 0x600e, "CR3-target value 3";
}

// Natural-width read-only data fields
(Natural, ReadOnlyData) {
    EXIT_QUALIFICATION = 0x6400, "Exit qualification";
    IO_RCX = 0x6402, "I/O RCX";
    IO_RSI = 0x6404, "I/O RSI";
    IO_RDI = 0x6406, "I/O RDI";
    IO_RIP = 0x6408, "I/O RIP";
    GUEST_LINEAR_ADDRESS = 0x640a, "Guest-linear address";
}

// Natural-width guest-state fields
(Natural, GuestState) {
    GUEST_CR0 = 0x6800, "Guest CR0";
    GUEST_CR3 = 0x6802, "Guest CR3";
    GUEST_CR4 = 0x6804, "Guest CR4";
    GUEST_ES_BASE = 0x6806, "Guest ES base";
    GUEST_CS_BASE = 0x6808, "Guest CS base";
    GUEST_SS_BASE = 0x680a, "Guest SS base";
    GUEST_DS_BASE = 0x680c, "Guest DS base";
    GUEST_FS_BASE = 0x680e, "Guest FS base";
    GUEST_GS_BASE = 0x6810, "Guest GS base";
    GUEST_LDTR_BASE = 0x6812, "Guest LDTR base";
    GUEST_TR_BASE = 0x6814, "Guest TR base";
    GUEST_GDTR_BASE = 0x6816, "Guest GDTR base";
    GUEST_IDTR_BASE = 0x6818, "Guest IDTR base";
    GUEST_DR7 = 0x681a, "Guest DR7";
    GUEST_RSP = 0x681c, "Guest RSP";
    GUEST_RIP = 0x681e, "Guest RIP";
    GUEST_RFLAGS = 0x6820, "Guest RFLAGS";
    GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822, "Guest pending debug exceptions";
    GUEST_IA32_SYSENTER_ESP = 0x6824, "Guest IA32_SYSENTER_ESP";
    GUEST_IA32_SYSENTER_EIP = 0x6826, "Guest IA32_SYSENTER_EIP";
    GUEST_IA32_S_CET = 0x6828, "Guest IA32_S_CET";
    GUEST_SSP = 0x682a, "Guest SSP";
    GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR = 0x682c, "Guest IA32_INTERRUPT_SSP_TABLE_ADDR";
}

// Natural-width host-state fields
(Natural, HostState) {
    HOST_CR0 = 0x6c00, "Host CR0";
    HOST_CR3 = 0x6c02, "Host CR3";
    HOST_CR4 = 0x6c04, "Host CR4";
    HOST_FS_BASE = 0x6c06, "Host FS base";
    HOST_GS_BASE = 0x6c08, "Host GS base";
    HOST_TR_BASE = 0x6c0a, "Host TR base";
    HOST_GDTR_BASE = 0x6c0c, "Host GDTR base";
    HOST_IDTR_BASE = 0x6c0e, "Host IDTR base";
    HOST_IA32_SYSENTER_ESP = 0x6c10, "Host IA32_SYSENTER_ESP";
    HOST_IA32_SYSENTER_EIP = 0x6c12, "Host IA32_SYSENTER_EIP";
    HOST_RSP = 0x6c14, "Host RSP";
    HOST_RIP = 0x6c16, "Host RIP";
    HOST_IA32_S_CET = 0x6c18, "Host IA32_S_CET";
    HOST_SSP = 0x6c1a, "Host SSP";
    HOST_IA32_INTERRUPT_SSP_TABLE_ADDR = 0x6c1c, "Host IA32_INTERRUPT_SSP_TABLE_ADDR";
}}
