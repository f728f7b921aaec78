//! The other CPUs: starting them, and giving them work.
//!
//! A started CPU waits for a job, runs it with interrupts off and waits
//! again. CPU 0 alone gives jobs.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::apic::{self, Destination, Message};
use crate::boot::MAX_CPUS;
use crate::cpu;

/// Ticks within which a CPU that got a SIPI, or a job, must have reacted:
/// seconds, on an emulator whose CPUs take turns.
pub const PATIENCE: u64 = 100_000_000;

/// Ticks between INIT and SIPI: a millisecond at 20 MHz, which is how fast the
/// emulator runs. The SDM says ten; nothing here is that slow.
const AFTER_INIT: u64 = 20_000;

/// Ticks between the two SIPIs: the SDM's 200 microseconds at 20 MHz.
const AFTER_STARTUP: u64 = 4_000;

/// How often an INIT is sent at the most.
const ATTEMPTS: u64 = 50;

/// Work for another CPU; the argument is its index.
pub type Job = fn(usize);

/// How often each CPU arrived in `serve`.
static ARRIVALS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static JOBS: [AtomicPtr<()>; MAX_CPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

unsafe extern "C" {
    static ap_trampoline: u8;
}

/// The vector of a SIPI that leads here.
pub fn startup_page() -> u8 {
    ((&raw const ap_trampoline) as usize >> 12) as u8
}

/// Main loop of every CPU but the first.
pub fn serve(index: usize) -> ! {
    apic::enable();
    ARRIVALS[index].fetch_add(1, Ordering::Release);
    loop {
        let job = JOBS[index].load(Ordering::Acquire);
        if !job.is_null() {
            // SAFETY: `give` stores `Job`s alone.
            let job = unsafe { core::mem::transmute::<*mut (), Job>(job) };
            job(index);
            JOBS[index].store(core::ptr::null_mut(), Ordering::Release);
        }
        cpu::pause();
    }
}

/// How often a CPU has arrived since the start.
pub fn arrivals(index: usize) -> u64 {
    ARRIVALS[index].load(Ordering::Acquire)
}

/// INIT, SIPI, SIPI, with pauses between, as the SDM has it (vol. 3, ch. 9,
/// MP initialization protocol) and systems do it. A SIPI that finds a CPU still
/// busy with its INIT is lost, on a processor as under a hypervisor.
pub fn wake(destination: Destination) {
    apic::send(destination, Message::Init);
    cpu::wait_until(AFTER_INIT, || false);
    apic::send(destination, Message::Startup(startup_page()));
    cpu::wait_until(AFTER_STARTUP, || false);
    apic::send(destination, Message::Startup(startup_page()));
}

/// Starts one CPU; whether it arrived.
///
/// INIT in VMX root operation stays pending until the next VM entry (Intel SDM
/// vol. 3, section 26.3, Changes to instruction behavior); Bochs 3.0 drops it
/// there instead. So a CPU that is often in the hypervisor needs several.
pub fn start(index: usize) -> bool {
    let before = arrivals(index);
    JOBS[index].store(core::ptr::null_mut(), Ordering::Release);
    (0..ATTEMPTS).any(|_| {
        wake(Destination::Cpu(index));
        cpu::wait_until(PATIENCE / ATTEMPTS, || arrivals(index) != before)
    })
}

/// Sends INIT to one CPU until `progress` stands still; whether it does. As in
/// [`start`], one INIT is enough but for the emulator.
pub fn park(index: usize, progress: impl Fn() -> u64) -> bool {
    (0..ATTEMPTS).any(|_| {
        apic::send(Destination::Cpu(index), Message::Init);
        // INIT may take its time on its way; then the progress must end.
        cpu::wait_until(AFTER_INIT, || false);
        let before = progress();
        !cpu::wait_until(5 * AFTER_INIT, || progress() != before)
    })
}

/// Starts every CPU from 1 up that has not been started; the first that does
/// not arrive is the error.
pub fn start_all(cpus: usize) -> Result<(), usize> {
    (1..cpus)
        .find(|&index| arrivals(index) == 0 && !start(index))
        .map_or(Ok(()), Err)
}

/// Gives a CPU a job.
pub fn give(index: usize, job: Job) {
    JOBS[index].store(job as *mut (), Ordering::Release);
}

/// Waits until a CPU has done its job; whether it has.
pub fn done(index: usize) -> bool {
    cpu::wait_until(PATIENCE, || is_done(index))
}

/// Whether a CPU has done its job.
pub fn is_done(index: usize) -> bool {
    JOBS[index].load(Ordering::Acquire).is_null()
}
