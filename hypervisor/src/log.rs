//! The log: a ring per CPU, written without locks from any context, NMI
//! included, and read by `monitor log`. Until the guest starts, and again when
//! the hypervisor cannot go on, lines are copied to the console too; if another
//! CPU is at that, nobody waits for it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heapless::{String, Vec};
use spin::Mutex;
use stillpoint_core::cmdline::LogPort;

use crate::cpu::{percpu, tsc};
use crate::serial::{COM1, Serial};

/// Lines that one CPU keeps.
const LINES: usize = 64;

/// Bytes of a line; longer ones are cut.
pub const LINE_BYTES: usize = 200;

/// Logs one line.
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
pub(crate) use log;

/// A kind of line that is made when it is read: what happens often is
/// recorded as a number, and costs a few stores.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Event {
    /// The TEST hypercall, with its argument.
    TestHypercall = 1,
    /// The guest read the hypervisor's memory, at this guest-physical address.
    RangeRead = 2,
    /// The guest wrote there.
    RangeWrite = 3,
}

/// One line: time, then text, or an event's kind and argument. Words, so that a
/// reader never sees half a store; `sequence` says which line it is, and 0 while
/// it is being written.
struct Line {
    sequence: AtomicU64,
    time: AtomicU64,
    event: AtomicU64,
    argument: AtomicU64,
    text: [AtomicU64; LINE_BYTES / 8],
}

/// The last lines of one CPU.
pub struct LogRing {
    next: AtomicU64,
    lines: [Line; LINES],
}

/// A line read out.
pub struct LogLine {
    /// Time-stamp counter when it was written.
    pub time: u64,
    /// What it says.
    pub text: String<LINE_BYTES>,
}

impl LogRing {
    fn record(&self, event: u64, argument: u64, text: &[u8]) {
        // The slot is this context's alone: an NMI in between takes the next.
        let sequence = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let line = &self.lines[(sequence % LINES as u64) as usize];
        line.sequence.store(0, Ordering::Release);
        line.time.store(tsc(), Ordering::Relaxed);
        line.event.store(event, Ordering::Relaxed);
        line.argument.store(argument, Ordering::Relaxed);
        if event == 0 {
            for (slot, word) in line.text.iter().enumerate() {
                let mut bytes = [0; 8];
                let rest = text.get(slot * 8..).unwrap_or(&[]);
                let len = rest.len().min(8);
                bytes[..len].copy_from_slice(&rest[..len]);
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
                if rest.len() < 8 {
                    break;
                }
            }
        }
        line.sequence.store(sequence, Ordering::Release);
    }

    /// The line with this number (from 1), if it is still there.
    fn read(&self, sequence: u64) -> Option<LogLine> {
        let line = &self.lines[(sequence % LINES as u64) as usize];
        if line.sequence.load(Ordering::Acquire) != sequence {
            return None;
        }
        let argument = line.argument.load(Ordering::Relaxed);
        let mut text = String::new();
        let written = match line.event.load(Ordering::Relaxed) {
            1 => write!(text, "TEST hypercall, argument {argument:#x}"),
            2 => write!(
                text,
                "the guest read the hypervisor's memory at {argument:#x}: zeros"
            ),
            3 => write!(
                text,
                "the guest wrote the hypervisor's memory at {argument:#x}: #GP"
            ),
            _ => {
                let mut bytes: Vec<u8, LINE_BYTES> = Vec::new();
                let all = line
                    .text
                    .iter()
                    .flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes());
                for byte in all.take_while(|b| *b != 0) {
                    let _full = bytes.push(byte);
                }
                // A cut may have split a character; the log is ASCII but for guests' bytes.
                let valid = core::str::from_utf8(&bytes)
                    .map_or_else(|e| e.valid_up_to(), |whole| whole.len());
                text.write_str(core::str::from_utf8(&bytes[..valid]).unwrap_or(""))
            }
        };
        let _cut = written;
        Some(LogLine {
            time: line.time.load(Ordering::Relaxed),
            text,
        })
    }
}

/// Where lines are copied to besides the ring.
enum Console {
    Serial(Serial),
    E9,
    None,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console::None);
static CONSOLE_ON: AtomicBool = AtomicBool::new(false);

/// Opens the console that the command line names.
pub fn open_console(port: LogPort) {
    let mut console = CONSOLE.lock();
    *console = match port {
        LogPort::Com1 => Serial::new(COM1, 115_200).map_or(Console::None, Console::Serial),
        LogPort::E9 => Console::E9,
        LogPort::None => Console::None,
    };
    CONSOLE_ON.store(true, Ordering::Relaxed);
}

/// The guest owns the console from now on.
pub fn leave_console() {
    CONSOLE_ON.store(false, Ordering::Relaxed);
}

/// The hypervisor cannot go on: what it has to say goes to COM1 again, whatever
/// the guest was doing with it.
pub fn retake_console() {
    if let Some(mut console) = CONSOLE.try_lock()
        && matches!(*console, Console::None)
    {
        *console = Serial::new(COM1, 115_200).map_or(Console::None, Console::Serial);
    }
    CONSOLE_ON.store(true, Ordering::Relaxed);
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
    let mut cut = Cut(String::new());
    let _never = cut.write_fmt(arguments);
    if !percpu::all().is_empty() {
        percpu::this().log.record(0, 0, cut.0.as_bytes());
    }
    if CONSOLE_ON.load(Ordering::Relaxed) {
        print(&cut.0);
    }
}

/// Records an event that is spelled out when it is read.
pub fn event(event: Event, argument: u64) {
    percpu::this().log.record(event as u64, argument, &[]);
}

fn print(text: &str) {
    let Some(mut console) = CONSOLE.try_lock() else {
        return;
    };
    for part in ["stillpoint: ", text, "\r\n"] {
        match &mut *console {
            Console::Serial(serial) => serial.write(part.as_bytes()),
            Console::E9 => part.bytes().for_each(|byte| {
                // SAFETY: port 0xE9 is the emulators' debug console, nothing elsewhere.
                unsafe { x86_64::instructions::port::Port::new(0xe9).write(byte) };
            }),
            Console::None => {}
        }
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
    let mut next: Vec<u64, { percpu::MAX_CPUS }> = cpus
        .iter()
        .map(|cpu| {
            let count = cpu.log.next.load(Ordering::Relaxed);
            count.saturating_sub(LINES as u64 - 2).max(1)
        })
        .collect();
    loop {
        let mut oldest: Option<(usize, LogLine)> = None;
        for (index, cpu) in cpus.iter().enumerate() {
            let Some(line) = cpu.log.read(next[index]) else {
                continue;
            };
            if oldest.as_ref().is_none_or(|(_, o)| line.time < o.time) {
                oldest = Some((index, line));
            }
        }
        let Some((index, line)) = oldest else { return };
        next[index] += 1;
        each(index, &line);
    }
}
