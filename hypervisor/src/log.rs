//! The log: a ring per CPU, written without locks from any context, NMI
//! included, and read by `monitor log`. Until the guest starts, and again when
//! the hypervisor cannot go on, lines go to the console too, whole and tagged with
//! their CPU, and nobody waits for anybody ([`stillpoint_trace::Turn`]).

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use heapless::{String, Vec};
use spin::Mutex;
use stillpoint_core::cmdline::LogPort;
use stillpoint_trace::{Printed, Ring, Turn, merge};

use crate::cpu::{percpu, tsc};
use crate::serial::{COM1, Serial, Settings};

/// Lines that one CPU keeps.
const LINES: usize = 64;

/// Bytes of a line; longer ones are cut.
pub const LINE_BYTES: usize = 200;

/// Words of a record: time; of a line for the console, which one of its CPU's, else 0;
/// text.
const WORDS: usize = 2 + LINE_BYTES / 8;

/// Logs one line.
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
pub(crate) use log;

/// The last lines of one CPU.
pub struct LogRing {
    ring: Ring<LINES, WORDS>,
    printed: Printed,
    /// Lines for the console: written, and printed or lost.
    for_console: AtomicU64,
    done: AtomicU64,
}

/// A line read out.
pub struct LogLine {
    /// Time-stamp counter when it was written.
    pub time: u64,
    /// What it says.
    pub text: String<LINE_BYTES>,
}

impl LogRing {
    fn write(&self, text: &str) {
        let number = if CONSOLE_ON.load(Ordering::Relaxed) {
            self.for_console.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            0
        };
        let mut words = [0; WORDS];
        words[0] = tsc();
        words[1] = number;
        for (word, bytes) in words[2..].iter_mut().zip(text.as_bytes().chunks(8)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(eight);
        }
        self.ring.record(words);
    }

    /// Puts what is left for the console there. Called by whose turn it is.
    fn print(&self, cpu: usize) {
        self.printed.print(&self.ring, |words| {
            let number = words[1];
            if number == 0 {
                return;
            }
            let before = self.done.swap(number, Ordering::Relaxed);
            let lost = number.saturating_sub(before + 1);
            if lost != 0 {
                print(format_args!(
                    "CPU {cpu}: {lost} lines were overwritten before they could be printed"
                ));
            }
            print(format_args!("CPU {cpu}: {}", decode(&words).text));
        });
    }
}

fn decode([time, _, text @ ..]: &[u64; WORDS]) -> LogLine {
    let all = text.iter().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<u8, LINE_BYTES> = all.take_while(|byte| *byte != 0).collect();
    // A cut may have split a character; the log is ASCII but for guests' bytes.
    let valid = core::str::from_utf8(&bytes).map_or_else(|e| e.valid_up_to(), |whole| whole.len());
    let mut text = String::new();
    let _fits = text.push_str(core::str::from_utf8(&bytes[..valid]).unwrap_or(""));
    LogLine { time: *time, text }
}

/// Where lines go besides the ring: one of the numbers below.
static CONSOLE: AtomicU8 = AtomicU8::new(NO_CONSOLE);
static CONSOLE_ON: AtomicBool = AtomicBool::new(false);
const NO_CONSOLE: u8 = 0;
const SERIAL: u8 = 1;
const E9: u8 = 2;

/// Whose turn it is to print.
static TURN: Turn = Turn::new(AtomicU64::new(0));

/// Opens the console that the command line names.
pub fn open_console(port: LogPort) {
    let console = match port {
        LogPort::Com1 if Serial::new(COM1, 115_200).is_ok() => SERIAL,
        LogPort::E9 => E9,
        LogPort::Com1 | LogPort::None => NO_CONSOLE,
    };
    CONSOLE.store(console, Ordering::Release);
    CONSOLE_ON.store(true, Ordering::Release);
}

/// The UART as the guest had set it up, while the hypervisor has it back.
static GUESTS_UART: Mutex<Option<Settings>> = Mutex::new(None);

/// The guest owns the console from now on.
pub fn leave_console() {
    CONSOLE_ON.store(false, Ordering::Relaxed);
    if let Some(settings) = GUESTS_UART.try_lock().and_then(|mut guests| guests.take()) {
        settings.restore(COM1);
    }
}

/// The hypervisor cannot go on: what it has to say goes to COM1 again, whatever
/// the guest was doing with it, and whatever this CPU was doing with the log.
pub fn retake_console() {
    let was_on = CONSOLE_ON.load(Ordering::Acquire);
    if !was_on && let Some(mut guests) = GUESTS_UART.try_lock() {
        *guests = Some(Settings::of(COM1));
    }
    // What cannot go on is said on COM1, wherever the log went before.
    if (!was_on || CONSOLE.load(Ordering::Acquire) != SERIAL) && Serial::new(COM1, 115_200).is_ok()
    {
        CONSOLE.store(SERIAL, Ordering::Release);
    }
    CONSOLE_ON.store(true, Ordering::Release);
    let mut in_a_line = !was_on;
    if !percpu::all().is_empty() {
        let cpu = percpu::this();
        cpu.log.printed.abandon(&cpu.log.ring);
        in_a_line |= TURN.take_back(cpu.index as u32);
    }
    if in_a_line {
        // The guest or this CPU may have been in the middle of one.
        put("\r\n");
    }
}

/// A line being formatted; what does not fit is dropped.
struct Cut(String<LINE_BYTES>);

impl Write for Cut {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            let _cut = self.0.push(c);
        }
        Ok(())
    }
}

/// Logs a line. See [`log!`].
pub fn line(arguments: fmt::Arguments<'_>) {
    let cpus = percpu::all();
    if cpus.is_empty() {
        // Before there is a ring, there is one CPU.
        if CONSOLE_ON.load(Ordering::Relaxed) {
            print(arguments);
        }
        return;
    }
    let mut cut = Cut(String::new());
    let _never = cut.write_fmt(arguments);
    let me = percpu::this();
    me.log.write(&cut.0);
    if CONSOLE_ON.load(Ordering::Relaxed) {
        TURN.announce(me.index as u32, || {
            for cpu in cpus {
                cpu.log.print(cpu.index);
            }
        });
    }
}

/// The console, byte by byte. Used by whose turn it is, or by the only CPU.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        put(text);
        Ok(())
    }
}

/// Prints one line on the console.
fn print(line: fmt::Arguments<'_>) {
    let _never = Console.write_fmt(format_args!("stillpoint: {line}\r\n"));
}

fn put(text: &str) {
    match CONSOLE.load(Ordering::Acquire) {
        SERIAL => {
            if let Ok(mut serial) = Serial::found(COM1) {
                serial.write(text.as_bytes());
            }
        }
        E9 => text.bytes().for_each(|byte| {
            // SAFETY: port 0xE9 is the emulators' debug console, nothing elsewhere.
            unsafe { x86_64::instructions::port::Port::new(0xe9).write(byte) };
        }),
        _ => {}
    }
}

/// Writes one line on the text screen, at the top, for a person without a serial
/// line.
pub fn screen(text: &str) {
    let screen = crate::memory::layout::direct(stillpoint_core::addr::Hpa::new(0xb_8000));
    for (column, byte) in text.bytes().take(240).enumerate() {
        // SAFETY: the text buffer of the VGA, 80 by 25 cells of two bytes.
        unsafe {
            screen
                .cast::<u16>()
                .add(column)
                .write_volatile(0x4f00 | u16::from(byte));
        }
    }
}

/// Calls `each` with every CPU's lines, oldest first.
pub fn read(each: &mut dyn FnMut(usize, &LogLine)) {
    let cpus = percpu::all();
    let mut numbers: Vec<_, { percpu::MAX_CPUS }> =
        cpus.iter().map(|cpu| cpu.log.ring.numbers()).collect();
    merge(
        &mut numbers,
        |cpu, number| {
            let line = decode(&cpus.get(cpu)?.log.ring.read(number)?);
            Some((line.time, line))
        },
        |cpu, _, line| each(cpu, &line),
    );
}
