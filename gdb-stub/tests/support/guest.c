/*
 * The fake machine's guest: it counts, in a subroutine, into memory. Only
 * instructions that support/machine.rs executes may be used, hence no C; but a C
 * compiler's unit, for GDB steps through those with fewer questions.
 */

long counter = 0;

__attribute__((naked)) void work(void)
{
    asm volatile("inc %rax");
    asm volatile("mov %rax, (%rdi)");
    asm volatile("nop");
    asm volatile("ret");
}

__attribute__((naked, noreturn)) void _start(void)
{
    asm volatile(".cfi_undefined rip");
    asm volatile("1: mov $5, %ecx");
    asm volatile("again: call work");
    asm volatile("dec %rcx");
    asm volatile("jnz again");
    asm volatile("jmp 1b");
}

/* Where Linux has its system calls enter, and gdb-scripts look for it. */
asm(".globl entry_SYSCALL_64; .set entry_SYSCALL_64, work");
