//! The real machine behind the stub's traits. A handle without state: what it
//! shows is in the CPUs, each of which is asked on itself.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use gdb_stub::machine::{
    Control, CpuActivity, CpuIndex, CpuState, EXIT_REASONS, GuestMode, HardwareBreakpoints,
    Inspect, MachineError, StepEnd, TraceEvent,
};
use gdb_stub::registers::Registers;
use stillpoint_core::cpu_state::StartState;
use stillpoint_quiesce::LedgerCounts;
use stillpoint_trace::nanoseconds;
use vmcs_inspect::{ActivityState, Capabilities, Field, VmcsAccess, VmcsError};

use super::{OWNER, host, metal_memory, metal_registers, registers, remote, step};
use crate::cpu::msr;
use crate::cpu::percpu::{self, PerCpu};
use crate::log::{self, log};
use crate::memory::frames::FRAMES;
use crate::memory::layout;
use crate::vmx::instructions::{Current, get, set};
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{ept, state};
use crate::{RENDEZVOUS, clock, symbols};

/// The machine, as the CPU sees it that holds it.
pub struct Metal;

/// A CPU's state, by its index.
pub fn per_cpu(cpu: CpuIndex) -> Result<&'static PerCpu, MachineError> {
    percpu::all()
        .get(cpu.as_usize())
        .copied()
        .ok_or(MachineError::NoSuchCpu)
}

/// Runs `work` on a CPU that stands in the stop, the caller's included.
///
/// # Errors
/// [`MachineError::Unavailable`]: the CPU is parked.
pub fn on(cpu: CpuIndex, work: &mut dyn FnMut(&mut Vcpu)) -> Result<(), MachineError> {
    let target = per_cpu(cpu)?;
    if is_parked(target) {
        return Err(MachineError::Unavailable);
    }
    if target.index != percpu::this().index {
        return remote::on(target, work).map_err(|_| MachineError::Unavailable);
    }
    let owner = OWNER.load(Ordering::Acquire);
    if owner.is_null() {
        return Err(MachineError::Unavailable);
    }
    // SAFETY: `with_session` stored its own `&mut Vcpu`, which it does not use
    // until the session returns; this is called by the session alone, and not
    // from within `work`.
    work(unsafe { &mut *owner });
    Ok(())
}

/// Does the CPU wait for a SIPI? What is to be seen of it is published then.
pub fn is_parked(cpu: &PerCpu) -> bool {
    RENDEZVOUS.parked(cpu.index)
}

/// The guest-physical address of this CPU's next instruction.
pub fn translate_rip() -> Option<u64> {
    let linear = get(Field::GUEST_RIP).wrapping_add(get(Field::GUEST_CS_BASE));
    metal_memory::translate_here(linear).ok()
}

/// Logs which rules of a VM entry the current VMCS breaks.
pub fn report_violations() {
    let capabilities = state::capabilities();
    let broken = vmcs_inspect::check(&mut Current, &capabilities, &mut |violation| {
        log!("  {violation}");
    });
    // Without a current VMCS there is nothing to say.
    let broken = broken.unwrap_or(0);
    log!("{broken} rule(s) of a VM entry broken; `monitor vmcs check` shows them again");
}

/// What the guest of this CPU was doing.
fn guest_activity(vcpu: &Vcpu) -> CpuActivity {
    if vcpu.start_state == StartState::WaitForSipi {
        return CpuActivity::WaitForSipi;
    }
    if let Some(id) = vcpu.pal {
        return CpuActivity::Pal {
            id: id as u32,
            mode: guest_mode(vcpu),
        };
    }
    match ActivityState::from_raw(get(Field::GUEST_ACTIVITY_STATE) as u32) {
        Some(ActivityState::Hlt) => CpuActivity::Halted,
        Some(ActivityState::Shutdown) => CpuActivity::Shutdown,
        Some(ActivityState::WaitForSipi) => CpuActivity::WaitForSipi,
        Some(ActivityState::Active) | None => CpuActivity::Guest {
            mode: guest_mode(vcpu),
            cpl: vcpu.cpl(),
        },
    }
}

fn guest_mode(vcpu: &Vcpu) -> GuestMode {
    const VM: u64 = 1 << 17;
    const LMA: u64 = 1 << 10;
    const D: u64 = 1 << 14;
    if get(Field::GUEST_CR0) & 1 == 0 {
        GuestMode::Real
    } else if vcpu.in_64_bit_code() {
        GuestMode::Long64
    } else if get(Field::GUEST_IA32_EFER) & LMA != 0 {
        GuestMode::Compatibility
    } else if get(Field::GUEST_RFLAGS) & VM != 0 {
        GuestMode::Virtual8086
    } else if get(Field::GUEST_CS_ACCESS_RIGHTS) & D != 0 {
        GuestMode::Protected32
    } else {
        GuestMode::Protected16
    }
}

impl CpuState for Metal {
    fn cpu_count(&self) -> usize {
        percpu::all().len()
    }

    fn activity(&self, cpu: CpuIndex) -> CpuActivity {
        if let Some(stopped) = host::stopped()
            && stopped.cpu == cpu.as_usize()
        {
            return CpuActivity::Hypervisor {
                rip: stopped.registers.rip,
            };
        }
        let mut activity = CpuActivity::WaitForSipi;
        // A CPU that does not serve is parked.
        let _parked = on(cpu, &mut |vcpu| activity = guest_activity(vcpu));
        activity
    }

    fn read_registers(
        &mut self,
        cpu: CpuIndex,
        registers: &mut Registers,
    ) -> Result<(), MachineError> {
        if let Some(stopped) = host::stopped()
            && stopped.cpu == cpu.as_usize()
        {
            *registers = stopped.registers;
            return Ok(());
        }
        let target = per_cpu(cpu)?;
        if is_parked(target) {
            metal_registers::read_published(&target.published, registers);
            return Ok(());
        }
        on(cpu, &mut |vcpu| metal_registers::read(vcpu, registers))
    }

    fn write_registers(
        &mut self,
        cpu: CpuIndex,
        registers: &Registers,
    ) -> Result<(), MachineError> {
        if host::stopped().is_some_and(|stopped| stopped.cpu == cpu.as_usize()) {
            return Err(MachineError::Unavailable);
        }
        let mut result = Ok(());
        on(cpu, &mut |vcpu| {
            result = metal_registers::write(vcpu, registers);
        })?;
        result
    }

    fn describe_address(&self, rip: u64, out: &mut dyn fmt::Write) -> fmt::Result {
        symbols::describe(rip, out)
    }
}

impl Control for Metal {
    fn step(&mut self, cpu: CpuIndex) -> Result<StepEnd, MachineError> {
        if host::stopped().is_some_and(|stopped| stopped.cpu == cpu.as_usize()) {
            return Err(MachineError::Unavailable);
        }
        let mut end = Err(MachineError::Unavailable);
        on(cpu, &mut |vcpu| end = step::step(vcpu))?;
        end
    }

    fn set_hardware_breakpoints(&mut self, plan: &HardwareBreakpoints) -> Result<(), MachineError> {
        registers::set_hardware(*plan);
        everyone_looks();
        Ok(())
    }

    fn set_software_breakpoints_active(&mut self, active: bool) {
        registers::set_int3_exits(active);
        everyone_looks();
    }
}

/// Every CPU looks at what has changed before it runs its guest again.
fn everyone_looks() {
    for cpu in percpu::all() {
        crate::vmx::entry::make_look_again(cpu);
    }
}

/// The VMCS field that holds the guest's value of an MSR, while the hypervisor
/// runs with its own.
fn field_of_msr(index: u32) -> Option<Field> {
    Some(match index {
        0x174 => Field::GUEST_IA32_SYSENTER_CS,
        0x175 => Field::GUEST_IA32_SYSENTER_ESP,
        0x176 => Field::GUEST_IA32_SYSENTER_EIP,
        0x1d9 => Field::GUEST_IA32_DEBUGCTL,
        msr::IA32_PAT => Field::GUEST_IA32_PAT,
        msr::IA32_EFER => Field::GUEST_IA32_EFER,
        msr::IA32_FS_BASE => Field::GUEST_FS_BASE,
        msr::IA32_GS_BASE => Field::GUEST_GS_BASE,
        _ => return None,
    })
}

impl Inspect for Metal {
    fn read_msr(&mut self, cpu: CpuIndex, index: u32) -> Result<u64, MachineError> {
        let mut value = Err(MachineError::MsrFault);
        on(cpu, &mut |_| {
            value = match field_of_msr(index) {
                Some(field) => Ok(get(field)),
                None => msr::read(index).map_err(|_| MachineError::MsrFault),
            };
        })?;
        value
    }

    fn write_msr(&mut self, cpu: CpuIndex, index: u32, value: u64) -> Result<(), MachineError> {
        let mut result = Err(MachineError::MsrFault);
        on(cpu, &mut |_| {
            result = match field_of_msr(index) {
                Some(field) => {
                    set(field, value);
                    Ok(())
                }
                // SAFETY: what the hypervisor itself runs with is in VMCS fields
                // for the guest, handled above. The rest is the person's to know.
                None => unsafe { msr::write(index, value) }.map_err(|_| MachineError::MsrFault),
            };
        })?;
        result
    }

    fn with_vmcs(
        &mut self,
        cpu: CpuIndex,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError> {
        let target = per_cpu(cpu).map_err(|_| VmcsError::Unavailable)?;
        if is_parked(target) {
            f(&mut target.published.vmcs());
            return Ok(());
        }
        on(cpu, &mut |_| f(&mut Current)).map_err(|_| VmcsError::Unavailable)
    }

    fn vmcs_capabilities(&self) -> Capabilities {
        state::capabilities()
    }

    fn nmi_ledger(&self, cpu: CpuIndex) -> LedgerCounts {
        RENDEZVOUS.ledger(cpu.as_usize())
    }

    fn joined_stop(&self, cpu: CpuIndex) -> u64 {
        RENDEZVOUS.acknowledged(cpu.as_usize())
    }

    fn owe_nmi(&mut self, cpu: CpuIndex) -> Result<(), MachineError> {
        let target = per_cpu(cpu)?;
        RENDEZVOUS.owe(target.index);
        crate::vmx::entry::make_look_again(target);
        Ok(())
    }

    fn exit_counts(&mut self, cpu: CpuIndex, counts: &mut [u64; EXIT_REASONS]) {
        if let Ok(target) = per_cpu(cpu) {
            for (count, counter) in counts.iter_mut().zip(&target.exits) {
                *count = counter.load(Ordering::Relaxed);
            }
        }
    }

    fn log(&mut self, line: &mut dyn FnMut(&str)) {
        log::read(&mut |cpu, logged| {
            let mut text = heapless::String::<{ log::LINE_BYTES + 40 }>::new();
            let _fits = fmt::Write::write_fmt(
                &mut text,
                format_args!("[{:>14}] CPU {cpu}: {}", logged.time, logged.text),
            );
            line(&text);
        });
    }

    fn trace(&mut self, only: Option<CpuIndex>, event: &mut dyn FnMut(&TraceEvent<'_>)) {
        let cpus = percpu::all();
        let ticks_per_ms = clock::ticks_per_ms();
        let mut numbers: heapless::Vec<_, { percpu::MAX_CPUS }> = cpus
            .iter()
            .map(|cpu| match only {
                Some(only) if only.as_usize() != cpu.index => 0..0,
                _ => cpu.trace.numbers(),
            })
            .collect();
        stillpoint_trace::merge(
            &mut numbers,
            |cpu, number| {
                let record = cpus.get(cpu)?.trace.event_at(number)?;
                Some((record.time, record))
            },
            |cpu, time, record| {
                event(&TraceEvent {
                    nanoseconds: nanoseconds(time, ticks_per_ms),
                    cpu: CpuIndex(cpu as u16),
                    text: &record.text(ticks_per_ms),
                });
            },
        );
    }

    fn host_registers(&mut self, cpu: CpuIndex, out: &mut dyn fmt::Write) -> fmt::Result {
        metal_registers::write_host(cpu, out)
    }

    fn version(&mut self, out: &mut dyn fmt::Write) -> fmt::Result {
        let range = ept::hypervisors_range();
        writeln!(out, "Stillpoint {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(
            out,
            "memory {:#x} to {:#x}, {} KiB of {} KiB used, {} EPT tables",
            range.start,
            range.end,
            (range.end - range.start - FRAMES.left()) / 1024,
            (range.end - range.start) / 1024,
            ept::table_count()
        )?;
        let sum = |count: fn(&PerCpu) -> &AtomicU64| -> u64 {
            let cpus = percpu::all().iter();
            cpus.map(|cpu| count(cpu).load(Ordering::Relaxed)).sum()
        };
        writeln!(
            out,
            "the guest has read there {} times and written {} times",
            sum(|cpu| &cpu.range_reads),
            sum(|cpu| &cpu.range_writes)
        )?;
        writeln!(
            out,
            "image of {} KiB at {:#x}, physical {:#x}",
            layout::image_size() / 1024,
            layout::IMAGE_VMA,
            range.start
        )
    }
}
