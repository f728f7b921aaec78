//! Hardware task switches, which exit to the hypervisor unconditionally
//! (asm/taskswitch.s is the code).

use crate::boot::{MAX_CPUS, selector};
use crate::descriptors::{self, Shared};
use crate::harness::{Context, Outcome, Test};
use crate::{check_eq, modes, tests};

/// Task switches.
pub const TESTS: &[Test] = tests![task_switches_by_jump_call_and_gate];

/// A 32-bit TSS (Intel SDM vol. 3, ch. 8, Task-state segment), as its 26
/// 32-bit words.
type Tss = [u32; 26];

/// Words of a TSS.
const LINK: usize = 0;
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

static TASKS: [Shared<Tss>; 3] = [const { Shared::new([0; 26]) }; 3];
static STACKS: [Shared<[u32; 256]>; 2] = [const { Shared::new([0; 256]) }; 2];

unsafe extern "C" {
    static gdt_tss32: Shared<[u64; 4]>;
    static task_trace: Shared<[u32; 10]>;
    fn task_switches();
    fn task_b();
    fn task_c();
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

fn task_switches_by_jump_call_and_gate(_: &Context) -> Outcome {
    let (tasks, trace);
    // SAFETY: everything written is this test's; the routine follows the rules
    // of `modes`, and the task register is loaded again below.
    unsafe {
        TASKS[0].get().write([0; 26]);
        TASKS[1].get().write(task(task_b, &STACKS[0], 0x7a5b));
        TASKS[2].get().write(task(task_c, &STACKS[1], 0));
        let descriptors = Shared::raw(&raw const gdt_tss32);
        for (index, tss) in TASKS.iter().enumerate() {
            (*descriptors)[index] = descriptor(tss.get() as u32);
        }
        Shared::raw(&raw const task_trace).write([0; 10]);
        modes::protected(task_switches as *const () as u32);
        trace = Shared::raw(&raw const task_trace).read_volatile();
        tasks = [
            TASKS[0].get().read_volatile(),
            TASKS[1].get().read_volatile(),
            TASKS[2].get().read_volatile(),
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
