# Entry of every interrupt and exception: 256 stubs of 16 bytes, and the common
# part that saves the registers as trap.rs's Frame. AT&T syntax.

    .section .text.traps, "ax"
    .code64
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    # Those that push an error code (Intel SDM vol. 3, ch. 6, table
    # "Protected-mode exceptions and interrupts").
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    # A test that set TS or EM has seen what it wanted; FXSAVE would fault.
    movq %cr0, %rax
    testb $0xc, %al
    jz 1f
    andq $-13, %rax
    movq %rax, %cr0
1:  subq $512, %rsp
    andq $-16, %rsp
    fxsave64 (%rsp)
    call on_trap
    fxrstor64 (%rsp)
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

# fn(call: extern "C" fn(*mut ()), data: *mut (), rsp: *mut u64) -> u64:
# calls `call(data)`. 0 when it returned; 1 when a trap went to trap_recover
# with RSP as noted at `rsp`.
    .globl trap_guarded_call
trap_guarded_call:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, (%rdx)
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    xorl %eax, %eax
    jmp 1f
    .globl trap_recover
trap_recover:
    movl $1, %eax
1:  addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
