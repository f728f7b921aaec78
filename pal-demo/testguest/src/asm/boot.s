# From the BIOS to 64-bit mode: the MBR, and the way into long mode that the
# boot processor, the application processors and every return from another
# mode share (modes.s). AT&T syntax, for its far jumps.

    .set CODE64, 0x08
    .set DATA, 0x10
    .set CODE32, 0x18
    .set CODE16, 0x20
    .set DATA16, 0x28
    .set REAL_STACK, 0x7000
    # Sectors a read: firmware is asked for at most 127, and 32 KiB never
    # crosses a segment.
    .set CHUNK, 64

    .section .mbr, "awx"
    .code16
    .globl mbr_start
mbr_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $REAL_STACK, %sp
    # Firmware may have come to 07C0:0000.
    ljmpw $0, $1f
1:  sti
    movb %dl, boot_drive
    movw $payload_sectors, %bp
2:  movw $CHUNK, %cx
    cmpw %cx, %bp
    jae 3f
    movw %bp, %cx
3:  movw %cx, packet_count
    pushw %cx
    movb $0x42, %ah
    movb boot_drive, %dl
    movw $packet, %si
    int $0x13
    popw %cx
    jc 5f
    movzwl %cx, %eax
    addl %eax, packet_sector
    subw %cx, %bp
    shlw $5, %cx
    addw %cx, packet_segment
    testw %bp, %bp
    jnz 2b
    jmp stage2
    # The configured ports are not known here; 0xE9 is harmless everywhere.
5:  movw $read_error, %si
6:  lodsb
    testb %al, %al
    jz 7f
    outb %al, $0xe9
    jmp 6b
7:  hlt
    jmp 7b

read_error:
    .asciz "test guest: cannot read its own disk\n"

    # Disk address packet of INT 13h, AH = 42h.
    .balign 4
packet:
    .byte 16, 0
packet_count:
    .word 0
    .word 0
packet_segment:
    .word 0x7e0
packet_sector:
    .quad 1
    .globl boot_drive
boot_drive:
    .byte 0
    # A disk signature and an empty partition table keep loaders content.
    .org mbr_start + 510
    .word 0xaa55

    .section .config, "aw"
    .globl config_text
config_text:
    .asciz "suite=basic"
    .org config_text + 512

    # Application processors start here: the page that the SIPI's vector names.
    .section .real.trampoline, "awx"
    .code16
    .globl ap_trampoline
ap_trampoline:
    # CS = page << 8: what the CPU starts with is kept for a test.
    movl %eax, %cs:(ap_initial - ap_trampoline)
    movl %ebx, %cs:(ap_initial - ap_trampoline + 4)
    movl %ecx, %cs:(ap_initial - ap_trampoline + 8)
    movl %edx, %cs:(ap_initial - ap_trampoline + 12)
    movl %esi, %cs:(ap_initial - ap_trampoline + 16)
    movl %edi, %cs:(ap_initial - ap_trampoline + 20)
    movl %ebp, %cs:(ap_initial - ap_trampoline + 24)
    movl %esp, %cs:(ap_initial - ap_trampoline + 28)
    movl %cr0, %eax
    movl %eax, %cs:(ap_initial - ap_trampoline + 32)
    movl %cr2, %eax
    movl %eax, %cs:(ap_initial - ap_trampoline + 36)
    movl %cr3, %eax
    movl %eax, %cs:(ap_initial - ap_trampoline + 40)
    movl %cr4, %eax
    movl %eax, %cs:(ap_initial - ap_trampoline + 44)
    movw %cs, %cs:(ap_initial - ap_trampoline + 52)
    movw %ds, %cs:(ap_initial - ap_trampoline + 56)
    movw %ss, %cs:(ap_initial - ap_trampoline + 60)
    # EFLAGS by way of a stack in the same page.
    movw %cs, %ax
    movw %ax, %ss
    movw $(ap_initial - ap_trampoline + 52), %sp
    pushfl
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    ljmpw $0, $1f
1:  movl $ap_entry, %ebx
    jmp enter_long
    .balign 4
    .globl ap_initial
ap_initial:
    .fill 16, 4, 0

    .section .real, "awx"
    .code16
stage2:
    cli
    # A20, by the fast way; the BIOSes this meets have it open already.
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    movl $bsp_entry, %ebx
    # Fall through.

# Real mode to 64-bit mode. In: EBX = where to go on, DS = 0, IF = 0.
    .globl enter_long
enter_long:
    lgdtl gdt_pointer
    movl %cr0, %eax
    orl $1, %eax
    # CD and NW, which INIT leaves set.
    andl $0x9fffffff, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $1f
    .code32
1:  movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss

# 32-bit protected mode without paging to 64-bit mode. In: EBX, as above.
    .globl enter_long_32
enter_long_32:
    movl %cr4, %eax
    # Without LA57, unless it is wanted.
    andl $0xffffefff, %eax
    orl long_mode_cr4, %eax
    movl %eax, %cr4
    movl long_mode_cr3, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    # LME and NXE.
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    # EM and TS off; PG, WP, NE and MP on.
    andl $0xfffffff3, %eax
    orl $0x80010022, %eax
    movl %eax, %cr0
    ljmpl $CODE64, $2f
    .code64
2:  movl %ebx, %ebx
    jmp *%rbx

bsp_entry:
    movq $__bss_start, %rdi
    movq $__bss_end, %rcx
    subq %rdi, %rcx
    xorl %eax, %eax
    rep stosb
    xorl %edi, %edi
    jmp enter_rust

# CPUID.1:EBX[31:24] is the initial APIC ID.
ap_entry:
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movl %ebx, %edi

# In: RDI = index of this CPU. Each has a stack of its own.
enter_rust:
    leaq 1(%rdi), %rax
    imulq $STACK_SIZE, %rax, %rax
    leaq stacks(%rax), %rsp
    xorl %ebp, %ebp
    # A null SS is what interrupts leave in 64-bit mode; start so.
    xorl %eax, %eax
    movl %eax, %ss
    call guest_main
    ud2

# The GDT: one for all CPUs, their TSS descriptors at its end.
    .section .data.pages, "aw"
    .balign 4096
    .globl pml4
pml4:
    .quad pdpt + 0x7
    .fill 511, 8, 0
# Identity: 4 GiB in 2 MiB pages, present, writable, user.
pdpt:
    .quad page_directories + 0x0007
    .quad page_directories + 0x1007
    .quad page_directories + 0x2007
    .quad page_directories + 0x3007
    .fill 508, 8, 0
    .globl page_directories
page_directories:
    .set frame, 0
    .rept 2048
    .quad frame + 0x87
    .set frame, frame + 0x200000
    .endr

    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 64-bit code
    .quad 0x00cf93000000ffff    # 0x10 data
    .quad 0x00cf9b000000ffff    # 0x18 32-bit code
    .quad 0x00009b000000ffff    # 0x20 16-bit code, 64 KiB
    .quad 0x000093000000ffff    # 0x28 16-bit data, 64 KiB
    .quad 0x00cffb000000ffff    # 0x30 32-bit code, ring 3
    .quad 0x00cff3000000ffff    # 0x38 data, ring 3
    .quad 0x00affb000000ffff    # 0x40 64-bit code, ring 3
    .globl gdt_tss
gdt_tss:
    .fill 2 * MAX_CPUS, 8, 0    # 0x48 a 64-bit TSS a CPU
    .globl gdt_tss32
gdt_tss32:
    .fill 8, 8, 0               # 32-bit TSSs, for task switches
gdt_end:

    # The paging of 64-bit mode. CR4: PAE, OSFXSR, OSXMMEXCPT; no PSE, no PGE.
    .section .real, "awx"
    .balign 4
    .globl long_mode_cr3
long_mode_cr3:
    .long pml4
    .globl long_mode_cr4
long_mode_cr4:
    .long 0x620
    .word 0
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
