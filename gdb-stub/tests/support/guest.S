# The fake machine's guest: it counts, in a subroutine, into memory.
# Only instructions that support/machine.rs executes may be used.
        .text
        .globl _start, work, counter
        .type _start, @function
        .type work, @function
_start:
        .cfi_startproc
        .cfi_undefined rip
        mov     $5, %ecx
again:
        call    work
        dec     %rcx
        jnz     again
        jmp     _start
        .cfi_endproc
        .size _start, . - _start

work:
        .cfi_startproc
        inc     %rax
        mov     %rax, (%rdi)
        nop
        ret
        .cfi_endproc
        .size work, . - work

        .data
        .type counter, @object
counter:
        .quad   0
        .size counter, 8
