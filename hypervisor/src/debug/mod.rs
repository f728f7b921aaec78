//! The debugger's side of the hypervisor: how the machine comes to a stop, and
//! what enters the stub without being asked.
//!
//! One [`Session`] talks to the debugger's line. It runs on the CPU that holds
//! the machine, whichever that is; the others stand in the rendezvous and serve
//! its requests ([`remote`]).

pub mod host;
pub mod metal;
mod metal_memory;
mod metal_pals;
mod metal_registers;
mod probe;
pub mod registers;
pub mod remote;
mod step;

use core::sync::atomic::{AtomicPtr, Ordering};

use gdb_stub::{Int3Owner, Poll, Session, StopKind, StopReason};
use spin::Mutex;
use stillpoint_core::events::Event;
use vmcs_inspect::{ExitReasonField, Field, InterruptionInfo};

use self::metal::Metal;
use crate::RENDEZVOUS;
use crate::cpu::apic::ApicKicker;
use crate::cpu::halt_forever;
use crate::log::{self, log};
use crate::serial::DebugLine;
use crate::trace;
use crate::vmx::instructions::{VmxFailure, get};
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{entry, exits};

/// The session. Locked only by the CPU that holds the machine, and for the moment
/// of a poll, which never waits. Its line is open if the command line asks for it.
static SESSION: Mutex<Session<DebugLine>> = Mutex::new(Session::new(DebugLine));

/// The `Vcpu` of the CPU that holds the machine, while the session runs on it.
static OWNER: AtomicPtr<Vcpu> = AtomicPtr::new(core::ptr::null_mut());

/// Whose the #BP is that the guest has run into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Breakpoint {
    /// The debugger's, and it has been dealt with; or it was taken out meanwhile.
    /// Either way the guest goes on at RIP.
    Debuggers,
    /// The guest's.
    Guests,
}

/// Runs `work` with every other CPU stopped.
pub fn with_machine_stopped<T>(vcpu: &mut Vcpu, work: impl FnOnce(&mut Vcpu) -> T) -> T {
    let me = vcpu.cpu.index;
    // While the debugger steps this CPU, the machine is stopped already.
    if vcpu.stepping || RENDEZVOUS.owner() == Some(me) {
        return work(vcpu);
    }
    trace::event(trace::Event::StopAsked);
    RENDEZVOUS.stop(me, &mut ApicKicker::default(), vcpu);
    let generation = RENDEZVOUS.generation();
    trace::event(trace::Event::StopOwned { generation });
    let result = work(vcpu);
    trace::event(trace::Event::StopReleased { generation });
    RENDEZVOUS.release(me);
    entry::make_look_again(vcpu.cpu);
    result
}

/// Runs `work` with the session, on the CPU that holds the machine. `None` if
/// there is no session, or it is what has failed.
fn with_session<T>(vcpu: &mut Vcpu, work: impl FnOnce(&mut Session<DebugLine>) -> T) -> Option<T> {
    let mut session = SESSION.try_lock()?;
    if !DebugLine::is_open() {
        return None;
    }
    OWNER.store(vcpu, Ordering::Release);
    let result = work(&mut session);
    OWNER.store(core::ptr::null_mut(), Ordering::Release);
    Some(result)
}

/// Polls the debugger's line, on the CPU that has the timer.
pub fn poll(vcpu: &mut Vcpu) {
    if vcpu.stepping {
        return;
    }
    let wanted = SESSION.try_lock().map(|mut session| session.poll());
    if wanted == Some(Poll::Stop) {
        exits::trace_poll(vcpu);
        vcpu.stop(StopKind::DebugLine);
    }
}

/// Stops the machine and lets a person look, until it is to go on.
pub fn stop(vcpu: &mut Vcpu, reason: StopReason) {
    if vcpu.stepping {
        vcpu.stopped_in_step = Some(reason.kind);
        return;
    }
    // What cannot go on (an entry that fails, an exit that nothing handles) is tried
    // again: it stops again, unless the person has mended it.
    let at_rip = matches!(
        reason.kind,
        StopKind::SoftwareBreakpoint | StopKind::HardwareBreakpoint(_) | StopKind::Watchpoint(_)
    );
    let rip = get(Field::GUEST_RIP);
    let talked = with_machine_stopped(vcpu, |vcpu| {
        if at_rip && get(Field::GUEST_RIP) != rip {
            // Another CPU's stop came first, and the person has moved this CPU on.
            return true;
        }
        trace::event(trace::Event::DebuggerStopped(trace::cause(reason.kind)));
        let talked = with_session(vcpu, |session| session.stopped(&mut Metal, reason)).is_some();
        trace::event(trace::Event::DebuggerResumed);
        talked
    });
    if !talked {
        log::retake_console();
        log!(
            "the machine cannot go on: {:?} on CPU {}",
            reason.kind,
            reason.cpu
        );
        log!("start it with debug=com2 to look inside");
        with_machine_stopped(vcpu, |_| halt_forever())
    }
}

/// A VM entry failed: on COM1 the reason, in the stub everything else.
pub fn entry_failed(vcpu: &mut Vcpu, failure: Option<VmxFailure>) {
    log::retake_console();
    let cpu = vcpu.cpu.index;
    match failure {
        Some(failure) => match failure.error() {
            Some(error) => log!("VM entry failed on CPU {cpu}: {error}"),
            None => log!("VM entry failed on CPU {cpu}: {failure:?}"),
        },
        None => {
            let reason = ExitReasonField::from_raw(get(Field::EXIT_REASON) as u32);
            log!("VM entry failed on CPU {cpu}: {reason}");
        }
    }
    metal::report_violations();
    vcpu.stop(StopKind::EntryFailure);
    // The person may have mended it: COM1 is the guest's again.
    log::leave_console();
}

/// The guest has executed INT3 while the debugger has breakpoints.
pub fn breakpoint(vcpu: &mut Vcpu) -> Breakpoint {
    let Some(gpa) = metal::translate_rip() else {
        return Breakpoint::Guests;
    };
    let rip = get(Field::GUEST_RIP);
    with_machine_stopped(vcpu, |vcpu| {
        if get(Field::GUEST_RIP) != rip {
            // Another CPU's stop came first, and the person has moved this CPU on.
            return Breakpoint::Debuggers;
        }
        match with_session(vcpu, |session| session.int3_owner(&mut Metal, gpa)) {
            Some(Int3Owner::Client) => {
                vcpu.stop(StopKind::SoftwareBreakpoint);
                Breakpoint::Debuggers
            }
            Some(Int3Owner::Gone) => Breakpoint::Debuggers,
            Some(Int3Owner::Guest) | None => Breakpoint::Guests,
        }
    })
}

/// #BP or #DB, which only the debugger makes an exit.
pub fn exception(vcpu: &mut Vcpu, info: InterruptionInfo, original: Option<Event>) -> bool {
    let stop = match info.vector() {
        3 => {
            if breakpoint(vcpu) == Breakpoint::Guests {
                return false;
            }
            None
        }
        1 => match registers::debug_exception(vcpu) {
            registers::DebugException::Guests => return false,
            registers::DebugException::Stop(kind) => Some(kind),
        },
        _ => return false,
    };
    if let Some(event) = original {
        vcpu.inject(event);
    }
    if let Some(kind) = stop {
        vcpu.stop(kind);
    }
    true
}
