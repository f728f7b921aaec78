//! `monitor vmcs`: one row for each CPU, all that decides about its NMIs first.

use core::fmt::{self, Write};

use super::layout::column;
use super::{NmiState, VmcsHost};
use crate::{
    ActivityState, Exception, Field, GuestInterruptibility, InterruptionInfo, InterruptionType,
    PinBasedControls, PrimaryControls, VmcsAccess, VmcsError,
};

/// The heads of the columns, in two lines, and their widths. The last four are numbers.
const COLUMNS: [(&str, &str, usize); 11] = [
    ("", "cpu", 5),
    ("guest", "blocking", 12),
    ("NMI", "exit", 5),
    ("virt.", "NMIs", 6),
    ("NMI", "window", 7),
    ("to be", "injected", 11),
    ("in", "delivery", 11),
    ("guest", "activity", 14),
    ("NMIs", "owed", 6),
    ("kicks", "out", 6),
    ("NMIs", "merged", 7),
];

/// The VMCS fields behind a row; `None` where the processor has no such field.
struct Row {
    blocking: Option<GuestInterruptibility>,
    pin_based: Option<PinBasedControls>,
    primary: Option<PrimaryControls>,
    to_inject: Option<InterruptionInfo>,
    in_delivery: Option<InterruptionInfo>,
    activity: Option<u32>,
}

impl Row {
    fn read(vmcs: &mut dyn VmcsAccess) -> Result<Row, VmcsError> {
        let mut get = |field| match vmcs.read(field) {
            Ok(value) => Ok(Some(value as u32)),
            Err(VmcsError::Unsupported(_)) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Row {
            blocking: get(Field::GUEST_INTERRUPTIBILITY)?
                .map(GuestInterruptibility::from_bits_retain),
            pin_based: get(Field::PIN_BASED_CONTROLS)?.map(PinBasedControls::from_bits_retain),
            primary: get(Field::PRIMARY_PROCESSOR_BASED_CONTROLS)?
                .map(PrimaryControls::from_bits_retain),
            to_inject: get(Field::VM_ENTRY_INTERRUPTION_INFO)?.map(InterruptionInfo::from_raw),
            in_delivery: get(Field::IDT_VECTORING_INFO)?.map(InterruptionInfo::from_raw),
            activity: get(Field::GUEST_ACTIVITY_STATE)?,
        })
    }
}

/// Writes the heads and a row for each of `cpus`.
pub(super) fn write(
    out: &mut dyn Write,
    host: &mut dyn VmcsHost,
    cpus: core::ops::Range<usize>,
) -> fmt::Result {
    heads(out)?;
    for cpu in cpus {
        let mut row = Err(VmcsError::Unavailable);
        let reached = host.with_vmcs(cpu, &mut |vmcs| row = Row::read(vmcs));
        let mark = if cpu == host.current_cpu() { '*' } else { ' ' };
        let nmis = host.nmi_state(cpu);
        column(out, COLUMNS[0].2, format_args!("{mark}{cpu}"))?;
        match reached.and(row) {
            Ok(row) => write_row(out, &row, nmis)?,
            Err(error) => writeln!(
                out,
                "{error}; NMIs owed {}, kicks out {}, merged {}, quiesce generation {}",
                nmis.owed,
                u8::from(nmis.kick_outstanding),
                nmis.merged,
                nmis.quiesce_generation
            )?,
        }
    }
    Ok(())
}

fn heads(out: &mut dyn Write) -> fmt::Result {
    for (first, _, width) in COLUMNS {
        column(out, width, first)?;
    }
    out.write_str("quiesce\n")?;
    for (_, second, width) in COLUMNS {
        column(out, width, second)?;
    }
    out.write_str("gen.\n")
}

fn write_row(out: &mut dyn Write, row: &Row, nmis: NmiState) -> fmt::Result {
    let nmi_exiting = row
        .pin_based
        .map(|c| c.contains(PinBasedControls::NMI_EXITING));
    let virtual_nmis = row
        .pin_based
        .map(|c| c.contains(PinBasedControls::VIRTUAL_NMIS));
    let window = row
        .primary
        .map(|c| c.contains(PrimaryControls::NMI_WINDOW_EXITING));
    column(out, COLUMNS[1].2, Optional(row.blocking.map(Blocking)))?;
    column(out, COLUMNS[2].2, Optional(nmi_exiting.map(on_off)))?;
    column(out, COLUMNS[3].2, Optional(virtual_nmis.map(on_off)))?;
    column(out, COLUMNS[4].2, Optional(window.map(on_off)))?;
    column(out, COLUMNS[5].2, Optional(row.to_inject.map(Event)))?;
    column(out, COLUMNS[6].2, Optional(row.in_delivery.map(Event)))?;
    column(out, COLUMNS[7].2, Optional(row.activity.map(Activity)))?;
    column(out, COLUMNS[8].2, nmis.owed)?;
    column(out, COLUMNS[9].2, u8::from(nmis.kick_outstanding))?;
    column(out, COLUMNS[10].2, nmis.merged)?;
    writeln!(out, "{}", nmis.quiesce_generation)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `-` for what the processor does not have.
struct Optional<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Optional<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// What blocks events, short.
struct Blocking(GuestInterruptibility);

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names = [
            (GuestInterruptibility::BLOCKING_BY_NMI, "NMI"),
            (GuestInterruptibility::BLOCKING_BY_STI, "STI"),
            (GuestInterruptibility::BLOCKING_BY_MOV_SS, "MOV-SS"),
            (GuestInterruptibility::BLOCKING_BY_SMI, "SMI"),
            (GuestInterruptibility::ENCLAVE_INTERRUPTION, "enclave"),
        ];
        let mut separator = "";
        for (bit, name) in names {
            if self.0.contains(bit) {
                write!(f, "{separator}{name}")?;
                separator = "+";
            }
        }
        if self.0.unnamed() != 0 {
            write!(f, "{separator}{:#x}", self.0.unnamed())?;
        }
        Ok(())
    }
}

/// An event, short.
struct Event(InterruptionInfo);

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event(info) = self;
        if !info.valid() {
            return f.write_str("none");
        }
        let vector = info.vector();
        match info.kind() {
            InterruptionType::Nmi => f.write_str("NMI"),
            InterruptionType::ExternalInterrupt => write!(f, "IRQ {vector:#04x}"),
            InterruptionType::SoftwareInterrupt => write!(f, "INT {vector:#04x}"),
            InterruptionType::HardwareException
            | InterruptionType::SoftwareException
            | InterruptionType::PrivilegedSoftwareException => {
                write!(f, "{}", Exception(vector))
            }
            InterruptionType::OtherEvent if vector == 0 => f.write_str("MTF exit"),
            InterruptionType::OtherEvent | InterruptionType::Reserved => {
                write!(f, "{:#x}", info.raw())
            }
        }
    }
}

/// An activity state, or its number.
struct Activity(u32);

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ActivityState::from_raw(self.0) {
            Some(state) => state.fmt(f),
            None => write!(f, "{:#x}?", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn events_and_blocking_are_short() {
        let cases = [
            (0, "none"),
            (0x8000_0202, "NMI"),
            (0x8000_0030, "IRQ 0x30"),
            (0x8000_0480, "INT 0x80"),
            (0x8000_0b0e, "#PF"),
            (0x8000_0603, "#BP"),
            (0x8000_0700, "MTF exit"),
            (0x8000_0101, "0x80000101"),
        ];
        for (raw, text) in cases {
            let event = Event(InterruptionInfo::from_raw(raw)).to_string();
            assert_eq!(event, text);
            assert!(event.len() < COLUMNS[5].2);
        }
        let blocking = |bits| Blocking(GuestInterruptibility::from_bits_retain(bits)).to_string();
        assert_eq!(blocking(0), "none");
        assert_eq!(blocking(8), "NMI");
        assert_eq!(blocking(9), "NMI+STI");
        assert_eq!(blocking(0x22), "MOV-SS+0x20");
    }

    #[test]
    fn the_row_fits_its_line() {
        let columns: usize = COLUMNS.iter().map(|(_, _, width)| width).sum();
        assert!(columns + "quiesce".len() <= super::super::layout::WIDTH);
        for (first, second, width) in COLUMNS {
            assert!(first.len() < width && second.len() < width);
        }
    }
}
