//! Recording what happens to this CPU, for `monitor trace`. Called from any context;
//! an exit and its entry are recorded in [`crate::vmx`], where their times are known.

use gdb_stub::StopKind;
use stillpoint_trace::DebuggerCause;
pub use stillpoint_trace::{Event, PalEnd};

use crate::cpu::{percpu, tsc};

/// Records an event of the CPU that runs this.
#[inline(always)] // Each caller knows the kind, so that of the encoding little is left.
pub fn event(event: Event) {
    percpu::this().trace.event(tsc(), event);
}

/// Why the debugger has the machine, as it is recorded.
pub fn cause(kind: StopKind) -> DebuggerCause {
    match kind {
        StopKind::DebugLine => DebuggerCause::DebugLine,
        StopKind::SoftwareBreakpoint | StopKind::HardwareBreakpoint(_) | StopKind::Step => {
            DebuggerCause::Breakpoint
        }
        StopKind::Watchpoint(_) => DebuggerCause::Watchpoint,
        StopKind::Wait => DebuggerCause::Wait,
        StopKind::HostFault { .. }
        | StopKind::HostPanic
        | StopKind::EntryFailure
        | StopKind::UnknownExit(_) => DebuggerCause::Failure,
    }
}
