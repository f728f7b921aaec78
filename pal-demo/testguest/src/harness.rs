//! Tests: what one is, how it fails, and how a list of them is run.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use stillpoint_abi::detect;

use crate::config::Config;
use crate::{cpu, power, println};

/// What the tests depend on.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// What to run and on what.
    pub config: Config,
    /// Whether TrustVisor's leaf answers: this is Stillpoint, not the bare
    /// processor.
    pub stillpoint: bool,
}

/// Why a test did not pass.
#[expect(
    clippy::large_enum_variant,
    reason = "there is no allocator to box with"
)]
pub enum Failure {
    /// It failed, for this reason.
    Why(heapless::String<240>),
    /// It asks for what this machine has not: Stillpoint, or a feature of the
    /// processor. Neither passed nor failed.
    NotApplicable,
}

impl Failure {
    /// A failure with this text, cut when it is too long.
    pub fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = heapless::String::new();
        // What fits has been written.
        let _ = text.write_fmt(arguments);
        Self::Why(text)
    }
}

/// What a test ends with.
pub type Outcome = Result<(), Failure>;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// As it is printed.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&Context) -> Outcome,
}

/// Ends the test with a failure.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => {
        return Err($crate::harness::Failure::new(format_args!($($argument)*)))
    };
}

/// Ends the test with a failure unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)*) => {
        if !$condition {
            $crate::fail!($($argument)*);
        }
    };
}

/// Ends the test with a failure unless the two integers are equal.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($argument:tt)*) => {{
        let (found, expected) = ($found, $expected);
        if found != expected {
            $crate::fail!("{}: {found:#x}, expected {expected:#x}", format_args!($($argument)*));
        }
    }};
}

/// Builds a table of tests: each is printed by its function's name.
#[macro_export]
macro_rules! tests {
    ($($run:ident),* $(,)?) => {
        &[$($crate::harness::Test { name: stringify!($run), run: $run }),*]
    };
}

static PASSED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static NOT_APPLICABLE: AtomicUsize = AtomicUsize::new(0);
/// Name of the test that runs, for `abandon`.
static CURRENT: AtomicPtr<&'static str> = AtomicPtr::new(core::ptr::null_mut());

impl Context {
    /// Looks at the machine.
    pub fn new(config: Config) -> Self {
        let answer = cpu::cpuid(detect::TRUSTVISOR_LEAF);
        Self {
            config,
            stillpoint: answer.eax == detect::TRUSTVISOR_PRESENT,
        }
    }

    /// Ends a test that makes no sense on the bare machine.
    pub fn require_stillpoint(&self) -> Outcome {
        if self.stillpoint {
            Ok(())
        } else {
            Err(Failure::NotApplicable)
        }
    }

    /// Runs those of `tests` that the configuration asks for.
    pub fn run(&self, tests: &'static [Test]) {
        for test in tests
            .iter()
            .filter(|test| test.name.contains(self.config.filter))
        {
            CURRENT.store((&raw const test.name).cast_mut(), Relaxed);
            match (test.run)(self) {
                Ok(()) => passed(test.name),
                Err(Failure::Why(why)) => failed(test.name, format_args!("{why}")),
                Err(Failure::NotApplicable) => not_applicable(test.name),
            }
            CURRENT.store(core::ptr::null_mut(), Relaxed);
        }
    }

    /// Whether tests have passed, and none failed.
    pub fn all_passed(&self) -> bool {
        PASSED.load(Relaxed) != 0 && FAILED.load(Relaxed) == 0
    }

    /// Prints the last line and ends the run.
    pub fn finish(&self) -> ! {
        summary();
        if self.config.shut_down {
            power::off();
        }
        cpu::park()
    }
}

fn passed(name: &str) {
    PASSED.fetch_add(1, Relaxed);
    println!("test {name} ... ok");
}

fn failed(name: &str, why: fmt::Arguments<'_>) {
    FAILED.fetch_add(1, Relaxed);
    println!("test {name} ... FAILED: {why}");
}

fn not_applicable(name: &str) {
    NOT_APPLICABLE.fetch_add(1, Relaxed);
    println!("test {name} ... not applicable to this machine");
}

/// The last line. Where every test applies, it ends after `failed`.
fn summary() {
    let (passed, failed) = (PASSED.load(Relaxed), FAILED.load(Relaxed));
    match NOT_APPLICABLE.load(Relaxed) {
        0 => println!("{passed} passed, {failed} failed"),
        others => println!("{passed} passed, {failed} failed, {others} not applicable"),
    }
}

/// Ends the run in the middle of a test, as failed.
pub fn abandon(why: fmt::Arguments<'_>) -> ! {
    let current = CURRENT.swap(core::ptr::null_mut(), Relaxed);
    // SAFETY: the pointer, where there is one, is to a name in a static table.
    let name = unsafe { current.as_ref() }.copied().unwrap_or("(none)");
    failed(name, why);
    summary();
    power::off()
}
