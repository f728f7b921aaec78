//! Other modes and paging kinds: the same instructions with the same answers,
//! and what each paging kind keeps in the processor.

use core::arch::global_asm;

use crate::descriptors::{self, Shared};
use crate::harness::{Context, Outcome, Test};
use crate::tests::task_switch;
use crate::{check_eq, cpu, modes, tests};

/// Modes.
pub const TESTS: &[Test] = tests![
    real_mode,
    real_mode_divide_error,
    real_mode_with_large_segments,
    virtual_8086_mode,
    protected_mode_without_paging,
    pae_paging,
    legacy_paging,
];

global_asm!(
    ".section .real, \"awx\"",
    ".balign 4",
    ".globl mode_results",
    "mode_results: .fill 8, 4, 0",
    // CPUID leaf 0 and CR0 in real mode; a segment's limit is 64 KiB.
    ".code16",
    ".globl mode_real",
    "mode_real:",
    "xorl %eax, %eax",
    "cpuid",
    "movl %ebx, mode_results",
    "movl %cr0, %eax",
    "movl %eax, mode_results + 4",
    "smsww %ax",
    "movw %ax, mode_results + 8",
    "retw",
    // #DE in real mode: through the IVT, RIP at the instruction, no error code.
    ".globl mode_real_divide",
    "mode_real_divide:",
    "pushl 0",
    "movw $2f, 0",
    "movw $0, 2",
    "xorw %bx, %bx",
    "movl $0, mode_results",
    "1: divw %bx",
    "popl 0",
    "retw",
    "2: incl mode_results",
    "movw %sp, %bp",
    "cpuid",
    "xorw %bx, %bx",
    "subw $1b, (%bp)",
    "movw (%bp), %ax",
    "movw %ax, mode_results + 4",
    "movw $3f, (%bp)",
    "iretw",
    "3: popl 0",
    "retw",
    // Segments with a limit of 4 GiB, taken along into real mode.
    ".globl mode_unreal",
    "mode_unreal:",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "movw $0x10, %bx",
    "movw %bx, %ds",
    "andl $0xfffffffe, %eax",
    "movl %eax, %cr0",
    "xorl %eax, %eax",
    "cpuid",
    "movl $0x407e00, %esi",
    "movl (%esi), %edi",
    // Loading DS in real mode sets its base alone.
    "movw $0x10, %ax",
    "movw %ax, %ds",
    "xorl %eax, %eax",
    "cpuid",
    "movl -0x100(%esi), %ebp",
    "xorw %ax, %ax",
    "movw %ax, %ds",
    "movl %edi, mode_results",
    "movl %ebp, mode_results + 4",
    "movl %ebx, mode_results + 8",
    "retw",
    // Virtual-8086 mode: CPUID, then HLT, which is #GP there and ends it.
    ".globl mode_v86_code",
    "mode_v86_code:",
    "xorl %eax, %eax",
    "cpuid",
    "movl %ebx, mode_results",
    "movw %cs, mode_results + 4",
    "movl $1, %eax",
    "cpuid",
    "hlt",
    "ud2",
    ".code32",
    ".globl mode_v86",
    "mode_v86:",
    "lidtl mode_v86_idt_pointer",
    // The first of the task switches' selectors: a TSS with ESP0 and SS0.
    "movw $0xc8, %ax",
    "ltr %ax",
    "movl %esp, mode_results + 28",
    "movl %esp, %ecx",
    "pushl $0",
    "pushl $0",
    "pushl $0",
    "pushl $0",
    "pushl $0",
    "pushl $0x6f00",
    "pushl $0x20002",
    "pushl $0",
    "pushl $mode_v86_code",
    "iretl",
    // #GP: error code, EIP, CS, EFLAGS.
    "mode_v86_fault:",
    "movl $0x10, %ecx",
    "movl %ecx, %ds",
    "movl %ecx, %es",
    "popl mode_results + 8",
    "popl %ecx",
    "movzbl (%ecx), %ecx",
    "movl %ecx, mode_results + 12",
    "addl $4, %esp",
    "popl mode_results + 16",
    "movl mode_results + 28, %esp",
    "ret",
    ".balign 8",
    "mode_v86_idt:",
    ".fill 13, 8, 0",
    ".word mode_v86_fault, 0x18, 0x8e00, 0",
    "mode_v86_idt_end:",
    ".word 0",
    "mode_v86_idt_pointer:",
    ".word mode_v86_idt_end - mode_v86_idt - 1",
    ".long mode_v86_idt",
    // 32-bit: CPUID leaf 0, CR0.
    ".code32",
    ".globl mode_protected",
    "mode_protected:",
    "xorl %eax, %eax",
    "cpuid",
    "movl %ebx, mode_results",
    "movl %cr0, %eax",
    "movl %eax, mode_results + 4",
    "ret",
    // PAE paging: CR3 = EDX; the PDPTEs are in registers from then on.
    ".globl mode_pae",
    "mode_pae:",
    "movl $mode_pdpt, %eax",
    "movl %eax, %cr3",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "jmp 1f",
    "1: xorl %eax, %eax",
    "cpuid",
    "movl %ebx, mode_results",
    // 1 GiB is mapped to 0 by entry 1; then entry 1 changes in memory, which
    // counts when CR3 is loaded, not before.
    "movl 0x40007dfe, %eax",
    "movl %eax, mode_results + 4",
    "movl $mode_window + 1, mode_pdpt + 8",
    "invlpg 0x40007dfe",
    "movl 0x40007dfe, %eax",
    "movl %eax, mode_results + 8",
    "cpuid",
    "movl %cr3, %eax",
    "movl %eax, %cr3",
    "movl 0x40007dfe, %eax",
    "movl %eax, mode_results + 12",
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "jmp 1f",
    "1: ret",
    // 32-bit paging with 4 MiB pages. The directory's first entry maps 0, and
    // entry 512 (2 GiB) maps 0 too.
    ".globl mode_legacy",
    "mode_legacy:",
    "movl %cr4, %ecx",
    "pushl %ecx",
    "andl $0xffffffdf, %ecx",
    "orl $0x10, %ecx",
    "movl %ecx, %cr4",
    "movl $mode_directory, %eax",
    "movl %eax, %cr3",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "jmp 1f",
    "1: xorl %eax, %eax",
    "cpuid",
    "movl %ebx, mode_results",
    "movl 0x80007dfe, %eax",
    "movl %eax, mode_results + 4",
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "popl %ecx",
    "movl %ecx, %cr4",
    "ret",
    ".code64",
    ".section .data.pages, \"aw\"",
    // PAE entries: present; the other low bits but PWT and PCD are reserved.
    ".balign 4096",
    "mode_pdpt:",
    ".quad page_directories + 1, page_directories + 1, 0, page_directories + 0x3001",
    // Another directory for 1 GiB: all of its pages at 4 MiB.
    ".balign 4096",
    "mode_window:",
    ".quad 0x400087",
    ".fill 511, 8, 0",
    ".balign 4096",
    ".globl mode_directory",
    "mode_directory:",
    ".long 0x87",
    ".fill 511, 4, 0",
    ".long 0x87",
    ".fill 511, 4, 0",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static mode_results: Shared<[u32; 8]>;
    fn mode_real();
    fn mode_real_divide();
    fn mode_unreal();
    fn mode_v86();
    fn mode_protected();
    fn mode_pae();
    fn mode_legacy();
}

/// A routine's results: poisoned before it runs.
fn results(run: unsafe fn(u32), routine: unsafe extern "C" fn()) -> [u32; 8] {
    // SAFETY: the routines of this file follow the rules of `modes`, and their
    // paging maps the code and the stack that they use.
    unsafe {
        let results = Shared::raw(&raw const mode_results);
        results.write_volatile([0xdead_beef; 8]);
        run(routine as *const () as u32);
        results.read_volatile()
    }
}

fn real_mode(_: &Context) -> Outcome {
    let results = results(modes::real, mode_real);
    check_eq!(results[0], cpu::cpuid(0).ebx, "CPUID leaf 0");
    // NE, MP and WP were set in long mode and stay.
    check_eq!(results[1], cpu::read_cr0() as u32 & !0x8000_0001, "CR0");
    check_eq!(results[2] & 0xffff, results[1] & 0xffff, "SMSW");
    Ok(())
}

fn real_mode_divide_error(_: &Context) -> Outcome {
    let results = results(modes::real, mode_real_divide);
    check_eq!(results[0], 1, "#DE in real mode");
    check_eq!(results[1] & 0xffff, 0, "IP, from the instruction");
    Ok(())
}

fn real_mode_with_large_segments(_: &Context) -> Outcome {
    // SAFETY: free memory (the tests' frame), identity mapped.
    unsafe { (0x40_7e00 as *mut u32).write_volatile(0x8765_4321) };
    let results = results(modes::real, mode_unreal);
    check_eq!(results[0], 0x8765_4321, "memory above 1 MiB");
    check_eq!(results[1], 0x8765_4321, "memory above 1 MiB, another base");
    check_eq!(results[2], cpu::cpuid(0).ebx, "CPUID leaf 0");
    Ok(())
}

fn virtual_8086_mode(_: &Context) -> Outcome {
    task_switch::set_stack(0x6c00);
    let results = results(modes::protected, mode_v86);
    descriptors::load(0);
    check_eq!(results[0], cpu::cpuid(0).ebx, "CPUID leaf 0");
    check_eq!(results[1] & 0xffff, 0, "CS");
    check_eq!(results[2], 0, "error code of HLT's #GP");
    check_eq!(results[3], 0xf4, "the opcode at #GP's EIP");
    // VM set, and the flag that is always one.
    check_eq!(results[4] & 0x2_0002, 0x2_0002, "EFLAGS");
    Ok(())
}

fn protected_mode_without_paging(_: &Context) -> Outcome {
    let results = results(modes::protected, mode_protected);
    check_eq!(results[0], cpu::cpuid(0).ebx, "CPUID leaf 0");
    check_eq!(results[1], cpu::read_cr0() as u32 & !0x8000_0000, "CR0");
    Ok(())
}

/// What lies at 0x7dfe: the MBR's signature and the configuration's first two
/// bytes.
fn signature() -> u32 {
    // SAFETY: the image's first two sectors stay as they were read.
    unsafe { (0x7dfe as *const u32).read_unaligned() }
}

fn pae_paging(_: &Context) -> Outcome {
    // SAFETY: free memory (the tests' frame), identity mapped.
    unsafe { (0x40_7dfe as *mut u32).write_unaligned(0x1234_5678) };
    let results = results(modes::protected, mode_pae);
    check_eq!(results[0], cpu::cpuid(0).ebx, "CPUID leaf 0");
    check_eq!(results[1], signature(), "memory through entry 1");
    check_eq!(
        results[2],
        signature(),
        "memory after a change of entry 1 alone"
    );
    check_eq!(results[3], 0x1234_5678, "memory after CR3 was loaded");
    Ok(())
}

fn legacy_paging(_: &Context) -> Outcome {
    let results = results(modes::protected, mode_legacy);
    check_eq!(results[0], cpu::cpuid(0).ebx, "CPUID leaf 0");
    check_eq!(results[1], signature(), "memory through entry 512");
    Ok(())
}
