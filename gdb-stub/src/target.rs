//! The stopped machine as gdbstub's target: what `g`, `p`, `m`, `Z`, `vCont` and their
//! like do.
//!
//! Built anew by [`Session`](crate::Session) for each packet that goes to gdbstub.
//! gdbstub passes a thread id along with most requests; the one that counts is
//! [`Debug::current`], which the session keeps, so that no state of gdbstub's matters
//! from one packet to the next.

use core::convert::Infallible;
use core::fmt::Write;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadResumeOps, MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps,
    MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use crate::activity::write_activity;
use crate::arch::{self, CoreRegisters, MAX_REGISTER_SIZE, RegisterId, Source, X86_64};
use crate::breakpoints::hardware::{HardwareTable, Request};
use crate::breakpoints::software::{InsertError, SoftwareBreakpoints};
use crate::description::Window;
use crate::machine::{CpuIndex, Machine, MachineError, StopReason, WatchCondition};
use crate::memory;
use crate::pal_lock::PalLock;
use crate::registers::Registers;

/// What the stub keeps about the machine it stopped.
pub struct Debug {
    /// Breakpoints in memory.
    pub software: SoftwareBreakpoints,
    /// Breakpoints in the debug registers.
    pub hardware: HardwareTable,
    /// Why the machine is stopped.
    pub stop: StopReason,
    /// The CPU that register and memory requests are about.
    pub current: CpuIndex,
    /// Whether the memory of PALs is closed.
    pub pal_lock: PalLock,
}

/// What the client asked the machine to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All CPUs run.
    Continue,
    /// One CPU executes one instruction, the others hold.
    Step(CpuIndex),
    /// One CPU executes instructions as long as it stays in `start..end`.
    RangeStep {
        /// The CPU.
        cpu: CpuIndex,
        /// First linear address of the range.
        start: u64,
        /// Linear address after the range.
        end: u64,
    },
}

/// One request's view of the machine.
pub struct StubTarget<'a, M> {
    machine: &'a mut M,
    debug: &'a mut Debug,
    step: Option<Plan>,
    /// CPUs that were named one by one to continue.
    continued: usize,
    /// Whether CPUs that were not named must hold.
    locked: bool,
}

/// Error numbers of the protocol's `E` replies, GDB's `errno` values.
pub mod errno {
    /// Not permitted.
    pub const EPERM: u8 = 1;
    /// No such thread.
    pub const ESRCH: u8 = 3;
    /// The processor refused.
    pub const EIO: u8 = 5;
    /// Not in the CPU's present state.
    pub const EAGAIN: u8 = 11;
    /// Nothing is mapped there.
    pub const EFAULT: u8 = 14;
    /// That value would break VM entry.
    pub const EINVAL: u8 = 22;
    /// No debug register or table entry is free.
    pub const ENOSPC: u8 = 28;
}

/// The error number for what the machine said.
pub fn error_number(error: MachineError) -> u8 {
    match error {
        MachineError::NoSuchCpu => errno::ESRCH,
        MachineError::BadAddress => errno::EFAULT,
        MachineError::Unavailable => errno::EAGAIN,
        MachineError::BadValue(_) => errno::EINVAL,
        MachineError::PalLocked(_) => errno::EPERM,
        MachineError::MsrFault | MachineError::Unsupported => errno::EIO,
    }
}

fn refuse<E>(error: MachineError) -> TargetError<E> {
    TargetError::Errno(error_number(error))
}

/// GDB's thread id of a CPU.
pub fn thread_id(cpu: CpuIndex) -> Tid {
    Tid::MIN.saturating_add(cpu.as_usize())
}

impl<'a, M: Machine> StubTarget<'a, M> {
    /// A target for one request.
    pub fn new(machine: &'a mut M, debug: &'a mut Debug) -> Self {
        Self {
            machine,
            debug,
            step: None,
            continued: 0,
            locked: false,
        }
    }

    /// What a resume request that gdbstub has accepted asks for. `None` where only
    /// some CPUs should run: the machine runs as a whole.
    pub fn plan(&self) -> Option<Plan> {
        match self.step {
            Some(plan) => Some(plan),
            None if self.locked && self.continued < self.machine.cpu_count() => None,
            None => Some(Plan::Continue),
        }
    }

    fn cpu(&self, tid: Tid) -> Option<CpuIndex> {
        let index = tid.get() - 1;
        let cpu = CpuIndex(u16::try_from(index).ok()?);
        (index < self.machine.cpu_count()).then_some(cpu)
    }

    fn registers(&mut self) -> Result<Registers, MachineError> {
        let mut registers = Registers::default();
        self.machine
            .read_registers(self.debug.current, &mut registers)?;
        Ok(registers)
    }

    fn read_field(&mut self, field: vmcs_inspect::Field) -> Option<u64> {
        let mut value = None;
        self.machine
            .with_vmcs(self.debug.current, &mut |vmcs| {
                value = vmcs.read(field).ok()
            })
            .ok()?;
        value
    }
}

impl<M: Machine> Target for StubTarget<'_, M> {
    type Arch = X86_64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    // Each of these would be announced and can never happen.
    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }
}

impl<M: Machine> MultiThreadBase for StubTarget<'_, M> {
    fn read_registers(&mut self, core: &mut CoreRegisters, _: Tid) -> TargetResult<(), Self> {
        *core = match self.registers() {
            Ok(registers) => CoreRegisters::capture(&registers),
            // An error here would end `info threads` at this CPU.
            Err(MachineError::Unavailable) => CoreRegisters::unavailable(),
            Err(error) => return Err(refuse(error)),
        };
        Ok(())
    }

    fn write_registers(&mut self, core: &CoreRegisters, _: Tid) -> TargetResult<(), Self> {
        let mut registers = self.registers().map_err(refuse)?;
        core.apply(&mut registers);
        self.machine
            .write_registers(self.debug.current, &registers)
            .map_err(refuse)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, address: u64, data: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        let cpu = self.debug.current;
        memory::read_virtual(self.machine, self.debug, cpu, address, data).map_err(refuse)
    }

    fn write_addrs(&mut self, address: u64, data: &[u8], _: Tid) -> TargetResult<(), Self> {
        let cpu = self.debug.current;
        match memory::write_virtual(self.machine, self.debug, cpu, address, data) {
            Ok(done) if done == data.len() => Ok(()),
            Ok(_) => Err(TargetError::Errno(errno::EFAULT)),
            Err(error) => Err(refuse(error)),
        }
    }

    fn list_active_threads(&mut self, add: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        for cpu in stopped_first(self.debug.stop.cpu, self.machine.cpu_count()) {
            add(thread_id(cpu));
        }
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, Infallible> {
        Ok(self.cpu(tid).is_some())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

/// All CPUs, the one that the stop arose on first: clients take the first for it.
pub fn stopped_first(stopped: CpuIndex, count: usize) -> impl Iterator<Item = CpuIndex> {
    let others = CpuIndex::all(count).filter(move |&cpu| cpu != stopped);
    core::iter::once(stopped).chain(others)
}

impl<M: Machine> SingleRegisterAccess<Tid> for StubTarget<'_, M> {
    fn read_register(
        &mut self,
        _: Tid,
        id: RegisterId,
        out: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let info = id.info();
        let mut value = [0; MAX_REGISTER_SIZE];
        if let Source::Vmcs(field) = info.source {
            // 0 bytes make GDB show `<unavailable>`.
            let Some(word) = self.read_field(field) else {
                return Ok(0);
            };
            value[..8].copy_from_slice(&word.to_le_bytes());
        } else {
            match self.registers() {
                Ok(registers) => {
                    arch::read(&registers, info.source, &mut value);
                }
                Err(MachineError::Unavailable) => return Ok(0),
                Err(error) => return Err(refuse(error)),
            }
        }
        match (out.get_mut(..info.size), value.get(..info.size)) {
            (Some(out), Some(value)) => out.copy_from_slice(value),
            _ => return Err(TargetError::NonFatal),
        }
        Ok(info.size)
    }

    fn write_register(&mut self, _: Tid, id: RegisterId, value: &[u8]) -> TargetResult<(), Self> {
        let info = id.info();
        if value.len() != info.size {
            return Err(TargetError::Errno(errno::EINVAL));
        }
        if let Source::Vmcs(field) = info.source {
            // `monitor vmcs set` checks what it does; this way there is no check. GDB
            // also writes registers back that nobody changed.
            let unchanged = self.read_field(field) == Some(arch::le_u64(value));
            return if unchanged {
                Ok(())
            } else {
                Err(TargetError::Errno(errno::EPERM))
            };
        }
        let mut registers = self.registers().map_err(refuse)?;
        arch::write(&mut registers, info.source, value);
        self.machine
            .write_registers(self.debug.current, &registers)
            .map_err(refuse)
    }
}

impl<M: Machine> ThreadExtraInfo for StubTarget<'_, M> {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let mut text = Window::new(0, buffer);
        if let Some(cpu) = self.cpu(tid) {
            // A window takes what fits and cannot fail.
            let _ = write_activity(self.machine, cpu, &mut text);
        } else {
            let _ = text.write_str("no such CPU");
        }
        Ok(text.len())
    }
}

impl<M: Machine> MultiThreadResume for StubTarget<'_, M> {
    fn resume(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.step = None;
        self.continued = 0;
        self.locked = false;
        Ok(())
    }

    // Signals mean nothing to a machine: a continue with one is a continue.
    fn set_resume_action_continue(&mut self, _: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.continued += 1;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<M: Machine> MultiThreadSingleStep for StubTarget<'_, M> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        // Only the first is stepped, and what else should run meanwhile is held.
        if self.step.is_none() {
            self.step = self.cpu(tid).map(Plan::Step);
        }
        Ok(())
    }
}

impl<M: Machine> MultiThreadRangeStepping for StubTarget<'_, M> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), Infallible> {
        if self.step.is_none() {
            self.step = self.cpu(tid).map(|cpu| Plan::RangeStep { cpu, start, end });
        }
        Ok(())
    }
}

impl<M: Machine> MultiThreadSchedulerLocking for StubTarget<'_, M> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.locked = true;
        Ok(())
    }
}

impl<M: Machine> Breakpoints for StubTarget<'_, M> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<M: Machine> SwBreakpoint for StubTarget<'_, M> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let (cpu, lock) = (self.debug.current, self.debug.pal_lock);
        match self.debug.software.insert(self.machine, lock, cpu, address) {
            Ok(()) => Ok(true),
            Err(InsertError::Full) => Err(TargetError::Errno(errno::ENOSPC)),
            Err(InsertError::Machine(error)) => Err(refuse(error)),
        }
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        // Taking out what is not there is no error: GDB repeats itself after one.
        self.debug.software.remove(self.machine, address);
        Ok(true)
    }
}

impl<M: Machine> HwBreakpoint for StubTarget<'_, M> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.add_hardware(execute(address))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.debug.hardware.remove(execute(address));
        Ok(true)
    }
}

impl<M: Machine> HwWatchpoint for StubTarget<'_, M> {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        match watch(address, length, kind) {
            Some(request) => self.add_hardware(request),
            None => Ok(false),
        }
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        if let Some(request) = watch(address, length, kind) {
            self.debug.hardware.remove(request);
        }
        Ok(true)
    }
}

impl<M: Machine> StubTarget<'_, M> {
    fn add_hardware(&mut self, request: Request) -> TargetResult<bool, Self> {
        match self.debug.hardware.insert(request) {
            Ok(()) => Ok(true),
            Err(_) => Err(TargetError::Errno(errno::ENOSPC)),
        }
    }
}

fn execute(address: u64) -> Request {
    Request {
        address,
        length: 1,
        condition: WatchCondition::Execute,
    }
}

/// `None` for an empty range, and for reads alone, which the debug registers cannot watch.
fn watch(address: u64, length: u64, kind: WatchKind) -> Option<Request> {
    let condition = match kind {
        WatchKind::Write => WatchCondition::Write,
        WatchKind::ReadWrite => WatchCondition::ReadWrite,
        WatchKind::Read => return None,
    };
    (length > 0).then_some(Request {
        address,
        length,
        condition,
    })
}
