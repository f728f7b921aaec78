//! The suites: which tests run under which name in the configuration.

use crate::config::{self, BadWord};
use crate::harness::{Context, Test};
use crate::tests::{
    bench, control, cpuid, debugger, exceptions, firmware, hypercall, memory, modes, msr, nmi, pal,
    ports, registers, reset, smp, state, step, storm, tables, task_switch, translation, vmx,
};
use crate::{cpu, harness, println};

/// What a name stands for.
enum Suite {
    /// Lists of tests.
    Tests(&'static [&'static [Test]]),
    /// Something that ends by itself.
    Run(fn(&Context) -> !),
}

const SUITES: &[(&str, Suite)] = &[
    (
        "basic",
        Suite::Tests(&[
            firmware::TESTS,
            cpuid::TESTS,
            msr::TESTS,
            control::TESTS,
            vmx::TESTS,
            hypercall::TESTS,
            memory::TESTS,
            tables::TESTS,
            exceptions::TESTS,
            step::TESTS,
            modes::TESTS,
            task_switch::TESTS,
            ports::TESTS,
            nmi::TESTS,
            state::TESTS,
            registers::TESTS,
            translation::TESTS,
        ]),
    ),
    ("smp", Suite::Tests(&[smp::TESTS])),
    ("storm", Suite::Tests(&[storm::TESTS])),
    ("pal", Suite::Tests(pal::TESTS)),
    ("bench", Suite::Tests(&[bench::TESTS])),
    ("reset-keyboard", Suite::Run(reset::by_keyboard)),
    ("reset-chipset", Suite::Run(reset::by_chipset)),
    ("reset-triple-fault", Suite::Run(reset::by_triple_fault)),
    ("reset-smp", Suite::Run(reset::with_all_cpus)),
    ("pal-reset-keyboard", Suite::Run(pal::reset::by_keyboard)),
    ("pal-reset-chipset", Suite::Run(pal::reset::by_chipset)),
    (
        "pal-reset-triple-fault",
        Suite::Run(pal::reset::by_triple_fault),
    ),
    ("pal-reset-init", Suite::Run(pal::reset::by_init)),
    ("gdb", Suite::Run(debugger::run)),
];

/// Reads the configuration and runs the suite it names.
pub fn run() -> ! {
    let config = match config::read() {
        Ok(config) => config,
        Err(BadWord(word)) => {
            harness::abandon(format_args!("configuration: cannot read \"{word}\""))
        }
    };
    let context = Context::new(config);
    println!(
        "test guest: suite={} cpus={} at tick {} {}",
        config.suite,
        config.cpus,
        cpu::rdtsc(),
        if context.stillpoint {
            "under Stillpoint"
        } else {
            "on the bare machine"
        }
    );
    match SUITES.iter().find(|(name, _)| *name == config.suite) {
        Some((_, Suite::Tests(lists))) => {
            for list in *lists {
                context.run(list);
            }
            context.finish()
        }
        Some((_, Suite::Run(run))) => run(&context),
        None => harness::abandon(format_args!("configuration: no suite \"{}\"", config.suite)),
    }
}
