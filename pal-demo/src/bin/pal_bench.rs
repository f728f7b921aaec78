//! `pal_bench`: what registering, calling and unregistering a PAL takes, in ticks of the
//! time-stamp counter. Prints `bench NAME min=N median=N rounds=N` for each figure, and ends with
//! `pal_bench ok`. How much of registering is measuring, the tests' image tells. Where no TrustVisor answers, it says so and exits 1.

use std::arch::x86_64::_rdtsc;
use std::process::ExitCode;

use pal_demo::{Pal, PalError, TrustVisor};
use stillpoint_abi::pal::{Section, SectionType, encode_parameters, encode_sections};
use stillpoint_abi::{Hypercall, TestHook};

/// Calls that are measured; one more before them, so that everything is in place.
const CALLS: usize = 1000;

/// Registrations that are measured; each hashes four pages, so they are fewer.
const PALS: usize = 100;

type Pointer = *mut u64;
type NoParameters = extern "C" fn() -> u64;
type IntegerAndPointer = extern "C" fn(u64, Pointer) -> u64;
type TenPointers = extern "C" fn(
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
) -> u64;

#[unsafe(link_section = "tv_pal")]
extern "C" fn no_parameters() -> u64 {
    7
}

#[unsafe(link_section = "tv_pal")]
extern "C" fn integer_and_pointer(a: u64, _: Pointer) -> u64 {
    a
}

#[unsafe(link_section = "tv_pal")]
extern "C" fn ten_pointers(
    a: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
    _: Pointer,
) -> u64 {
    u64::from(a.is_null())
}

fn main() -> ExitCode {
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    match measure(trustvisor) {
        Ok(()) => {
            println!("pal_bench ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("pal_bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(trustvisor: TrustVisor) -> Result<(), PalError> {
    let empty: NoParameters = no_parameters;
    let pal = Pal::builder(trustvisor, empty).register()?;
    report("pal_call_0", calls(|| pal.entry()()));
    let [registered, measured, unregistered] = registrations(trustvisor, &pal)?;
    report("pal_reg", registered);
    if !measured.is_empty() {
        report("pal_reg_sha1", measured);
    }
    report("pal_unreg", unregistered);
    pal.unregister()?;

    let mut words = [[0_u64; 4]; 10];
    let mut pointers = words.each_mut().map(|words| words.as_mut_ptr()).into_iter();
    let mut next = || pointers.next().unwrap_or(std::ptr::null_mut());
    let p: [Pointer; 10] = std::array::from_fn(|_| next());

    let entry: IntegerAndPointer = integer_and_pointer;
    let pal = Pal::builder(trustvisor, entry)
        .integer()
        .pointer(4)
        .register()?;
    report("pal_call_int_ptr", calls(|| pal.entry()(1, p[0])));
    pal.unregister()?;

    let entry: TenPointers = ten_pointers;
    let mut builder = Pal::builder(trustvisor, entry);
    for _ in 0..10 {
        builder = builder.pointer(4);
    }
    let pal = builder.register()?;
    let call = || pal.entry()(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]);
    report("pal_call_10ptr", calls(call));
    pal.unregister()
}

/// The ticks of REG, of the measuring in it, and of UNREG, many times, with the memory of a PAL of
/// four pages. It is registered before, and after.
fn registrations(
    trustvisor: TrustVisor,
    pal: &Pal<NoParameters>,
) -> Result<[Vec<u64>; 3], PalError> {
    let kinds = [
        SectionType::Code,
        SectionType::Data,
        SectionType::Param,
        SectionType::Stack,
    ];
    let sections: Vec<Section> = kinds
        .into_iter()
        .filter_map(|kind| {
            let pages = pal.pages(kind)?;
            Some(Section {
                kind,
                pages: pages.count() as u32,
                start: pages.address(),
            })
        })
        .collect();
    let sections = encode_sections(&sections).ok_or(PalError::TooMany)?;
    let parameters = encode_parameters(&[]).ok_or(PalError::TooMany)?;
    let entry = pal.entry() as *const () as u64;
    let register = [
        sections.as_ptr().expose_provenance() as u64,
        0,
        parameters.as_ptr().expose_provenance() as u64,
        entry,
    ];
    let unregister = [entry, 0, 0, 0];
    // SAFETY: the two structures are read, and the pages are this PAL's, to which nothing refers.
    let time = |command: Hypercall, arguments| match timed(|| unsafe {
        trustvisor.call(command.command(), arguments)
    }) {
        (0, ticks) => Ok(ticks),
        _ => Err(PalError::Refused(command)),
    };
    let mut ticks = [Vec::new(), Vec::new(), Vec::new()];
    let [registered, measured, unregistered] = &mut ticks;
    for _ in 0..PALS {
        unregistered.push(time(Hypercall::Unregister, unregister)?);
        registered.push(time(Hypercall::Register, register)?);
        if let [0, measuring, _] = trustvisor.test_hook(TestHook::MeasuringTicks) {
            measured.push(measuring);
        }
    }
    Ok(ticks)
}

/// The ticks of each of many calls.
fn calls(call: impl Fn() -> u64) -> Vec<u64> {
    call();
    (0..CALLS).map(|_| timed(&call).1).collect()
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, u64) {
    // SAFETY: reads a counter.
    let before = unsafe { _rdtsc() };
    let result = what();
    // SAFETY: as above.
    (result, unsafe { _rdtsc() } - before)
}

fn report(name: &str, mut ticks: Vec<u64>) {
    ticks.sort_unstable();
    let (min, median, rounds) = (ticks[0], ticks[ticks.len() / 2], ticks.len());
    println!("bench {name} min={min} median={median} rounds={rounds}");
}
