//! A machine of a few CPUs, each with registers of its own, that executes the dozen
//! instructions of `guest.c` from memory that is paged out of order.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use gdb_stub::machine::{
    Control, CpuActivity, CpuIndex, CpuState, EXIT_REASONS, GuestMode, HardwareBreakpoints,
    Inspect, MachineError, Memory, PageOwner, PalInfo, PalState, Pals, Register, StepEnd, StopKind,
    StopReason, TraceEvent, WatchCondition,
};
use gdb_stub::registers::{Registers, Segment};
use gdb_stub::{Int3Owner, SerialPort, Session};
use stillpoint_quiesce::LedgerCounts;
use vmcs_inspect::fake::{self, FakeVmcs};
use vmcs_inspect::{Capabilities, VmcsAccess, VmcsError};

use super::guest::{BASE, guest};

/// Guest physical memory.
const MEMORY: usize = 0x8_0000;
/// Pages of the guest's text, data and stacks.
const PAGES: u64 = 16;

/// An MSR that can be written only.
pub const IA32_PRED_CMD: u32 = 0x49;

/// One CPU.
#[derive(Clone)]
pub struct Cpu {
    pub registers: Registers,
    pub activity: CpuActivity,
    pub vmcs: FakeVmcs,
    pub ledger: LedgerCounts,
    pub msrs: BTreeMap<u32, u64>,
}

/// The machine.
pub struct FakeMachine {
    pub cpus: Vec<Cpu>,
    pub memory: Vec<u8>,
    pub hardware: HardwareBreakpoints,
    pub int3_exits: bool,
    pub log: Vec<String>,
    /// What was recorded: nanoseconds, CPU and event.
    pub trace: Vec<(u64, CpuIndex, String)>,
    /// `INT3`s that the guest was given.
    pub guest_breakpoints: u32,
    /// Instructions executed by single steps.
    pub steps: u64,
    /// PALs, by their numbers.
    pub pals: Vec<Option<PalInfo>>,
    /// Pages of physical memory that are not the guest's, by their first address.
    pub owners: BTreeMap<u64, PageOwner>,
}

/// The page that boot loaders are loaded in, mapped as it is.
const BOOT_PAGE: u64 = 0x7000;

/// The guest physical address of a virtual one. Neighbouring pages lie apart and in
/// reverse order, so that what assumes otherwise is found out.
fn translate(gva: u64) -> Option<u64> {
    if gva & !0xfff == BOOT_PAGE {
        return Some(gva);
    }
    let page = gva.checked_sub(BASE)? >> 12;
    (page < PAGES).then(|| 0x1_0000 + (PAGES - 1 - page) * 0x2000 + (gva & 0xfff))
}

impl FakeMachine {
    /// `cpus` CPUs at the guest's entry. The last of more than two waits for a SIPI.
    pub fn new(cpus: usize) -> Self {
        let guest = guest();
        let cpu = |n: usize| Cpu {
            registers: Registers {
                rip: guest.entry,
                rflags: 0x202,
                rsp: BASE + 0x4000 + 0x1000 * n as u64 + 0xff0,
                rdi: guest.counter,
                r8: 0x1111_2222_3333_4444,
                cs: Segment {
                    selector: 0x10,
                    base: 0,
                },
                gs: Segment {
                    selector: 0,
                    base: 0xffff_8880_0000_0000 + n as u64,
                },
                kernel_gs_base: 0x5555,
                cr0: 0x8005_0033,
                cr3: 0x100_0000,
                cr4: 0x2020,
                efer: 0xd01,
                ..Registers::default()
            },
            activity: if cpus > 2 && n == cpus - 1 {
                CpuActivity::WaitForSipi
            } else {
                CpuActivity::Guest {
                    mode: GuestMode::Long64,
                    cpl: 0,
                }
            },
            vmcs: FakeVmcs::well_formed(),
            ledger: LedgerCounts::default(),
            msrs: BTreeMap::from([(0xc000_0082, guest.work), (0x10, 1), (IA32_PRED_CMD, 0)]),
        };
        let mut machine = Self {
            cpus: (0..cpus).map(cpu).collect(),
            memory: vec![0; MEMORY],
            hardware: HardwareBreakpoints::default(),
            int3_exits: false,
            log: (1..=60).map(|n| format!("line {n}")).collect(),
            trace: Vec::new(),
            guest_breakpoints: 0,
            steps: 0,
            pals: Vec::new(),
            owners: BTreeMap::new(),
        };
        for (address, bytes) in &guest.segments {
            machine.write(*address, bytes);
        }
        machine
    }

    fn write(&mut self, gva: u64, bytes: &[u8]) {
        for (n, &byte) in bytes.iter().enumerate() {
            let gpa = translate(gva + n as u64).expect("the guest fits its memory");
            self.memory[gpa as usize] = byte;
        }
    }

    fn byte(&self, gva: u64) -> Option<u8> {
        self.memory.get(translate(gva)? as usize).copied()
    }

    fn load(&self, gva: u64) -> u64 {
        (0..8).rev().fold(0, |value, n| {
            value << 8 | u64::from(self.byte(gva + n).unwrap_or(0))
        })
    }

    /// The counter in the guest's memory.
    pub fn counter(&self) -> u64 {
        self.load(guest().counter)
    }

    fn runs(&self, n: usize) -> bool {
        matches!(self.cpus[n].activity, CpuActivity::Guest { .. })
    }

    /// Executes one instruction on CPU `n`. `stepping` as for a single step: execution
    /// breakpoints at RIP do not count.
    pub fn execute(&mut self, n: usize, stepping: bool) -> Option<StopKind> {
        if !self.runs(n) {
            return None;
        }
        let mut r = self.cpus[n].registers;
        let slot_at = |condition: &dyn Fn(WatchCondition) -> bool, address: u64, length: u64| {
            (0_u8..).zip(self.hardware.slots).find_map(|(slot, part)| {
                let part = part?;
                let overlaps = part.address < address + length
                    && address < part.address + u64::from(part.length);
                (condition(part.condition) && overlaps).then_some(slot)
            })
        };
        if !stepping && let Some(slot) = slot_at(&|c| c == WatchCondition::Execute, r.rip, 1) {
            return Some(StopKind::HardwareBreakpoint(slot));
        }
        let code: Vec<u8> = (0..7)
            .map(|i| self.byte(r.rip + i).unwrap_or(0xf4))
            .collect();
        let mut hit = None;
        match code[..] {
            [0xcc, ..] => return Some(StopKind::SoftwareBreakpoint),
            [0x90, ..] => r.rip += 1,
            [0xb9, a, b, c, d, ..] => {
                r.rcx = u64::from(u32::from_le_bytes([a, b, c, d]));
                r.rip += 5;
            }
            [0x48, 0xff, 0xc0, ..] => {
                r.rax = r.rax.wrapping_add(1);
                r.rip += 3;
            }
            [0x48, 0xff, 0xc9, ..] => {
                r.rcx = r.rcx.wrapping_sub(1);
                r.rflags = if r.rcx == 0 {
                    r.rflags | 0x40
                } else {
                    r.rflags & !0x40
                };
                r.rip += 3;
            }
            [0x48, 0x89, 0x07, ..] => {
                hit = slot_at(&|c| c != WatchCondition::Execute, r.rdi, 8);
                self.write(r.rdi, &r.rax.to_le_bytes());
                r.rip += 3;
            }
            [0xeb, offset, ..] => r.rip = r.rip.wrapping_add_signed(2 + i64::from(offset as i8)),
            [0x75, offset, ..] => {
                let taken = if r.rflags & 0x40 == 0 {
                    i64::from(offset as i8)
                } else {
                    0
                };
                r.rip = r.rip.wrapping_add_signed(2 + taken);
            }
            [0xe8, a, b, c, d, ..] => {
                let offset = i64::from(i32::from_le_bytes([a, b, c, d]));
                r.rsp -= 8;
                self.write(r.rsp, &(r.rip + 5).to_le_bytes());
                r.rip = (r.rip + 5).wrapping_add_signed(offset);
            }
            [0xc3, ..] => {
                r.rip = self.load(r.rsp);
                r.rsp += 8;
            }
            _ => {
                self.cpus[n].activity = CpuActivity::Shutdown;
                return None;
            }
        }
        self.cpus[n].registers = r;
        hit.map(StopKind::Watchpoint)
    }

    /// Runs until something stops the machine, a little on each CPU in turn.
    pub fn run_slice<S: SerialPort>(&mut self, session: &Session<S>) -> Option<StopReason> {
        for n in 0..self.cpus.len() {
            let cpu = CpuIndex(n as u16);
            for _ in 0..7 {
                let Some(kind) = self.execute(n, false) else {
                    continue;
                };
                if kind == StopKind::SoftwareBreakpoint {
                    assert!(self.int3_exits, "a breakpoint that is no VM exit is lost");
                    let gpa = translate(self.cpus[n].registers.rip).unwrap();
                    match session.int3_owner(self, gpa) {
                        Int3Owner::Client => {}
                        Int3Owner::Guest => {
                            self.guest_breakpoints += 1;
                            self.cpus[n].registers.rip += 1;
                            continue;
                        }
                        Int3Owner::Gone => continue,
                    }
                }
                return Some(StopReason { cpu, kind });
            }
        }
        None
    }

    fn cpu(&mut self, cpu: CpuIndex) -> Result<&mut Cpu, MachineError> {
        self.cpus
            .get_mut(cpu.as_usize())
            .ok_or(MachineError::NoSuchCpu)
    }
}

impl CpuState for FakeMachine {
    fn cpu_count(&self) -> usize {
        self.cpus.len()
    }

    fn activity(&self, cpu: CpuIndex) -> CpuActivity {
        self.cpus[cpu.as_usize()].activity
    }

    fn read_registers(&mut self, cpu: CpuIndex, out: &mut Registers) -> Result<(), MachineError> {
        let cpu = self.cpu(cpu)?;
        if cpu.activity == CpuActivity::WaitForSipi {
            return Err(MachineError::Unavailable);
        }
        *out = cpu.registers;
        Ok(())
    }

    fn write_registers(&mut self, cpu: CpuIndex, new: &Registers) -> Result<(), MachineError> {
        if new.cr0 & 0x8000_0001 == 0x8000_0000 {
            return Err(MachineError::BadValue(Register::Cr0));
        }
        self.cpu(cpu)?.registers = *new;
        Ok(())
    }

    fn describe_address(&self, rip: u64, out: &mut dyn Write) -> fmt::Result {
        write!(out, "<core::fault>+{:#x}", rip & 0xff)
    }
}

impl Memory for FakeMachine {
    fn read_virtual(
        &mut self,
        _: CpuIndex,
        gva: u64,
        data: &mut [u8],
    ) -> Result<usize, MachineError> {
        for (n, slot) in data.iter_mut().enumerate() {
            match self.byte(gva.wrapping_add(n as u64)) {
                Some(byte) => *slot = byte,
                None if n == 0 => return Err(MachineError::BadAddress),
                None => return Ok(n),
            }
        }
        Ok(data.len())
    }

    fn write_virtual(&mut self, _: CpuIndex, gva: u64, data: &[u8]) -> Result<usize, MachineError> {
        for (n, &byte) in data.iter().enumerate() {
            match translate(gva.wrapping_add(n as u64)) {
                Some(gpa) => self.memory[gpa as usize] = byte,
                None if n == 0 => return Err(MachineError::BadAddress),
                None => return Ok(n),
            }
        }
        Ok(data.len())
    }

    fn translate(&mut self, cpu: CpuIndex, gva: u64) -> Result<u64, MachineError> {
        self.cpu(cpu)?;
        translate(gva).ok_or(MachineError::BadAddress)
    }

    fn read_physical(&mut self, gpa: u64, data: &mut [u8]) -> Result<usize, MachineError> {
        let start = usize::try_from(gpa)
            .ok()
            .filter(|&start| start < self.memory.len());
        let start = start.ok_or(MachineError::BadAddress)?;
        let length = data.len().min(self.memory.len() - start);
        data[..length].copy_from_slice(&self.memory[start..start + length]);
        Ok(length)
    }

    fn write_physical(&mut self, gpa: u64, data: &[u8]) -> Result<(), MachineError> {
        let place = usize::try_from(gpa)
            .ok()
            .and_then(|start| self.memory.get_mut(start..start.checked_add(data.len())?));
        place.ok_or(MachineError::BadAddress)?.copy_from_slice(data);
        Ok(())
    }
}

impl Control for FakeMachine {
    fn step(&mut self, cpu: CpuIndex) -> Result<StepEnd, MachineError> {
        if !self.runs(cpu.as_usize()) {
            return Err(MachineError::Unavailable);
        }
        self.steps += 1;
        Ok(match self.execute(cpu.as_usize(), true) {
            None => StepEnd::Done,
            Some(StopKind::Watchpoint(slot)) => StepEnd::Watchpoint(slot),
            Some(StopKind::SoftwareBreakpoint) => {
                // The guest's own: it gets its #BP, and its handler is not modelled.
                self.guest_breakpoints += 1;
                self.cpus[cpu.as_usize()].registers.rip += 1;
                StepEnd::Done
            }
            Some(kind) => StepEnd::Stopped(kind),
        })
    }

    fn set_hardware_breakpoints(&mut self, plan: &HardwareBreakpoints) -> Result<(), MachineError> {
        self.hardware = *plan;
        Ok(())
    }

    fn set_software_breakpoints_active(&mut self, active: bool) {
        self.int3_exits = active;
    }
}

impl Pals for FakeMachine {
    fn pal_slots(&self) -> u32 {
        self.pals.len() as u32
    }

    fn pal(&mut self, id: u32) -> Option<PalInfo> {
        *self.pals.get(id as usize)?
    }

    fn page_owner(&mut self, gpa: u64) -> PageOwner {
        let owner = self.owners.get(&(gpa & !0xfff)).copied();
        owner.unwrap_or(PageOwner::Guest)
    }

    fn kill_pal(&mut self, id: u32) -> Result<(), MachineError> {
        let slot = self.pals.get_mut(id as usize);
        let killed = slot.and_then(|pal| pal.take_if(|pal| pal.state != PalState::Registering));
        killed.ok_or(MachineError::Unavailable)?;
        self.owners.retain(|_, owner| owner.pal() != Some(id));
        Ok(())
    }
}

impl Inspect for FakeMachine {
    fn read_msr(&mut self, cpu: CpuIndex, index: u32) -> Result<u64, MachineError> {
        self.cpu(cpu)?
            .msrs
            .get(&index)
            .filter(|_| index != IA32_PRED_CMD)
            .copied()
            .ok_or(MachineError::MsrFault)
    }

    fn write_msr(&mut self, cpu: CpuIndex, index: u32, value: u64) -> Result<(), MachineError> {
        *self
            .cpu(cpu)?
            .msrs
            .get_mut(&index)
            .ok_or(MachineError::MsrFault)? = value;
        Ok(())
    }

    fn with_vmcs(
        &mut self,
        cpu: CpuIndex,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError> {
        let cpu = self
            .cpus
            .get_mut(cpu.as_usize())
            .ok_or(VmcsError::Unavailable)?;
        f(&mut cpu.vmcs);
        Ok(())
    }

    fn vmcs_capabilities(&self) -> Capabilities {
        fake::capabilities()
    }

    fn nmi_ledger(&self, cpu: CpuIndex) -> LedgerCounts {
        self.cpus[cpu.as_usize()].ledger
    }

    fn joined_stop(&self, cpu: CpuIndex) -> u64 {
        11 + 2 * u64::from(cpu.0)
    }

    fn owe_nmi(&mut self, cpu: CpuIndex) -> Result<(), MachineError> {
        let ledger = &mut self.cpu(cpu)?.ledger;
        ledger.asked += 1;
        ledger.owed += 1;
        Ok(())
    }

    fn exit_counts(&mut self, cpu: CpuIndex, counts: &mut [u64; EXIT_REASONS]) {
        counts[10] = 100 + u64::from(cpu.0);
        counts[48] = 7;
    }

    fn log(&mut self, line: &mut dyn FnMut(&str)) {
        for text in &self.log {
            line(text);
        }
    }

    fn trace(&mut self, only: Option<CpuIndex>, event: &mut dyn FnMut(&TraceEvent<'_>)) {
        for (nanoseconds, cpu, text) in &self.trace {
            if only.is_none_or(|only| only == *cpu) {
                event(&TraceEvent {
                    nanoseconds: *nanoseconds,
                    cpu: *cpu,
                    text,
                });
            }
        }
    }

    fn host_registers(&mut self, cpu: CpuIndex, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "CPU {cpu}: host rip 0x1234")
    }

    fn version(&mut self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "Stillpoint, fake")
    }
}
