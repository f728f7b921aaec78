//! Cases for the VMX controls: Intel SDM, vol. 3, section 27.2.1.

use super::{
    Case, EntryControls, ExitControls, Field, PinBasedControls, PrimaryControls, Rule, Scene,
    SecondaryControls, TertiaryControls, as_is, case,
};

/// Turns on what virtual-interrupt delivery needs, and itself.
fn interrupt_delivery(s: &mut Scene) {
    s.pin_based(PinBasedControls::EXTERNAL_INTERRUPT_EXITING);
    s.primary(PrimaryControls::USE_TPR_SHADOW);
    s.secondary(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
}

fn posted_interrupts(s: &mut Scene) {
    interrupt_delivery(s);
    s.pin_based(PinBasedControls::PROCESS_POSTED_INTERRUPTS);
    s.exit(ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
}

fn ipi_virtualization(s: &mut Scene) {
    s.primary(PrimaryControls::USE_TPR_SHADOW);
    s.tertiary(TertiaryControls::IPI_VIRTUALIZATION);
}

fn software_interrupt(s: &mut Scene) {
    s.inject(0x8000_0480);
    s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
}

fn page_fault(s: &mut Scene) {
    s.inject(0x8000_0b0e);
    s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x8002);
}

pub(super) const CASES: &[Case] = &[
    // VM-execution control fields.
    case!(PinBasedAllowed, PIN_BASED_CONTROLS, |s| s
        .on(Field::PIN_BASED_CONTROLS, 1u64 << 8)),
    case!(PinBasedAllowed, PIN_BASED_CONTROLS, |s| s
        .off(Field::PIN_BASED_CONTROLS, 2u64)),
    case!(PrimaryAllowed, PRIMARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.on(Field::PRIMARY_PROCESSOR_BASED_CONTROLS, 1u64);
    }),
    case!(PrimaryAllowed, PRIMARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.off(Field::PRIMARY_PROCESSOR_BASED_CONTROLS, 1u64 << 26);
    }),
    case!(SecondaryAllowed, SECONDARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.on(Field::SECONDARY_PROCESSOR_BASED_CONTROLS, 1u64 << 29);
    }),
    case!(TertiaryAllowed, TERTIARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.tertiary(TertiaryControls::from_bits_retain(1 << 63));
    }),
    case!(
        Cr3TargetCount,
        CR3_TARGET_COUNT,
        |s| s.set(Field::CR3_TARGET_COUNT, 4),
        |s| {
            s.set(Field::CR3_TARGET_COUNT, 5);
        }
    ),
    case!(ControlAddressAligned, IO_BITMAP_A, |s| s
        .on(Field::IO_BITMAP_A, 1u64)),
    case!(ControlAddressWidth, IO_BITMAP_B, |s| s
        .set(Field::IO_BITMAP_B, 1 << 40)),
    case!(ControlAddressAligned, MSR_BITMAPS, |s| s
        .on(Field::MSR_BITMAPS, 0x800u64)),
    case!(
        ControlAddressWidth,
        IO_BITMAP_A,
        |s| s.caps.basic |= 1 << 48,
        |s| s.set(Field::IO_BITMAP_A, 1 << 32)
    ),
    case!(
        ControlAddressAligned,
        VIRTUAL_APIC_ADDRESS,
        |s| s.primary(PrimaryControls::USE_TPR_SHADOW),
        |s| s.set(Field::VIRTUAL_APIC_ADDRESS, 0x10)
    ),
    case!(
        ControlAddressAligned,
        APIC_ACCESS_ADDRESS,
        |s| s.secondary(SecondaryControls::VIRTUALIZE_APIC_ACCESSES),
        |s| s.set(Field::APIC_ACCESS_ADDRESS, 0x10)
    ),
    case!(
        ControlAddressAligned,
        VMREAD_BITMAP_ADDRESS,
        |s| s.secondary(SecondaryControls::VMCS_SHADOWING),
        |s| s.set(Field::VMREAD_BITMAP_ADDRESS, 1)
    ),
    case!(
        ControlAddressWidth,
        VMWRITE_BITMAP_ADDRESS,
        |s| s.secondary(SecondaryControls::VMCS_SHADOWING),
        |s| s.set(Field::VMWRITE_BITMAP_ADDRESS, 1 << 50)
    ),
    case!(
        ControlAddressAligned,
        VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS,
        |s| s.secondary(SecondaryControls::EPT_VIOLATION_VE),
        |s| s.set(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 8)
    ),
    case!(
        ControlAddressAligned,
        HIGH_PASID_DIRECTORY_ADDRESS,
        |s| s.secondary(SecondaryControls::PASID_TRANSLATION),
        |s| s.set(Field::HIGH_PASID_DIRECTORY_ADDRESS, 8)
    ),
    case!(
        ControlAddressAligned,
        PML_ADDRESS,
        |s| s.secondary(SecondaryControls::ENABLE_PML),
        |s| s.set(Field::PML_ADDRESS, 8)
    ),
    case!(
        ControlAddressAligned,
        SUB_PAGE_PERMISSION_TABLE_POINTER,
        |s| s.secondary(SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS),
        |s| s.set(Field::SUB_PAGE_PERMISSION_TABLE_POINTER, 8)
    ),
    case!(
        ControlAddressAligned,
        PID_POINTER_TABLE_ADDRESS,
        ipi_virtualization,
        |s| {
            s.set(Field::PID_POINTER_TABLE_ADDRESS, 4);
        }
    ),
    case!(
        ControlAddressWidth,
        LAST_PID_POINTER_INDEX,
        |s| {
            ipi_virtualization(s);
            s.set(Field::PID_POINTER_TABLE_ADDRESS, (1 << 40) - 8);
        },
        |s| s.set(Field::LAST_PID_POINTER_INDEX, 1)
    ),
    case!(
        TprThreshold,
        TPR_THRESHOLD,
        |s| {
            s.primary(PrimaryControls::USE_TPR_SHADOW);
            s.set(Field::TPR_THRESHOLD, 0xf);
        },
        |s| s.set(Field::TPR_THRESHOLD, 0x10)
    ),
    case!(ApicNeedsTprShadow, PRIMARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.secondary(SecondaryControls::VIRTUALIZE_X2APIC_MODE);
    }),
    case!(
        ApicNeedsTprShadow,
        PRIMARY_PROCESSOR_BASED_CONTROLS,
        ipi_virtualization,
        |s| {
            s.off(
                Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
                PrimaryControls::USE_TPR_SHADOW.bits(),
            );
        }
    ),
    case!(VirtualNmisNeedNmiExiting, PIN_BASED_CONTROLS, |s| s.off(
        Field::PIN_BASED_CONTROLS,
        PinBasedControls::NMI_EXITING.bits()
    )),
    case!(
        NmiWindowNeedsVirtualNmis,
        PRIMARY_PROCESSOR_BASED_CONTROLS,
        |s| s.primary(PrimaryControls::NMI_WINDOW_EXITING),
        |s| s.off(
            Field::PIN_BASED_CONTROLS,
            PinBasedControls::VIRTUAL_NMIS.bits()
        )
    ),
    case!(
        X2apicExcludesApicAccesses,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        |s| {
            s.primary(PrimaryControls::USE_TPR_SHADOW);
            s.secondary(SecondaryControls::VIRTUALIZE_X2APIC_MODE);
        },
        |s| s.secondary(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
    ),
    case!(
        InterruptDeliveryNeedsExiting,
        PIN_BASED_CONTROLS,
        interrupt_delivery,
        |s| {
            s.off(
                Field::PIN_BASED_CONTROLS,
                PinBasedControls::EXTERNAL_INTERRUPT_EXITING.bits(),
            );
        }
    ),
    case!(
        PostedInterruptsNeedDelivery,
        PIN_BASED_CONTROLS,
        posted_interrupts,
        |s| {
            s.off(
                Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
                SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY.bits(),
            );
        }
    ),
    case!(
        PostedInterruptsNeedAcknowledge,
        VM_EXIT_CONTROLS,
        posted_interrupts,
        |s| {
            s.off(
                Field::VM_EXIT_CONTROLS,
                ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT.bits(),
            );
        }
    ),
    case!(
        PostedInterruptVector,
        POSTED_INTERRUPT_NOTIFICATION_VECTOR,
        posted_interrupts,
        |s| s.set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x100)
    ),
    case!(
        ControlAddressAligned,
        POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
        posted_interrupts,
        |s| s.set(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x20)
    ),
    case!(VpidNotZero, VPID, |s| s.set(Field::VPID, 0)),
    case!(EptMemoryType, EPT_POINTER, |s| s
        .on(Field::EPT_POINTER, 1u64)),
    case!(EptMemoryType, EPT_POINTER, |s| s.caps.ept_vpid_cap &=
        !(1 << 14)),
    case!(EptWalkLength, EPT_POINTER, |s| {
        // Five levels, on a processor that has four.
        s.set(Field::EPT_POINTER, 0x4000 | 4 << 3 | 6);
    }),
    case!(
        EptAccessedDirty,
        EPT_POINTER,
        |s| s.on(Field::EPT_POINTER, 1u64 << 6),
        |s| {
            s.caps.ept_vpid_cap &= !(1 << 21);
        }
    ),
    case!(EptShadowStack, EPT_POINTER, |s| s
        .on(Field::EPT_POINTER, 1u64 << 7)),
    case!(EptReserved, EPT_POINTER, |s| s
        .on(Field::EPT_POINTER, 1u64 << 8)),
    case!(EptReserved, EPT_POINTER, |s| s
        .on(Field::EPT_POINTER, 1u64 << 40)),
    case!(NeedsEpt, SECONDARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.off(
            Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
            SecondaryControls::ENABLE_EPT.bits(),
        );
    }),
    case!(
        NeedsEpt,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        Scene::without_ept,
        |s| {
            s.secondary(SecondaryControls::ENABLE_PML);
        }
    ),
    case!(
        NeedsEpt,
        TERTIARY_PROCESSOR_BASED_CONTROLS,
        Scene::without_ept,
        |s| {
            s.tertiary(TertiaryControls::EPT_PAGING_WRITE_CONTROL);
        }
    ),
    case!(
        NeedsEpt,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        |s| {
            s.without_ept();
            s.secondary(SecondaryControls::ENABLE_VM_FUNCTIONS);
        },
        |s| s.set(Field::VM_FUNCTION_CONTROLS, 1)
    ),
    case!(
        VmFunctionsAllowed,
        VM_FUNCTION_CONTROLS,
        |s| s.secondary(SecondaryControls::ENABLE_VM_FUNCTIONS),
        |s| s.set(Field::VM_FUNCTION_CONTROLS, 2)
    ),
    case!(
        ControlAddressAligned,
        EPTP_LIST_ADDRESS,
        |s| {
            s.secondary(SecondaryControls::ENABLE_VM_FUNCTIONS);
            s.set(Field::VM_FUNCTION_CONTROLS, 1);
        },
        |s| s.set(Field::EPTP_LIST_ADDRESS, 1)
    ),
    case!(
        PtNeedsRtitControls,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        |s| {
            s.secondary(SecondaryControls::PT_USES_GUEST_PHYSICAL_ADDRESSES);
            s.entry(EntryControls::LOAD_IA32_RTIT_CTL);
            s.exit(ExitControls::CLEAR_IA32_RTIT_CTL);
        },
        |s| s.off(
            Field::VM_EXIT_CONTROLS,
            ExitControls::CLEAR_IA32_RTIT_CTL.bits()
        )
    ),
    case!(
        TscMultiplierNotZero,
        TSC_MULTIPLIER,
        |s| s.secondary(SecondaryControls::USE_TSC_SCALING),
        |s| s.set(Field::TSC_MULTIPLIER, 0)
    ),
    case!(
        HlatReserved,
        HLAT_POINTER,
        |s| {
            s.tertiary(TertiaryControls::ENABLE_HLAT);
            s.set(Field::HLAT_POINTER, 0x5018);
        },
        |s| s.on(Field::HLAT_POINTER, 1u64)
    ),
    case!(ApicNeedsTprShadow, PRIMARY_PROCESSOR_BASED_CONTROLS, |s| {
        s.secondary(SecondaryControls::APIC_REGISTER_VIRTUALIZATION);
    }),
    case!(
        ApicNeedsTprShadow,
        PRIMARY_PROCESSOR_BASED_CONTROLS,
        interrupt_delivery,
        |s| s.off(
            Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
            PrimaryControls::USE_TPR_SHADOW.bits()
        )
    ),
    case!(
        NeedsEpt,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        |s| {
            s.without_ept();
            s.entry(EntryControls::LOAD_IA32_RTIT_CTL);
            s.exit(ExitControls::CLEAR_IA32_RTIT_CTL);
        },
        |s| s.secondary(SecondaryControls::PT_USES_GUEST_PHYSICAL_ADDRESSES)
    ),
    case!(
        NeedsEpt,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        Scene::without_ept,
        |s| {
            s.secondary(SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS);
        }
    ),
    case!(
        NeedsEpt,
        SECONDARY_PROCESSOR_BASED_CONTROLS,
        Scene::without_ept,
        |s| {
            s.secondary(SecondaryControls::MODE_BASED_EXECUTE_CONTROL);
        }
    ),
    case!(EptWalkLength, EPT_POINTER, |s| {
        // Three levels, which no processor has.
        s.set(Field::EPT_POINTER, 0x4000 | 2 << 3 | 6);
    }),
    case!(
        PostedInterruptVector,
        POSTED_INTERRUPT_NOTIFICATION_VECTOR,
        |s| {
            posted_interrupts(s);
            s.set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xff);
        },
        |s| s.set(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x8000)
    ),
    // VM-exit control fields.
    case!(ExitAllowed, VM_EXIT_CONTROLS, |s| s
        .off(Field::VM_EXIT_CONTROLS, 1u64)),
    case!(ExitAllowed, VM_EXIT_CONTROLS, |s| {
        let save_pat = u64::from(ExitControls::SAVE_IA32_PAT.bits());
        s.caps.exit_ctls &= !(save_pat << 32);
    }),
    case!(
        SecondaryExitAllowed,
        SECONDARY_VM_EXIT_CONTROLS,
        |s| s.exit(ExitControls::ACTIVATE_SECONDARY_CONTROLS),
        |s| s.set(Field::SECONDARY_VM_EXIT_CONTROLS, 1 << 20)
    ),
    case!(SaveTimerNeedsTimer, VM_EXIT_CONTROLS, |s| {
        s.exit(ExitControls::SAVE_VMX_PREEMPTION_TIMER_VALUE);
    }),
    case!(
        ExitMsrAreaAligned,
        VM_EXIT_MSR_STORE_ADDRESS,
        |s| s.set(Field::VM_EXIT_MSR_STORE_COUNT, 1),
        |s| s.set(Field::VM_EXIT_MSR_STORE_ADDRESS, 8)
    ),
    case!(
        ExitMsrAreaWidth,
        VM_EXIT_MSR_LOAD_ADDRESS,
        |s| {
            s.set(Field::VM_EXIT_MSR_LOAD_ADDRESS, (1 << 40) - 16);
            s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
        },
        |s| s.set(Field::VM_EXIT_MSR_LOAD_COUNT, 2)
    ),
    // VM-entry control fields.
    case!(EntryAllowed, VM_ENTRY_CONTROLS, |s| s
        .off(Field::VM_ENTRY_CONTROLS, 1u64)),
    case!(EntryAllowed, VM_ENTRY_CONTROLS, |s| s
        .on(Field::VM_ENTRY_CONTROLS, 1u64 << 31)),
    case!(EntryOutsideSmm, VM_ENTRY_CONTROLS, |s| s
        .entry(EntryControls::ENTRY_TO_SMM)),
    case!(
        EntryMsrAreaAligned,
        VM_ENTRY_MSR_LOAD_ADDRESS,
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, 4)
    ),
    case!(
        EntryMsrAreaWidth,
        VM_ENTRY_MSR_LOAD_ADDRESS,
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, 1 << 40)
    ),
    case!(
        EntryMsrAreaWidth,
        VM_ENTRY_MSR_LOAD_ADDRESS,
        |s| s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
        // The end of the area wraps around.
        |s| {
            s.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 2);
            s.set(Field::VM_ENTRY_MSR_LOAD_ADDRESS, !0xf);
        }
    ),
    // Event injection.
    case!(InjectedType, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0120)),
    case!(
        InjectedType,
        VM_ENTRY_INTERRUPTION_INFO,
        |s| s.inject(0x8000_0700),
        |s| {
            let mtf = u64::from(PrimaryControls::MONITOR_TRAP_FLAG.bits());
            s.caps.procbased_ctls &= !(mtf << 32);
        }
    ),
    case!(InjectedVector, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0203)),
    case!(InjectedVector, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0320)),
    case!(InjectedVector, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0701)),
    case!(
        InjectedVector,
        VM_ENTRY_INTERRUPTION_INFO,
        |s| {
            // FRED's SYSENTER.
            s.caps.cr4_fixed1 |= 1 << 32;
            s.on(Field::GUEST_CR4, 1u64 << 32);
            s.inject(0x8000_0702);
        },
        |s| s.off(Field::GUEST_CR4, 1u64 << 32)
    ),
    case!(ErrorCodeType, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0a02)),
    case!(
        ErrorCodeRealMode,
        VM_ENTRY_INTERRUPTION_INFO,
        |s| {
            s.real_mode();
            s.inject(0x8000_030d);
        },
        |s| s.inject(0x8000_0b0d)
    ),
    case!(
        ErrorCodeVector,
        VM_ENTRY_INTERRUPTION_INFO,
        page_fault,
        |s| s.inject(0x8000_030e)
    ),
    case!(ErrorCodeVector, VM_ENTRY_INTERRUPTION_INFO, |s| s
        .inject(0x8000_0b06)),
    case!(
        InjectedReserved,
        VM_ENTRY_INTERRUPTION_INFO,
        page_fault,
        |s| {
            s.inject(0x8000_1b0e);
        }
    ),
    case!(
        InjectedReserved,
        VM_ENTRY_INTERRUPTION_INFO,
        |s| {
            s.caps.basic |= 1 << 58;
            s.inject(0x8000_2b0e);
        },
        |s| s.caps.basic &= !(1 << 58)
    ),
    case!(
        ErrorCodeReserved,
        VM_ENTRY_EXCEPTION_ERROR_CODE,
        page_fault,
        |s| {
            s.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 1 << 16);
        }
    ),
    case!(
        InjectedLength,
        VM_ENTRY_INSTRUCTION_LENGTH,
        software_interrupt,
        |s| {
            s.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 16);
        }
    ),
    case!(
        InjectedLength,
        VM_ENTRY_INSTRUCTION_LENGTH,
        |s| {
            s.caps.misc |= 1 << 30;
            s.inject(0x8000_0603);
        },
        |s| s.caps.misc &= !(1 << 30)
    ),
];

#[test]
fn a_processor_with_free_error_codes_takes_either() {
    let mut scene = Scene::well_formed();
    scene.caps.basic |= 1 << 56;
    for info in [0x8000_0b06, 0x8000_030e] {
        scene.inject(info);
        assert_eq!(scene.texts(), [""; 0]);
    }
}
