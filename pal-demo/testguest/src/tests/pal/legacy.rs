//! Code at CPL 3 under 32-bit and PAE paging, which are not of IA-32e mode: this guest
//! leaves that mode for as long as the code runs. On CPU 0 alone.

use core::arch::global_asm;

use super::space::{Kind, Space};
use crate::descriptors::{self, Shared};
use crate::modes;
use crate::tests::task_switch;
use crate::trap::{Frame, Trap};

const CR4_PSE: u32 = 1 << 4;
const CR4_PAE: u32 = 1 << 5;

/// What goes in, and what comes out.
#[repr(C)]
#[derive(Clone, Copy)]
struct Trip {
    cr3: u32,
    /// CR4's bits for the paging kind.
    cr4: u32,
    /// EDI, ESI, EBP, an unused word, EBX, EDX, ECX, EAX: as POPA has them.
    registers: [u32; 8],
    vector: u32,
    error: u32,
    eip: u32,
    cs: u32,
    eflags: u32,
    esp: u32,
    ss: u32,
    cr2: u32,
}

global_asm!(
    ".section .real, \"awx\"",
    ".code32",
    ".set TRIP_REGISTERS, legacy_trip + 8",
    ".set TRIP_EVENT, legacy_trip + 40",
    ".set TRIP_CR2, legacy_trip + 68",
    ".globl legacy_run",
    "legacy_run:",
    "pushal",
    "movl %cr4, %eax",
    "pushl %eax",
    "movl %esp, legacy_esp",
    "andl $0xffffffcf, %eax",
    "orl legacy_trip + 4, %eax",
    "movl %eax, %cr4",
    "movl legacy_trip, %eax",
    "movl %eax, %cr3",
    "movl %cr0, %eax",
    "orl $0x80000000, %eax",
    "movl %eax, %cr0",
    "jmp 1f",
    "1: lidtl legacy_idt_pointer",
    // The first of the task switches' selectors: a TSS with ESP0 and SS0.
    "movw $0xc8, %ax",
    "ltr %ax",
    "movl TRIP_EVENT + 24, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "pushl %ss:TRIP_EVENT + 24",
    "pushl %ss:TRIP_EVENT + 20",
    "pushl %ss:TRIP_EVENT + 16",
    "pushl %ss:TRIP_EVENT + 12",
    "pushl %ss:TRIP_EVENT + 8",
    "subl $32, %esp",
    "movl $8, %ecx",
    "movl $TRIP_REGISTERS, %esi",
    "movl %esp, %edi",
    "rep movsl",
    "popal",
    "iretl",
    // Every exception, and the vector by which code at CPL 3 comes back.
    ".balign 16",
    "legacy_stubs:",
    ".set vector, 0",
    ".rept 66",
    ".balign 16",
    ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)",
    ".else",
    "pushl $0",
    ".endif",
    "pushl $vector",
    "jmp legacy_trapped",
    ".set vector, vector + 1",
    ".endr",
    "legacy_trapped:",
    "pushal",
    "cld",
    "movl $0x10, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %esp, %esi",
    "movl $TRIP_REGISTERS, %edi",
    "movl $15, %ecx",
    "rep movsl",
    "movl %cr2, %eax",
    "movl %eax, TRIP_CR2",
    "movl %cr0, %eax",
    "andl $0x7fffffff, %eax",
    "movl %eax, %cr0",
    "jmp 1f",
    "1: movl legacy_esp, %esp",
    "popl %eax",
    "movl %eax, %cr4",
    "popal",
    "ret",
    ".balign 8",
    "legacy_esp: .long 0",
    ".globl legacy_trip",
    "legacy_trip: .fill 18, 4, 0",
    ".word 0",
    "legacy_idt_pointer:",
    ".word 66 * 8 - 1",
    ".long legacy_idt",
    ".balign 8",
    ".globl legacy_idt",
    "legacy_idt:",
    // 32-bit interrupt gates. Only the vector to come back by is for CPL 3.
    ".set vector, 0",
    ".rept 65",
    ".word legacy_stubs + 16 * vector, 0x18, 0x8e00, 0",
    ".set vector, vector + 1",
    ".endr",
    ".word legacy_stubs + 16 * vector, 0x18, 0xee00, 0",
    ".code64",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static legacy_trip: Shared<Trip>;
    fn legacy_run();
}

/// Goes on in a context of 32-bit code until a trap.
pub fn resume(space: &Space, frame: &Frame) -> Trap {
    // Only 32 bits of each count.
    let word = |value: u64| value as u32;
    let trip = Trip {
        cr3: word(space.cr3),
        cr4: match space.kind {
            Kind::Pae => CR4_PAE,
            _ => CR4_PSE,
        },
        registers: [
            frame.rdi, frame.rsi, frame.rbp, 0, frame.rbx, frame.rdx, frame.rcx, frame.rax,
        ]
        .map(word),
        vector: 0,
        error: 0,
        eip: word(frame.rip),
        cs: word(frame.cs),
        eflags: word(frame.rflags),
        esp: word(frame.rsp),
        ss: word(frame.ss),
        cr2: 0,
    };
    task_switch::set_stack(0x6c00);
    // SAFETY: the routine follows the rules of `modes`: its paging maps the low memory
    // one to one, and its stack for traps lies below the code.
    let trip = unsafe {
        let place = Shared::raw(&raw const legacy_trip);
        place.write_volatile(trip);
        modes::protected(legacy_run as *const () as u32);
        place.read_volatile()
    };
    descriptors::load(0);
    let [edi, esi, ebp, _, ebx, edx, ecx, eax] = trip.registers.map(u64::from);
    Trap {
        frame: Frame {
            rdi: edi,
            rsi: esi,
            rbp: ebp,
            rbx: ebx,
            rdx: edx,
            rcx: ecx,
            rax: eax,
            vector: trip.vector.into(),
            error: trip.error.into(),
            rip: trip.eip.into(),
            cs: trip.cs.into(),
            rflags: trip.eflags.into(),
            rsp: trip.esp.into(),
            ss: trip.ss.into(),
            ..Frame::default()
        },
        cr2: trip.cr2.into(),
    }
}
