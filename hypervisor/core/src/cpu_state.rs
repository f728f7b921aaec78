//! CPU start-up: INIT, SIPI, reset, and the state in which the boot sector starts.
//!
//! The exits for INIT, SIPI and triple faults ask [`on_signal`] what to do.
//! The states themselves are lists of VMCS fields, so that the hypervisor
//! writes what it is given and tests can read it.

use crate::control_regs::{CR0_CD, CR0_ET, CR0_NW, FixedBits};
use crate::registers::{Gpr, Gprs};
use vmcs_inspect::{ActivityState, EntryControls, Field};

/// What reached a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// INIT (exit reason 3).
    Init,
    /// SIPI with this vector (exit reason 4).
    Sipi(u8),
    /// Triple fault (exit reason 2).
    TripleFault,
}

/// Where a CPU is in its start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartState {
    /// It waits for a SIPI.
    WaitForSipi,
    /// A SIPI has started it, and it has not executed an instruction yet.
    Started,
    /// It runs the guest's code.
    Running,
}

/// What is to be done about a [`Signal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAction {
    /// Load [`after_init`]; the CPU then waits for a SIPI.
    Park,
    /// Load [`sipi_fields`] for this vector; the CPU then runs.
    Start(u8),
    /// Reset the whole machine.
    ResetMachine,
    /// Nothing comes of it.
    Ignore,
}

/// What a signal does to a CPU. `bsp` is IA32_APIC_BASE.BSP.
///
/// An INIT that reaches the BSP is how old firmware resets a machine, and a
/// triple fault makes the chipset do it; both become a reset of the machine.
///
/// Source: Intel SDM, vol. 3, section 9.4.2, "MP Initialization Protocol
/// Requirements and Restrictions", and section 26.2, "Other Causes of VM Exits".
pub const fn on_signal(state: StartState, bsp: bool, signal: Signal) -> StartAction {
    match (signal, state) {
        (Signal::TripleFault, _) => StartAction::ResetMachine,
        (Signal::Init, _) if bsp => StartAction::ResetMachine,
        // INIT is blocked while a CPU waits for a SIPI; where it stays pending, it
        // comes out here. It is the one that was sent before the SIPI: what it asked
        // for has been done. The next one counts.
        (Signal::Init, StartState::Started) => StartAction::Ignore,
        (Signal::Init, _) => StartAction::Park,
        (Signal::Sipi(vector), StartState::WaitForSipi) => StartAction::Start(vector),
        // The usual second SIPI.
        (Signal::Sipi(_), StartState::Started | StartState::Running) => StartAction::Ignore,
    }
}

/// How many fields a [`GuestReset`] has.
pub const RESET_FIELDS: usize = 53;

/// A guest state to load: VMCS fields, and the registers that the VMCS doesn't
/// hold. DR0 to DR3 are 0 in each such state. What isn't named (x87, SSE and
/// AVX state, XCR0, MSRs that VM entry doesn't load) stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestReset {
    /// Fields, with the values.
    pub fields: [(Field, u64); RESET_FIELDS],
    /// General-purpose registers; RSP is among the fields too.
    pub gprs: Gprs,
    /// CR2.
    pub cr2: u64,
    /// DR6.
    pub dr6: u64,
}

impl GuestReset {
    /// The value of a field, if it is among those that are loaded.
    pub fn field(&self, field: Field) -> Option<u64> {
        let found = self
            .fields
            .iter()
            .find(|(candidate, _)| *candidate == field);
        found.map(|&(_, value)| value)
    }
}

/// What the states depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetInput {
    /// What the CPU demands of CR0 and CR4.
    pub fixed: FixedBits,
    /// CPUID.1:EAX, which EDX holds after INIT.
    pub signature: u32,
    /// The guest's CR0 before; INIT leaves CD and NW as they are.
    pub cr0: u64,
    /// The VM-entry controls; "IA-32e mode guest" is taken out.
    pub entry_controls: EntryControls,
}

/// DR6 after reset and INIT.
const DR6_AFTER_INIT: u64 = 0xffff_0ff0;
/// DR7 after reset and INIT.
const DR7_AFTER_INIT: u64 = 0x400;
/// RFLAGS with nothing set but bit 1, which always is.
const RFLAGS_CLEAR: u64 = 0x2;
const RFLAGS_IF: u64 = 1 << 9;

/// Access rights, as the VMCS holds them.
const READ_WRITE_ACCESSED: u64 = 0x93;
const LDT: u64 = 0x82;
const BUSY_TSS: u64 = 0x8b;

/// Where firmware loads a boot sector.
const BOOT_SECTOR: u64 = 0x7c00;

/// What of a state differs from one to the next.
struct Start {
    cs_selector: u64,
    cs_base: u64,
    rip: u64,
    rsp: u64,
    rflags: u64,
    idt_limit: u64,
    activity: ActivityState,
}

/// The state after INIT, waiting for a SIPI.
///
/// Source: Intel SDM, vol. 3, section 10.1, table 10-1, "IA-32 and Intel 64 Processor
/// States Following Power-up, Reset, or INIT".
pub const fn after_init(input: &ResetInput) -> GuestReset {
    let mut gprs = [0; 16];
    gprs[Gpr::Rdx as usize] = input.signature as u64;
    GuestReset {
        fields: fields(
            input,
            &Start {
                cs_selector: 0xf000,
                cs_base: 0xffff_0000,
                rip: 0xfff0,
                rsp: 0,
                rflags: RFLAGS_CLEAR,
                idt_limit: 0xffff,
                activity: ActivityState::WaitForSipi,
            },
        ),
        gprs: Gprs::new(gprs),
        cr2: 0,
        dr6: DR6_AFTER_INIT,
    }
}

/// The state in which firmware leaves the BSP at a boot sector: real mode,
/// 0000:7C00, interrupts on through the firmware's vectors, DL = the drive.
pub const fn at_boot_sector(input: &ResetInput, boot_drive: u8) -> GuestReset {
    let mut gprs = [0; 16];
    gprs[Gpr::Rdx as usize] = boot_drive as u64;
    gprs[Gpr::Rsp as usize] = BOOT_SECTOR;
    GuestReset {
        fields: fields(
            input,
            &Start {
                cs_selector: 0,
                cs_base: 0,
                rip: BOOT_SECTOR,
                // Below the sector: it is still there when the sector sets no
                // stack of its own.
                rsp: BOOT_SECTOR,
                rflags: RFLAGS_CLEAR | RFLAGS_IF,
                idt_limit: 0x3ff,
                activity: ActivityState::Active,
            },
        ),
        gprs: Gprs::new(gprs),
        cr2: 0,
        dr6: DR6_AFTER_INIT,
    }
}

/// What a SIPI changes in the state [`after_init`].
pub const fn sipi_fields(vector: u8) -> [(Field, u64); 4] {
    [
        (Field::GUEST_CS_SELECTOR, (vector as u64) << 8),
        (Field::GUEST_CS_BASE, (vector as u64) << 12),
        (Field::GUEST_RIP, 0),
        (
            Field::GUEST_ACTIVITY_STATE,
            ActivityState::Active.raw() as u64,
        ),
    ]
}

/// Guest-state fields that INIT leaves alone: to be written once, before the
/// CPU's first VM entry. `pat` is IA32_PAT as firmware left it.
pub const fn first_fields(pat: u64) -> [(Field, u64); 6] {
    [
        (Field::GUEST_IA32_PAT, pat),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_IA32_SYSENTER_CS, 0),
        (Field::GUEST_IA32_SYSENTER_ESP, 0),
        (Field::GUEST_IA32_SYSENTER_EIP, 0),
        // No VMCS is linked (Intel SDM, vol. 3, section 25.4.2).
        (Field::VMCS_LINK_POINTER, u64::MAX),
    ]
}

const fn fields(input: &ResetInput, start: &Start) -> [(Field, u64); RESET_FIELDS] {
    let cr0 = input.fixed.cr0(input.cr0 & (CR0_CD | CR0_NW) | CR0_ET);
    let cr4 = input.fixed.cr4(0);
    let entry_controls = input
        .entry_controls
        .difference(EntryControls::IA_32E_MODE_GUEST);
    [
        (Field::GUEST_CS_SELECTOR, start.cs_selector),
        (Field::GUEST_CS_BASE, start.cs_base),
        (Field::GUEST_CS_LIMIT, 0xffff),
        (Field::GUEST_CS_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_SS_SELECTOR, 0),
        (Field::GUEST_SS_BASE, 0),
        (Field::GUEST_SS_LIMIT, 0xffff),
        (Field::GUEST_SS_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_DS_SELECTOR, 0),
        (Field::GUEST_DS_BASE, 0),
        (Field::GUEST_DS_LIMIT, 0xffff),
        (Field::GUEST_DS_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_ES_SELECTOR, 0),
        (Field::GUEST_ES_BASE, 0),
        (Field::GUEST_ES_LIMIT, 0xffff),
        (Field::GUEST_ES_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_FS_SELECTOR, 0),
        (Field::GUEST_FS_BASE, 0),
        (Field::GUEST_FS_LIMIT, 0xffff),
        (Field::GUEST_FS_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_GS_SELECTOR, 0),
        (Field::GUEST_GS_BASE, 0),
        (Field::GUEST_GS_LIMIT, 0xffff),
        (Field::GUEST_GS_ACCESS_RIGHTS, READ_WRITE_ACCESSED),
        (Field::GUEST_LDTR_SELECTOR, 0),
        (Field::GUEST_LDTR_BASE, 0),
        (Field::GUEST_LDTR_LIMIT, 0xffff),
        (Field::GUEST_LDTR_ACCESS_RIGHTS, LDT),
        (Field::GUEST_TR_SELECTOR, 0),
        (Field::GUEST_TR_BASE, 0),
        (Field::GUEST_TR_LIMIT, 0xffff),
        (Field::GUEST_TR_ACCESS_RIGHTS, BUSY_TSS),
        (Field::GUEST_GDTR_BASE, 0),
        (Field::GUEST_GDTR_LIMIT, 0xffff),
        (Field::GUEST_IDTR_BASE, 0),
        (Field::GUEST_IDTR_LIMIT, start.idt_limit),
        (Field::GUEST_CR0, cr0.real),
        (Field::CR0_READ_SHADOW, cr0.shadow),
        (Field::CR0_GUEST_HOST_MASK, cr0.mask),
        (Field::GUEST_CR3, 0),
        (Field::GUEST_CR4, cr4.real),
        (Field::CR4_READ_SHADOW, cr4.shadow),
        (Field::CR4_GUEST_HOST_MASK, cr4.mask),
        (Field::GUEST_DR7, DR7_AFTER_INIT),
        (Field::GUEST_RSP, start.rsp),
        (Field::GUEST_RIP, start.rip),
        (Field::GUEST_RFLAGS, start.rflags),
        (Field::GUEST_IA32_EFER, 0),
        // With EFER.LMA 0 the entry controls must agree.
        (Field::VM_ENTRY_CONTROLS, entry_controls.bits() as u64),
        (Field::GUEST_INTERRUPTIBILITY, 0),
        (Field::GUEST_ACTIVITY_STATE, start.activity.raw() as u64),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        // Nothing that was due before goes in after.
        (Field::VM_ENTRY_INTERRUPTION_INFO, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: ResetInput = ResetInput {
        fixed: FixedBits {
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1: 0x0037_67ff,
        },
        signature: 0x306d4,
        cr0: 0xe005_0033,
        entry_controls: EntryControls::IA_32E_MODE_GUEST
            .union(EntryControls::LOAD_IA32_EFER)
            .union(EntryControls::LOAD_DEBUG_CONTROLS),
    };

    #[test]
    fn signals() {
        use StartAction::*;
        use StartState::*;
        for (state, bsp, signal, expected) in [
            (Running, false, Signal::Init, Park),
            (WaitForSipi, false, Signal::Init, Park),
            (Started, false, Signal::Init, Ignore),
            (Started, false, Signal::Sipi(0x9a), Ignore),
            (Started, true, Signal::TripleFault, ResetMachine),
            (Running, true, Signal::Init, ResetMachine),
            (WaitForSipi, false, Signal::Sipi(0x9a), Start(0x9a)),
            (Running, false, Signal::Sipi(0x9a), Ignore),
            (Running, true, Signal::Sipi(0x9a), Ignore),
            (Running, false, Signal::TripleFault, ResetMachine),
            (Running, true, Signal::TripleFault, ResetMachine),
        ] {
            assert_eq!(
                on_signal(state, bsp, signal),
                expected,
                "{state:?} {bsp} {signal:?}"
            );
        }
    }

    #[test]
    fn after_init_is_the_sdms_table() {
        let state = after_init(&INPUT);
        let field = |field| state.field(field).unwrap();
        assert_eq!(field(Field::GUEST_CS_SELECTOR), 0xf000);
        assert_eq!(field(Field::GUEST_CS_BASE), 0xffff_0000);
        assert_eq!(field(Field::GUEST_RIP), 0xfff0);
        assert_eq!(field(Field::GUEST_RFLAGS), 2);
        assert_eq!(field(Field::GUEST_DR7), 0x400);
        assert_eq!(field(Field::GUEST_IDTR_LIMIT), 0xffff);
        assert_eq!(field(Field::GUEST_IA32_EFER), 0);
        assert_eq!(field(Field::GUEST_ACTIVITY_STATE), 3);
        // CD and NW stay; the guest reads them and ET, and nothing else.
        assert_eq!(field(Field::CR0_READ_SHADOW), 0x6000_0010);
        assert_eq!(field(Field::GUEST_CR0), 0x6000_0030);
        assert_eq!(field(Field::GUEST_CR4), 0x2000);
        assert_eq!(field(Field::CR4_READ_SHADOW), 0);
        assert_eq!(field(Field::VM_ENTRY_CONTROLS), 1 << 15 | 1 << 2);
        assert_eq!(state.gprs[Gpr::Rdx], 0x306d4);
        assert_eq!(state.gprs.values().iter().sum::<u64>(), 0x306d4);
        assert_eq!(state.dr6, 0xffff_0ff0);
    }

    #[test]
    fn every_segment_is_a_real_mode_one() {
        for state in [after_init(&INPUT), at_boot_sector(&INPUT, 0x80)] {
            let field = |field| state.field(field).unwrap();
            for [selector, base, limit, rights] in [
                [
                    Field::GUEST_SS_SELECTOR,
                    Field::GUEST_SS_BASE,
                    Field::GUEST_SS_LIMIT,
                    Field::GUEST_SS_ACCESS_RIGHTS,
                ],
                [
                    Field::GUEST_DS_SELECTOR,
                    Field::GUEST_DS_BASE,
                    Field::GUEST_DS_LIMIT,
                    Field::GUEST_DS_ACCESS_RIGHTS,
                ],
                [
                    Field::GUEST_ES_SELECTOR,
                    Field::GUEST_ES_BASE,
                    Field::GUEST_ES_LIMIT,
                    Field::GUEST_ES_ACCESS_RIGHTS,
                ],
                [
                    Field::GUEST_FS_SELECTOR,
                    Field::GUEST_FS_BASE,
                    Field::GUEST_FS_LIMIT,
                    Field::GUEST_FS_ACCESS_RIGHTS,
                ],
                [
                    Field::GUEST_GS_SELECTOR,
                    Field::GUEST_GS_BASE,
                    Field::GUEST_GS_LIMIT,
                    Field::GUEST_GS_ACCESS_RIGHTS,
                ],
            ] {
                let segment = [selector, base, limit, rights].map(field);
                assert_eq!(segment, [0, 0, 0xffff, 0x93]);
            }
            assert_eq!(field(Field::GUEST_CS_LIMIT), 0xffff);
            assert_eq!(field(Field::GUEST_CS_ACCESS_RIGHTS), 0x93);
            assert_eq!(field(Field::GUEST_LDTR_LIMIT), 0xffff);
            assert_eq!(field(Field::GUEST_LDTR_ACCESS_RIGHTS), 0x82);
            assert_eq!(field(Field::GUEST_TR_LIMIT), 0xffff);
            assert_eq!(field(Field::GUEST_TR_ACCESS_RIGHTS), 0x8b);
            assert_eq!(field(Field::GUEST_GDTR_LIMIT), 0xffff);
        }
    }

    #[test]
    fn a_sipi_starts_at_its_page() {
        let fields = sipi_fields(0x9a);
        assert_eq!(fields[0], (Field::GUEST_CS_SELECTOR, 0x9a00));
        assert_eq!(fields[1], (Field::GUEST_CS_BASE, 0x9_a000));
        assert_eq!(fields[2], (Field::GUEST_RIP, 0));
        assert_eq!(fields[3], (Field::GUEST_ACTIVITY_STATE, 0));
        let state = after_init(&INPUT);
        assert!(
            fields
                .iter()
                .all(|&(field, _)| state.field(field).is_some())
        );
    }

    #[test]
    fn the_boot_sector_starts_as_firmware_starts_it() {
        let state = at_boot_sector(&ResetInput { cr0: 0, ..INPUT }, 0x81);
        let field = |field| state.field(field).unwrap();
        assert_eq!(
            (field(Field::GUEST_CS_SELECTOR), field(Field::GUEST_CS_BASE)),
            (0, 0)
        );
        assert_eq!(field(Field::GUEST_RIP), 0x7c00);
        assert_eq!(state.gprs[Gpr::Rdx], 0x81);
        assert_eq!(field(Field::GUEST_ACTIVITY_STATE), 0);
        assert_eq!(field(Field::GUEST_RFLAGS), 0x202);
        assert_eq!(field(Field::GUEST_IDTR_LIMIT), 0x3ff);
        assert_eq!(field(Field::CR0_READ_SHADOW), 0x10);
        assert_eq!(field(Field::GUEST_RSP), state.gprs[Gpr::Rsp]);
    }

    #[test]
    fn no_field_is_written_twice() {
        let first = first_fields(0);
        let state = at_boot_sector(&INPUT, 0x80);
        let mut all = state
            .fields
            .iter()
            .chain(&first)
            .map(|(field, _)| field.encoding());
        while let Some(field) = all.next() {
            assert!(all.clone().all(|other| other != field), "{field:#x}");
        }
    }
}
