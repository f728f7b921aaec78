//! MOV to CR0 and CR4, LMSW and CLTS, where they touch a bit that the hypervisor
//! keeps.

use gdb_stub::StopKind;
use stillpoint_core::control_regs::{ControlRegister, GuestModes, Outcome};
use stillpoint_core::paging::load_pdptes;
use vmcs_inspect::qualification::{ControlRegisterAccess, ControlRegisterOperation};
use vmcs_inspect::{ExitReason, Field};

use crate::cpu::percpu;
use crate::memory::guest::GuestView;
use crate::vmx::instructions::{get, invvpid_all, set};
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{guest_state, setup, state};

fn register(real: Field, shadow: Field, mask: Field) -> ControlRegister {
    ControlRegister {
        real: get(real),
        shadow: get(shadow),
        mask: get(mask),
    }
}

/// What the rules for a move to a control register look at, on this CPU.
pub fn modes() -> GuestModes {
    GuestModes {
        cr0: register(
            Field::GUEST_CR0,
            Field::CR0_READ_SHADOW,
            Field::CR0_GUEST_HOST_MASK,
        ),
        cr4: register(
            Field::GUEST_CR4,
            Field::CR4_READ_SHADOW,
            Field::CR4_GUEST_HOST_MASK,
        ),
        efer: get(Field::GUEST_IA32_EFER),
        cr3: get(Field::GUEST_CR3),
        cs_l: get(Field::GUEST_CS_ACCESS_RIGHTS) & (1 << 13) != 0,
        tr_is_16_bit: get(Field::GUEST_TR_ACCESS_RIGHTS) & 0xf == 3,
    }
}

/// Exit reason 28.
pub fn access(vcpu: &mut Vcpu) {
    if vcpu.pal.is_some() {
        return vcpu.general_protection();
    }
    let access = ControlRegisterAccess::from_raw(get(Field::EXIT_QUALIFICATION));
    let fixed = state::fixed_bits();
    let modes = modes();
    let value = |vcpu: &Vcpu, register| {
        let value = vcpu.gpr(register);
        if vcpu.in_64_bit_code() {
            value
        } else {
            value & 0xffff_ffff
        }
    };
    let (is_cr0, outcome) = match access.operation() {
        ControlRegisterOperation::MovTo(0, register) => {
            (true, fixed.mov_to_cr0(&modes, value(vcpu, register)))
        }
        ControlRegisterOperation::MovTo(4, register) => {
            (false, fixed.mov_to_cr4(&modes, value(vcpu, register)))
        }
        ControlRegisterOperation::Clts => (true, fixed.clts(&modes)),
        ControlRegisterOperation::Lmsw { source, .. } => (true, fixed.lmsw(&modes, source)),
        // CR3 and CR8 are the guest's own.
        ControlRegisterOperation::MovTo(..) | ControlRegisterOperation::MovFrom(..) => {
            let reason = ExitReason::ControlRegisterAccess.raw();
            return vcpu.stop(StopKind::UnknownExit(reason));
        }
    };
    match outcome {
        Outcome::GeneralProtection => vcpu.general_protection(),
        Outcome::Set {
            register,
            efer,
            load_pdptes,
            flush,
        } => {
            if load_pdptes && !reload_pdptes(modes.cr3) {
                return vcpu.general_protection();
            }
            let (real, shadow) = if is_cr0 {
                (Field::GUEST_CR0, Field::CR0_READ_SHADOW)
            } else {
                (Field::GUEST_CR4, Field::CR4_READ_SHADOW)
            };
            if is_cr0 {
                setup::set_cache_control(register.real);
            }
            set(real, register.real);
            set(shadow, register.shadow);
            if let Some(efer) = efer {
                guest_state::set_efer(efer);
            }
            if flush && vcpu.controls.vpid {
                invvpid_all();
            }
            vcpu.skip_instruction();
        }
    }
}

/// Loads the four PDPTEs from where CR3 points. False if one has reserved bits
/// set, for which the guest's move gets #GP.
fn reload_pdptes(cr3: u64) -> bool {
    const PDPTES: [Field; 4] = [
        Field::GUEST_PDPTE0,
        Field::GUEST_PDPTE1,
        Field::GUEST_PDPTE2,
        Field::GUEST_PDPTE3,
    ];
    let width = state::capabilities().cpuid.physical_address_width;
    let Ok(entries) = load_pdptes(&mut GuestView(percpu::this()), cr3, width) else {
        return false;
    };
    for (field, entry) in PDPTES.into_iter().zip(entries) {
        set(field, entry);
    }
    true
}
