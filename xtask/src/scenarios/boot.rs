//! Booting: to the shell with 1, 2 and 4 CPUs, again after a reboot, and not at all where
//! something is missing.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use regex::Regex;

use super::{BOOT, COMMAND, Plan, Workshop};
use crate::compile::Flavour;
use crate::console::Console;
use crate::emulator::Hardware;
use crate::image::Guest;
use crate::kernel::{Kernel, TROUBLE};
use crate::machine::{GuestDisk, Machine};
use crate::{own_files, paths};

/// Debian on `cpus` CPUs: all are there, all make hypercalls, and the machine powers off.
pub fn to_the_shell(workshop: &Workshop, cpus: u32) -> Result<()> {
    let (mut machine, mut console) = workshop.boot(Plan::debian(cpus))?;
    let online = console.check("nproc", COMMAND)?;
    ensure!(online.trim() == cpus.to_string(), "{online} CPUs online");
    hypercalls_on_each_cpu(&mut console, "test", cpus)?;
    hypercalls_on_each_cpu(&mut console, "test32", cpus)?;
    ensure_width(&mut console, "presence", 64)?;
    ensure_width(&mut console, "presence32", 32)?;
    // CPUs leave and come back: INIT and SIPI outside the boot.
    for cpu in 1..cpus {
        console.check(&format!("cd /sys/devices/system/cpu/cpu{cpu}; echo 0 >online; echo 1 >online; cat online; cd -"), COMMAND)?;
    }
    hypercalls_on_each_cpu(&mut console, "test", cpus)?;
    console.send("poweroff -f\n")?;
    machine.emulator.wait(Duration::from_secs(120))
}

/// The TEST hypercall from each CPU, by one of the programs that make it.
fn hypercalls_on_each_cpu(console: &mut Console, program: &str, cpus: u32) -> Result<()> {
    for cpu in 0..cpus {
        let number = 7 + cpu;
        let answer = console.check(
            &format!("taskset {:x} ./{program} {number}", 1 << cpu),
            COMMAND,
        )?;
        ensure!(
            answer.trim() == format!("0 = vmcall(TV_HC_TEST, {number})"),
            "{program} on CPU {cpu}: {answer}"
        );
    }
    Ok(())
}

/// What width Stillpoint sees a program as.
fn ensure_width(console: &mut Console, program: &str, width: u32) -> Result<()> {
    let answer = console.check(&format!("./{program}"), COMMAND)?;
    ensure!(
        answer == format!("TrustVisor answers a {width}-bit program outside any PAL\n"),
        "{program}: {answer}"
    );
    Ok(())
}

/// 32-bit Debian (PAE paging, SYSENTER) on two CPUs: both make hypercalls, are seen as 32-bit, leave
/// and come back, and the kernel finds nothing wrong.
pub fn thirty_two_bit(workshop: &Workshop) -> Result<()> {
    let (mut machine, mut console) = workshop.boot(Plan::i386(2))?;
    let online = console.check("uname -m; nproc", COMMAND)?;
    ensure!(online == "i686\n2\n", "{online}");
    hypercalls_on_each_cpu(&mut console, "test", 2)?;
    ensure_width(&mut console, "presence", 32)?;
    gdb_in_thirty_two_bit(workshop, &machine)?;
    console.check(
        "cd /sys/devices/system/cpu/cpu1; echo 0 >online; echo 1 >online; cd -",
        COMMAND,
    )?;
    hypercalls_on_each_cpu(&mut console, "test", 2)?;
    // Prints what it finds, and then fails.
    console.check(&format!("! dmesg | grep -E '{TROUBLE}|Trace:'"), COMMAND)?;
    console.send("poweroff -f\n")?;
    machine.emulator.wait(Duration::from_secs(120))
}

/// gdb in a 32-bit kernel: threads, 32-bit registers, a breakpoint in a kernel function, its stack.
fn gdb_in_thirty_two_bit(workshop: &Workshop, machine: &Machine) -> Result<()> {
    let mut gdb = workshop.gdb(Kernel::Pae12)?;
    gdb.expect(
        &format!("stillpoint-attach localhost:{}", machine.debug.port()),
        "The kernel is 0x0 above where it was linked",
    )?;
    gdb.expect("info threads", r#"(?s)Thread 1 "cpu0".*Thread 2 "cpu1""#)?;
    gdb.expect("print sizeof($eip)", "= 4")?;
    gdb.expect("break schedule", "Breakpoint 1 at 0xc")?;
    gdb.expect("continue", r"Breakpoint 1, 0xc\w+ in schedule \(\)")?;
    gdb.expect("backtrace", r"(?s)#0 .* in schedule.*#1 .* in \w+ \(\)")?;
    gdb.expect(
        "info registers eip",
        r"eip +0xc\w+ +0xc\w+ <schedule\+?\d*>",
    )?;
    gdb.command("delete")?;
    gdb.expect("stepi", r"0xc\w+ in \w+ \(\)")?;
    gdb.expect("detach", "detached")?;
    Ok(())
}

/// As Debian ships it: no shortcuts on the command line, KASLR on; gdb finds the symbols anyway.
pub fn an_untouched_kernel_with_kaslr(workshop: &Workshop) -> Result<()> {
    // One place in some 480 is where it was linked: not twice.
    for part in ["first", "second"] {
        let mut plan = Plan::debian(2).part(part);
        // A program of one's own comes along.
        let own = own_files::find(&[paths::target().join("guest-c/32/test")])?;
        plan.guest = GuestDisk::Debian(Guest {
            plain: true,
            programs: true,
            own,
            ..Guest::default()
        });
        let (machine, mut console) = workshop.boot(plan)?;
        // Where the kernel says it is, and where its symbols were linked.
        let line = console.check("grep ' _text$' /proc/kallsyms", COMMAND)?;
        let text = line.split(' ').next().unwrap_or_default();
        ensure!(text.starts_with("ffffffff"), "no address: {line}");
        if text == LINKED {
            continue;
        }
        kernel_stack(workshop, &machine, text)?;
        console.check("./test 1", COMMAND)?;
        console.check("own/test 2", COMMAND)?;
        return Ok(());
    }
    bail!("KASLR moved nothing, twice")
}

/// Where the kernel's text is without KASLR.
const LINKED: &str = "ffffffff81000000";

/// How often [`kernel_stack`] looks.
const LOOKS: usize = 5;

/// gdb finds the kernel at `text`, and walks its stack. The machine is nearly always idle or in a system
/// call when it is stopped; a stop in a kernel thread, or in the idle loop itself, shows other functions.
fn kernel_stack(workshop: &Workshop, machine: &Machine, text: &str) -> Result<()> {
    let caller = Regex::new(r"#1 .* in \w+")?;
    let mut stack = String::new();
    for _ in 0..LOOKS {
        let mut gdb = workshop.attach(machine)?;
        gdb.command("stillpoint-symbols")?;
        let found = gdb.number("&_text")?;
        ensure!(
            format!("{found:x}") == text,
            "gdb has _text at {found:x}, the kernel at {text}"
        );
        stack = gdb.command("backtrace")?;
        gdb.expect("detach", "detached")?;
        if caller.is_match(&stack)
            && (stack.contains("default_idle") || stack.contains("do_syscall_64"))
        {
            return Ok(());
        }
    }
    bail!("no kernel stack in {LOOKS} stops; the last one: {stack}")
}

/// The guest's reboot resets the machine; everything comes up again. Without the TSC-deadline timer:
/// the emulator compares a deadline with its own ticks, which a reset, unlike the TSC, leaves as they
/// are, so that every deadline has passed.
pub fn reboot(workshop: &Workshop) -> Result<()> {
    let mut plan = Plan::debian(2);
    plan.guest = GuestDisk::Debian(Guest {
        cmdline: "lapic=notscdeadline".into(),
        programs: true,
        ..Guest::default()
    });
    let (_machine, mut console) = workshop.boot(plan)?;
    console.check("./test 1", COMMAND)?;
    console.send("reboot -f\n")?;
    console.wait_for_shell(BOOT)?;
    let online = console.check("nproc; ./test 2", COMMAND)?;
    ensure!(
        online == "2\n0 = vmcall(TV_HC_TEST, 2)\n",
        "after the reboot: {online}"
    );
    Ok(())
}

/// CPUs that cannot run it: one line that names what is missing, and no guest.
pub fn unfit_cpus(workshop: &Workshop) -> Result<()> {
    for (part, model, without, line) in [
        (
            "no-vmx",
            "athlon64_clawhammer",
            None,
            r"VMX.*CPUID.*ECX.*\n",
        ),
        (
            "no-execute-disable",
            "broadwell_ult",
            Some("nx"),
            r"execute disable.*CPUID.*EDX.*firmware.*\n",
        ),
        // VMX, but too old; the longest of the lines, whole.
        (
            "no-timer",
            "core2_penryn_t9600",
            None,
            r#"lacks "[^"\n]*": bit \d+ [^\n]*\(MSR 0x48d\) is 0\r?\n"#,
        ),
    ] {
        let mut plan = quick_guest(workshop, part, "debug=com2 log=com1")?;
        plan.hardware = Hardware {
            model: model.into(),
            without,
            ..plan.hardware
        };
        let machine = workshop.start(plan)?;
        let mut console = machine.console();
        console.expect(line, Duration::from_secs(120))?;
        no_guest(&mut console)?;
    }
    Ok(())
}

/// An option that is not known stops the boot, and is named.
pub fn unknown_option(workshop: &Workshop) -> Result<()> {
    for (part, cmdline, named) in [
        ("unknown", "log=com1 colour=blue", "colour"),
        ("malformed", "debug=com3 log=com1", "com3"),
        ("wait-without-debug", "wait log=com1", "debug="),
    ] {
        let machine = workshop.start(quick_guest(workshop, part, cmdline)?)?;
        let mut console = machine.console();
        console.expect(&format!(r"{named}[^\n]*\n"), Duration::from_secs(120))?;
        no_guest(&mut console)?;
    }
    Ok(())
}

/// A machine whose guest, if it were started, would say so at once.
fn quick_guest(workshop: &Workshop, part: &'static str, cmdline: &'static str) -> Result<Plan> {
    let mut plan = Plan::test_guest(workshop, 1, "suite=basic")?.part(part);
    plan.hypervisor = Some((Flavour::Release, cmdline));
    Ok(plan)
}

/// Nothing of that guest appears in a time that is many times enough for its first line.
fn no_guest(console: &mut Console) -> Result<()> {
    let guest = console.expect("test guest", Duration::from_secs(8));
    ensure!(guest.is_err(), "the guest was started: {guest:?}");
    Ok(())
}

/// `wait`: gdb finds the machine before the guest's first instruction.
pub fn wait(workshop: &Workshop) -> Result<()> {
    let machine = workshop.start(Plan::debian(2).cmdline("debug=com2 log=com1 wait"))?;
    let mut console = machine.console();
    console.expect("the guest starts", BOOT)?;
    let mut gdb = workshop.attach(&machine)?;
    let rip = gdb.number("$rip")?;
    ensure!(rip == 0x7c00, "stopped at {rip:#x}, not at the boot sector");
    let drive = gdb.number("$rdx & 0xff")?;
    ensure!(drive == 0x81, "DL is {drive:#x}");
    gdb.begin("continue")?;
    console.wait_for_shell(BOOT)?;
    Ok(())
}
