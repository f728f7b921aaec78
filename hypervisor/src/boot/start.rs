//! From GRUB's 32-bit protected mode to [`crate::boot_main`] in long mode, and
//! the same way for the other CPUs from real mode.
//!
//! The image is linked at [`layout::IMAGE_VMA`](crate::memory::layout::IMAGE_VMA)
//! and at this point lies where GRUB put it. Until paging is on, every symbol is
//! off by the difference of the two, which `PHYS` takes out.

use core::arch::global_asm;

use crate::memory::layout::{DIRECT_SLOT, IMAGE_LMA, IMAGE_VMA};

/// Bytes of the stack that the bootstrap processor starts on.
pub const BOOT_STACK_SIZE: usize = 64 * 1024;

global_asm!(
    r#"
    .set IMAGE_VMA, {image_vma}
    .set IMAGE_LMA, {image_lma}

    // The Multiboot2 header (Multiboot2 specification 2.0, 3.1.1 "Header magic fields").
    .section .multiboot2, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + 0 + (multiboot2_header_end - multiboot2_header))
    // Entry address: physical, since paging is off.
    .balign 8
    .short 3, 0
    .long 12
    .long boot_start32 - IMAGE_VMA + IMAGE_LMA
    .balign 8
    .short 0, 0
    .long 8
multiboot2_header_end:

    .section .boot, "ax"
    .code32
    .global boot_start32
boot_start32:
    cli
    cld
    lea esp, [boot_stack - IMAGE_VMA + IMAGE_LMA + {stack_size}]
    mov edi, ebx
    cmp eax, 0x36d76289
    je 1f
    lea esi, [boot_no_multiboot - IMAGE_VMA + IMAGE_LMA]
    jmp boot_refuse
1:
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb 2f
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc 2f
    bt edx, 20
    jc 3f
    lea esi, [boot_no_execute_disable - IMAGE_VMA + IMAGE_LMA]
    jmp boot_refuse
2:
    lea esi, [boot_no_long_mode - IMAGE_VMA + IMAGE_LMA]
    jmp boot_refuse
3:
    // The first 4 GiB by 2 MiB pages, at 0 and at the direct map's slot.
    lea ebx, [boot_page_directories - IMAGE_VMA + IMAGE_LMA]
    mov eax, 0x83
    xor ecx, ecx
4:
    mov [ebx + ecx * 8], eax
    mov dword ptr [ebx + ecx * 8 + 4], 0
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 4b
    lea edx, [boot_pdpt - IMAGE_VMA + IMAGE_LMA]
    lea eax, [ebx + 3]
    mov [edx], eax
    add eax, 0x1000
    mov [edx + 8], eax
    add eax, 0x1000
    mov [edx + 16], eax
    add eax, 0x1000
    mov [edx + 24], eax
    lea ecx, [boot_pml4 - IMAGE_VMA + IMAGE_LMA]
    lea eax, [edx + 3]
    mov [ecx], eax
    mov [ecx + {direct_slot} * 8], eax
    // The image at its own address: 16 pages of 2 MiB, more than it fills.
    lea edx, [boot_pdpt_image - IMAGE_VMA + IMAGE_LMA]
    lea eax, [edx + 3]
    mov [ecx + 511 * 8], eax
    lea eax, [boot_pd_image - IMAGE_VMA + IMAGE_LMA + 3]
    mov [edx + 510 * 8], eax
    lea edx, [boot_pd_image - IMAGE_VMA + IMAGE_LMA]
    mov eax, IMAGE_LMA + 0x83
    xor ebx, ebx
5:
    mov [edx + ebx * 8], eax
    add eax, 0x200000
    inc ebx
    cmp ebx, 16
    jne 5b

    mov cr3, ecx
    call boot_long_mode
    lgdt [boot_gdt_pointer - IMAGE_VMA + IMAGE_LMA]
    push 0x08
    lea eax, [6f - IMAGE_VMA + IMAGE_LMA]
    push eax
    retf
    .code64
6:
    movabs rax, offset boot_start64
    jmp rax

    // PAE, SSE; LME and NXE; paging. CR3 is set. Clobbers eax, ecx, edx.
    .code32
boot_long_mode:
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3
    or eax, 0x80010022
    mov cr0, eax
    ret

    // Prints the line at esi on the screen and on COM1, and stops.
boot_refuse:
    // 115,200 baud, 8 bits, no parity, no interrupts: pairs of register and value.
    lea ebx, [boot_uart - IMAGE_VMA + IMAGE_LMA]
    mov ecx, 6
11:
    movzx edx, byte ptr [ebx]
    add edx, 0x3f8
    mov al, [ebx + 1]
    out dx, al
    add ebx, 2
    loop 11b
    mov ebx, 0xb8000
7:
    lodsb
    test al, al
    jz 9f
    mov ah, 0x4f
    mov [ebx], ax
    add ebx, 2
    mov cl, al
    mov dx, 0x3fd
    mov edi, 1000000
8:
    in al, dx
    dec edi
    jz 10f
    test al, 0x20
    jz 8b
10:
    mov al, cl
    mov dx, 0x3f8
    out dx, al
    jmp 7b
9:
    cli
    hlt
    jmp 9b

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .short 23
    .long boot_gdt - IMAGE_VMA + IMAGE_LMA
    .long 0
boot_uart:
    .byte 1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3, 4, 3
boot_no_multiboot:
    .asciz "stillpoint: not started by Multiboot2. In GRUB use the command multiboot2, not multiboot or linux.\r\n"
boot_no_long_mode:
    .asciz "stillpoint: this CPU has no long mode (CPUID.80000001H:EDX.LM[bit 29] = 0).\r\n"
boot_no_execute_disable:
    .asciz "stillpoint: this CPU has no execute disable (CPUID.80000001H:EDX.NX[bit 20] = 0). Turn it on in the firmware's set-up.\r\n"

    .code64
boot_start64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    movabs rsp, offset boot_stack + {stack_size}
    xor ebp, ebp
    push rbp
    jmp {boot_main}

    // What a CPU runs after its SIPI, copied to a page below 1 MiB whose number
    // is the SIPI's vector; ap_trampoline_cr3, _entry and _stack are filled in.
    .section .rodata
    .balign 16
    .global ap_trampoline
ap_trampoline:
    .code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    // ebx = linear address of this page
    xor ebx, ebx
    mov bx, ax
    shl ebx, 4
    // The two pointers that need the linear address.
    lea eax, [ebx + AP_GDT]
    mov dword ptr [AP_GDT_POINTER + 2], eax
    lea eax, [ebx + AP_PROTECTED]
    mov dword ptr [AP_FAR_POINTER], eax
    lgdt [AP_GDT_POINTER]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp fword ptr [AP_FAR_POINTER]
    .code32
ap_protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, [ebx + AP_TRAMPOLINE_CR3]
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3
    or eax, 0x80010022
    mov cr0, eax
    lea eax, [ebx + AP_LONG]
    // A stack for the far return: the end of this page.
    mov esp, ebx
    add esp, 0xff0
    push 0x18
    push eax
    retf
    .code64
ap_long:
    mov rsp, [rbx + AP_TRAMPOLINE_STACK]
    mov rax, [rbx + AP_TRAMPOLINE_ENTRY]
    xor ebp, ebp
    push rbp
    jmp rax

    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
ap_gdt_pointer:
    .short 31
    .long 0
    .short 0
ap_far_pointer:
    .long 0
    .short 0x08
    .balign 8
    .global ap_trampoline_cr3
ap_trampoline_cr3:
    .quad 0
    .global ap_trampoline_entry
ap_trampoline_entry:
    .quad 0
    .global ap_trampoline_stack
ap_trampoline_stack:
    .quad 0
    .global ap_trampoline_end
ap_trampoline_end:
    // The same as offsets from the page's start.
    .set AP_FAR_POINTER, ap_far_pointer - ap_trampoline
    .set AP_GDT, ap_gdt - ap_trampoline
    .set AP_GDT_POINTER, ap_gdt_pointer - ap_trampoline
    .set AP_LONG, ap_long - ap_trampoline
    .set AP_PROTECTED, ap_protected - ap_trampoline
    .set AP_TRAMPOLINE_CR3, ap_trampoline_cr3 - ap_trampoline
    .set AP_TRAMPOLINE_ENTRY, ap_trampoline_entry - ap_trampoline
    .set AP_TRAMPOLINE_STACK, ap_trampoline_stack - ap_trampoline

    .section .bss
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_page_directories:
    .skip 4 * 4096
boot_pdpt_image:
    .skip 4096
boot_pd_image:
    .skip 4096
boot_stack:
    .skip {stack_size}
    .text
    .code64
"#,
    image_vma = const IMAGE_VMA,
    image_lma = const IMAGE_LMA,
    direct_slot = const DIRECT_SLOT,
    stack_size = const BOOT_STACK_SIZE,
    boot_main = sym crate::boot_main,
);
