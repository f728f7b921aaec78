//! `vmcs`: hands the command over to [`vmcs_inspect`], with the machine as its host.

use core::fmt::{self, Write};

use vmcs_inspect::{
    Capabilities, NmiState, VmcsAccess, VmcsError, VmcsHost, VmcsSnapshot, monitor,
};

use super::{Arguments, CommandResult, Context};
use crate::machine::{CpuIndex, Machine};

/// `vmcs …`
pub fn run<'a, M: Machine>(
    context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    out: &mut dyn Write,
) -> CommandResult<'a> {
    monitor::run(arguments.rest_of_line(), &mut Host(context), out)?;
    Ok(())
}

/// What `help vmcs` adds.
pub fn write_help(out: &mut dyn Write) -> fmt::Result {
    out.write_str(monitor::HELP)
}

/// The stopped machine, as `vmcs_inspect` asks for it.
struct Host<'a, 'b, M>(&'a mut Context<'b, M>);

/// `None` for a number that is no CPU's.
fn cpu_index<M: Machine>(machine: &M, cpu: usize) -> Option<CpuIndex> {
    let index = u16::try_from(cpu).ok().map(CpuIndex)?;
    (cpu < machine.cpu_count()).then_some(index)
}

impl<M: Machine> VmcsHost for Host<'_, '_, M> {
    fn cpus(&self) -> usize {
        self.0.machine.cpu_count()
    }

    fn current_cpu(&self) -> usize {
        self.0.debug.current.as_usize()
    }

    fn with_vmcs(
        &mut self,
        cpu: usize,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError> {
        let cpu = cpu_index(self.0.machine, cpu).ok_or(VmcsError::Unavailable)?;
        self.0.machine.with_vmcs(cpu, f)
    }

    fn nmi_state(&mut self, cpu: usize) -> NmiState {
        let machine = &*self.0.machine;
        let Some(cpu) = cpu_index(machine, cpu) else {
            return NmiState::default();
        };
        let ledger = machine.nmi_ledger(cpu);
        NmiState {
            owed: ledger.owed,
            kick_outstanding: ledger.kick_outstanding,
            merged: ledger.merged,
            quiesce_generation: machine.joined_stop(cpu),
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.0.machine.vmcs_capabilities()
    }

    fn previous(&self, cpu: usize) -> Option<&VmcsSnapshot> {
        self.0
            .history
            .get(cpu)
            .filter(|snapshot| !snapshot.is_empty())
    }
}
