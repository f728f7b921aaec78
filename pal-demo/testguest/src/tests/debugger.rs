//! `suite=gdb`: something for a debugger to look at.
//!
//! Every CPU calls [`gdb_beat`] in a loop; the symbols here are what tests of
//! the stub set breakpoints and watchpoints on. CPU 0 prints `gdb beat N`
//! now and then, so that a console shows whether the guest lives. A `q` on
//! COM1 ends the run; so does `gdb_quit` when a debugger sets it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::boot::MAX_CPUS;
use crate::harness::Context;
use crate::{console, cpu, println, smp};

/// Calls of [`gdb_beat`] by each CPU. A debugger may watch it.
#[unsafe(no_mangle)]
#[used]
static gdb_beats: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A debugger may set it to end the run.
#[unsafe(no_mangle)]
#[used]
static gdb_quit: AtomicU64 = AtomicU64::new(0);

/// What memory reads are checked against.
#[unsafe(no_mangle)]
// The guest itself never reads it; link.ld keeps this section.
#[unsafe(link_section = ".rodata.gdb")]
#[used]
static gdb_pattern: [u64; 8] = [
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    0x5a5a_5a5a_a5a5_a5a5,
    0,
    u64::MAX,
    1,
    2,
    3,
];

/// Beats between two lines on the console.
const BEATS_A_LINE: u64 = 20_000;

/// One turn of the loop: counts, and gives the new count back.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_beat(index: usize) -> u64 {
    gdb_beats[index].fetch_add(1, Relaxed) + 1
}

/// An exit in every turn, in a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_exit() {
    cpu::cpuid(0);
}

/// The loop of every CPU but the first.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_loop(index: usize) {
    while gdb_quit.load(Relaxed) == 0 {
        gdb_beat(index);
        gdb_exit();
    }
}

/// Runs until told to end.
pub fn run(context: &Context) -> ! {
    if let Err(index) = smp::start_all(context.config.cpus) {
        crate::harness::abandon(format_args!("CPU {index} does not start"));
    }
    for index in 1..context.config.cpus {
        smp::give(index, |index| gdb_loop(index));
    }
    println!("gdb ready");
    while gdb_quit.load(Relaxed) == 0 {
        let beat = gdb_beat(0);
        gdb_exit();
        if beat.is_multiple_of(BEATS_A_LINE) {
            println!("gdb beat {beat}");
        }
        if console::received() == Some(b'q') {
            gdb_quit.store(1, Relaxed);
        }
    }
    for index in 1..context.config.cpus {
        if !smp::done(index) {
            crate::harness::abandon(format_args!("CPU {index} does not end"));
        }
    }
    println!("gdb end");
    context.finish()
}
