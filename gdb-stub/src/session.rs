//! One debug line's conversation with whoever is at its other end.
//!
//! The hypervisor calls [`Session::poll`] from time to time while the machine runs and,
//! with every CPU stopped, [`Session::stopped`], which returns when the machine is to
//! run again. Between the two the session keeps who is attached and what was set.
//!
//! A serial line does not tell when its other end goes away. So a client counts as
//! attached until it detaches, kills, or another one opens (`qSupported`, which nobody
//! can go without), which drops everything of the old one's: its breakpoints are taken out, the machine is as it
//! would be without it. A machine whose client dies while it is stopped stays stopped
//! until another one comes.

use core::fmt::{self, Write};

use vmcs_inspect::VmcsSnapshot;

use crate::breakpoints::hardware::HardwareTable;
use crate::breakpoints::software::{INT3, SoftwareBreakpoints, read_byte};
use crate::description::{Window, write_target_xml, write_threads_xml};
use crate::exchange::{Outcome, exchange};
use crate::framer::{LARGEST_BODY, PACKET_SIZE};
use crate::line::{Incoming, Line};
use crate::machine::{CpuActivity, CpuIndex, MAX_CPUS, Machine, SerialPort, StopKind, StopReason};
use crate::memory;
use crate::monitor::{self, Console};
use crate::pal_lock::PalLock;
use crate::requests::{self, Piece, Request, Thread};
use crate::stepping::{self, SteppingEnd};
use crate::stop_reply::{self, Occasion};
use crate::target::{Debug, Plan, StubTarget, errno, error_number, thread_id};

/// How long a machine that something on an idle line has stopped waits for a packet.
/// GDB repeats its first one after two seconds.
const PATIENCE_US: u64 = 3_000_000;

/// How much longer, when a packet has begun to come in.
const PACKET_PATIENCE_US: u64 = 7_000_000;

/// The longest monitor command, in bytes.
const COMMAND_SIZE: usize = 256;

/// What [`Session::poll`] found on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nothing that concerns the machine.
    Quiet,
    /// The machine is to be stopped, with [`StopKind::DebugLine`].
    Stop,
}

/// How [`Session::stopped`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The machine runs, and a client waits for it to stop.
    Continue,
    /// The machine runs, and nobody is attached: no breakpoint is in place.
    Detached,
}

/// Whose an `INT3` is that the guest ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int3Owner {
    /// The client's: stop with [`StopKind::SoftwareBreakpoint`].
    Client,
    /// The guest's own: it gets its #BP.
    Guest,
    /// Nobody's any more: another CPU's stop took the breakpoint out before this CPU
    /// had the machine. The instruction that was under it is to be executed.
    Gone,
}

/// The session of one debug line.
///
/// About 80 KiB: to be made in place, as a static, for on its way through a stack it
/// would not fit a hypervisor's.
pub struct Session<S> {
    line: Line<S>,
    /// gdbstub's copy of the packet at hand, or text on its way to the terminal.
    packet: [u8; PACKET_SIZE],
    debug: Debug,
    attached: bool,
    /// Whether the client has resumed the machine and waits for a stop reply.
    awaits_stop: bool,
    /// Each CPU's VMCS when the machine last went on: what `monitor vmcs diff` shows
    /// the changes from.
    history: [VmcsSnapshot; MAX_CPUS],
}

/// Whether the machine stays stopped after a request.
enum Flow {
    Stay,
    /// What may be a packet has ended a range step.
    StayInRange,
    Leave(Resume),
}

/// Something on the line has stopped the machine, and may be noise.
#[derive(Clone, Copy)]
struct Patience {
    /// Since when a packet is waited for, by the port's clock.
    since_us: u64,
    /// Whether it was a range step that it ended.
    in_range: bool,
}

impl<S: SerialPort> Session<S> {
    /// A session that nobody has attached to.
    pub const fn new(port: S) -> Self {
        Self {
            line: Line::new(port),
            packet: [0; PACKET_SIZE],
            debug: Debug {
                software: SoftwareBreakpoints::new(),
                hardware: HardwareTable::new(),
                stop: StopReason {
                    cpu: CpuIndex(0),
                    kind: StopKind::DebugLine,
                },
                current: CpuIndex(0),
                pal_lock: PalLock::Locked,
            },
            attached: false,
            awaits_stop: false,
            history: [const { VmcsSnapshot::empty() }; MAX_CPUS],
        }
    }

    /// Whether a client is attached, as far as a serial line can tell.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Looks at the line while the machine runs. To be called at least every
    /// millisecond at 115,200 baud: the UART holds 16 bytes.
    ///
    /// With nobody attached any byte stops the machine, for GDB opens without a
    /// Ctrl-C; with a client, a Ctrl-C or the start of a packet, which can only be
    /// another client's.
    pub fn poll(&mut self) -> Poll {
        if self.attached {
            return if self.line.wants_attention() {
                Poll::Stop
            } else {
                Poll::Quiet
            };
        }
        self.line.drain();
        while self.line.skip_due_acknowledgement() {}
        if self.line.peek().is_some() {
            Poll::Stop
        } else {
            Poll::Quiet
        }
    }

    /// Whose the `INT3` at guest physical address `gpa` is, at a VM exit for #BP with
    /// the machine taken.
    pub fn int3_owner<M: Machine>(&self, machine: &mut M, gpa: u64) -> Int3Owner {
        if self.debug.software.original_at(gpa).is_some() {
            Int3Owner::Client
        } else if read_byte(machine, gpa) == Ok(INT3) {
            Int3Owner::Guest
        } else {
            Int3Owner::Gone
        }
    }

    /// Talks to the client until the machine is to run again. Every CPU is stopped,
    /// for `reason`; steps are executed from here.
    ///
    /// After [`StopKind::HostFault`], [`StopKind::HostPanic`] and
    /// [`StopKind::EntryFailure`] there may be nothing to go on with: if the caller
    /// cannot resume, it calls again.
    pub fn stopped<M: Machine>(&mut self, machine: &mut M, reason: StopReason) -> Resume {
        self.debug.stop = reason;
        self.debug.current = reason.cpu;
        let mut patience = None;
        self.line.drain();
        if reason.kind == StopKind::DebugLine && !(self.attached && self.line.take_interrupt()) {
            // Perhaps a client that opens, perhaps noise.
            patience = Some(self.patience(false));
        } else if self.attached {
            self.report_stop(machine);
        } else if matches!(
            reason.kind,
            StopKind::SoftwareBreakpoint
                | StopKind::HardwareBreakpoint(_)
                | StopKind::Watchpoint(_)
        ) {
            // Hit on one CPU while another one's stop ended with the client leaving.
            return Resume::Detached;
        }
        let resume = self.serve(machine, patience);
        self.awaits_stop = resume == Resume::Continue;
        resume
    }

    fn patience(&mut self, in_range: bool) -> Patience {
        Patience {
            since_us: self.line.now_us(),
            in_range,
        }
    }

    fn serve<M: Machine>(&mut self, machine: &mut M, patience: Option<Patience>) -> Resume {
        let mut patience = patience;
        loop {
            match self.line.next() {
                Some(Incoming::Packet) => {
                    // Before a client has opened, what looks like a packet may be noise.
                    if !self.attached && !self.line.packet().starts_with(b"qSupported") {
                        continue;
                    }
                    patience = match self.answer(machine) {
                        Flow::Stay => None,
                        Flow::StayInRange => Some(self.patience(true)),
                        Flow::Leave(resume) => return resume,
                    };
                }
                Some(Incoming::Interrupt) => {
                    if self.attached && self.awaits_stop {
                        patience = None;
                        self.report_stop(machine);
                    }
                }
                None => {
                    let limit_us = if self.line.in_packet() {
                        PATIENCE_US + PACKET_PATIENCE_US
                    } else {
                        PATIENCE_US
                    };
                    let now_us = self.line.now_us();
                    match patience {
                        Some(Patience { since_us, in_range })
                            if now_us.saturating_sub(since_us) > limit_us =>
                        {
                            // It was noise. Whoever is attached has noticed nothing.
                            self.line.drop_partial_packet();
                            if !in_range {
                                return self.resume_kind();
                            }
                            // A step may end inside its range: GDB asks for the rest.
                            patience = None;
                            self.debug.stop.kind = StopKind::Step;
                            self.report_stop(machine);
                        }
                        _ => core::hint::spin_loop(),
                    }
                }
            }
        }
    }

    fn resume_kind(&self) -> Resume {
        if self.attached {
            Resume::Continue
        } else {
            Resume::Detached
        }
    }

    /// Answers the packet that has come in.
    fn answer<M: Machine>(&mut self, machine: &mut M) -> Flow {
        let request = requests::parse(self.line.packet());
        match request {
            Request::Supported => {
                self.drop_client(machine);
                self.attached = true;
                self.answer_supported();
            }
            Request::StopReason => {
                self.awaits_stop = false;
                stop_reply::send(machine, &self.debug, &mut self.line, Occasion::Asked);
            }
            Request::CurrentThread => {
                let mut reply = self.line.reply();
                let _ = write!(reply, "QC{:x}", thread_id(self.debug.current));
                reply.send();
            }
            Request::SelectThread(thread) => self.select_thread(machine, thread),
            Request::SelectResumedThread => self.line.reply_with("OK"),
            Request::TargetXml(piece) => self.answer_piece(piece, |out| write_target_xml(out)),
            Request::Threads(piece) => {
                let stopped = self.debug.stop.cpu;
                self.answer_piece(piece, |out| write_threads_xml(&*machine, stopped, out));
            }
            Request::ReadBinary { address, length } => {
                self.answer_binary_read(machine, address, length);
            }
            Request::Monitor(digits) => {
                let mut command = [0; COMMAND_SIZE];
                match requests::decode_hex(digits, &mut command) {
                    Some(command) => self.run_monitor(machine, command),
                    None => self.line.reply_error(errno::EINVAL),
                }
            }
            Request::Kill => {
                self.line.reply_with("OK");
                return self.let_go(machine);
            }
            Request::Continue => return self.carry_out(machine, Plan::Continue),
            Request::Step => {
                let cpu = self.debug.current;
                return self.carry_out(machine, Plan::Step(cpu));
            }
            Request::NotOffered => self.line.reply_with(""),
            Request::Malformed => self.line.reply_error(errno::EINVAL),
            Request::Other => return self.ask_gdbstub(machine),
        }
        Flow::Stay
    }

    fn ask_gdbstub<M: Machine>(&mut self, machine: &mut M) -> Flow {
        let (body, reply) = self.line.stub_exchange();
        let ends_acknowledgement = body == b"QStartNoAckMode";
        let mut target = StubTarget::new(machine, &mut self.debug);
        let outcome = exchange(&mut target, body, reply, &mut self.packet);
        let plan = target.plan();
        match outcome {
            Outcome::Answered => {
                self.line.send_stub_reply();
                if ends_acknowledgement {
                    self.line.stop_acknowledging();
                }
            }
            Outcome::Resumed => match plan {
                Some(plan) => return self.carry_out(machine, plan),
                // One CPU alone can be stepped, but not run.
                None => self.line.reply_error(errno::EPERM),
            },
            Outcome::Detached => {
                self.line.send_stub_reply();
                return self.let_go(machine);
            }
            Outcome::Killed => return self.let_go(machine),
            Outcome::Failed => self.line.reply_error(errno::EINVAL),
        }
        Flow::Stay
    }

    fn answer_supported(&mut self) {
        let mut reply = self.line.reply();
        let _ = write!(
            reply,
            "PacketSize={LARGEST_BODY:x};QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;\
             qXfer:features:read+;qXfer:threads:read+;binary-upload+"
        );
        reply.send();
    }

    fn select_thread<M: Machine>(&mut self, machine: &M, thread: Thread) {
        let cpu = match thread {
            Thread::Any => Some(self.debug.stop.cpu),
            Thread::Id(id) => id
                .checked_sub(1)
                .filter(|&index| index < machine.cpu_count() as u64)
                .and_then(|index| u16::try_from(index).ok())
                .map(CpuIndex),
        };
        match cpu {
            Some(cpu) => {
                self.debug.current = cpu;
                self.line.reply_with("OK");
            }
            None => self.line.reply_error(errno::ESRCH),
        }
    }

    fn answer_piece(&mut self, piece: Piece, write: impl FnOnce(&mut dyn Write) -> fmt::Result) {
        // Half a packet, for a byte may take two.
        let room = piece.length.min(PACKET_SIZE / 2 - 4);
        let Some(buffer) = self.packet.get_mut(..room) else {
            return self.line.reply_error(errno::EINVAL);
        };
        let mut window = Window::new(piece.offset, buffer);
        // A window cannot fail.
        let _ = write(&mut window);
        let (length, more) = (window.len(), window.has_more());
        let mut reply = self.line.reply();
        reply.text(if more { "m" } else { "l" });
        reply.binary(self.packet.get(..length).unwrap_or(&[]));
        reply.send();
    }

    fn answer_binary_read<M: Machine>(&mut self, machine: &mut M, address: u64, length: u64) {
        // Half a packet, for a byte may take two. Less than was asked for is allowed.
        let room = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(PACKET_SIZE / 2 - 4);
        let data = self.packet.get_mut(..room).unwrap_or_default();
        let cpu = self.debug.current;
        let done = if room == 0 {
            Ok(0)
        } else {
            memory::read_virtual(machine, &self.debug, cpu, address, data)
        };
        match done {
            Ok(done) => {
                let mut reply = self.line.reply();
                reply.text("b");
                reply.binary(self.packet.get(..done).unwrap_or(&[]));
                reply.send();
            }
            Err(error) => self.line.reply_error(error_number(error)),
        }
    }

    fn run_monitor<M: Machine>(&mut self, machine: &mut M, command: &[u8]) {
        let mut console = Console::new(&mut self.line, &mut self.packet);
        let mut context = monitor::Context::new(machine, &mut self.debug, &self.history);
        monitor::run(&mut context, command, &mut console);
        if console.finish() {
            self.line.reply_with("OK");
        }
    }

    fn carry_out<M: Machine>(&mut self, machine: &mut M, plan: Plan) -> Flow {
        self.prepare_to_move(machine);
        self.awaits_stop = true;
        let (cpu, range) = match plan {
            Plan::Continue => return Flow::Leave(Resume::Continue),
            Plan::Step(cpu) => (cpu, None),
            Plan::RangeStep { cpu, start, end } => (cpu, Some((start, end))),
        };
        self.debug.current = cpu;
        match stepping::run(machine, &self.debug, &mut self.line, cpu, range) {
            SteppingEnd::Stopped(kind) => self.debug.stop = StopReason { cpu, kind },
            SteppingEnd::Interrupted => {
                self.debug.stop = StopReason {
                    cpu,
                    kind: StopKind::DebugLine,
                };
                if !self.line.take_interrupt() {
                    // Perhaps a new client, that nothing is to be reported to.
                    return Flow::StayInRange;
                }
            }
            SteppingEnd::Impossible(error) => {
                self.debug.stop = StopReason {
                    cpu,
                    kind: StopKind::Step,
                };
                let mut console = Console::new(&mut self.line, &mut self.packet);
                let _ = writeln!(
                    console,
                    "error: CPU {cpu} cannot be stepped: {error}; choose another thread, or continue"
                );
                console.finish();
            }
        }
        self.report_stop(machine);
        Flow::Stay
    }

    /// Before the machine moves: the debug registers are set, the VMCSs remembered.
    fn prepare_to_move<M: Machine>(&mut self, machine: &mut M) {
        self.apply_hardware(machine);
        let cpus = CpuIndex::all(machine.cpu_count());
        for (snapshot, cpu) in self.history.iter_mut().zip(cpus) {
            *snapshot = VmcsSnapshot::empty();
            // A CPU that cannot be asked has no history.
            let _ = machine.with_vmcs(cpu, &mut |vmcs| {
                let _ = snapshot.capture(vmcs);
            });
        }
    }

    fn apply_hardware<M: Machine>(&mut self, machine: &mut M) {
        if let Some(plan) = self.debug.hardware.take_change()
            && let Err(error) = machine.set_hardware_breakpoints(&plan)
        {
            let mut console = Console::new(&mut self.line, &mut self.packet);
            let _ = writeln!(
                console,
                "error: the debug registers could not be set: {error}"
            );
            console.finish();
        }
    }

    fn report_stop<M: Machine>(&mut self, machine: &mut M) {
        self.awaits_stop = false;
        if monitor::is_hypervisors_own(self.debug.stop.kind) {
            let mut console = Console::new(&mut self.line, &mut self.packet);
            let _ = crate::activity::write_stop(&*machine, self.debug.stop, &mut console);
            let _ = console.write_str("\n");
            console.finish();
        }
        self.tell_of_closed_memory(machine);
        stop_reply::send(machine, &self.debug, &mut self.line, Occasion::Stopped);
    }

    /// GDB shows a refused access as any other that fails. The reason is told here, at
    /// each stop but those that steps end in, of each CPU that is inside a PAL.
    fn tell_of_closed_memory<M: Machine>(&mut self, machine: &M) {
        let Debug { stop, pal_lock, .. } = self.debug;
        if pal_lock == PalLock::Unlocked || stop.kind == StopKind::Step {
            return;
        }
        let mut console = Console::new(&mut self.line, &mut self.packet);
        for cpu in CpuIndex::all(machine.cpu_count()) {
            if let CpuActivity::Pal { id, .. } = machine.activity(cpu) {
                let _ = writeln!(
                    console,
                    "CPU {cpu} is inside PAL {id}, whose memory stays closed until `monitor pal unlock`"
                );
            }
        }
        console.finish();
    }

    /// Takes out everything that a client set.
    fn drop_client<M: Machine>(&mut self, machine: &mut M) {
        self.debug.software.clear(machine);
        self.debug.hardware.clear();
        self.apply_hardware(machine);
        self.debug.current = self.debug.stop.cpu;
        self.debug.pal_lock = PalLock::Locked;
        self.attached = false;
        self.awaits_stop = false;
    }

    fn let_go<M: Machine>(&mut self, machine: &mut M) -> Flow {
        self.drop_client(machine);
        self.prepare_to_move(machine);
        Flow::Leave(Resume::Detached)
    }
}
