//! What a CPU does in a storm beside sending NMIs: one exit of a random kind at
//! a time, so that NMIs find it in every one of them, and on its way in and out.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stillpoint_abi::{Hypercall, HypercallResult, TestHook};

use crate::apic;
use crate::boot::MAX_CPUS;
use crate::cpu;
use crate::tests::memory;
use crate::trap::{Frame, attempt, catch, vector};

/// The vector that ends a wait in HLT.
pub const TIMER: u8 = 0x53;

/// An address that no page maps: PML4 entry 3.
const UNMAPPED: u64 = 3 << 39;

/// What is in the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// No exits: PAUSE.
    Spin,
    /// Exits of every kind, and waits in HLT.
    Exits,
    /// The same, and stops of the whole machine.
    Quiesces,
}

/// What a CPU found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// CPUID answered otherwise than before.
    Cpuid = 1,
    /// The TEST hypercall failed, or changed a register.
    Hypercall,
    /// The hypervisor's range did not read as zeros, or took a write.
    Range,
    /// A page fault did not come, or came as something else.
    PageFault,
    /// A stop of the machine was refused.
    Quiesce,
}

/// What CPUs count.
#[derive(Debug)]
pub struct Counters {
    /// Exits made on purpose, hypercalls and stops included.
    pub exits: AtomicU64,
    /// TEST hypercalls.
    pub hypercalls: AtomicU64,
    /// Stops of the whole machine.
    pub quiesces: AtomicU64,
    /// The first thing found wrong: a [`Problem`], or 0.
    problem: AtomicU64,
}

static COUNTERS: [Counters; MAX_CPUS] = [const {
    Counters {
        exits: AtomicU64::new(0),
        hypercalls: AtomicU64::new(0),
        quiesces: AtomicU64::new(0),
        problem: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// A CPU's counters.
pub fn counters(cpu: usize) -> &'static Counters {
    &COUNTERS[cpu]
}

impl Counters {
    /// From zero again.
    pub fn reset(&self) {
        for counter in [&self.exits, &self.hypercalls, &self.quiesces, &self.problem] {
            counter.store(0, Relaxed);
        }
    }

    /// Notes what is wrong; the first one counts.
    pub fn report(&self, problem: Problem) {
        let _ = self
            .problem
            .compare_exchange(0, problem as u64, Relaxed, Relaxed);
    }

    /// What was wrong first.
    pub fn problem(&self) -> Option<Problem> {
        use Problem::*;
        [Cpuid, Hypercall, Range, PageFault, Quiesce]
            .into_iter()
            .find(|&problem| problem as u64 == self.problem.load(Relaxed))
    }
}

/// Numbers that follow from a seed: xorshift64.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each CPU.
    pub fn new(seed: u64, cpu: usize) -> Self {
        // Never 0; the multiplication spreads small seeds over all bits.
        Self((seed << 4 | cpu as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % limit
    }
}

/// One CPU's load.
pub struct Load {
    index: usize,
    mix: Mix,
    /// The hypervisor's range's first byte; `None` on the bare machine.
    hypervisor: Option<u64>,
    vendor: core::arch::x86_64::CpuidResult,
    /// For the kinds of exits, and for whoever drives the load.
    pub random: Random,
}

impl Load {
    /// The load of CPU `index`.
    pub fn new(index: usize, mix: Mix, hypervisor: Option<u64>, seed: u64) -> Self {
        Self {
            index,
            mix,
            hypervisor,
            vendor: cpu::cpuid(0),
            random: Random::new(seed, index),
        }
    }

    /// Makes one exit, and checks what it answers.
    pub fn step(&mut self) {
        let counters = counters(self.index);
        if self.mix == Mix::Spin {
            return cpu::pause();
        }
        counters.exits.fetch_add(1, Relaxed);
        if let Err(problem) = self.exit() {
            counters.report(problem);
        }
    }

    fn exit(&mut self) -> Result<(), Problem> {
        let kind = self.random.below(16);
        match (self.hypervisor, kind) {
            (_, 0) => wait_in_hlt(),
            (_, 1) => {
                let cr4 = cpu::read_cr4();
                cpu::write_cr4(cr4 ^ 1 << 7);
                cpu::write_cr4(cr4);
            }
            (_, 2) => {
                cpu::rdmsr(0x3a);
            }
            (_, 3) => {
                let result = catch(|| memory::read_quad(UNMAPPED));
                if !matches!(result, Err(trap) if trap.vector() == vector::PF && trap.cr2 == UNMAPPED)
                {
                    return Err(Problem::PageFault);
                }
            }
            (Some(_), 4 | 5) if self.mix == Mix::Quiesces => self.quiesce()?,
            (Some(_), 4..=8) => self.hypercall()?,
            (Some(range), 9 | 10) => {
                // All on one page, and each on one of its own.
                let address = range + 4096 * (self.index as u64 * (kind - 9));
                if memory::read_quad(address) != 0 {
                    return Err(Problem::Range);
                }
            }
            (Some(range), 11) => {
                let result = attempt!("mov [{}], rsp", in(reg) range + 8, options(nostack));
                if !matches!(result, Err(trap) if trap.vector() == vector::GP) {
                    return Err(Problem::Range);
                }
            }
            _ => {
                if cpu::cpuid(0) != self.vendor {
                    return Err(Problem::Cpuid);
                }
            }
        }
        Ok(())
    }

    fn hypercall(&mut self) -> Result<(), Problem> {
        let number = self.random.below(1 << 32);
        let (result, kept): (u64, u64);
        // SAFETY: TEST touches no memory.
        unsafe {
            asm!("vmcall", inout("rax") u64::from(Hypercall::Test.command()) => result,
                 inout("rcx") number => kept);
        }
        counters(self.index).hypercalls.fetch_add(1, Relaxed);
        if result == 0 && kept == number {
            Ok(())
        } else {
            Err(Problem::Hypercall)
        }
    }

    fn quiesce(&self) -> Result<(), Problem> {
        counters(self.index).quiesces.fetch_add(1, Relaxed);
        if quiesce() {
            Ok(())
        } else {
            Err(Problem::Quiesce)
        }
    }
}

/// Stops every other CPU and lets it go again; whether the image has that hook.
pub fn quiesce() -> bool {
    let result: u64;
    // SAFETY: the hook touches no memory of this guest; it answers in RAX, RCX
    // and RDX.
    unsafe {
        asm!("vmcall", inout("rax") u64::from(TestHook::QuiesceRound.command()) => result,
             out("rcx") _, out("rdx") _, options(nostack));
    }
    result == HypercallResult::Success.code()
}

/// Halts until the timer's interrupt, or an NMI.
fn wait_in_hlt() {
    apic::one_shot(TIMER, 200);
    // SAFETY: the storm has set a handler for the vector, and legacy interrupts
    // are masked. STI's shadow reaches over HLT: no interrupt comes between.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    apic::stop_timer();
}

/// The handler of [`TIMER`].
pub fn on_timer(_: &mut Frame) {
    apic::end_of_interrupt();
}
