//! Hypercalls that break the machine on purpose, for the tests' image alone.

pub mod aim;

use core::sync::atomic::Ordering::SeqCst;

use stillpoint_abi::{HypercallResult, TestHook};
use stillpoint_core::registers::Gpr;

use crate::RENDEZVOUS;
use crate::cpu::apic::ApicKicker;
use crate::cpu::tsc;
use crate::pal::registration;
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{entry, ept};

/// Does it.
pub fn handle(vcpu: &mut Vcpu, hook: TestHook) {
    let mut answer = [0; 2];
    let mut result = HypercallResult::Success.code();
    match hook {
        TestHook::Panic => panic!("a test hook asked for it"),
        TestHook::HostPageFault => {
            // SAFETY: none: nothing is mapped there, which is what the test wants.
            unsafe { core::ptr::with_exposed_provenance::<u8>(0x1000).read_volatile() };
        }
        TestHook::HostInvalidOpcode => {
            // SAFETY: faults, which is what the test wants.
            unsafe { core::arch::asm!("ud2", options(nomem, nostack)) };
        }
        TestHook::HypervisorRange => {
            let range = ept::hypervisors_range();
            answer = [range.start, range.end];
        }
        TestHook::QuiesceRound => {
            let start = tsc();
            let me = vcpu.cpu.index;
            RENDEZVOUS.stop(me, &mut ApicKicker::default(), vcpu);
            answer[0] = tsc() - start;
            RENDEZVOUS.release(me);
            answer[1] = tsc() - start;
            entry::make_look_again(vcpu.cpu);
        }
        TestHook::OweNmi => {
            RENDEZVOUS.owe(vcpu.cpu.index);
            entry::make_look_again(vcpu.cpu);
        }
        TestHook::ExitCount => {
            use core::sync::atomic::Ordering::Relaxed;
            result = vcpu.cpu.exits.iter().map(|c| c.load(Relaxed)).sum();
        }
        TestHook::MeasuringTicks => answer[0] = registration::MEASURING.load(SeqCst),
        TestHook::AimNmi => answer = aim::arm(vcpu.registers.gprs[Gpr::Rcx]),
    }
    let gprs = &mut vcpu.registers.gprs;
    gprs[Gpr::Rax] = result;
    if matches!(
        hook,
        TestHook::HypervisorRange
            | TestHook::QuiesceRound
            | TestHook::AimNmi
            | TestHook::MeasuringTicks
    ) {
        gprs[Gpr::Rcx] = answer[0];
        gprs[Gpr::Rdx] = answer[1];
    }
    vcpu.skip_instruction();
}
