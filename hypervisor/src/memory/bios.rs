//! The BIOS's memory services as the guest sees them: INT 15h goes through a few
//! bytes of ours that ask the hypervisor first.

use spin::Once;
use stillpoint_core::addr::Gpa;
use stillpoint_core::int15::{self, Answer, E820_ENTRY_SIZE, Request, SMAP};
use stillpoint_core::memmap::MemoryMap;
use stillpoint_core::paging::PhysMem;
use stillpoint_core::registers::Gpr;
use vmcs_inspect::Field;

use super::guest::{self, GuestView};
use crate::vmx::instructions::{get, set};
use crate::vmx::vcpu::Vcpu;

/// Segment and offset of the hook: reserved bytes of the BIOS data area, 0x4AC to
/// 0x4EF, which no system has a use for.
const SEGMENT: u16 = 0x40;
const OFFSET: u16 = 0xac;
/// VMCALL, then a far jump to the BIOS's own handler, then IRET.
const AFTER_VMCALL: u64 = OFFSET as u64 + 3;
const IRET: u64 = OFFSET as u64 + 8;
/// INT 15h's entry of the interrupt vector table.
const VECTOR: u64 = 0x15 * 4;

static MAP: Once<MemoryMap> = Once::new();

/// Puts the hook in place; `map` is what the guest is told.
pub fn install(map: MemoryMap) {
    MAP.call_once(|| map);
    let mut old = [0; 4];
    let mut code = [0x0f, 0x01, 0xc1, 0xea, 0, 0, 0, 0, 0xcf];
    if guest::read(Gpa::new(VECTOR), &mut old).is_err() {
        return;
    }
    code[4..8].copy_from_slice(&old);
    let at = u64::from(SEGMENT) * 16 + u64::from(OFFSET);
    let mut new = [0; 4];
    new[..2].copy_from_slice(&OFFSET.to_le_bytes());
    new[2..].copy_from_slice(&SEGMENT.to_le_bytes());
    // Both lie in the first 2 KiB of RAM, which every PC has.
    let _low_memory = guest::write(Gpa::new(at), &code);
    let _low_memory = guest::write(Gpa::new(VECTOR), &new);
}

/// Does the VMCALL that has just exited stand in the hook?
pub fn is_hook() -> bool {
    get(Field::GUEST_RIP) == u64::from(OFFSET)
        && get(Field::GUEST_CS_BASE) == u64::from(SEGMENT) * 16
        && get(Field::GUEST_CR0) & 1 == 0
}

/// Answers the INT 15h, or lets the BIOS do it.
pub fn answer(vcpu: &mut Vcpu) {
    let gprs = &vcpu.registers.gprs;
    let request = Request {
        eax: gprs[Gpr::Rax] as u32,
        ebx: gprs[Gpr::Rbx] as u32,
        ecx: gprs[Gpr::Rcx] as u32,
        edx: gprs[Gpr::Rdx] as u32,
    };
    let answer = MAP
        .get()
        .map_or(Answer::PassOn, |map| int15::answer(map, request));
    vcpu.skip_instruction();
    // The bases of ES and SS are the guest's to choose, anywhere below 4 GiB.
    let mut memory = GuestView(vcpu.cpu);
    let gprs = &mut vcpu.registers.gprs;
    let low = |gprs: &mut stillpoint_core::registers::Gprs, register, value: u16| {
        gprs[register] = gprs[register] & !0xffff | u64::from(value);
    };
    let failed = match answer {
        Answer::PassOn => return set(Field::GUEST_RIP, AFTER_VMCALL),
        Answer::E820 { entry, next } => {
            let buffer = get(Field::GUEST_ES_BASE) + (gprs[Gpr::Rdi] & 0xffff);
            gprs[Gpr::Rax] = u64::from(SMAP);
            gprs[Gpr::Rbx] = u64::from(next);
            gprs[Gpr::Rcx] = E820_ENTRY_SIZE as u64;
            memory.write(Gpa::new(buffer), &entry).is_err()
        }
        Answer::E801 {
            wide,
            below_16m,
            above_16m,
        } => {
            for (register, value) in [
                (Gpr::Rax, below_16m),
                (Gpr::Rbx, above_16m),
                (Gpr::Rcx, below_16m),
                (Gpr::Rdx, above_16m),
            ] {
                if wide {
                    gprs[register] = 0;
                }
                low(gprs, register, value);
            }
            false
        }
        Answer::Extended(kib) => {
            low(gprs, Gpr::Rax, kib);
            false
        }
        Answer::Failed => {
            low(gprs, Gpr::Rax, 0x8600 | request.eax as u16 & 0xff);
            true
        }
    };
    // The flags that IRET restores: IP, CS, FLAGS from SS:SP up.
    let stack = get(Field::GUEST_SS_BASE) + ((get(Field::GUEST_RSP) + 4) & 0xffff);
    let mut flags = [0; 2];
    if memory.read(Gpa::new(stack), &mut flags).is_ok() {
        flags[0] = flags[0] & !1 | u8::from(failed);
        let _refused_in_a_pals_page = memory.write(Gpa::new(stack), &flags);
    }
    set(Field::GUEST_RIP, IRET);
}
