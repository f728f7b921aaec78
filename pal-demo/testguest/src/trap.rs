//! What happens on interrupts and exceptions: they are counted, given to a
//! test's handler, or end a [`catch`].

use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};

use crate::apic;
use crate::boot::{MAX_CPUS, selector};
use crate::cpu;
use crate::descriptors::Shared;
use crate::harness;

/// Exception vectors, by their mnemonics.
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// The interrupted context, as asm/traps.s pushes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// A trap that ended a [`catch`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Trap {
    /// The context it came in.
    pub frame: Frame,
    /// CR2 at that time; it counts for #PF alone.
    pub cr2: u64,
}

impl Trap {
    /// The vector.
    pub fn vector(&self) -> u8 {
        self.frame.vector as u8
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = &self.frame;
        write!(
            f,
            "vector {} error {:#x} at {:#x}:{:#x} rsp {:#x} cr2 {:#x}",
            frame.vector, frame.error, frame.cs, frame.rip, frame.rsp, self.cr2
        )
    }
}

/// A test's handler: it may change the frame, and is returned from by IRET.
pub type Handler = fn(&mut Frame);

static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
static COUNTS: [[AtomicU64; 256]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; 256] }; MAX_CPUS];

/// Where a CPU's [`catch`] goes on.
#[derive(Clone, Copy)]
struct Recovery {
    /// RSP for `trap_recover`; 0 when no catch is under way.
    rsp: u64,
    trap: Trap,
}

const NO_RECOVERY: Recovery = Recovery {
    rsp: 0,
    trap: Trap {
        frame: Frame {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rbp: 0,
            rdi: 0,
            rsi: 0,
            rdx: 0,
            rcx: 0,
            rbx: 0,
            rax: 0,
            vector: 0,
            error: 0,
            rip: 0,
            cs: 0,
            rflags: 0,
            rsp: 0,
            ss: 0,
        },
        cr2: 0,
    },
};

static RECOVERIES: [Shared<Recovery>; MAX_CPUS] = [const { Shared::new(NO_RECOVERY) }; MAX_CPUS];

unsafe extern "C" {
    fn trap_guarded_call(call: unsafe extern "C" fn(*mut ()), data: *mut (), rsp: *mut u64) -> u64;
    static trap_recover: u8;
}

/// Sets the handler of a vector on all CPUs; `None` for what is usual: end
/// the catch under way, or else the run.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    let pointer = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    HANDLERS[vector as usize].store(pointer, Relaxed);
}

/// How often a CPU took a vector since the start.
pub fn count(cpu: usize, vector: u8) -> u64 {
    COUNTS[cpu][vector as usize].load(Relaxed)
}

/// Runs `f` with `handler` for `vector`.
pub fn with_handler<R>(vector: u8, handler: Handler, f: impl FnOnce() -> R) -> R {
    set_handler(vector, Some(handler));
    let result = f();
    set_handler(vector, None);
    result
}

/// Runs `f`; a trap without a handler ends it, and is returned. Values that
/// `f` holds then are leaked. Not to be nested on one CPU.
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Trap> {
    struct Call<F, R> {
        f: Option<F>,
        result: MaybeUninit<R>,
    }
    unsafe extern "C" fn run<F: FnOnce() -> R, R>(data: *mut ()) {
        // SAFETY: `data` is the Call below, which nothing else touches while
        // this runs.
        let call = unsafe { &mut *data.cast::<Call<F, R>>() };
        if let Some(f) = call.f.take() {
            call.result.write(f());
        }
    }
    fn runner<F: FnOnce() -> R, R>(_: &Call<F, R>) -> unsafe extern "C" fn(*mut ()) {
        run::<F, R>
    }
    let mut call = Call {
        f: Some(f),
        result: MaybeUninit::uninit(),
    };
    let recovery = RECOVERIES[apic::id()].get();
    let run = runner(&call);
    // SAFETY: `run` fits `call`. A trap abandons the frames between here and
    // the trap, which hold nothing that must be dropped; `trap_recover`
    // restores the registers that the calling convention keeps. The recovery
    // is this CPU's own.
    unsafe {
        let trapped = trap_guarded_call(run, (&raw mut call).cast(), &raw mut (*recovery).rsp) != 0;
        (*recovery).rsp = 0;
        if trapped {
            Err((*recovery).trap)
        } else {
            Ok(call.result.assume_init())
        }
    }
}

/// Executes assembly, given as to `asm!`, and catches the trap that it raises.
macro_rules! attempt {
    ($($assembly:tt)*) => {
        $crate::trap::catch(|| {
            // SAFETY: the tests pass instructions that trap, or that touch
            // registers and memory only as their operands say, all of it
            // this guest's; a trap restores the stack and the registers that
            // the calling convention keeps.
            unsafe { ::core::arch::asm!($($assembly)*) }
        })
    };
}

pub(crate) use attempt;

/// Every trap comes here from asm/traps.s.
#[unsafe(no_mangle)]
extern "C" fn on_trap(frame: &mut Frame) {
    let cpu = apic::id();
    let vector = frame.vector as usize & 0xff;
    COUNTS[cpu][vector].fetch_add(1, Relaxed);
    let handler = HANDLERS[vector].load(Relaxed);
    if !handler.is_null() {
        // SAFETY: `set_handler` stores `Handler`s alone.
        let handler = unsafe { core::mem::transmute::<*mut (), Handler>(handler) };
        handler(frame);
        return;
    }
    let trap = Trap {
        frame: *frame,
        cr2: cpu::read_cr2(),
    };
    let recovery = RECOVERIES[cpu].get();
    // SAFETY: a CPU's recovery is read and written by that CPU alone, with
    // interrupts off.
    let rsp = unsafe {
        (*recovery).trap = trap;
        core::mem::replace(&mut (*recovery).rsp, 0)
    };
    if rsp == 0 {
        harness::abandon(format_args!("cpu {cpu}: unexpected trap: {trap}"));
    }
    frame.rip = (&raw const trap_recover) as u64;
    frame.cs = selector::CODE64.into();
    // IF, TF, AC and NT off.
    frame.rflags = 2;
    frame.rsp = rsp;
    frame.ss = 0;
}
