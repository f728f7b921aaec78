//! The hypervisor image. [`boot_main`] is the boot as a list of steps; from there
//! each CPU runs [`vmx::vcpu::Vcpu::run`] for ever.
#![no_std]
#![no_main]

mod boot;
mod clock;
mod cpu;
mod debug;
mod log;
mod memory;
mod pal;
mod panic;
mod reset;
mod rt;
mod serial;
mod symbols;
#[cfg(feature = "test-hooks")]
mod test_hooks;
mod trace;
mod vmx;

// AVX registers are the guest's; aes would use them where CPUID says that they exist.
#[cfg(not(aes_backend = "soft"))]
compile_error!("build the image with `cargo xtask build`, which gives the flags it needs");

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use heapless::Vec;
use spin::Once;
use stillpoint_abi::detect::pack_version;
use stillpoint_core::addr::{Gpa, Hpa, PAGE_SIZE, PhysRange};
use stillpoint_core::cmdline::{self, CommandLine, LogPort};
use stillpoint_core::cpu_state::{self, StartState};
use stillpoint_core::memmap::{self, MemoryMap};
use stillpoint_quiesce::Rendezvous;

use crate::boot::acpi::ResetRegister;
use crate::boot::multiboot::BootLoader;
use crate::boot::{acpi, multiboot, relocate};
use crate::cpu::percpu::{self, MAX_CPUS, PerCpu};
use crate::cpu::{apic, msr, smp};
use crate::log::log;
use crate::memory::frames::FRAMES;
use crate::memory::tables::HostTables;
use crate::memory::{bios, guest, layout, pool, tables};
use crate::serial::DebugLine;
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{ept, io, setup, state};

/// The version, as CPUID tells it.
const VERSION: u32 = pack_version(
    number(env!("CARGO_PKG_VERSION_MAJOR")) as u8,
    number(env!("CARGO_PKG_VERSION_MINOR")) as u8,
    number(env!("CARGO_PKG_VERSION_PATCH")),
);

/// A part of the version. Anything else than a number does not compile.
const fn number(text: &str) -> u16 {
    match u16::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!(),
    }
}

/// Who holds the machine, and whose NMI it was.
static RENDEZVOUS: Rendezvous<MAX_CPUS> = Rendezvous::new();

/// The command line, once it is known to be right.
static OPTIONS: Once<CommandLine> = Once::new();

/// Other CPUs that are in VMX operation, and whether one of them failed.
static READY: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// CR3 of every running CPU.
static HOST_ROOT: AtomicU64 = AtomicU64::new(0);

/// Memory for EPT and page tables, beyond what each CPU takes: 64 tables map
/// 512 GiB with room for splitting.
const TABLE_PAGES: u64 = 256;

/// What cannot go on says why, on COM1 and on the screen, and stops.
fn refuse(why: impl fmt::Display) -> ! {
    log::retake_console();
    log!("{why}");
    log!("not started. Reset the machine to go on without.");
    let mut line = heapless::String::<{ log::LINE_BYTES }>::new();
    let _cut = fmt::Write::write_fmt(&mut line, format_args!("stillpoint: {why}"));
    log::screen(&line);
    cpu::halt_forever()
}

/// Where the 32-bit code arrives, in long mode, on the boot stack.
extern "C" fn boot_main(multiboot_info: u32) -> ! {
    let loader = multiboot::read(multiboot_info).unwrap_or_else(|why| refuse(why));
    let options = read_options(&loader);
    log::open_console(options.log);
    if options.debug.is_some() {
        io::hide_debug_port();
    }
    let input = setup::plan_input(true);
    if let Err(missing) = setup::check(&input) {
        refuse(missing);
    }
    state::set_capabilities(state::read_capabilities());
    clock::calibrate();

    let apic_ids = acpi::apic_ids(loader.rsdp, apic::id())
        .unwrap_or_else(|why| refuse(format_args!("the CPUs are not known: {why:?}")));
    let (map, host_tables) = take_memory(&loader, apic_ids.len());

    percpu::init(&apic_ids).unwrap_or_else(|_| refuse("the hypervisor's memory is too small"));
    let bsp = percpu::all()[0];
    percpu::install(bsp);
    log!(
        "Stillpoint {} on {} CPU(s), memory {:?}",
        env!("CARGO_PKG_VERSION"),
        apic_ids.len(),
        map.hypervisor
    );
    state::init_pages()
        .and_then(|()| pool::init())
        .unwrap_or_else(|_| refuse("the hypervisor's memory is too small"));
    ept::init(map.hypervisor, map.guest.end_of_ram())
        .unwrap_or_else(|why| refuse(format_args!("no EPT: {why:?}")));
    bios::install(map.guest);
    watch_reset_register(loader.rsdp);

    let mut vcpu = enter_vmx(bsp).unwrap_or_else(|why| refuse(why));
    start_others(host_tables);
    load_boot_sector(&mut vcpu, &loader, options.boot_drive);
    log!(
        "{} KiB of {} KiB used; the guest starts, COM1 is its own",
        (map.hypervisor.len() - FRAMES.left()) / 1024,
        map.hypervisor.len() / 1024
    );
    open_debugger(options);
    log::leave_console();
    RENDEZVOUS.join(bsp.index);
    vcpu.start_state = StartState::Running;
    vcpu.run(options.wait)
}

/// Finds ACPI's reset register, so that PALs are wiped before it restarts the machine.
fn watch_reset_register(rsdp: Option<usize>) {
    match acpi::reset_register(rsdp) {
        ResetRegister::None => {}
        ResetRegister::Port(port, value) => io::init_reset_ports(Some((port, value))),
        ResetRegister::Elsewhere => {
            log!("ACPI's reset register is no port: a reset by it leaves PALs' memory as it is");
        }
    }
}

/// Opens the debugger's line, if one is asked for.
fn open_debugger(options: CommandLine) {
    let Some(port) = options.debug else { return };
    if DebugLine::open(port.baud()).is_err() {
        refuse("debug=com2, but no UART answers at port 0x2f8");
    }
    log!(
        "COM2 is the debugger's, at {} baud, and hidden from the guest",
        port.baud()
    );
}

fn read_options(loader: &BootLoader) -> CommandLine {
    match cmdline::parse(&loader.command_line) {
        Ok(options) => *OPTIONS.call_once(|| options),
        Err(why) => {
            log::open_console(LogPort::Com1);
            refuse(why)
        }
    }
}

/// Plans the memory, and moves the hypervisor to its own.
fn take_memory(loader: &BootLoader, cpus: usize) -> (memmap::MemoryPlan, HostTables) {
    let map =
        MemoryMap::from_firmware(loader.regions.iter().copied()).unwrap_or_else(|why| refuse(why));
    let symbol_pages = loader.symbols.map_or(0, |symbols| symbols.pages());
    let pages =
        percpu::pages_per_cpu() * cpus as u64 + TABLE_PAGES + pool::FRAMES_IN_POOL + symbol_pages;
    let size = layout::image_size() + pages * PAGE_SIZE;
    let mut in_use: Vec<PhysRange, 8> = Vec::from_iter(loader.in_use.iter().copied());
    let image = PhysRange::from_len(layout::IMAGE_LMA, layout::image_size());
    let _room = in_use.push(image);
    let plan = memmap::plan(&map, size, &in_use).unwrap_or_else(|why| refuse(why));
    let region = plan.hypervisor;
    let behind_image = region.start + layout::image_size().next_multiple_of(PAGE_SIZE);
    FRAMES.init(PhysRange::new(behind_image, region.end));

    let gib_pages = state::cpuid(0x8000_0001, 0).edx & (1 << 26) != 0;
    let direct_end = map.end_of_ram().max(1 << 32).next_multiple_of(1 << 30);
    let image_at = Hpa::new(region.start);
    let host_tables = tables::build(image_at, direct_end, gib_pages, &msr::mtrrs())
        .unwrap_or_else(|_| refuse("the hypervisor's memory is too small"));
    if let Some(loaded) = &loader.symbols {
        symbols::load(loaded).unwrap_or_else(|_| refuse("the hypervisor's memory is too small"));
    }
    guest::init(map, &plan.guest, direct_end);
    HOST_ROOT.store(host_tables.root.as_u64(), Ordering::SeqCst);
    // SAFETY: the plan keeps the region clear of the image as loaded and of what
    // the boot loader left; the tables map the image there.
    unsafe { relocate::move_image(Hpa::new(region.start), host_tables.root) };
    (plan, host_tables)
}

/// This CPU loads its descriptor tables and enters VMX operation.
fn enter_vmx(cpu: &'static PerCpu) -> Result<Vcpu, setup::SetupError> {
    let Some(descriptors) = cpu.descriptors.get() else {
        return Err(setup::SetupError::OutOfFrames);
    };
    let selectors = descriptors.load();
    let controls = setup::start(cpu, selectors)?;
    let pat = msr::read(msr::IA32_PAT).unwrap_or(0);
    for (field, value) in cpu_state::first_fields(pat) {
        vmx::instructions::set(field, value);
    }
    Ok(Vcpu::new(cpu, controls))
}

fn start_others(host_tables: HostTables) {
    if let Err(failed) = smp::start_others(host_tables, ap_main) {
        refuse(format_args!(
            "CPU with APIC identifier {:#x} does not start",
            failed.apic_id
        ));
    }
    let others = percpu::all().len() - 1;
    while READY.load(Ordering::SeqCst) < others {
        if FAILED.load(Ordering::SeqCst) {
            refuse("another CPU cannot run the guest");
        }
        core::hint::spin_loop();
    }
}

/// Where every other CPU arrives, in long mode, on its own stack.
extern "C" fn ap_main() -> ! {
    let cpu = smp::starting();
    load_cr3();
    percpu::install(cpu);
    let vcpu = enter_vmx(cpu);
    smp::arrived();
    match vcpu {
        Ok(mut vcpu) => {
            RENDEZVOUS.join(cpu.index);
            vcpu.wait_for_sipi();
            READY.fetch_add(1, Ordering::SeqCst);
            vcpu.run(false)
        }
        Err(why) => {
            log!("{why}");
            FAILED.store(true, Ordering::SeqCst);
            cpu::halt_forever()
        }
    }
}

/// Puts the tables into use that all CPUs share, in place of the start-up ones.
fn load_cr3() {
    let root = HOST_ROOT.load(Ordering::SeqCst);
    // SAFETY: the same tables without the identity map of low memory, which the
    // trampoline needed and nothing else does.
    unsafe {
        core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
    }
}

/// Puts the guest's boot sector where a BIOS would, and the CPU before it.
fn load_boot_sector(vcpu: &mut Vcpu, loader: &BootLoader, drive: u8) {
    if guest::write(Gpa::new(0x7c00), &loader.boot_sector).is_err() {
        refuse("there is no memory at 0x7c00");
    }
    vcpu.load(&cpu_state::at_boot_sector(&vcpu.reset_input(), drive));
}
