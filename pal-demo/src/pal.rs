//! Registering a piece of application logic (PAL), calling it, and giving its pages back.
//!
//! ```no_run
//! use pal_demo::{Pal, TrustVisor};
//!
//! #[unsafe(link_section = "tv_pal")]
//! extern "C" fn sum(a: u64, b: *mut u64) -> u64 {
//!     // SAFETY: `b` points to the one word that was declared for it.
//!     unsafe { a.wrapping_add(*b) }
//! }
//!
//! let trustvisor = TrustVisor::detect().expect("no TrustVisor");
//! let entry: extern "C" fn(u64, *mut u64) -> u64 = sum;
//! let pal = Pal::builder(trustvisor, entry).integer().pointer(1).register()?;
//! assert_eq!(pal.entry()(1, &mut 2), 3);
//! pal.unregister()?;
//! # Ok::<(), pal_demo::PalError>(())
//! ```

use std::fmt;
use std::io;
use std::mem;

use stillpoint_abi::Hypercall;
use stillpoint_abi::pal::{
    Parameter, ParameterType, Section, SectionType, encode_parameters, encode_sections,
};

use crate::TrustVisor;
use crate::entry::Entry;
use crate::pages::{PAGE_SIZE, Pages};

/// The section of a program in which its PAL code lies, as `link_section` takes it.
pub const CODE_SECTION: &str = "tv_pal";

unsafe extern "C" {
    #[link_name = "__start_tv_pal"]
    static CODE_START: u8;
    #[link_name = "__stop_tv_pal"]
    static CODE_STOP: u8;
}

/// Why there is no PAL, or still one.
#[derive(Debug)]
pub enum PalError {
    /// There is no memory for it.
    Memory(io::Error),
    /// The entry function is not in the section [`CODE_SECTION`].
    NotPalCode,
    /// Its entry function takes another number of arguments than there are parameters.
    Parameters,
    /// More sections or parameters than there may be.
    TooMany,
    /// TrustVisor refused the command; its log says why.
    Refused(Hypercall),
}

impl fmt::Display for PalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "no memory for the PAL: {error}"),
            Self::NotPalCode => write!(f, "the entry function is not in section {CODE_SECTION}"),
            Self::Parameters => f.write_str("the entry function takes other parameters"),
            Self::TooMany => f.write_str("too many sections or parameters"),
            Self::Refused(command) => write!(f, "TrustVisor refused {command:?}"),
        }
    }
}

impl std::error::Error for PalError {}

impl From<io::Error> for PalError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

/// A PAL that is to be: a page each of data, parameters and stack, unless told otherwise, and as
/// many of code as the program's PAL code needs.
#[derive(Debug)]
pub struct Builder<F> {
    trustvisor: TrustVisor,
    entry: F,
    parameters: Vec<Parameter>,
    data: usize,
    parameter_area: usize,
    stack: usize,
}

impl<F: Entry> Builder<F> {
    /// The next argument of the entry function is a number.
    #[must_use]
    pub fn integer(mut self) -> Self {
        self.parameters.push(Parameter {
            kind: ParameterType::Integer,
            words: 0,
        });
        self
    }

    /// The next argument points to `words` words, which are copied in before each call, and back
    /// after it.
    #[must_use]
    pub fn pointer(mut self, words: usize) -> Self {
        self.parameters.push(Parameter {
            kind: ParameterType::Pointer,
            words: words as u64,
        });
        self
    }

    /// Pages of data, whose contents stay from call to call.
    #[must_use]
    pub fn data_pages(self, data: usize) -> Self {
        Self { data, ..self }
    }

    /// Pages for the parameters and what they point to.
    #[must_use]
    pub fn parameter_pages(self, parameter_area: usize) -> Self {
        Self {
            parameter_area,
            ..self
        }
    }

    /// Pages of stack.
    #[must_use]
    pub fn stack_pages(self, stack: usize) -> Self {
        Self { stack, ..self }
    }

    /// Copies the program's PAL code into pages of its own, and registers it.
    ///
    /// # Errors
    /// As [`PalError`] says. Nothing has changed then.
    pub fn register(self) -> Result<Pal<F>, PalError> {
        if self.parameters.len() != F::ARGUMENTS {
            return Err(PalError::Parameters);
        }
        let code = program_code();
        let offset = self.entry.address().wrapping_sub(code.as_ptr().addr());
        if offset >= code.len() {
            return Err(PalError::NotPalCode);
        }
        let mut code_pages = Pages::new(code.len().div_ceil(PAGE_SIZE))?;
        // SAFETY: not lent yet.
        let copy = unsafe { code_pages.bytes() };
        copy[..code.len()].copy_from_slice(code);
        code_pages.make_code()?;
        let memory = [
            (SectionType::Code, code_pages),
            (SectionType::Data, Pages::new(self.data)?),
            (SectionType::Param, Pages::new(self.parameter_area)?),
            (SectionType::Stack, Pages::new(self.stack)?),
        ];
        let sections = memory.each_ref().map(|(kind, pages)| Section {
            kind: *kind,
            pages: pages.count() as u32,
            start: pages.address(),
        });
        let sections = encode_sections(&sections).ok_or(PalError::TooMany)?;
        let parameters = encode_parameters(&self.parameters).ok_or(PalError::TooMany)?;
        let address = memory[0].1.address() as usize + offset;
        let arguments = [
            sections.as_ptr().expose_provenance() as u64,
            0,
            parameters.as_ptr().expose_provenance() as u64,
            address as u64,
        ];
        // SAFETY: both structures are read, and the pages that go are this PAL's alone.
        let result = unsafe {
            self.trustvisor
                .call(Hypercall::Register.command(), arguments)
        };
        if result != 0 {
            return Err(PalError::Refused(Hypercall::Register));
        }
        Ok(Pal {
            trustvisor: self.trustvisor,
            // SAFETY: the code was copied there, and the PAL is registered.
            entry: unsafe { F::at(address) },
            memory: Some(memory),
        })
    }
}

/// The PAL code of the program, from which every PAL's is copied.
fn program_code() -> &'static [u8] {
    let (start, stop) = (&raw const CODE_START, &raw const CODE_STOP);
    // SAFETY: the linker puts both symbols around the section, which is read-only.
    unsafe { std::slice::from_raw_parts(start, stop.addr() - start.addr()) }
}

/// A registered PAL. Dropped, it is unregistered; that it could not be is told on stderr.
///
/// A program has to drop it before it ends: the system does not know that the pages are lent, and
/// gives them to the next who asks for memory.
#[derive(Debug)]
pub struct Pal<F: Entry> {
    trustvisor: TrustVisor,
    entry: F,
    /// `None` once it is unregistered.
    memory: Option<[(SectionType, Pages); 4]>,
}

impl<F: Entry> Pal<F> {
    /// Begins to describe a PAL.
    pub fn builder(trustvisor: TrustVisor, entry: F) -> Builder<F> {
        Builder {
            trustvisor,
            entry,
            parameters: Vec::new(),
            data: 1,
            parameter_area: 1,
            stack: 1,
        }
    }

    /// What to call: the entry function where the PAL has it. Every pointer among its arguments
    /// has to point to as many words as were declared for it.
    pub fn entry(&self) -> F {
        self.entry
    }

    /// The PAL's pages of a kind: code, data, parameters or stack.
    pub fn pages(&self, kind: SectionType) -> Option<&Pages> {
        let memory = self.memory.as_ref()?;
        let (_, pages) = memory.iter().find(|(other, _)| *other == kind)?;
        Some(pages)
    }

    /// Lends pages until the next call returns. The PAL has them at the address at which this
    /// process has them.
    ///
    /// # Errors
    /// TrustVisor refused.
    pub fn share(&self, ranges: &[&Pages]) -> Result<(), PalError> {
        let addresses: Vec<u64> = ranges.iter().map(|pages| pages.address()).collect();
        // 32-bit lengths, each in 8 bytes.
        let lengths: Vec<u64> = ranges
            .iter()
            .map(|pages| (pages.count() * PAGE_SIZE) as u64)
            .collect();
        let arguments = [
            self.entry.address() as u64,
            addresses.as_ptr().expose_provenance() as u64,
            lengths.as_ptr().expose_provenance() as u64,
            ranges.len() as u64,
        ];
        // SAFETY: the two lists are read, and `Pages` says what is true of pages that are lent.
        match unsafe { self.trustvisor.call(Hypercall::Share.command(), arguments) } {
            0 => Ok(()),
            _ => Err(PalError::Refused(Hypercall::Share)),
        }
    }

    /// Gives the pages back; what the PAL could write has been zeroed.
    ///
    /// # Errors
    /// TrustVisor refused: the PAL runs in another thread, or was ended. The memory is left as it
    /// is, mapped.
    pub fn unregister(mut self) -> Result<(), PalError> {
        self.release()
    }

    /// UNREG, once.
    fn release(&mut self) -> Result<(), PalError> {
        let Some(memory) = self.memory.take() else {
            return Ok(());
        };
        let arguments = [self.entry.address() as u64, 0, 0, 0];
        // SAFETY: UNREG zeroes pages of this PAL's, which nothing else refers to.
        let result = unsafe {
            self.trustvisor
                .call(Hypercall::Unregister.command(), arguments)
        };
        if result != 0 {
            // They may be lent still: no one else may have them.
            mem::forget(memory);
            return Err(PalError::Refused(Hypercall::Unregister));
        }
        Ok(())
    }
}

impl<F: Entry> Drop for Pal<F> {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("a PAL stays: {error}");
        }
    }
}
