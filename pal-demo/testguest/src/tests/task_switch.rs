//! Hardware task switches, which exit to the hypervisor unconditionally
//! (asm/taskswitch.s is the code).

use crate::boot::{MAX_CPUS, selector};
use crate::descriptors::{self, Shared};
use crate::harness::{Context, Outcome, Test};
use crate::{check_eq, modes, tests};

/// Task switches.
pub const TESTS: &[Test] = tests![
    task_switches_by_jump_call_and_gate,
    task_gates_for_exceptions,
];

/// A 32-bit TSS (Intel SDM vol. 3, ch. 8, Task-state segment), as its 26
/// 32-bit words.
type Tss = [u32; 26];

/// Words of a TSS.
const LINK: usize = 0;
const CR3: usize = 7;
const EIP: usize = 8;
const EFLAGS: usize = 9;
const EAX: usize = 10;
const ESP: usize = 14;
const ES: usize = 18;
const CS: usize = 19;

/// Selectors of tasks A, B and C; asm/taskswitch.s has the same.
const TASK_A: u16 = selector::TSS + 16 * MAX_CPUS as u16;
const TASK_B: u16 = TASK_A + 8;
const TASK_C: u16 = TASK_A + 16;

const NT: u32 = 1 << 14;
const TS: u32 = 1 << 3;

/// Task A, which asm/taskswitch.s knows by name.
#[unsafe(export_name = "task_tss_a")]
static TSS_A: Shared<Tss> = Shared::new([0; 26]);

/// The other tasks of a test: B, C, D and G.
static OTHERS: [Shared<Tss>; 4] = [const { Shared::new([0; 26]) }; 4];
static STACKS: [Shared<[u32; 256]>; 4] = [const { Shared::new([0; 256]) }; 4];

/// A page directory.
#[repr(align(4096))]
struct Directory([u32; 1024]);

/// Task C's, in the second test.
static DIRECTORY: Shared<Directory> = Shared::new(Directory([0; 1024]));

unsafe extern "C" {
    static gdt_tss32: Shared<[u64; 8]>;
    static task_trace: Shared<[u32; 10]>;
    static exception_trace: Shared<[u32; 16]>;
    static mode_directory: u8;
    fn task_switches();
    fn task_b();
    fn task_c();
    fn task_exceptions();
    fn task_exception_ud();
    fn task_exception_gp();
    fn task_after_int();
    fn task_ud();
    fn task_gp();
    fn task_int();
    fn task_traced();
}

/// An available 32-bit TSS, byte limit.
fn descriptor(base: u32) -> u64 {
    let base = u64::from(base);
    103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24) << 56
}

/// The type field of a task's descriptor: 9 available, 11 busy.
fn kind(index: usize) -> u64 {
    // SAFETY: the descriptors are this test's.
    unsafe { (*Shared::raw(&raw const gdt_tss32))[index] >> 40 & 0xf }
}

fn task(entry: unsafe extern "C" fn(), stack: &Shared<[u32; 256]>, eax: u32) -> Tss {
    let mut tss = [0; 26];
    tss[EIP] = entry as *const () as u32;
    tss[EFLAGS] = 2;
    tss[EAX] = eax;
    tss[ESP] = stack.get() as u32 + 1024;
    // ES, CS, SS, DS, FS, GS.
    tss[ES..ES + 6].fill(0x10);
    tss[CS] = selector::CODE32.into();
    tss[25] = 104 << 16;
    tss
}

/// Puts task A and these others into the GDT, all available.
fn set_tasks(a: Tss, others: &[Tss]) {
    // SAFETY: the TSSs and their descriptors are these tests' alone.
    unsafe {
        let descriptors = Shared::raw(&raw const gdt_tss32);
        TSS_A.get().write(a);
        (*descriptors)[0] = descriptor(TSS_A.get() as u32);
        for (index, (cell, tss)) in OTHERS.iter().zip(others).enumerate() {
            cell.get().write(*tss);
            (*descriptors)[index + 1] = descriptor(cell.get() as u32);
        }
    }
}

/// Makes task A's TSS one that gives the processor a stack for ring 0.
pub fn set_stack(esp0: u32) {
    let mut tss = [0; 26];
    // ESP0, SS0.
    tss[1] = esp0;
    tss[2] = 0x10;
    tss[25] = 104 << 16;
    set_tasks(tss, &[]);
}

fn task_switches_by_jump_call_and_gate(_: &Context) -> Outcome {
    set_tasks(
        [0; 26],
        &[
            task(task_b, &STACKS[0], 0x7a5b),
            task(task_c, &STACKS[1], 0),
        ],
    );
    let (tasks, trace);
    // SAFETY: everything written is this test's; the routine follows the rules
    // of `modes`, and the task register is loaded again below.
    unsafe {
        Shared::raw(&raw const task_trace).write([0; 10]);
        modes::protected(task_switches as *const () as u32);
        trace = Shared::raw(&raw const task_trace).read_volatile();
        tasks = [
            TSS_A.get().read_volatile(),
            OTHERS[0].get().read_volatile(),
            OTHERS[1].get().read_volatile(),
        ];
    }
    descriptors::load(0);
    check_eq!(trace[4], 0x7a5b, "EAX in task B");
    check_eq!(trace[5] as u16, TASK_B, "task register in task B");
    check_eq!(trace[0] & TS, TS, "CR0.TS after a switch");
    check_eq!(trace[1], 0x0a0a_0a0a, "EBX of task A after B");
    check_eq!(tasks[0][3 + EAX], 0x0a0a_0a0a, "EBX saved in TSS A");
    check_eq!(trace[6] & NT, NT, "EFLAGS.NT after a CALL");
    check_eq!(trace[7], 0x0b0b_0b0b, "EBX of task B on its second entry");
    check_eq!(tasks[1][LINK] as u16, TASK_A, "link of TSS B");
    check_eq!(trace[2], 0x1111, "task A after the CALL");
    check_eq!(trace[8] & NT, NT, "EFLAGS.NT through the task gate");
    check_eq!(trace[9], 2, "entries by the task gate");
    check_eq!(trace[3], 0x2222, "task A after the gate");
    check_eq!(tasks[2][LINK] as u16, TASK_A, "link of TSS C");
    check_eq!(kind(0), 11, "type of task A");
    check_eq!(kind(1), 9, "type of task B");
    check_eq!(kind(2), 9, "type of task C");
    check_eq!(tasks[1][EFLAGS] & NT, 0, "EFLAGS.NT saved by IRET");
    check_eq!(u32::from(TASK_C), u32::from(TASK_B) + 8, "selectors");
    Ok(())
}

/// #GP's error code: a selector beyond the GDT.
const BAD_SELECTOR: u32 = 0xfff8;

/// DR6.BT: a debug exception by a task's T flag.
const BT: u32 = 1 << 15;

fn task_gates_for_exceptions(_: &Context) -> Outcome {
    let directory = (&raw const mode_directory) as u32;
    let with_cr3 = |mut tss: Tss, cr3: u32| {
        tss[CR3] = cr3;
        tss
    };
    let mut traced = with_cr3(task(task_traced, &STACKS[2], 0), directory);
    // The T flag is the low bit of the last word.
    traced[25] |= 1;
    let own = DIRECTORY.get() as u32;
    set_tasks(
        with_cr3([0; 26], directory),
        &[
            with_cr3(task(task_ud, &STACKS[0], 0), directory),
            with_cr3(task(task_gp, &STACKS[1], 0), own),
            traced,
        ],
    );
    let trace;
    // SAFETY: as in the first test. Task C's directory maps 4 MiB at 0, where
    // everything of this guest lies, and 4 MiB of free memory at 2 GiB.
    unsafe {
        let descriptors = Shared::raw(&raw const gdt_tss32);
        // Absent, and too short by one byte.
        (*descriptors)[4] = descriptor(TSS_A.get() as u32) & !(1 << 47);
        (*descriptors)[5] = descriptor(TSS_A.get() as u32) - 1;
        let interrupt = with_cr3(task(task_int, &STACKS[3], 0), directory);
        OTHERS[3].get().write(interrupt);
        (*descriptors)[6] = descriptor(OTHERS[3].get() as u32);
        (*DIRECTORY.get()).0[0] = 0x87;
        (*DIRECTORY.get()).0[512] = 0x40_0087;
        (0x40_7e00 as *mut u32).write_volatile(0x600d_cafe);
        Shared::raw(&raw const exception_trace).write([0; 16]);
        modes::protected(task_exceptions as *const () as u32);
        trace = Shared::raw(&raw const exception_trace).read_volatile();
    }
    descriptors::load(0);
    let address = |routine: unsafe extern "C" fn()| routine as *const () as u32;
    check_eq!(trace[0], address(task_exception_ud), "EIP saved at #UD");
    check_eq!(trace[1], BAD_SELECTOR, "error code on task C's stack");
    check_eq!(trace[2], address(task_exception_gp), "EIP saved at #GP");
    check_eq!(trace[3], 0x600d_cafe, "memory through task C's CR3");
    check_eq!(trace[4], own, "CR3 of task C");
    check_eq!(trace[5], address(task_after_int), "EIP saved at INT");
    check_eq!(trace[6] & BT, BT, "DR6.BT in a task with the T flag");
    check_eq!(trace[7], address(task_traced), "EIP of that #DB");
    check_eq!(trace[11], u32::from(TASK_A), "#GP for a busy task");
    check_eq!(trace[9], u32::from(TASK_A) + 32, "#NP for an absent task");
    check_eq!(trace[8], u32::from(TASK_A) + 40, "#TS for a short task");
    Ok(())
}
