//! VM entry and VM exit: the one place where registers change hands.
//!
//! One instruction sets "in the guest" in this CPU's word and learns whether
//! somebody has asked it to look; then its caller looks, and tries again. From
//! there to the VM entry, `vm_entry_begin` to `vm_entry_end`, is a restartable
//! sequence: an NMI in between has been counted by its handler but not acted upon,
//! and the handler sends the sequence back to its caller ([`restart_if_inside`]),
//! which looks. So no NMI waits for the next exit.

use core::arch::naked_asm;

use stillpoint_core::registers::Gprs;
use stillpoint_quiesce::{GUEST, LOOK};
use vmcs_inspect::Field;

use super::instructions::{VmxFailure, get};
use crate::RENDEZVOUS;
use crate::cpu::percpu::{PerCpu, WORD_OFFSET};

/// The guest's registers that VMX leaves to the hypervisor. RSP is in the VMCS;
/// its place in `gprs` is filled only for who wants it there.
#[repr(C, align(16))]
pub struct GuestRegisters {
    /// XMM0 to XMM15. The upper halves of YMM and ZMM stay in the processor: the
    /// hypervisor's code has no instruction that touches them.
    pub xmm: [[u8; 16]; 16],
    /// RAX to R15, by number.
    pub gprs: Gprs,
    /// MXCSR
    pub mxcsr: u32,
}

const XMM: usize = core::mem::offset_of!(GuestRegisters, xmm);
const GPRS: usize = core::mem::offset_of!(GuestRegisters, gprs);
const MXCSR: usize = core::mem::offset_of!(GuestRegisters, mxcsr);

/// How a run of the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// A VM exit: the exit-reason field tells why.
    Exit,
    /// This CPU has to look first. Nothing has run.
    Look,
    /// VMLAUNCH or VMRESUME failed. Nothing has run.
    Failed(VmxFailure),
}

/// Enters the guest with these registers, and comes back with them after the
/// next VM exit. `launched`: the VMCS has been entered since its VMCLEAR.
pub fn run(registers: &mut GuestRegisters, launched: bool) -> Run {
    // SAFETY: the VMCS is current and was set up by `setup`, whose HOST_RIP is
    // `vm_exit`; `registers` is ours alone until the return.
    match unsafe { enter(registers, u32::from(launched)) } {
        0 => Run::Exit,
        1 => Run::Look,
        2 => Run::Failed(VmxFailure::Invalid),
        _ => Run::Failed(VmxFailure::Valid(get(Field::VM_INSTRUCTION_ERROR) as u32)),
    }
}

#[unsafe(naked)]
unsafe extern "C" fn enter(registers: *mut GuestRegisters, launched: u32) -> u32 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "mov rax, gs:[{word}]",
        // LOOK is the sign bit of what comes out.
        "lock or dword ptr [rax], {guest}",
        ".global vm_entry_begin",
        "vm_entry_begin:",
        "js vm_entry_restart",
        // The moves below leave the flags alone.
        "test esi, esi",
        "ldmxcsr [rdi + {mxcsr}]",
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movaps xmm\\n, [rdi + {xmm} + \\n * 16]",
        ".endr",
        "mov rax, [rdi + {gprs} + 0 * 8]",
        "mov rcx, [rdi + {gprs} + 1 * 8]",
        "mov rdx, [rdi + {gprs} + 2 * 8]",
        "mov rbx, [rdi + {gprs} + 3 * 8]",
        "mov rbp, [rdi + {gprs} + 5 * 8]",
        "mov rsi, [rdi + {gprs} + 6 * 8]",
        ".irp n, 8,9,10,11,12,13,14,15",
        "mov r\\n, [rdi + {gprs} + \\n * 8]",
        ".endr",
        "mov rdi, [rdi + {gprs} + 7 * 8]",
        "jz 2f",
        "vmresume",
        "jmp 3f",
        "2: vmlaunch",
        ".global vm_entry_end",
        "vm_entry_end:",
        "3:",
        "mov eax, 2",
        "jc 5f",
        "mov eax, 3",
        "jmp 5f",
        ".global vm_entry_restart",
        "vm_entry_restart:",
        "mov eax, 1",
        "5:",
        "pop rdi",
        "mov rdx, gs:[{word}]",
        "lock and dword ptr [rdx], {not_guest}",
        "jmp 6f",
        ".global vm_exit",
        "vm_exit:",
        // RSP is as VMWRITE saved it: the pointer to the registers is on top.
        "xchg rdi, [rsp]",
        "mov [rdi + {gprs} + 0 * 8], rax",
        // As early as can be: from here on a stop needs no NMI here.
        "mov rax, gs:[{word}]",
        "lock and dword ptr [rax], {not_guest}",
        "mov [rdi + {gprs} + 1 * 8], rcx",
        "mov [rdi + {gprs} + 2 * 8], rdx",
        "mov [rdi + {gprs} + 3 * 8], rbx",
        "mov [rdi + {gprs} + 5 * 8], rbp",
        "mov [rdi + {gprs} + 6 * 8], rsi",
        ".irp n, 8,9,10,11,12,13,14,15",
        "mov [rdi + {gprs} + \\n * 8], r\\n",
        ".endr",
        "pop rax",
        "mov [rdi + {gprs} + 7 * 8], rax",
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movaps [rdi + {xmm} + \\n * 16], xmm\\n",
        ".endr",
        "stmxcsr [rdi + {mxcsr}]",
        "xor eax, eax",
        "6:",
        "ldmxcsr [rip + 7f]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        ".balign 4",
        "7: .long 0x1f80",
        host_rsp = const Field::HOST_RSP.encoding(),
        word = const WORD_OFFSET,
        guest = const GUEST,
        not_guest = const !(GUEST as i32),
        mxcsr = const MXCSR,
        xmm = const XMM,
        gprs = const GPRS,
    )
}

const _: () = assert!(LOOK == 1 << 31, "the entry sequence tests the sign flag");

unsafe extern "C" {
    static vm_entry_begin: u8;
    static vm_entry_end: u8;
    static vm_entry_restart: u8;
    static vm_exit: u8;
}

/// Where VM exits arrive: HOST_RIP.
pub fn exit_address() -> u64 {
    &raw const vm_exit as u64
}

/// The restartable sequence: its first byte, and the first one after it.
pub fn restartable() -> (u64, u64) {
    (
        &raw const vm_entry_begin as u64,
        &raw const vm_entry_end as u64,
    )
}

/// Called by the NMI handler with the RIP that the NMI interrupted: inside the
/// entry sequence it becomes the way back. RSP does not change in the sequence,
/// and the registers that it may have loaded are still in memory. True if it was
/// inside.
pub fn restart_if_inside(rip: &mut u64) -> bool {
    let (begin, end) = restartable();
    let found = (begin..end).contains(rip);
    if found {
        *rip = &raw const vm_entry_restart as u64;
    }
    found
}

/// Sees to it that a CPU looks before its next entry.
pub fn make_look_again(cpu: &PerCpu) {
    RENDEZVOUS.ask(cpu.index);
}
