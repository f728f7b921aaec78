//! The guest's translations: what is changed in a page table counts after the
//! instructions that say so, also where the hypervisor tags the TLB.

use core::arch::asm;

use crate::cpu;
use crate::descriptors::Shared;
use crate::harness::{Context, Outcome, Test};
use crate::tests::memory::read_quad;
use crate::{check_eq, tests};

/// TLB maintenance.
pub const TESTS: &[Test] = tests![
    invlpg_flushes,
    cr3_flushes,
    global_pages_are_flushed_by_pge,
    invpcid_flushes,
    large_pages_are_flushed,
];

/// A page-structure page.
#[repr(align(4096))]
struct Table([u64; 512]);

static TABLES: [Shared<Table>; 3] = [const { Shared::new(Table([0; 512])) }; 3];

unsafe extern "C" {
    static pml4: Shared<[u64; 512]>;
}

/// Where the page under test is: PML4 entry 4.
const PAGE: u64 = 4 << 39;

/// Two pages of memory that this guest leaves free, in different 2 MiB pages.
const FRAMES: [u64; 2] = [0x80_0000, 0xa0_0000];

/// Present, writable, user.
const ENTRY: u64 = 7;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;

/// What lies in the two pages.
const CONTENTS: [u64; 2] = [0xaaaa_0000_1111_2222, 0xbbbb_0000_3333_4444];

/// Points the page at one of the frames, without telling the TLB.
fn point(frame: usize, large: bool, flags: u64) {
    let tables = [TABLES[0].get(), TABLES[1].get(), TABLES[2].get()];
    // SAFETY: the tables are this file's, and nothing else uses the address.
    unsafe {
        let write = |table: *mut Table, value: u64| (&raw mut (*table).0[0]).write_volatile(value);
        if large {
            write(tables[1], FRAMES[frame] | ENTRY | LARGE | flags);
        } else {
            write(tables[2], FRAMES[frame] | ENTRY | flags);
            write(tables[1], tables[2] as u64 | ENTRY);
        }
        write(tables[0], tables[1] as u64 | ENTRY);
        Shared::raw(&raw const pml4)
            .cast::<u64>()
            .add(4)
            .write_volatile(tables[0] as u64 | ENTRY);
    }
}

/// Reads through one frame, changes to the other, flushes, and reads again.
fn flushes(large: bool, flags: u64, flush: impl Fn()) -> Outcome {
    for (frame, contents) in FRAMES.iter().zip(CONTENTS) {
        // SAFETY: the frames are free memory.
        unsafe { (*frame as *mut u64).write_volatile(contents) };
    }
    for round in 0..20 {
        for frame in [0, 1] {
            point(frame, large, flags);
            flush();
            check_eq!(
                read_quad(PAGE),
                CONTENTS[frame],
                "round {round}, frame {frame}"
            );
            cpu::cpuid(0);
            check_eq!(
                read_quad(PAGE),
                CONTENTS[frame],
                "round {round}, after CPUID"
            );
        }
    }
    Ok(())
}

fn invlpg_flushes(_: &Context) -> Outcome {
    // SAFETY: drops a translation.
    flushes(false, 0, || unsafe { asm!("invlpg [{}]", in(reg) PAGE) })
}

fn cr3_flushes(_: &Context) -> Outcome {
    flushes(false, 0, || cpu::write_cr3(cpu::read_cr3()))
}

const CR4_PGE: u64 = 1 << 7;

fn global_pages_are_flushed_by_pge(_: &Context) -> Outcome {
    let cr4 = cpu::read_cr4();
    cpu::write_cr4(cr4 | CR4_PGE);
    let outcome = flushes(false, GLOBAL, || {
        cpu::write_cr4(cr4 & !CR4_PGE);
        cpu::write_cr4(cr4 | CR4_PGE);
    });
    cpu::write_cr4(cr4);
    outcome
}

fn invpcid_flushes(_: &Context) -> Outcome {
    if cpu::cpuid_count(7, 0).ebx & 1 << 10 == 0 {
        crate::fail!("the processor has no INVPCID");
    }
    // Type 0: one address of one PCID; type 2: everything.
    for kind in [0_u64, 2] {
        let descriptor = [0, PAGE];
        // SAFETY: drops translations.
        flushes(false, 0, || unsafe {
            asm!("invpcid {}, [{}]", in(reg) kind, in(reg) &descriptor);
        })?;
    }
    Ok(())
}

fn large_pages_are_flushed(_: &Context) -> Outcome {
    // SAFETY: drops a translation.
    flushes(true, 0, || unsafe { asm!("invlpg [{}]", in(reg) PAGE) })?;
    flushes(true, 0, || cpu::write_cr3(cpu::read_cr3()))
}
