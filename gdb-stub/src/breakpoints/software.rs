//! Software breakpoints: `INT3` bytes in guest memory, kept by physical address.
//!
//! The client names a linear address; the byte is put where that address translates
//! to at that moment, so that it stays one breakpoint whatever CR3 the CPU that runs
//! into it has. What the client reads shows the guest's bytes, what it writes goes
//! under the breakpoints. A byte that the guest has overwritten meanwhile is its own:
//! it is left alone and counted.

use crate::machine::{CpuActivity, CpuIndex, Machine, MachineError};
use crate::memory;
use crate::pal_lock::PalLock;

/// The `INT3` instruction.
pub const INT3: u8 = 0xcc;

/// The most breakpoints at a time.
pub const CAPACITY: usize = 64;

/// One breakpoint of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftwareBreakpoint {
    /// The linear address that the client named.
    pub gva: u64,
    /// The guest physical address of the byte.
    pub gpa: u64,
    /// The guest's byte.
    pub original: u8,
}

/// Why a breakpoint could not be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// All [`CAPACITY`] are in use.
    Full,
    /// The address is not mapped on any CPU, or its memory cannot be written or is closed.
    Machine(MachineError),
}

/// All software breakpoints of the client.
pub struct SoftwareBreakpoints {
    entries: [Option<SoftwareBreakpoint>; CAPACITY],
    /// Breakpoints whose byte was no longer `INT3` when it was to be taken out.
    overwritten: u32,
}

impl SoftwareBreakpoints {
    /// None.
    pub const fn new() -> Self {
        Self {
            entries: [None; CAPACITY],
            overwritten: 0,
        }
    }

    /// Those in place.
    pub fn iter(&self) -> impl Iterator<Item = &SoftwareBreakpoint> {
        self.entries.iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many were overwritten by the guest since the client attached.
    pub fn overwritten(&self) -> u32 {
        self.overwritten
    }

    /// The guest's byte at `gpa`, if a breakpoint lies there.
    pub fn original_at(&self, gpa: u64) -> Option<u8> {
        self.iter()
            .find(|entry| entry.gpa == gpa)
            .map(|entry| entry.original)
    }

    /// Puts a breakpoint at `gva`, translated on `cpu` or, where it has no mapping
    /// there (kernel text while that CPU runs a program under page-table isolation),
    /// on the first CPU that has one. Repeating a request changes nothing.
    pub fn insert<M: Machine>(
        &mut self,
        machine: &mut M,
        lock: PalLock,
        cpu: CpuIndex,
        gva: u64,
    ) -> Result<(), InsertError> {
        let gpa = translate_anywhere(machine, cpu, gva).map_err(InsertError::Machine)?;
        lock.open_part(machine, gpa, 1)
            .map_err(InsertError::Machine)?;
        if self
            .iter()
            .any(|entry| entry.gva == gva && entry.gpa == gpa)
        {
            return Ok(());
        }
        let shared = self.original_at(gpa);
        let slot = self
            .entries
            .iter_mut()
            .find(|slot| slot.is_none())
            .ok_or(InsertError::Full)?;
        let original = match shared {
            Some(original) => original,
            None => patch(machine, gpa).map_err(InsertError::Machine)?,
        };
        *slot = Some(SoftwareBreakpoint { gva, gpa, original });
        machine.set_software_breakpoints_active(true);
        Ok(())
    }

    /// Takes the breakpoint at `gva` out. False if there is none.
    pub fn remove<M: Machine>(&mut self, machine: &mut M, gva: u64) -> bool {
        let Some(slot) = self
            .entries
            .iter_mut()
            .find(|slot| slot.is_some_and(|e| e.gva == gva))
        else {
            return false;
        };
        let Some(entry) = slot.take() else {
            return false;
        };
        if self.original_at(entry.gpa).is_none() {
            self.restore(machine, entry);
        }
        if self.is_empty() {
            machine.set_software_breakpoints_active(false);
        }
        true
    }

    /// Takes all out.
    pub fn clear<M: Machine>(&mut self, machine: &mut M) {
        for n in 0..CAPACITY {
            if let Some(entry) = self.entries.get(n).copied().flatten() {
                self.remove(machine, entry.gva);
            }
        }
        self.overwritten = 0;
    }

    /// Shows `data`, read from physical address `gpa`, as the guest's own bytes.
    pub fn mask(&self, gpa: u64, data: &mut [u8]) {
        for entry in self.iter() {
            if let Some(byte) = offset_in(gpa, data.len(), entry.gpa).and_then(|n| data.get_mut(n))
                && *byte == INT3
            {
                *byte = entry.original;
            }
        }
    }

    /// After `data` was written to physical address `gpa`: takes its bytes as the
    /// guest's own and puts the breakpoints back over them.
    pub fn reapply<M: Machine>(&mut self, machine: &mut M, gpa: u64, data: &[u8]) {
        for entry in self.entries.iter_mut().flatten() {
            if let Some(&byte) = offset_in(gpa, data.len(), entry.gpa).and_then(|n| data.get(n)) {
                entry.original = byte;
                // Memory that has just been written can be written.
                let _ = machine.write_physical(entry.gpa, &[INT3]);
            }
        }
    }

    /// Lifts the breakpoint at physical address `gpa`, if there is one, while `f` runs.
    pub fn without<M: Machine, R>(
        &self,
        machine: &mut M,
        gpa: Option<u64>,
        f: impl FnOnce(&mut M) -> R,
    ) -> R {
        let lifted = gpa.and_then(|gpa| Some((gpa, self.original_at(gpa)?)));
        let Some((gpa, original)) = lifted else {
            return f(machine);
        };
        // The guest may have written something of its own there.
        if read_byte(machine, gpa) != Ok(INT3) {
            return f(machine);
        }
        let _ = machine.write_physical(gpa, &[original]);
        let result = f(machine);
        // The instruction may have overwritten itself: then its byte stays.
        if read_byte(machine, gpa) == Ok(original) {
            let _ = machine.write_physical(gpa, &[INT3]);
        }
        result
    }

    fn restore<M: Machine>(&mut self, machine: &mut M, entry: SoftwareBreakpoint) {
        if read_byte(machine, entry.gpa) == Ok(INT3) {
            let _ = machine.write_physical(entry.gpa, &[entry.original]);
        } else {
            self.overwritten = self.overwritten.saturating_add(1);
        }
    }
}

/// Replaces the byte at `gpa` by `INT3` and returns what it was.
fn patch<M: Machine>(machine: &mut M, gpa: u64) -> Result<u8, MachineError> {
    let original = read_byte(machine, gpa)?;
    machine.write_physical(gpa, &[INT3])?;
    // Writes to ROM are dropped without an error.
    match read_byte(machine, gpa)? {
        INT3 => Ok(original),
        _ => Err(MachineError::BadAddress),
    }
}

/// One byte of guest physical memory.
pub fn read_byte<M: Machine>(machine: &mut M, gpa: u64) -> Result<u8, MachineError> {
    let mut byte = [0];
    match machine.read_physical(gpa, &mut byte)? {
        0 => Err(MachineError::BadAddress),
        _ => Ok(byte[0]),
    }
}

/// Translates on `cpu`, else on the first CPU where it works.
fn translate_anywhere<M: Machine>(
    machine: &mut M,
    cpu: CpuIndex,
    gva: u64,
) -> Result<u64, MachineError> {
    let on_this = memory::translate(machine, cpu, gva);
    let in_hypervisor = matches!(machine.activity(cpu), CpuActivity::Hypervisor { .. });
    if on_this.is_ok() || in_hypervisor {
        return on_this;
    }
    CpuIndex::all(machine.cpu_count())
        .find_map(|cpu| memory::translate(machine, cpu, gva).ok())
        .map_or(on_this, Ok)
}

/// Where in `length` bytes from `start` the address lies.
fn offset_in(start: u64, length: usize, address: u64) -> Option<usize> {
    let offset = usize::try_from(address.checked_sub(start)?).ok()?;
    (offset < length).then_some(offset)
}
