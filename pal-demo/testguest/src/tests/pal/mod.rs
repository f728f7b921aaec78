//! PALs, as far as programs on a real system cannot show them: callers in every paging
//! kind, what ring 0 and other CPUs can reach, ends of every kind, NMIs.

mod callers;
mod code;
mod copy_back;
mod faults;
mod image;
mod isolation;
mod legacy;
mod many;
mod nmi;
mod program;
pub mod reset;
mod share;
mod space;
mod vectors;
mod watch;

use crate::harness::Test;

/// The tests, by subject.
pub const TESTS: &[&[Test]] = &[
    callers::TESTS,
    isolation::TESTS,
    faults::TESTS,
    share::TESTS,
    copy_back::TESTS,
    nmi::TESTS,
    vectors::TESTS,
    watch::TESTS,
    many::TESTS,
];
