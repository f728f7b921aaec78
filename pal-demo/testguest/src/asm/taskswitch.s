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

# A second run: exceptions through task gates, #DB by the T flag, and a task
# with another CR3. Runs as task A, in 32-bit paging.
    .set TASK_D, TASK_A + 24
    .set ABSENT, TASK_A + 32
    .set SHORT, TASK_A + 40
    .set TASK_G, TASK_A + 48
    .globl task_exceptions
task_exceptions:
    movl %cr4, %ecx
    pushl %ecx
    andl $0xffffffdf, %ecx
    orl $0x10, %ecx
    movl %ecx, %cr4
    movl $mode_directory, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    jmp 1f
1:  lidtl exception_idt_pointer
    movw $TASK_A, %ax
    ltr %ax
    # #UD by a task gate: a fault, so the saved EIP is the instruction's.
    .globl task_exception_ud
task_exception_ud:
    ud2
    clts
    # #GP by a task gate: the error code is on the new task's stack.
    movl $0xfff8, %eax
    .globl task_exception_gp
task_exception_gp:
    movl %eax, %fs
    clts
    # INT n by a task gate: the saved EIP is the next instruction's.
    int $0x20
    .globl task_after_int
task_after_int:
    clts
    # A task with the T flag: #DB before its first instruction.
    ljmpl $TASK_D, $0
    clts
    # Faults of the switch itself: the handler notes them, and goes on at EDI.
    # #GP is an interrupt gate from here on.
    movw $fault_handler_13, exception_idt + 13 * 8
    movw $0x18, exception_idt + 13 * 8 + 2
    movw $0x8e00, exception_idt + 13 * 8 + 4
    movl $2f, %edi
    ljmpl $TASK_A, $0            # busy: #GP
2:  movl $3f, %edi
    ljmpl $ABSENT, $0       # not present: #NP
3:  movl $4f, %edi
    ljmpl $SHORT, $0       # limit too small: #TS
4:  movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    jmp 5f
5:  popl %ecx
    movl %ecx, %cr4
    ret

# Tasks B (#UD), C (#GP) and G (INT n) of this run: note what the task was
# interrupted at (by its TSS), pop an error code where there is one, and let it
# go on behind the instruction.
    .globl task_ud
task_ud:
    movl task_tss_a + 32, %eax
    movl %eax, exception_trace + 0
    addl $2, task_tss_a + 32
    iretl
    jmp task_ud

    .globl task_gp
task_gp:
    popl exception_trace + 4
    movl task_tss_a + 32, %eax
    movl %eax, exception_trace + 8
    addl $2, task_tss_a + 32
    # This task has a directory of its own: 2 GiB is not what A sees there.
    movl 0x80007e00, %eax
    movl %eax, exception_trace + 12
    movl %cr3, %eax
    movl %eax, exception_trace + 16
    iretl
    jmp task_gp

    .globl task_int
task_int:
    movl task_tss_a + 32, %eax
    movl %eax, exception_trace + 20
    iretl
    jmp task_int

    .globl task_traced
task_traced:
    ljmpl $TASK_A, $0

debug_handler:
    pushl %eax
    movl %dr6, %eax
    movl %eax, exception_trace + 24
    movl 4(%esp), %eax
    movl %eax, exception_trace + 28
    xorl %eax, %eax
    movl %eax, %dr6
    popl %eax
    iretl

# #TS, #NP, #GP with an error code: go on at EDI.
    .irp n, 10, 11, 13
fault_handler_\n:
    popl exception_trace + 32 + 4 * (\n - 10)
    movl %edi, (%esp)
    iretl
    .endr

    .balign 8
    .globl exception_idt
exception_idt:
    .word 0, 0, 0, 0
    .word debug_handler, 0x18, 0x8e00, 0
    .fill 4, 8, 0
    .word 0, TASK_B, 0x8500, 0
    .fill 3, 8, 0
    .word fault_handler_10, 0x18, 0x8e00, 0
    .word fault_handler_11, 0x18, 0x8e00, 0
    .fill 1, 8, 0
    .word 0, TASK_C, 0x8500, 0
    .fill 0x12, 8, 0
    .word 0, TASK_G, 0x8500, 0
exception_idt_end:
    .word 0
exception_idt_pointer:
    .word exception_idt_end - exception_idt - 1
    .long exception_idt
    .balign 4
    .globl exception_trace
exception_trace:
    .fill 16, 4, 0
