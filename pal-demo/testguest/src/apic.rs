//! The local APIC in xAPIC mode (Intel SDM vol. 3, ch. 11).

use crate::cpu;

/// Where the registers are, as firmware leaves them.
const BASE: usize = 0xfee0_0000;

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const TIMER_INITIAL: usize = 0x380;
const TIMER_DIVIDE: usize = 0x3e0;

/// Whom an interprocessor interrupt goes to.
#[derive(Clone, Copy, Debug)]
pub enum Destination {
    /// The CPU with this APIC ID.
    Cpu(usize),
    /// Everyone but the sender.
    AllButSelf,
}

/// What an interprocessor interrupt does.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    /// An ordinary interrupt with this vector.
    Fixed(u8),
    /// An NMI.
    Nmi,
    /// INIT, level assert.
    Init,
    /// Start-up at this page.
    Startup(u8),
}

fn read(register: usize) -> u32 {
    // SAFETY: the page is the local APIC's; the identity map covers it.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`; this guest owns its APIC.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

/// This CPU's APIC ID, which is its index here.
pub fn id() -> usize {
    (read(ID) >> 24) as usize
}

/// Software-enables this CPU's APIC, spurious vector 0xff, all priorities.
pub fn enable() {
    write(SPURIOUS, 0x1ff);
    write(TASK_PRIORITY, 0);
}

/// Tells the APIC that a fixed interrupt was handled.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends an interprocessor interrupt and waits until it is on its way.
pub fn send(destination: Destination, message: Message) {
    let (shorthand, id) = match destination {
        Destination::Cpu(id) => (0, (id as u32) << 24),
        Destination::AllButSelf => (3 << 18, 0),
    };
    // Level assert (bit 14), edge triggered, delivery mode in bits 10:8.
    let command = 1 << 14
        | match message {
            Message::Fixed(vector) => u32::from(vector),
            Message::Nmi => 4 << 8,
            Message::Init => 5 << 8,
            Message::Startup(page) => 6 << 8 | u32::from(page),
        };
    write(ICR_HIGH, id);
    write(ICR_LOW, shorthand | command);
    // Delivery status.
    cpu::wait_until(10_000_000, || read(ICR_LOW) & 1 << 12 == 0);
}

/// Starts the timer once: `vector` comes after `count` bus clocks.
pub fn one_shot(vector: u8, count: u32) {
    write(TIMER_DIVIDE, 0b1011);
    write(LVT_TIMER, vector.into());
    write(TIMER_INITIAL, count);
}

/// Masks and stops the timer.
pub fn stop_timer() {
    write(LVT_TIMER, 1 << 16);
    write(TIMER_INITIAL, 0);
}
