//! What the stub asks of the stopped machine, as five narrow traits.
//!
//! The hypervisor implements them over its quiesced CPUs; the tests over a fake
//! with an interpreter of a few instructions. [`Machine`] is their sum and is
//! what [`Session`](crate::Session) works on. Every method is called
//! with all CPUs stopped, from one CPU, and returns when its work is done,
//! wherever it was done.

mod pals;

use core::fmt;

pub use pals::{
    MAX_PAL_PARTS, PCRS, PageOwner, PalInfo, PalPaging, PalParameter, PalSection, PalState, Pals,
    SectionKind,
};
use stillpoint_quiesce::LedgerCounts;
use vmcs_inspect::{Capabilities, VmcsAccess, VmcsError};

use crate::registers::Registers;

/// The most logical processors that one session keeps state for.
pub const MAX_CPUS: usize = 32;

/// A logical processor, numbered densely from 0 in the order of start-up.
///
/// Not an APIC ID. GDB's thread id is this plus one, since 0 means "any" there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(pub u16);

impl CpuIndex {
    /// The CPUs of a machine with `count` of them, in order.
    pub fn all(count: usize) -> impl Iterator<Item = Self> + Clone {
        (0..count).map_while(|n| u16::try_from(n).ok()).map(Self)
    }

    /// The index as one into an array that has an element per CPU.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CpuIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How guest code is decoded and addressed at the moment of the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMode {
    /// CR0.PE = 0.
    Real,
    /// RFLAGS.VM = 1.
    Virtual8086,
    /// Protected mode, CS.D = 0.
    Protected16,
    /// Protected mode, CS.D = 1.
    Protected32,
    /// IA32_EFER.LMA = 1, CS.L = 0.
    Compatibility,
    /// IA32_EFER.LMA = 1, CS.L = 1.
    Long64,
}

impl GuestMode {
    /// Bits of the code that runs in this mode: 16, 32 or 64. Compatibility
    /// mode counts as 32, though its CS may say 16.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 => 16,
            Self::Protected32 | Self::Compatibility => 32,
            Self::Long64 => 64,
        }
    }
}

impl fmt::Display for GuestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Real => "real mode",
            Self::Virtual8086 => "virtual-8086",
            Self::Protected16 => "16-bit protected",
            Self::Protected32 => "32-bit protected",
            Self::Compatibility => "compatibility",
            Self::Long64 => "64-bit",
        })
    }
}

/// What a CPU was doing when the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuActivity {
    /// Running guest code.
    Guest {
        /// The mode the guest was in.
        mode: GuestMode,
        /// Its privilege level, 0 to 3.
        cpl: u8,
    },
    /// The guest executed HLT and waits for an event.
    Halted,
    /// The guest's CPU is in the shutdown activity state.
    Shutdown,
    /// The guest's CPU waits for a start-up IPI: it has no context to show.
    WaitForSipi,
    /// The CPU was stopped in the hypervisor's own code, by a fault or a panic.
    Hypervisor {
        /// The hypervisor's instruction pointer.
        rip: u64,
    },
    /// Running the isolated code of a PAL.
    Pal {
        /// The PAL's number.
        id: u32,
        /// The mode of its code.
        mode: GuestMode,
    },
}

/// Why the machine did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// There is no such CPU.
    NoSuchCpu,
    /// The address does not translate, or nothing is there, or it may not be seen
    /// (the hypervisor's own memory).
    BadAddress,
    /// The memory is that of the PAL with this number, and PALs are locked. The stub says
    /// this itself.
    PalLocked(u32),
    /// The CPU cannot do it now: it waits for a SIPI, or is stopped in the
    /// hypervisor where the request means a guest.
    Unavailable,
    /// The value would make the next VM entry fail, or the guest fault.
    BadValue(Register),
    /// RDMSR or WRMSR of that MSR, or of that value, faults.
    MsrFault,
    /// The processor lacks what is needed (a VMCS field, say).
    Unsupported,
}

/// The register that [`MachineError::BadValue`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// A canonical address is needed.
    Rip,
    /// A reserved bit, or VM with long mode.
    Rflags,
    /// A bit that VMX operation fixes, or PG without PE.
    Cr0,
    /// Bits above the physical-address width.
    Cr3,
    /// A bit that VMX operation fixes, or one this processor lacks.
    Cr4,
    /// LMA against CR0.PG and LME, or a reserved bit.
    Efer,
    /// A base that must be canonical.
    SegmentBase,
    /// A selector: the hidden part of a segment cannot follow it.
    Selector,
    /// MXCSR with reserved bits.
    Mxcsr,
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu => f.write_str("there is no such CPU"),
            Self::BadAddress => f.write_str("nothing is mapped there"),
            Self::PalLocked(id) => {
                write!(f, "PAL {id}'s memory, closed until `monitor pal unlock`")
            }
            Self::Unavailable => f.write_str("this CPU cannot do it in its present state"),
            Self::BadValue(register) => {
                write!(f, "that value of {register:?} would break VM entry")
            }
            Self::MsrFault => f.write_str("the processor answers #GP"),
            Self::Unsupported => f.write_str("this processor does not have it"),
        }
    }
}

/// How one single step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// One instruction was executed, or one fault was delivered: the CPU stands
    /// at the next instruction.
    Done,
    /// The instruction touched what the watchpoint in this debug-register slot
    /// (0 to 3) watches; it has been executed.
    Watchpoint(u8),
    /// The machine stopped for a reason of its own in the middle of the step.
    Stopped(StopKind),
}

/// Why the machine is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReason {
    /// The CPU that the reason arose on.
    pub cpu: CpuIndex,
    /// What happened.
    pub kind: StopKind,
}

/// What happened on the CPU of a [`StopReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// [`Session::poll`](crate::Session::poll) asked for it: something came on the debug line.
    DebugLine,
    /// The CPU is at a software breakpoint that the client set; RIP is at its byte.
    SoftwareBreakpoint,
    /// The execution breakpoint in this slot (0 to 3) was hit; RIP is at it.
    HardwareBreakpoint(u8),
    /// The data breakpoint in this slot (0 to 3) was hit, by the instruction before RIP.
    Watchpoint(u8),
    /// One instruction was stepped over. The stub sets this itself.
    Step,
    /// The `wait` option: nothing of the guest has run yet.
    Wait,
    /// The hypervisor itself took an exception.
    HostFault {
        /// Exception vector.
        vector: u8,
        /// Error code, 0 where the vector has none.
        error: u64,
        /// The hypervisor's RIP.
        rip: u64,
        /// CR2, meaningful for #PF.
        cr2: u64,
    },
    /// The hypervisor panicked; its log has the message.
    HostPanic,
    /// A VM entry failed; `monitor vmcs check` names the rule.
    EntryFailure,
    /// A VM exit that nothing handles, with this basic exit reason.
    UnknownExit(u16),
}

/// What the stub leaves in the debug registers of every CPU while the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwareBreakpoints {
    /// DR0 to DR3 with their part of DR7; `None` is a slot the stub does not use.
    pub slots: [Option<HardwareBreakpoint>; 4],
}

impl HardwareBreakpoints {
    /// DR7 for these slots: G0 to G3, LE and GE as the SDM recommends, bit 10 set.
    ///
    /// Intel SDM, order number 325462-081US, September 2023, volume 3, section
    /// 18.2.4 "Debug Control Register (DR7)".
    pub fn dr7(&self) -> u64 {
        let mut dr7 = 1 << 10;
        for (n, slot) in self.slots.iter().enumerate() {
            if let Some(breakpoint) = slot {
                let condition = match breakpoint.condition {
                    WatchCondition::Execute => 0b00,
                    WatchCondition::Write => 0b01,
                    WatchCondition::ReadWrite => 0b11,
                };
                let length = match breakpoint.length {
                    8 => 0b10,
                    4 => 0b11,
                    2 => 0b01,
                    _ => 0b00,
                };
                dr7 |= 0b10 << (2 * n) | (condition | length << 2) << (16 + 4 * n) | 0b11 << 8;
            }
        }
        dr7
    }

    /// Whether no slot is in use: the debug registers are the guest's alone.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

/// One debug register's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareBreakpoint {
    /// Linear address, aligned to `length`.
    pub address: u64,
    /// Bytes watched: 1, 2, 4 or 8; 1 for execution.
    pub length: u8,
    /// What triggers it.
    pub condition: WatchCondition,
}

/// The R/W field of DR7 for one slot. There is no condition that reads alone trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchCondition {
    /// Instruction execution.
    Execute,
    /// Data writes.
    Write,
    /// Data reads and writes.
    ReadWrite,
}

/// The CPUs and their registers.
pub trait CpuState {
    /// How many logical processors there are, at least 1 and at most [`MAX_CPUS`].
    fn cpu_count(&self) -> usize;

    /// What `cpu` was doing when it stopped.
    fn activity(&self, cpu: CpuIndex) -> CpuActivity;

    /// Fills `registers` with what `cpu` will continue with: the guest's, or the
    /// hypervisor's own when the CPU was stopped in the hypervisor.
    fn read_registers(
        &mut self,
        cpu: CpuIndex,
        registers: &mut Registers,
    ) -> Result<(), MachineError>;

    /// Gives `cpu` these registers. `registers` came from
    /// [`read_registers`](Self::read_registers) and differs in what the person
    /// changed; all or nothing is applied.
    ///
    /// # Errors
    /// [`MachineError::BadValue`] names the register that would break VM entry.
    fn write_registers(&mut self, cpu: CpuIndex, registers: &Registers)
    -> Result<(), MachineError>;

    /// Writes `symbol+offset` for an address in the hypervisor's own code, or the
    /// address in hexadecimal where it has no symbols.
    fn describe_address(&self, rip: u64, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{rip:#x}")
    }
}

/// Memory, as a guest's CPU sees it and as the memory controller does.
///
/// Reads and writes return how many bytes were done before the first that could
/// not be; none at all is an error. No access sets accessed or dirty bits, none
/// faults, and the hypervisor's own memory is [`MachineError::BadAddress`] through
/// a guest's view. PALs are no business of these: the stub asks for a page's owner
/// before.
pub trait Memory {
    /// Reads through the paging of `cpu`, or in the hypervisor's address space when
    /// that CPU was stopped in the hypervisor.
    fn read_virtual(
        &mut self,
        cpu: CpuIndex,
        gva: u64,
        data: &mut [u8],
    ) -> Result<usize, MachineError>;

    /// Writes through the paging of `cpu`, whatever the page's protection.
    fn write_virtual(
        &mut self,
        cpu: CpuIndex,
        gva: u64,
        data: &[u8],
    ) -> Result<usize, MachineError>;

    /// The guest physical address of `gva` under the paging of `cpu`; when that CPU was
    /// stopped in the hypervisor, the physical one if `gva` lies in the hypervisor's map
    /// of physical memory.
    fn translate(&mut self, cpu: CpuIndex, gva: u64) -> Result<u64, MachineError>;

    /// Reads guest physical memory.
    fn read_physical(&mut self, gpa: u64, data: &mut [u8]) -> Result<usize, MachineError>;

    /// Writes guest physical memory: all of `data`, or nothing.
    fn write_physical(&mut self, gpa: u64, data: &[u8]) -> Result<(), MachineError>;
}

/// What moves the machine, or decides where it will stop.
pub trait Control {
    /// Executes exactly one guest instruction on `cpu` (monitor trap flag), with
    /// external interrupts and NMIs held and every other CPU stopped. An execution
    /// breakpoint at RIP does not trigger.
    ///
    /// # Errors
    /// [`MachineError::Unavailable`] when the CPU has no guest context to step.
    fn step(&mut self, cpu: CpuIndex) -> Result<StepEnd, MachineError>;

    /// Puts these into the debug registers of every CPU, from now on and for CPUs
    /// that start later. An empty set gives the registers back to the guest.
    fn set_hardware_breakpoints(&mut self, plan: &HardwareBreakpoints) -> Result<(), MachineError>;

    /// Whether #BP must be a VM exit: true while the client has a software
    /// breakpoint. At such an exit the CPU takes the machine and asks
    /// [`Session::int3_owner`](crate::Session::int3_owner).
    fn set_software_breakpoints_active(&mut self, active: bool);
}

/// What the monitor commands show, and the little that they change.
pub trait Inspect {
    /// RDMSR on `cpu`, fault-safe: the guest's value where the VMCS or the MSR area
    /// holds one.
    fn read_msr(&mut self, cpu: CpuIndex, index: u32) -> Result<u64, MachineError>;

    /// WRMSR on `cpu`, fault-safe: the guest's value, as above.
    fn write_msr(&mut self, cpu: CpuIndex, index: u32, value: u64) -> Result<(), MachineError>;

    /// Runs `f` once, on the VMCS of `cpu`.
    ///
    /// # Errors
    /// [`VmcsError::Unavailable`] and `f` not called, if that CPU cannot serve it.
    fn with_vmcs(
        &mut self,
        cpu: CpuIndex,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError>;

    /// The processor's VMX capability MSRs.
    fn vmcs_capabilities(&self) -> Capabilities;

    /// What the hypervisor keeps about NMIs on `cpu`.
    fn nmi_ledger(&self, cpu: CpuIndex) -> LedgerCounts;

    /// The generation of the last stop that `cpu` has joined.
    fn joined_stop(&self, cpu: CpuIndex) -> u64;

    /// Owes the guest on `cpu` one NMI, delivered when it next can take it.
    fn owe_nmi(&mut self, cpu: CpuIndex) -> Result<(), MachineError>;

    /// VM exits of `cpu` so far, indexed by basic exit reason.
    fn exit_counts(&mut self, cpu: CpuIndex, counts: &mut [u64; EXIT_REASONS]);

    /// Calls `line` with each line of the in-memory log, oldest first.
    fn log(&mut self, line: &mut dyn FnMut(&str));

    /// Calls `event` with what the hypervisor recorded of `cpu`, of every CPU if none is
    /// named, in the order of time.
    fn trace(&mut self, cpu: Option<CpuIndex>, event: &mut dyn FnMut(&TraceEvent<'_>));

    /// Prints the hypervisor's own registers on `cpu`: RIP, RSP, control registers,
    /// GDT and IDT, as far as they are known there.
    fn host_registers(&mut self, cpu: CpuIndex, out: &mut dyn fmt::Write) -> fmt::Result;

    /// Prints name, version, build, and the addresses that the image occupies.
    fn version(&mut self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// One event that the hypervisor recorded.
pub struct TraceEvent<'a> {
    /// When, in nanoseconds since the processor's reset.
    pub nanoseconds: u64,
    /// The CPU that it happened to.
    pub cpu: CpuIndex,
    /// What happened, in one line.
    pub text: &'a dyn fmt::Display,
}

/// One more than the highest basic exit reason that is counted.
pub const EXIT_REASONS: usize = 80;

/// All that a [`Session`](crate::Session) asks of the machine.
pub trait Machine: CpuState + Memory + Control + Inspect + Pals {}

impl<T: CpuState + Memory + Control + Inspect + Pals> Machine for T {}

/// The UART of the debug line, never waited for, and the clock that limits how long
/// the stub waits on it.
pub trait SerialPort {
    /// The next received byte, if there is one.
    fn try_read(&mut self) -> Option<u8>;

    /// Hands over one byte to send; false when the transmitter has no room now.
    fn try_write(&mut self, byte: u8) -> bool;

    /// Microseconds since any fixed point; never goes back.
    fn now_us(&mut self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dr7(slot: usize, length: u8, condition: WatchCondition) -> u64 {
        let mut plan = HardwareBreakpoints::default();
        plan.slots[slot] = Some(HardwareBreakpoint {
            address: 0,
            length,
            condition,
        });
        plan.dr7()
    }

    #[test]
    fn dr7_has_each_slot_where_the_sdm_has_it() {
        let none = HardwareBreakpoints::default();
        assert_eq!(none.dr7(), 0x400);
        assert!(none.is_empty());
        assert_eq!(dr7(0, 1, WatchCondition::Execute), 0x0000_0702);
        assert_eq!(dr7(1, 2, WatchCondition::Write), 0x0050_0708);
        assert_eq!(dr7(2, 4, WatchCondition::ReadWrite), 0x0f00_0720);
        assert_eq!(dr7(3, 8, WatchCondition::Write), 0x9000_0780);
    }
}
