//! Executing one guest instruction, with everything else held.

use gdb_stub::StopKind;
use gdb_stub::machine::{MachineError, StepEnd};
use stillpoint_core::cpu_state::StartState;
use vmcs_inspect::{ActivityState, ExitReason, Field, GuestInterruptibility, PrimaryControls};

use super::registers;
use crate::cpu::tsc;
use crate::vmx::entry;
use crate::vmx::instructions::{get, set};
use crate::vmx::vcpu::Vcpu;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_RF: u64 = 1 << 16;

/// Steps this CPU, which stands in a stop: it leaves the hypervisor for one
/// instruction and is back.
pub fn step(vcpu: &mut Vcpu) -> Result<StepEnd, MachineError> {
    if vcpu.start_state == StartState::WaitForSipi {
        return Err(MachineError::Unavailable);
    }
    registers::catch_up(vcpu);
    // A processor may leave HLT for no reason that software sees; waiting for
    // an interrupt with interrupts held would take for ever.
    if get(Field::GUEST_ACTIVITY_STATE) == u64::from(ActivityState::Hlt.raw()) {
        set(
            Field::GUEST_ACTIVITY_STATE,
            u64::from(ActivityState::Active.raw()),
        );
    }
    if vcpu.guest_debug.is_some() {
        set(Field::GUEST_RFLAGS, get(Field::GUEST_RFLAGS) | RFLAGS_RF);
    }
    vcpu.stepping = true;
    vcpu.stopped_in_step = None;
    vcpu.control(PrimaryControls::MONITOR_TRAP_FLAG, true);
    let end = loop {
        hold_interrupts();
        vcpu.entered = tsc();
        let rip = get(Field::GUEST_RIP);
        if !vcpu.run_once() && vcpu.stopped_in_step.is_none() {
            continue;
        }
        if let Some(kind) = vcpu.stopped_in_step.take() {
            break match kind {
                StopKind::Watchpoint(slot) => StepEnd::Watchpoint(slot),
                kind => StepEnd::Stopped(kind),
            };
        }
        // Done by the processor, or by the hypervisor in its place. What else
        // comes in between (NMIs, the timer) leaves RIP alone.
        let trapped = get(Field::EXIT_REASON) as u16 == ExitReason::MonitorTrapFlag.raw();
        // An INIT that had been waiting parks the CPU: it executes nothing more.
        let parked = vcpu.start_state == StartState::WaitForSipi;
        if trapped || parked || get(Field::GUEST_RIP) != rip {
            break StepEnd::Done;
        }
    };
    vcpu.stepping = false;
    vcpu.control(PrimaryControls::MONITOR_TRAP_FLAG, vcpu.zero_view);
    // NMIs that were held, and stops that were not looked at.
    entry::make_look_again(vcpu.cpu);
    Ok(end)
}

/// Keeps external interrupts pending for one instruction: blocking by STI does
/// that, and the monitor trap comes before they are looked at again (Intel SDM
/// vol. 3, 26.5.2 "Monitor Trap Flag").
///
/// Not so if this entry delivers an event that had begun before the stop: the step
/// then ends at its handler's first instruction.
fn hold_interrupts() {
    if get(Field::VM_ENTRY_INTERRUPTION_INFO) >> 31 != 0 {
        return;
    }
    let rflags = get(Field::GUEST_RFLAGS);
    let state = GuestInterruptibility::from_bits_retain(get(Field::GUEST_INTERRUPTIBILITY) as u32);
    let by_mov_ss = state.contains(GuestInterruptibility::BLOCKING_BY_MOV_SS);
    // With IF = 0 none can come. With TF = 1 the entry would demand a pending
    // single-step trap that does not exist: 27.3.1.5 "Checks on Guest Non-Register
    // State".
    if rflags & RFLAGS_IF != 0 && rflags & RFLAGS_TF == 0 && !by_mov_ss {
        let state = state | GuestInterruptibility::BLOCKING_BY_STI;
        set(Field::GUEST_INTERRUPTIBILITY, u64::from(state.bits()));
    }
}
