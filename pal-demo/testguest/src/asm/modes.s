# Out of 64-bit mode and back: into real mode, and into 32-bit protected mode
# without paging. One CPU at a time, interrupts off. AT&T syntax; the selectors
# are boot.s's.

    .section .real, "awx"
    .code64

# fn(routine: u16): calls a 16-bit routine with CS = DS = ES = SS = 0.
    .globl run_real
run_real:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    cli
    movq %rsp, saved_rsp(%rip)
    movl %edi, routine(%rip)
    movl $to_real, %ebp
    jmp leave_long

# fn(routine: u32): calls a 32-bit routine with flat segments, paging off.
    .globl run_protected
run_protected:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    cli
    movq %rsp, saved_rsp(%rip)
    movl %edi, routine(%rip)
    movl $to_protected, %ebp

# In: EBP = the 32-bit code to go on with.
leave_long:
    pushq $CODE32
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
    .code32
1:  movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $REAL_STACK, %esp
    # Clearing PG in compatibility mode leaves long mode; LME must go too, or
    # the next paging would be long mode again.
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    andl $0xfffffeff, %eax
    wrmsr
    jmp *%ebp

    # A 32-bit routine that does nothing.
    .globl return_protected
return_protected:
    ret

to_protected:
    call *routine
    cli
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $returned, %ebx
    lgdtl gdt_pointer
    ljmpl $CODE32, $enter_long_32

to_real:
    ljmpl $CODE16, $2f
    .code16
2:  movw $DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl %cr0, %eax
    andl $0xfffffffe, %eax
    movl %eax, %cr0
    ljmpw $0, $3f
3:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movw $REAL_STACK, %sp
    lidtl real_idt
    callw *routine
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movl $returned, %ebx
    jmp enter_long

    .code64
returned:
    xorl %eax, %eax
    movl %eax, %ss
    movq saved_rsp(%rip), %rsp
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# A software interrupt in real mode, its registers in bios_registers.
    .code16
    .globl bios_interrupt
bios_interrupt:
    movw bios_registers + 24, %es
    movl bios_registers, %eax
    movl bios_registers + 4, %ebx
    movl bios_registers + 8, %ecx
    movl bios_registers + 12, %edx
    movl bios_registers + 16, %esi
    movl bios_registers + 20, %edi
    .byte 0xcd
    .globl bios_vector
bios_vector:
    .byte 0
    pushfw
    movl %eax, bios_registers
    movl %ebx, bios_registers + 4
    movl %ecx, bios_registers + 8
    movl %edx, bios_registers + 12
    movl %esi, bios_registers + 16
    movl %edi, bios_registers + 20
    popw bios_registers + 26
    ret

    .balign 8
saved_rsp:
    .quad 0
routine:
    .long 0
    .word 0
real_idt:
    .word 0x3ff
    .long 0
    .balign 4
    .globl bios_registers
bios_registers:
    .fill 28, 1, 0
    .balign 16
    .globl bios_buffer
bios_buffer:
    .fill 512, 1, 0
