//! The scenarios: each boots a machine of its own on the emulator and asserts on what it sees.
//! One file for each family; the table here gives them their names.

mod boot;
mod breakpoints;
mod dmesg;
mod emulator;
mod host;
mod looping_pal;
mod monitor;
mod pal;
mod programs;
mod sessions;
mod stepping;
mod storm;
pub mod suites;
mod trace;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use xshell::Shell;

use crate::compile::{self, Flavour};
use crate::console::{Console, tail};
use crate::emulator::Hardware;
use crate::gdb::Gdb;
use crate::image::Guest;
use crate::kernel::{Debian, Kernel};
use crate::machine::{GuestDisk, Hypervisor, Machine};
use crate::test_guest::TestGuest;
use crate::{disk, paths, tools, vmlinux};

/// From power-on to the guest's shell takes 15 s on an idle host; CI hosts are not idle.
pub const BOOT: Duration = Duration::from_secs(400);
/// A command in the guest's shell.
pub const COMMAND: Duration = Duration::from_secs(120);

/// One scenario.
pub struct Scenario {
    /// Its name: family and what it shows.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&Workshop) -> Result<()>,
}

/// All of them. The long ones come first, so that two threads end at about the same time.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "boot::an_untouched_kernel_with_kaslr",
        run: boot::an_untouched_kernel_with_kaslr,
    },
    Scenario {
        name: "boot::dmesg_differs_only_where_it_should",
        run: dmesg::differs_only_where_it_should,
    },
    Scenario {
        name: "boot::thirty_two_bit",
        run: boot::thirty_two_bit,
    },
    Scenario {
        name: "pal::programs_on_amd64",
        run: pal::amd64,
    },
    Scenario {
        name: "pal::programs_on_i386",
        run: pal::i386,
    },
    Scenario {
        name: "stepping::a_thousand_steps_never_land_in_the_timer_interrupt",
        run: stepping::a_thousand_steps,
    },
    Scenario {
        name: "sessions::attach_and_detach_20_times_under_load",
        run: sessions::attach_and_detach,
    },
    Scenario {
        name: "programs::xmm_registers_survive_millions_of_exits",
        run: programs::xmm_registers,
    },
    Scenario {
        name: "storm::debian_four_cpus",
        run: |_| storm::debian(4, 16),
    },
    Scenario {
        name: "storm::debian_two_cpus",
        run: |_| storm::debian(2, 5),
    },
    Scenario {
        name: "storm::test_guest_four_cpus",
        run: |_| storm::test_guest(4),
    },
    Scenario {
        name: "storm::test_guest_two_cpus",
        run: |_| storm::test_guest(2),
    },
    Scenario {
        name: "storm::repeats_exactly",
        run: |_| storm::repeats(),
    },
    Scenario {
        name: "storm::test_guest_bare",
        run: suites::storm_bare,
    },
    Scenario {
        name: "storm::test_guest_debugged_four_cpus",
        run: |_| storm::test_guest_debugged(4),
    },
    Scenario {
        name: "storm::test_guest_debugged_two_cpus",
        run: |_| storm::test_guest_debugged(2),
    },
    Scenario {
        name: "boot::one_cpu",
        run: |workshop| boot::to_the_shell(workshop, 1),
    },
    Scenario {
        name: "boot::two_cpus",
        run: |workshop| boot::to_the_shell(workshop, 2),
    },
    Scenario {
        name: "boot::four_cpus",
        run: |workshop| boot::to_the_shell(workshop, 4),
    },
    Scenario {
        name: "boot::reboot",
        run: boot::reboot,
    },
    Scenario {
        name: "boot::unfit_cpus_are_refused",
        run: boot::unfit_cpus,
    },
    Scenario {
        name: "boot::an_unknown_option_is_refused",
        run: boot::unknown_option,
    },
    Scenario {
        name: "boot::wait_stops_before_the_first_instruction",
        run: boot::wait,
    },
    Scenario {
        name: "emulator::without_a_port_at_first",
        run: emulator::no_port_at_first,
    },
    Scenario {
        name: "programs::without_stillpoint_they_say_so",
        run: programs::without_stillpoint,
    },
    Scenario {
        name: "suites::basic_bare",
        run: suites::basic_bare,
    },
    Scenario {
        name: "suites::basic",
        run: suites::basic,
    },
    Scenario {
        name: "suites::com2_belongs_to_the_debugger",
        run: suites::com2_hidden,
    },
    Scenario {
        name: "suites::smp_bare",
        run: suites::smp_bare,
    },
    Scenario {
        name: "suites::smp_two_cpus",
        run: |workshop| suites::smp(workshop, 2),
    },
    Scenario {
        name: "suites::smp_four_cpus",
        run: |workshop| suites::smp(workshop, 4),
    },
    Scenario {
        name: "suites::pal",
        run: suites::pal,
    },
    Scenario {
        name: "suites::pal_resets",
        run: suites::pal_resets,
    },
    Scenario {
        name: "suites::resets",
        run: suites::resets,
    },
    Scenario {
        name: "sessions::a_client_killed_in_the_middle_of_a_packet",
        run: sessions::killed_client,
    },
    Scenario {
        name: "sessions::noise_on_the_line",
        run: sessions::noise,
    },
    Scenario {
        name: "breakpoints::in_a_kernel_function_on_each_cpu",
        run: breakpoints::on_each_cpu,
    },
    Scenario {
        name: "breakpoints::hardware_breakpoint",
        run: breakpoints::hardware,
    },
    Scenario {
        name: "breakpoints::watchpoint",
        run: breakpoints::watchpoint,
    },
    Scenario {
        name: "monitor::trace",
        run: trace::a_stop,
    },
    Scenario {
        name: "monitor::every_command",
        run: monitor::every_command,
    },
    Scenario {
        name: "pal::gdb_stops_in_a_looping_pal_and_kills_it",
        run: looping_pal::is_killed,
    },
    Scenario {
        name: "host::a_panic_is_caught_in_gdb",
        run: host::panic,
    },
    Scenario {
        name: "host::a_fault_is_caught_in_gdb",
        run: host::fault,
    },
];

/// Fetches and builds what the scenarios use before they run side by side, so that it fails early.
pub fn prepare(shell: &Shell) -> Result<()> {
    compile::image(shell, Flavour::Release)?;
    compile::image(shell, Flavour::TestHooks)?;
    compile::test_guest(shell)?;
    compile::guest_programs(shell, Debian::Amd64)?;
    compile::guest_programs(shell, Debian::I386)?;
    tools::guest_busybox(shell, Debian::I386)?;
    disk::core_image(shell)?;
    vmlinux::path(shell, Kernel::Pae12)?;
    vmlinux::path(shell, Kernel::default())?;
    Ok(())
}

/// The place where a scenario works.
pub struct Workshop {
    name: String,
    shell: Shell,
}

/// What machine a scenario wants.
pub struct Plan {
    /// Distinguishes several machines of one scenario.
    pub part: &'static str,
    /// The emulated machine.
    pub hardware: Hardware,
    /// The hypervisor's image and command line; none for a bare machine.
    pub hypervisor: Option<(Flavour, &'static str)>,
    /// The guest.
    pub guest: GuestDisk,
}

impl Plan {
    /// Debian on `cpus` CPUs under Stillpoint, with the debug line.
    pub fn debian(cpus: u32) -> Self {
        Self {
            part: "",
            hardware: Hardware {
                cpus,
                ..Hardware::default()
            },
            hypervisor: Some((Flavour::Release, "debug=com2 log=com1")),
            guest: GuestDisk::Debian(Guest {
                programs: true,
                ..Guest::default()
            }),
        }
    }

    /// The same with Debian's 32-bit kernel and programs.
    pub fn i386(cpus: u32) -> Self {
        Self {
            guest: GuestDisk::Debian(Guest {
                kernel: Kernel::Pae12,
                programs: true,
                ..Guest::default()
            }),
            ..Self::debian(cpus)
        }
    }

    /// The bare-metal test guest with its configuration, on `cpus` CPUs, under the image with the
    /// test hooks, COM2 the guest's.
    pub fn test_guest(workshop: &Workshop, cpus: u32, words: &str) -> Result<Self> {
        let disk = TestGuest::build(&workshop.shell)?.disk(&format!("{words} cpus={cpus}"))?;
        let mut hardware = Hardware {
            cpus,
            memory: 256,
            // Its tests look at how bad MSRs fault.
            ignore_bad_msrs: false,
            ..Hardware::default()
        };
        hardware.model = "corei7_haswell_4770".into();
        Ok(Self {
            part: "",
            hardware,
            hypervisor: Some((Flavour::TestHooks, "log=com1")),
            guest: GuestDisk::Flat(disk),
        })
    }

    /// The same without the hypervisor.
    pub fn bare(self) -> Self {
        Self {
            hypervisor: None,
            ..self
        }
    }

    /// With another hypervisor's command line.
    pub fn cmdline(self, cmdline: &'static str) -> Self {
        let flavour = self
            .hypervisor
            .map_or(Flavour::Release, |(flavour, _)| flavour);
        Self {
            hypervisor: Some((flavour, cmdline)),
            ..self
        }
    }

    /// With the image that has the test hooks.
    pub fn test_hooks(self) -> Self {
        let hypervisor = self
            .hypervisor
            .map(|(_, cmdline)| (Flavour::TestHooks, cmdline));
        Self { hypervisor, ..self }
    }

    /// As the machine called `part` of its scenario.
    pub fn part(self, part: &'static str) -> Self {
        Self { part, ..self }
    }
}

impl Workshop {
    /// The place for the scenario `name`, empty.
    pub fn new(name: &str) -> Result<Self> {
        let name = format!("test-{}", name.replace("::", "-"));
        crate::emulator::run_folder(&name)?;
        Ok(Self {
            name,
            shell: Shell::new()?,
        })
    }

    /// Starts a machine.
    pub fn start(&self, plan: Plan) -> Result<Machine> {
        let hypervisor = match plan.hypervisor {
            Some((flavour, cmdline)) => Some(Hypervisor {
                image: compile::image(&self.shell, flavour)?,
                cmdline: cmdline.to_owned(),
            }),
            None => None,
        };
        let name = if plan.part.is_empty() {
            format!("{}/machine", self.name)
        } else {
            format!("{}/{}", self.name, plan.part)
        };
        Machine::start(
            &self.shell,
            &name,
            plan.hardware,
            hypervisor.as_ref(),
            &plan.guest,
            None,
        )
    }

    /// Starts a machine with Debian and waits for its shell.
    pub fn boot(&self, plan: Plan) -> Result<(Machine, Console)> {
        let machine = self.start(plan)?;
        let mut console = machine.console();
        console.wait_for_shell(BOOT)?;
        Ok((machine, console))
    }

    /// A gdb on a guest kernel's symbols.
    pub fn gdb(&self, kernel: Kernel) -> Result<Gdb> {
        Gdb::start(&vmlinux::path(&self.shell, kernel)?)
    }

    /// A gdb on the usual guest kernel's symbols, attached.
    pub fn attach(&self, machine: &Machine) -> Result<Gdb> {
        let mut gdb = self.gdb(Kernel::default())?;
        gdb.attach(machine.debug.port())?;
        Ok(gdb)
    }

    /// The names of the programs that a guest of the architecture has.
    pub fn guest_programs(&self, debian: Debian) -> Result<Vec<String>> {
        let programs = compile::guest_programs(&self.shell, debian)?;
        Ok(programs.into_iter().map(|program| program.name).collect())
    }

    /// The hypervisor's image with the test hooks, for its symbols.
    pub fn test_hooks_image(&self) -> Result<PathBuf> {
        compile::image(&self.shell, Flavour::TestHooks)
    }

    /// The folder with one for each machine.
    pub fn folder(&self) -> PathBuf {
        paths::runs().join(&self.name)
    }

    /// The logs' place and their ends.
    pub fn report(&self) -> String {
        let folder = self.folder();
        let mut report = format!("logs: {}\n", folder.display());
        for machine in self.machines() {
            for (log, lines) in [("com1.log", 25), ("bochs.log", 5)] {
                let path = machine.join(log);
                let bytes = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).replace('\r', "");
                report.push_str(&format!(
                    "--- the end of {}:\n{}\n",
                    path.strip_prefix(&folder).unwrap_or(&path).display(),
                    tail(&text, lines)
                ));
            }
        }
        report
    }

    /// Removes what is large and can be made again.
    pub fn tidy(&self) {
        for machine in self.machines() {
            for disk in ["hv.img", "guest.img"] {
                // Not every machine has both.
                let _ = fs::remove_file(machine.join(disk));
            }
        }
    }

    /// The folders of the machines that there were. Each has a lock beside it.
    fn machines(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let mut machines: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        machines.sort();
        machines
    }
}
