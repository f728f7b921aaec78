//! The way in for every vector: save all, call [`dispatch`], restore all. XMM
//! registers too, since the precompiled `core` uses them.

use core::arch::global_asm;

use super::{faults, percpu};
use crate::vmx::entry;
use crate::{RENDEZVOUS, trace};

/// What an interrupt found, in the order of the pushes below.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// R15 down to RAX, as pushed.
    pub r15: u64,
    /// R14
    pub r14: u64,
    /// R13
    pub r13: u64,
    /// R12
    pub r12: u64,
    /// R11
    pub r11: u64,
    /// R10
    pub r10: u64,
    /// R9
    pub r9: u64,
    /// R8
    pub r8: u64,
    /// RDI
    pub rdi: u64,
    /// RSI
    pub rsi: u64,
    /// RBP
    pub rbp: u64,
    /// RBX
    pub rbx: u64,
    /// RDX
    pub rdx: u64,
    /// RCX
    pub rcx: u64,
    /// RAX
    pub rax: u64,
    /// The vector.
    pub vector: u64,
    /// The error code; 0 where the vector has none.
    pub error: u64,
    /// RIP that was interrupted.
    pub rip: u64,
    /// CS
    pub cs: u64,
    /// RFLAGS
    pub rflags: u64,
    /// RSP that was interrupted.
    pub rsp: u64,
    /// SS
    pub ss: u64,
}

global_asm!(
    r#"
    .macro interrupt_stub vector, has_error
    .balign 16
    .if \has_error == 0
    push 0
    .endif
    push \vector
    jmp interrupt_common
    .endm

    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .irp vector, 0,1,2,3,4,5,6,7
    interrupt_stub \vector, 0
    .endr
    interrupt_stub 8, 1
    interrupt_stub 9, 0
    .irp vector, 10,11,12,13,14
    interrupt_stub \vector, 1
    .endr
    .irp vector, 15,16
    interrupt_stub \vector, 0
    .endr
    interrupt_stub 17, 1
    .irp vector, 18,19,20
    interrupt_stub \vector, 0
    .endr
    interrupt_stub 21, 1

interrupt_common:
    cld
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rbp, rsp
    sub rsp, 272
    and rsp, -16
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    movaps [rsp + \n * 16], xmm\n
    .endr
    stmxcsr [rsp + 256]
    ldmxcsr [rip + interrupt_mxcsr]
    mov rdi, rbp
    call {dispatch}
    ldmxcsr [rsp + 256]
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    movaps xmm\n, [rsp + \n * 16]
    .endr
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
    .balign 4
interrupt_mxcsr:
    .long 0x1f80
"#,
    dispatch = sym dispatch,
);

unsafe extern "C" {
    static interrupt_stubs: u8;
}

/// The address of the stub of a vector (0 to 21).
pub fn stub(vector: u64) -> u64 {
    &raw const interrupt_stubs as u64 + vector * 16
}

extern "C" fn dispatch(frame: &mut Frame) {
    if frame.vector == 2 {
        nmi(frame);
    } else {
        faults::handle(frame);
    }
}

/// An NMI in the hypervisor: counts it, which makes this CPU look, and an entry that
/// is under way starts over, since it has already looked.
fn nmi(frame: &mut Frame) {
    let rip = frame.rip;
    let meaning = RENDEZVOUS.on_nmi(percpu::this().index, false);
    trace::event(trace::Event::NmiInHypervisor { meaning, rip });
    if entry::restart_if_inside(&mut frame.rip) {
        trace::event(trace::Event::EntryRestarted);
    }
}
