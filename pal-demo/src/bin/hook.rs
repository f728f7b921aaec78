//! `hook NAME`: makes a hypercall that only the tests' image answers.
//!
//! Prints `NAME: rax=0x… rcx=0x… rdx=0x…`. `panic`, `page-fault` and
//! `invalid-opcode` do not come back: the hypervisor stops in its
//! debugger. Exits 1 where the hooks are not there.

use std::io::Write;
use std::process::ExitCode;

use pal_demo::TrustVisor;
use stillpoint_abi::{HypercallResult, TestHook};

const HOOKS: [(&str, TestHook); 7] = [
    ("panic", TestHook::Panic),
    ("page-fault", TestHook::HostPageFault),
    ("invalid-opcode", TestHook::HostInvalidOpcode),
    ("range", TestHook::HypervisorRange),
    ("quiesce", TestHook::QuiesceRound),
    ("nmi", TestHook::OweNmi),
    ("exits", TestHook::ExitCount),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(&(name, hook)) = HOOKS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = HOOKS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: hook {}", names.join("|"));
        return ExitCode::from(2);
    };
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    // The line must be out before a hook that does not come back.
    println!("{name}: calling");
    let _ = std::io::stdout().flush();
    let [rax, rcx, rdx] = trustvisor.test_hook(hook);
    println!("{name}: rax={rax:#x} rcx={rcx:#x} rdx={rdx:#x}");
    // The count of exits is itself the answer.
    if hook != TestHook::ExitCount && rax == HypercallResult::Failure.code() {
        println!("the image has no test hooks");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
