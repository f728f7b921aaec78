//! Events: what the next VM entry injects.
//!
//! After an exit, the exit path asks [`reinjection`] whether the exit broke
//! off the delivery of an event, [`nmi_unblocked_by_iret`] whether blocking by
//! NMI is to be set again, and [`merge`] what comes of an exception of its own.
//! Last before entry, [`owed_nmi`] says whether an NMI that the guest is owed
//! goes in.
//!
//! Sources: Intel SDM, vol. 3, section 25.8.3, "VM-Entry Controls for Event
//! Injection"; section 27.6, "Event Injection"; section 28.2, "Recording VM-Exit
//! Information and Updating VM-Entry Control Fields".

mod nmi;

pub use nmi::{NmiAction, NmiState, owed_nmi};

use crate::control_regs::CR0_PE;
use vmcs_inspect::{InterruptionInfo, InterruptionType};

/// An event in the form of the three VM-entry fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// VM-entry interruption information; the valid bit is set.
    pub info: InterruptionInfo,
    /// VM-entry exception error code; to be written if `info` says that there
    /// is one.
    pub error_code: u32,
    /// VM-entry instruction length; to be written for software interrupts and
    /// exceptions.
    pub instruction_length: u32,
}

/// #DB.
pub const DEBUG: u8 = 1;
/// #BP.
pub const BREAKPOINT: u8 = 3;
/// #UD.
pub const INVALID_OPCODE: u8 = 6;
/// #DF.
pub const DOUBLE_FAULT: u8 = 8;
/// #TS.
pub const INVALID_TSS: u8 = 10;
/// #NP.
pub const SEGMENT_NOT_PRESENT: u8 = 11;
/// #SS.
pub const STACK_FAULT: u8 = 12;
/// #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF.
pub const PAGE_FAULT: u8 = 14;

impl Event {
    /// A hardware exception: any but #BP, #OF and the #DB of INT1.
    ///
    /// In real mode no exception has an error code: see [`Event::in_mode`].
    pub const fn exception(vector: u8, error_code: Option<u32>) -> Self {
        Self {
            info: InterruptionInfo::hardware_exception(vector, error_code.is_some()),
            error_code: match error_code {
                Some(code) => code,
                None => 0,
            },
            instruction_length: 0,
        }
    }

    /// #UD.
    pub const fn invalid_opcode() -> Self {
        Self::exception(INVALID_OPCODE, None)
    }

    /// #GP(0).
    pub const fn general_protection() -> Self {
        Self::exception(GENERAL_PROTECTION, Some(0))
    }

    /// An NMI.
    pub const fn nmi() -> Self {
        Self::of(InterruptionInfo::NMI, 0)
    }

    /// An external interrupt.
    pub const fn external_interrupt(vector: u8) -> Self {
        Self::of(InterruptionInfo::external_interrupt(vector), 0)
    }

    /// INT3 (#BP) or INTO (#OF), the instruction being `length` bytes long.
    pub const fn software_exception(vector: u8, length: u32) -> Self {
        let kind = InterruptionType::SoftwareException;
        Self::of(InterruptionInfo::event(kind, vector), length)
    }

    /// INT n, the instruction being `length` bytes long.
    pub const fn software_interrupt(vector: u8, length: u32) -> Self {
        let kind = InterruptionType::SoftwareInterrupt;
        Self::of(InterruptionInfo::event(kind, vector), length)
    }

    /// INT1, the instruction being `length` bytes long.
    pub const fn privileged_software_exception(length: u32) -> Self {
        let kind = InterruptionType::PrivilegedSoftwareException;
        Self::of(InterruptionInfo::event(kind, DEBUG), length)
    }

    /// The exception that a VM exit reports, to be given to the guest after
    /// all: VM-exit interruption information, its error code, and the VM-exit
    /// instruction length.
    pub const fn reflect(info: InterruptionInfo, error_code: u32, instruction_length: u32) -> Self {
        Self {
            info: info.for_entry(),
            error_code,
            instruction_length,
        }
    }

    /// The same event as a guest with this CR0 can take it: in real mode no
    /// exception has an error code, and VM entry refuses one.
    ///
    /// Source: Intel SDM, vol. 3, section 27.2.1.3, "VM-Entry Control Fields".
    pub const fn in_mode(self, cr0: u64) -> Self {
        const ERROR_CODE_VALID: u32 = 1 << 11;
        if cr0 & CR0_PE != 0 {
            return self;
        }
        Self {
            info: InterruptionInfo::from_raw(self.info.raw() & !ERROR_CODE_VALID),
            error_code: 0,
            ..self
        }
    }

    const fn of(info: InterruptionInfo, instruction_length: u32) -> Self {
        Self {
            info,
            error_code: 0,
            instruction_length,
        }
    }
}

/// The event whose delivery a VM exit broke off, to be injected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reinjection {
    /// The event.
    pub event: Event,
    /// It is an NMI, and blocking by NMI, which its delivery had set, is to be
    /// cleared before the entry: injecting an NMI while virtual NMIs are
    /// blocked is a failed VM entry.
    pub clear_nmi_blocking: bool,
}

/// Reads the IDT-vectoring fields; `None` if no event was being delivered.
/// `error_code` and `instruction_length` count only where `info` says so.
///
/// An exit that is itself how the event goes on, a task switch through a task
/// gate or a triple fault, isn't followed by this.
pub const fn reinjection(
    info: InterruptionInfo,
    error_code: u32,
    instruction_length: u32,
) -> Option<Reinjection> {
    if !info.valid() {
        return None;
    }
    Some(Reinjection {
        event: Event::reflect(info, error_code, instruction_length),
        clear_nmi_blocking: info.is_nmi(),
    })
}

/// What comes of two events that met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// This is delivered.
    Deliver(Event),
    /// The CPU shuts down, as after an exit for a triple fault.
    TripleFault,
}

/// Classes of exceptions.
///
/// Source: Intel SDM, vol. 3, section 6.15, "Exception and Interrupt Reference",
/// "Interrupt 8—Double Fault Exception (#DF)", table "Interrupt and Exception Classes".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(info: InterruptionInfo) -> Class {
    match (info.kind(), info.vector()) {
        (InterruptionType::HardwareException, 0 | 10..=13 | 21) => Class::Contributory,
        (InterruptionType::HardwareException, PAGE_FAULT | 20) => Class::PageFault,
        (InterruptionType::HardwareException, DOUBLE_FAULT) => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What is delivered when `exception` comes up while `original`, if any, was
/// being delivered.
///
/// Where the two are handled one after the other, the exception goes first
/// and the original is not kept: a fault comes up again when its
/// instruction is started again, and an interrupt that the processor had
/// acknowledged is lost on a bare processor too. So is an NMI, which blocks others
/// until the next IRET all the same: who finds one as `original` sets blocking by NMI.
///
/// Source: as for the classes, table "Conditions for Generating a Double Fault".
pub const fn merge(original: Option<Event>, exception: Event) -> Merged {
    let Some(original) = original else {
        return Merged::Deliver(exception);
    };
    match (class(original.info), class(exception.info)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => {
            Merged::TripleFault
        }
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Merged::Deliver(Event::exception(DOUBLE_FAULT, Some(0)))
        }
        _ => Merged::Deliver(exception),
    }
}

/// What an exit says about an IRET that faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// An exception, with this VM-exit interruption information.
    Exception(InterruptionInfo),
    /// An EPT violation, an EPT misconfiguration, a full page-modification log
    /// or an SPP event, with this exit qualification.
    EptViolation(u64),
    /// Any other, an NMI among them.
    Other,
}

/// Must blocking by NMI be set again, because the exit came in an IRET that
/// had already cleared it, and that will be executed again?
///
/// `idt_vectoring` is the IDT-vectoring information of the same exit.
///
/// Source: Intel SDM, vol. 3, section 28.2.3, "Information About NMI Unblocking
/// Due to IRET".
pub const fn nmi_unblocked_by_iret(kind: ExitKind, idt_vectoring: InterruptionInfo) -> bool {
    const NMI_UNBLOCKING: u64 = 1 << 12;
    // The bit is not defined with an event under delivery, which an IRET is
    // not, nor for a double fault.
    if idt_vectoring.valid() {
        return false;
    }
    match kind {
        ExitKind::Exception(info) => {
            info.valid()
                && matches!(info.kind(), InterruptionType::HardwareException)
                && info.vector() != DOUBLE_FAULT
                && info.nmi_unblocking_due_to_iret()
        }
        ExitKind::EptViolation(qualification) => qualification & NMI_UNBLOCKING != 0,
        ExitKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: u32 = 1 << 31;

    fn info(raw: u32) -> InterruptionInfo {
        InterruptionInfo::from_raw(raw)
    }

    #[test]
    fn events_have_the_sdms_format() {
        let table = [
            (
                Event::exception(PAGE_FAULT, Some(6)),
                VALID | 1 << 11 | 3 << 8 | 14,
            ),
            (Event::invalid_opcode(), VALID | 3 << 8 | 6),
            (Event::general_protection(), VALID | 1 << 11 | 3 << 8 | 13),
            (Event::nmi(), 0x8000_0202),
            (Event::external_interrupt(0x30), VALID | 0x30),
            (Event::software_exception(BREAKPOINT, 1), VALID | 6 << 8 | 3),
            (Event::software_interrupt(0x80, 2), VALID | 4 << 8 | 0x80),
            (Event::privileged_software_exception(1), VALID | 5 << 8 | 1),
        ];
        for (event, raw) in table {
            assert_eq!(event.info.raw(), raw, "{event:?}");
        }
        assert_eq!(Event::exception(PAGE_FAULT, Some(6)).error_code, 6);
        assert_eq!(Event::software_interrupt(0x80, 2).instruction_length, 2);
    }

    #[test]
    fn real_mode_has_no_error_codes() {
        let fault = Event::general_protection();
        assert_eq!(fault.in_mode(CR0_PE), fault);
        assert_eq!(fault.in_mode(0), Event::exception(GENERAL_PROTECTION, None));
        assert_eq!(Event::nmi().in_mode(0), Event::nmi());
    }

    #[test]
    fn nothing_was_being_delivered() {
        assert_eq!(reinjection(info(0x7fff_ffff), 1, 2), None);
    }

    #[test]
    fn what_was_being_delivered_goes_in_again() {
        // Bit 12 is undefined in IDT-vectoring information, and must be 0 at entry.
        let page_fault = reinjection(info(VALID | 1 << 12 | 1 << 11 | 3 << 8 | 14), 2, 9).unwrap();
        assert_eq!(page_fault.event.info, Event::exception(14, Some(2)).info);
        assert_eq!(page_fault.event.error_code, 2);
        assert!(!page_fault.clear_nmi_blocking);
        let int80 = reinjection(info(VALID | 4 << 8 | 0x80), 0, 2).unwrap();
        assert_eq!(int80.event, Event::software_interrupt(0x80, 2));
    }

    #[test]
    fn an_nmi_goes_in_again_unblocked() {
        let nmi = reinjection(info(0x8000_0202), 0, 0).unwrap();
        assert_eq!(
            nmi,
            Reinjection {
                event: Event::nmi(),
                clear_nmi_blocking: true
            }
        );
        // An exception with vector 2 isn't an NMI.
        assert!(
            !reinjection(info(VALID | 3 << 8 | 2), 0, 0)
                .unwrap()
                .clear_nmi_blocking
        );
    }

    #[test]
    fn double_faults_follow_the_sdms_table() {
        use Merged::*;
        let de = Event::exception(0, None);
        let db = Event::exception(DEBUG, None);
        let ud = Event::invalid_opcode();
        let ts = Event::exception(INVALID_TSS, Some(8));
        let gp = Event::general_protection();
        let pf = Event::exception(PAGE_FAULT, Some(2));
        let cp = Event::exception(21, Some(1));
        let df = Event::exception(DOUBLE_FAULT, Some(0));
        let irq = Event::external_interrupt(13);
        let int13 = Event::software_interrupt(13, 2);
        for (first, second, expected) in [
            (db, gp, Deliver(gp)),
            (ud, pf, Deliver(pf)),
            (irq, gp, Deliver(gp)),
            (int13, gp, Deliver(gp)),
            (Event::nmi(), pf, Deliver(pf)),
            (gp, ud, Deliver(ud)),
            (gp, de, Deliver(df)),
            (ts, gp, Deliver(df)),
            (cp, gp, Deliver(df)),
            (gp, pf, Deliver(pf)),
            (pf, db, Deliver(db)),
            (pf, gp, Deliver(df)),
            (pf, pf, Deliver(df)),
            (df, db, Deliver(db)),
            (df, gp, TripleFault),
            (df, pf, TripleFault),
        ] {
            assert_eq!(
                merge(Some(first), second),
                expected,
                "{first:?} then {second:?}"
            );
        }
        assert_eq!(merge(None, gp), Deliver(gp));
    }

    #[test]
    fn blocking_by_nmi_comes_back_after_an_iret_that_faulted() {
        use ExitKind::*;
        let none = InterruptionInfo::NONE;
        let unblocking = 1 << 12;
        let page_fault = VALID | 1 << 11 | 3 << 8 | 14;
        let double_fault = VALID | 1 << 11 | 3 << 8 | 8;
        for (kind, idt, expected) in [
            (Exception(info(page_fault | unblocking)), none, true),
            (Exception(info(page_fault)), none, false),
            (Exception(info(double_fault | unblocking)), none, false),
            (
                Exception(info((page_fault | unblocking) & !VALID)),
                none,
                false,
            ),
            (
                Exception(info(page_fault | unblocking)),
                info(page_fault),
                false,
            ),
            (Exception(info(0x8000_1202)), none, false),
            (EptViolation(unblocking.into()), none, true),
            (EptViolation(unblocking.into()), info(0x8000_0202), false),
            (EptViolation(!u64::from(unblocking)), none, false),
            (Other, none, false),
        ] {
            assert_eq!(
                nmi_unblocked_by_iret(kind, idt),
                expected,
                "{kind:?} {idt:?}"
            );
        }
    }
}
