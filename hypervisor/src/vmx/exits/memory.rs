//! EPT violations: the guest touched the hypervisor's memory, a page that is lent to a
//! PAL, or an address that nothing is mapped at yet; or a PAL touched what is not its own.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use stillpoint_core::addr::Gpa;
use stillpoint_core::ept::EptError;
use stillpoint_core::events::{Event, ExitKind};
use vmcs_inspect::{Field, PrimaryControls};

use super::interrupts;
use crate::log::log;
use crate::pal;
use crate::trace::PalEnd;
use crate::vmx::ept;
use crate::vmx::instructions::get;
use crate::vmx::vcpu::Vcpu;

/// Exit qualification of an EPT violation: a data write.
const WRITE: u64 = 1 << 1;

/// Exit reason 48.
pub fn ept_violation(vcpu: &mut Vcpu) {
    let gpa = get(Field::GUEST_PHYSICAL_ADDRESS);
    let qualification = get(Field::EXIT_QUALIFICATION);
    interrupts::undo_iret(ExitKind::EptViolation(qualification));
    let original = interrupts::interrupted_delivery();
    if vcpu.pal.is_some() {
        let event = Event::general_protection();
        return pal::ending::end_running(vcpu, PalEnd::Outside(gpa), event);
    }
    let tag = ept::tag_of(gpa);
    if tag != 0 {
        return pal::touched::handle(vcpu, Gpa::new(gpa), tag, qualification, original);
    }
    if !ept::is_hypervisors(gpa) {
        match ept::map_on_demand(Gpa::new(gpa)) {
            Ok(()) => {
                if let Some(event) = original {
                    vcpu.inject(event);
                }
            }
            Err(error) => {
                refused(gpa, error);
                vcpu.fault_during(original, Event::general_protection());
            }
        }
        return;
    }
    if qualification & WRITE != 0 {
        vcpu.cpu.count_range_write(gpa);
        vcpu.fault_during(original, Event::general_protection());
        return;
    }
    vcpu.cpu.count_range_read(gpa);
    if let Some(event) = original {
        vcpu.inject(event);
    }
    // The instruction runs once more, in a view where the range is zeros, and
    // traps behind it. The other CPUs keep the ordinary view meanwhile.
    vcpu.zero_view = true;
    ept::use_zero_view();
    vcpu.control(PrimaryControls::MONITOR_TRAP_FLAG, true);
}

/// The first address at which nothing could be mapped is worth a line. The guest can go
/// on touching others.
fn refused(gpa: u64, error: EptError) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Relaxed) {
        log!("nothing can be mapped at guest-physical {gpa:#x}: {error:?}. The guest gets #GP");
    }
}

/// Exit reason 37, when the debugger is not stepping: the read is done.
pub fn end_of_zero_view(vcpu: &mut Vcpu) {
    if vcpu.zero_view {
        vcpu.zero_view = false;
        ept::use_guest_view();
    }
    if !vcpu.stepping {
        vcpu.control(PrimaryControls::MONITOR_TRAP_FLAG, false);
    }
}
