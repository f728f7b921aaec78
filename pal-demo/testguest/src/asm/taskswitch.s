# Hardware task switches in 32-bit protected mode: JMP, CALL and a task gate,
# and IRET back (tests/task_switch.rs fills in the TSSs). AT&T syntax.

    .set TASK_A, 0x48 + 16 * MAX_CPUS
    .set TASK_B, TASK_A + 8
    .set TASK_C, TASK_A + 16

    .section .real, "awx"
    .code32
# Runs as task A.
    .globl task_switches
task_switches:
    lidtl task_idt_pointer
    movw $TASK_A, %ax
    ltr %ax
    movl $0x0a0a0a0a, %ebx
    ljmpl $TASK_B, $0
    # Back from B by its JMP. TS is set by every switch.
    movl %cr0, %eax
    movl %eax, task_trace + 0
    movl %ebx, task_trace + 4
    clts
    lcall $TASK_B, $0
    movl $0x1111, task_trace + 8
    int $0x20
    movl $0x2222, task_trace + 12
    # Once more: the gate's task goes on where its IRET left it.
    int $0x20
    clts
    ret

    .globl task_b
task_b:
    movl %eax, task_trace + 16
    strw task_trace + 20
    movl $0x0b0b0b0b, %ebx
    ljmpl $TASK_A, $0
    # Entered again, by CALL.
    pushfl
    popl task_trace + 24
    movl %ebx, task_trace + 28
    xorl %eax, %eax
    cpuid
    iretl
    ud2

    .globl task_c
task_c:
    pushfl
    popl task_trace + 32
    incl task_trace + 36
    iretl
    jmp task_c

    .balign 8
    .globl task_idt
task_idt:
    .fill 0x20, 8, 0
    # A task gate (present, type 5) to task C.
    .word 0, TASK_C, 0x8500, 0
task_idt_end:
    .word 0
task_idt_pointer:
    .word task_idt_end - task_idt - 1
    .long task_idt
    .balign 4
    .globl task_trace
task_trace:
    .fill 10, 4, 0
