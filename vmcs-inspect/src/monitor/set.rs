//! `monitor vmcs set`: writes a field, unless a VM entry would fail by it.

use core::fmt::{self, Write};
use core::ops::Range;

use super::{VmcsHost, each_vmcs, layout, names};
use crate::{
    Capabilities, Change, Field, Overlay, Rule, Violation, VmcsAccess, VmcsError, check,
    decode::ExitContext,
};

/// How many rules that are broken already are remembered; one broken beyond them counts
/// as broken by the write, which is then refused needlessly, but not silently.
const REMEMBERED: usize = 32;

/// What the person asked for.
pub(super) struct Request<'a> {
    /// The field, as a word.
    pub field: &'a str,
    /// The new value.
    pub value: u64,
    /// Write it even if VM entry would fail by it.
    pub force: bool,
}

pub(super) fn run(
    host: &mut dyn VmcsHost,
    out: &mut dyn Write,
    cpus: Range<usize>,
    request: &Request<'_>,
) -> fmt::Result {
    let field = match names::find(request.field) {
        Ok(field) => field,
        Err(error) => return layout::error(out, error),
    };
    let caps = host.capabilities();
    if request.value > field.width().max_value() {
        return layout::error(out, VmcsError::TooWide(field));
    }
    if field.is_read_only() && !caps.writes_read_only_fields() {
        return layout::error(
            out,
            format_args!(
                "{field} is a VM-exit information field, which this processor lets nobody write"
            ),
        );
    }
    each_vmcs(host, out, cpus, &mut |vmcs, out, _| match write_checked(
        vmcs, out, field, request, &caps,
    ) {
        Ok(result) => result,
        Err(error) => layout::error(out, error),
    })
}

/// Writes the field if that may be. The outer error is the VMCS's, the inner one that of
/// `out`.
fn write_checked(
    vmcs: &mut dyn VmcsAccess,
    out: &mut dyn Write,
    field: Field,
    request: &Request<'_>,
    caps: &Capabilities,
) -> Result<fmt::Result, VmcsError> {
    let before = vmcs.read(field)?;
    let exit = ExitContext::read(vmcs);
    let broken = Broken::of(vmcs, caps)?;
    let changes = [(field, request.value)];
    let mut added = 0;
    check(&mut Overlay::new(vmcs, &changes), caps, &mut |violation| {
        added += usize::from(!broken.contains(&violation));
    })?;

    if added > 0 {
        let heading = if request.force {
            writeln!(out, "warning: with this value a VM entry fails:")
        } else {
            writeln!(
                out,
                "error: refused, with this value a VM entry would fail:"
            )
        };
        let mut result = heading;
        check(&mut Overlay::new(vmcs, &changes), caps, &mut |violation| {
            if result.is_ok() && !broken.contains(&violation) {
                result = layout::violation(out, &violation, exit);
            }
        })?;
        if result.is_ok() && !request.force {
            result = writeln!(
                out,
                "to write it all the same: vmcs set! {field} {:#x}",
                request.value
            );
        }
        if result.is_err() || !request.force {
            return Ok(result);
        }
    }

    vmcs.write(field, request.value)?;
    let change = Change {
        field,
        before: Some(before),
        after: Some(vmcs.read(field)?),
    };
    Ok(layout::change_line(out, change, exit))
}

/// The rules that a VMCS breaks, each with the field that breaks it.
struct Broken {
    rules: [Option<(Rule, Field)>; REMEMBERED],
}

impl Broken {
    fn of(vmcs: &mut dyn VmcsAccess, caps: &Capabilities) -> Result<Broken, VmcsError> {
        let mut rules = [None; REMEMBERED];
        let mut free = rules.iter_mut();
        check(vmcs, caps, &mut |violation| {
            if let Some(slot) = free.next() {
                *slot = Some((violation.rule, violation.field));
            }
        })?;
        Ok(Broken { rules })
    }

    fn contains(&self, violation: &Violation) -> bool {
        self.rules
            .contains(&Some((violation.rule, violation.field)))
    }
}
