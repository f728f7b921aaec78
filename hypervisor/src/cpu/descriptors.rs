//! GDT and TSS of one CPU, and the IDT that all share.

use core::arch::asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::interrupts;

/// Interrupt stacks of a CPU. Every vector uses one: the precompiled `core` has
/// a red zone below RSP, which an interrupt on the same stack would destroy.
pub const IST_STACKS: usize = 7;

/// The segment selectors that the hypervisor runs with.
#[derive(Clone, Copy)]
pub struct Selectors {
    /// 64-bit code.
    pub code: SegmentSelector,
    /// Data, for SS.
    pub data: SegmentSelector,
    /// The task state segment.
    pub tss: SegmentSelector,
}

/// One CPU's GDT and TSS.
pub struct Descriptors {
    tss: TaskStateSegment,
    gdt: Once<(GlobalDescriptorTable, Selectors)>,
}

impl Descriptors {
    /// With these interrupt stacks, given by their ends.
    pub fn new(stacks: &[u64; IST_STACKS]) -> Self {
        let mut tss = TaskStateSegment::new();
        tss.interrupt_stack_table = stacks.map(VirtAddr::new);
        Self {
            tss,
            gdt: Once::new(),
        }
    }

    /// Loads both on this CPU, and the IDT.
    pub fn load(&'static self) -> Selectors {
        let (gdt, selectors) = self.gdt.call_once(|| {
            let mut gdt = GlobalDescriptorTable::new();
            let selectors = Selectors {
                code: gdt.append(Descriptor::kernel_code_segment()),
                data: gdt.append(Descriptor::kernel_data_segment()),
                tss: gdt.append(Descriptor::tss_segment(&self.tss)),
            };
            (gdt, selectors)
        });
        gdt.load();
        // SAFETY: the selectors are of the GDT just loaded; the far return goes to
        // the next instruction. FS and GS keep their bases, which are MSRs.
        unsafe {
            asm!(
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ss, {data:e}",
                "mov ds, {null:e}",
                "mov es, {null:e}",
                code = in(reg) u64::from(selectors.code.0),
                data = in(reg) u32::from(selectors.data.0),
                null = in(reg) 0u32,
                scratch = out(reg) _,
            );
            x86_64::instructions::tables::load_tss(selectors.tss);
        }
        idt().load();
        *selectors
    }

    /// Where the TSS lies, for the VMCS.
    pub fn tss_base(&self) -> u64 {
        &raw const self.tss as u64
    }
}

/// The interrupt stack (0-based) of a vector: NMI, #DF, #MC, #DB, #PF and #GP have
/// their own, so that one may interrupt the handler of another.
fn ist_of(vector: usize) -> u16 {
    match vector {
        2 => 0,
        8 => 1,
        18 => 2,
        1 => 3,
        14 => 4,
        13 => 5,
        _ => 6,
    }
}

fn idt() -> &'static InterruptDescriptorTable {
    static IDT: Once<InterruptDescriptorTable> = Once::new();
    IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        macro_rules! set {
            ($($vector:literal => $entry:ident),* $(,)?) => {$(
                // SAFETY: the stub follows the interrupt convention; the stack is
                // one of the TSS's seven, used by no other vector at that time.
                unsafe {
                    idt.$entry
                        .set_handler_addr(VirtAddr::new(interrupts::stub($vector)))
                        .set_stack_index(ist_of($vector));
                }
            )*};
        }
        set! {
            0 => divide_error, 1 => debug, 2 => non_maskable_interrupt, 3 => breakpoint,
            4 => overflow, 5 => bound_range_exceeded, 6 => invalid_opcode,
            7 => device_not_available, 8 => double_fault, 10 => invalid_tss,
            11 => segment_not_present, 12 => stack_segment_fault,
            13 => general_protection_fault, 14 => page_fault, 16 => x87_floating_point,
            17 => alignment_check, 18 => machine_check, 19 => simd_floating_point,
            20 => virtualization, 21 => cp_protection_exception,
        }
        idt
    })
}

/// The IDT's address, for the VMCS.
pub fn idt_base() -> u64 {
    &raw const *idt() as u64
}
