//! RDMSR and WRMSR: which ones exit, and what those that do become.
//!
//! The guest has the machine's MSRs to itself but for the few in `RULES`;
//! those that VM entry and exit switch (EFER, PAT, FS and GS base, SYSENTER,
//! DEBUGCTL) need no exit either. The boot fills the MSR bitmaps from the same
//! table that the exits are decided by.
//!
//! Source: Intel SDM, vol. 4, "Model-Specific Registers"; vol. 3, section 25.6.9,
//! "MSR-Bitmap Address".

/// A decision on RDMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDecision {
    /// Read the processor's MSR; #GP(0) if that faults.
    Native,
    /// Read the processor's MSR, #GP(0) if that faults; clear and set these
    /// bits in what the guest gets.
    Masked {
        /// Bits that the guest sees as 0.
        clear: u64,
        /// Bits that the guest sees as 1.
        set: u64,
    },
    /// #GP(0): to the guest there is no such MSR.
    GeneralProtection,
}

/// A decision on WRMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteDecision {
    /// Write the processor's MSR; #GP(0) if that faults.
    Native,
    /// Write the processor's MSR, #GP(0) if that faults; then read the MTRRs
    /// again and give the EPT the memory types that they ask for.
    NativeThenMemoryTypes,
    /// If [`apic_base_allowed`], write IA32_APIC_BASE, #GP(0) if that faults; else
    /// #GP(0).
    ApicBase,
    /// Do nothing, and go on with the next instruction.
    Ignore,
    /// #GP(0).
    GeneralProtection,
}

/// What is done about the MSRs from `first` to `last`.
struct Rule {
    first: u32,
    last: u32,
    read: ReadDecision,
    write: WriteDecision,
}

/// IA32_APIC_BASE.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// IA32_BIOS_UPDT_TRIG.
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
/// IA32_SMM_MONITOR_CTL.
pub const IA32_SMM_MONITOR_CTL: u32 = 0x9b;

/// IA32_APIC_BASE.EXTD: x2APIC mode.
pub const APIC_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE.EN: the local APIC is on.
pub const APIC_ENABLED: u64 = 1 << 11;

/// IA32_FEATURE_CONTROL.LOCK.
const LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMX in and outside SMX, and the SENTER enables.
const VMX_AND_SENTER: u64 = 0b11 << 1 | 0xff << 8;

/// Every MSR whose accesses exit by choice, in ascending order.
const RULES: [Rule; 20] = [
    // The hypervisor sends its NMIs through the APIC that the guest has set up.
    writes(IA32_APIC_BASE, IA32_APIC_BASE, WriteDecision::ApicBase),
    // There is no VMX to turn on: the guest sees what firmware that keeps it
    // off would leave, and gets the #GP that a locked MSR gives.
    Rule {
        first: IA32_FEATURE_CONTROL,
        last: IA32_FEATURE_CONTROL,
        read: ReadDecision::Masked {
            clear: VMX_AND_SENTER,
            set: LOCK,
        },
        write: WriteDecision::GeneralProtection,
    },
    // The value is a guest-virtual address, which means nothing where the
    // write would be executed; and an update under a running hypervisor can
    // change the features that it has counted on. To the guest it looks like
    // an update that the processor did not take.
    writes(
        IA32_BIOS_UPDT_TRIG,
        IA32_BIOS_UPDT_TRIG,
        WriteDecision::Ignore,
    ),
    // Is there with VMX alone.
    absent(IA32_SMM_MONITOR_CTL, IA32_SMM_MONITOR_CTL),
    // MTRRs: EPT's memory types stand in for them. Variable ranges: as many as
    // the bitmaps can catch; what the processor lacks faults natively.
    writes(0x200, 0x23f, WriteDecision::NativeThenMemoryTypes),
    writes(0x250, 0x250, WriteDecision::NativeThenMemoryTypes),
    writes(0x258, 0x259, WriteDecision::NativeThenMemoryTypes),
    writes(0x268, 0x26f, WriteDecision::NativeThenMemoryTypes),
    writes(0x2ff, 0x2ff, WriteDecision::NativeThenMemoryTypes),
    // IA32_PEBS_ENABLE and, below, IA32_DS_AREA: what the processor writes there goes
    // to linear addresses, the hypervisor's while that runs. CPUID hides them.
    absent(0x3f1, 0x3f1),
    // The VMX capability MSRs, up to IA32_VMX_EXIT_CTLS2.
    absent(0x480, 0x493),
    // Processor trace: CPUID hides it, as it would trace the hypervisor too.
    absent(0x560, 0x561),
    absent(0x570, 0x572),
    absent(0x580, 0x587),
    absent(0x600, 0x600),
    // Architectural LBRs: up to 32 records in three parts, control and depth.
    absent(0x1200, 0x121f),
    absent(0x14ce, 0x14cf),
    absent(0x1500, 0x151f),
    absent(0x1600, 0x161f),
    // IA32_HW_FEEDBACK_PTR and IA32_HW_FEEDBACK_CONFIG: the processor writes its table
    // to a physical address, past EPT.
    absent(0x17d0, 0x17d1),
];

const fn writes(first: u32, last: u32, write: WriteDecision) -> Rule {
    Rule {
        first,
        last,
        read: ReadDecision::Native,
        write,
    }
}

const fn absent(first: u32, last: u32) -> Rule {
    Rule {
        first,
        last,
        read: ReadDecision::GeneralProtection,
        write: WriteDecision::GeneralProtection,
    }
}

fn rule(msr: u32) -> Option<&'static Rule> {
    RULES
        .iter()
        .find(|rule| rule.first <= msr && msr <= rule.last)
}

/// What RDMSR of this MSR, which has exited, becomes.
pub fn read(msr: u32) -> ReadDecision {
    rule(msr).map_or(ReadDecision::Native, |rule| rule.read)
}

/// What WRMSR of this MSR, which has exited, becomes. The value counts for
/// IA32_APIC_BASE alone: the processor itself judges it where it is written.
pub fn write(msr: u32) -> WriteDecision {
    rule(msr).map_or(WriteDecision::Native, |rule| rule.write)
}

/// May the guest change IA32_APIC_BASE from `old` to `new`? The mode, as far as the
/// processor lets it. Not the address: nothing need answer at another, and memory may
/// lie there, the hypervisor's too. Nor which CPU is the bootstrap processor, since an
/// INIT makes the others wait for a SIPI.
pub const fn apic_base_allowed(old: u64, new: u64) -> bool {
    (old ^ new) & !(APIC_ENABLED | APIC_X2APIC) == 0
}

/// Where each bitmap lies in the page, in bytes.
const READ_LOW: usize = 0;
const READ_HIGH: usize = 1024;
const WRITE_LOW: usize = 2048;
const WRITE_HIGH: usize = 3072;

/// Fills the page of MSR bitmaps: a set bit makes an access exit. They speak
/// for the MSRs up to 0x1fff and from 0xc0000000 to 0xc0001fff; accesses to
/// others exit always, and are [`ReadDecision::Native`].
pub fn fill_bitmaps(page: &mut [u8; 4096]) {
    page.fill(0);
    for rule in &RULES {
        for msr in rule.first..=rule.last {
            if rule.read != ReadDecision::Native {
                set(page, msr, READ_LOW, READ_HIGH);
            }
            if rule.write != WriteDecision::Native {
                set(page, msr, WRITE_LOW, WRITE_HIGH);
            }
        }
    }
}

fn set(page: &mut [u8; 4096], msr: u32, low: usize, high: usize) {
    let (bitmap, bit) = match msr {
        0..=0x1fff => (low, msr as usize),
        0xc000_0000..=0xc000_1fff => (high, (msr & 0x1fff) as usize),
        // No bitmap speaks for it: it exits by itself.
        _ => return,
    };
    page[bitmap + bit / 8] |= 1 << (bit % 8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mtrr::{FIXED_MTRR_MSRS, IA32_MTRR_DEF_TYPE, MAX_VARIABLE};

    fn exits(page: &[u8; 4096], bitmap: usize, msr: u32) -> bool {
        let bit = (msr & 0x1fff) as usize;
        page[bitmap + bit / 8] & 1 << (bit % 8) != 0
    }

    fn bitmaps() -> [u8; 4096] {
        let mut page = [0xff; 4096];
        fill_bitmaps(&mut page);
        page
    }

    #[test]
    fn what_exits_is_what_has_a_rule() {
        let page = bitmaps();
        for msr in 0..0x2000 {
            assert_eq!(
                exits(&page, READ_LOW, msr),
                read(msr) != ReadDecision::Native,
                "{msr:#x}"
            );
            assert_eq!(
                exits(&page, WRITE_LOW, msr),
                write(msr) != WriteDecision::Native,
                "{msr:#x}"
            );
            let high = 0xc000_0000 + msr;
            assert!(!exits(&page, READ_HIGH, high) && !exits(&page, WRITE_HIGH, high));
        }
    }

    #[test]
    fn what_is_decided() {
        use WriteDecision::*;
        let gp = ReadDecision::GeneralProtection;
        let native = ReadDecision::Native;
        for (msr, on_read, on_write) in [
            (0x10, native, Native),
            (0x1b, native, ApicBase),
            (0x79, native, Ignore),
            (0x9b, gp, GeneralProtection),
            (0xfe, native, Native),
            (0x1ff, native, Native),
            (0x200, native, NativeThenMemoryTypes),
            (0x213, native, NativeThenMemoryTypes),
            (0x250, native, NativeThenMemoryTypes),
            (0x251, native, Native),
            (0x258, native, NativeThenMemoryTypes),
            (0x259, native, NativeThenMemoryTypes),
            (0x268, native, NativeThenMemoryTypes),
            (0x26f, native, NativeThenMemoryTypes),
            (0x277, native, Native),
            (0x2ff, native, NativeThenMemoryTypes),
            (0x3f0, native, Native),
            (0x3f1, gp, GeneralProtection),
            (0x3f2, native, Native),
            (0x47f, native, Native),
            (0x480, gp, GeneralProtection),
            (0x48b, gp, GeneralProtection),
            (0x493, gp, GeneralProtection),
            (0x55f, native, Native),
            (0x560, gp, GeneralProtection),
            (0x561, gp, GeneralProtection),
            (0x562, native, Native),
            (0x570, gp, GeneralProtection),
            (0x572, gp, GeneralProtection),
            (0x573, native, Native),
            (0x580, gp, GeneralProtection),
            (0x587, gp, GeneralProtection),
            (0x588, native, Native),
            (0x600, gp, GeneralProtection),
            (0x17d0, gp, GeneralProtection),
            (0x17d1, gp, GeneralProtection),
            (0x17d2, native, Native),
            (0xc000_0080, native, Native),
            (0x4000_0000, native, Native),
        ] {
            assert_eq!((read(msr), write(msr)), (on_read, on_write), "{msr:#x}");
        }
    }

    #[test]
    fn the_apic_changes_its_mode_and_nothing_else() {
        let old = 0xfee0_0900;
        for new in [old, 0xfee0_0100, 0xfee0_0d00, 0xfee0_0500] {
            assert!(apic_base_allowed(old, new), "{new:#x}");
        }
        // Not the bootstrap processor; elsewhere; a reserved bit.
        for new in [0xfee0_0800, 0xfec0_0900, 0xf_fee0_0900, 0xfee0_0901] {
            assert!(!apic_base_allowed(old, new), "{new:#x}");
        }
    }

    #[test]
    fn every_mtrr_is_watched_and_nothing_else() {
        for msr in 0..0x2000 {
            let variable = (0x200..0x200 + 2 * MAX_VARIABLE as u32).contains(&msr);
            let mtrr = variable || msr == IA32_MTRR_DEF_TYPE || FIXED_MTRR_MSRS.contains(&msr);
            let watched = write(msr) == WriteDecision::NativeThenMemoryTypes;
            assert_eq!(watched, mtrr, "{msr:#x}");
        }
        assert!(FIXED_MTRR_MSRS.is_sorted());
    }

    #[test]
    fn feature_control_reads_as_locked_without_vmx() {
        let ReadDecision::Masked { clear, set } = read(IA32_FEATURE_CONTROL) else {
            panic!()
        };
        // Locked or not, with VMX, SMX, SGX and LMCE on.
        for native in [0x16_ff07, 0x16_ff06] {
            assert_eq!(native & !clear | set, 0x16_0001);
        }
        assert_eq!(
            write(IA32_FEATURE_CONTROL),
            WriteDecision::GeneralProtection
        );
    }

    #[test]
    fn bitmaps_speak_for_two_ranges() {
        let mut page = [0; 4096];
        for msr in [0x2000, 0xbfff_ffff, 0xc000_2000] {
            set(&mut page, msr, READ_LOW, READ_HIGH);
        }
        assert_eq!(page, [0; 4096]);
        set(&mut page, 0x1fff, READ_LOW, READ_HIGH);
        set(&mut page, 0xc000_1fff, WRITE_LOW, WRITE_HIGH);
        assert_eq!((page[1023], page[4095]), (0x80, 0x80));
    }

    #[test]
    fn rules_are_in_order_and_apart() {
        assert!(RULES.iter().all(|rule| rule.first <= rule.last));
        assert!(RULES.windows(2).all(|pair| pair[0].last < pair[1].first));
    }
}
