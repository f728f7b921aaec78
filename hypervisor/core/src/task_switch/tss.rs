//! The two forms of a task-state segment (TSS).
//!
//! Source: Intel SDM, vol. 3, section 8.2.1, "Task-State Segment (TSS)", and
//! section 8.6, "16-Bit Task-State Segment (TSS)".

use super::{Fault, Linear, TaskState};
use crate::paging::PhysMem;
use crate::registers::{Gpr, Gprs};
use crate::segment::Segment;
use vmcs_inspect::AccessRights;

/// The longest part of a TSS that a task switch reads.
const MAX_SIZE: usize = 0x68;

/// The static and the saved part of a TSS, as read.
pub(super) type Image = [u8; MAX_SIZE];

/// Where things are in a TSS. From `registers_at` on, `word` bytes each: the
/// instruction pointer, the flags, eight general-purpose registers by number,
/// segment registers by number.
pub(super) struct Layout {
    /// The limit that the TSS must have at least.
    pub min_limit: u32,
    /// Bytes of a register's image; of an error code on the stack, too.
    pub word: usize,
    registers_at: usize,
    segments: usize,
    ldt_at: usize,
    cr3_at: Option<usize>,
    trap_at: Option<usize>,
}

static BITS_32: Layout = Layout {
    min_limit: 0x67,
    word: 4,
    registers_at: 0x20,
    segments: 6,
    ldt_at: 0x60,
    cr3_at: Some(0x1c),
    trap_at: Some(0x64),
};

/// It has no FS and GS, no CR3, and no T flag.
static BITS_16: Layout = Layout {
    min_limit: 0x2b,
    word: 2,
    registers_at: 0x0e,
    segments: 4,
    ldt_at: 0x2a,
    cr3_at: None,
    trap_at: None,
};

/// The selectors that a TSS holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selectors {
    /// By the numbers of `SegmentRegister`; 0 for those that it doesn't hold.
    pub segments: [u16; 6],
    pub ldt: u16,
}

impl Layout {
    /// By the type in a TSS descriptor, available or busy; `None` if it is
    /// no TSS.
    pub fn of(rights: AccessRights) -> Option<&'static Self> {
        match (rights.s(), rights.segment_type()) {
            (false, 1 | 3) => Some(&BITS_16),
            (false, 9 | 11) => Some(&BITS_32),
            _ => None,
        }
    }

    pub fn read<M: PhysMem>(&self, linear: &mut Linear<'_, M>, base: u64) -> Result<Image, Fault> {
        let mut image = [0; MAX_SIZE];
        linear.read(base, &mut image[..=self.min_limit as usize])?;
        Ok(image)
    }

    /// Writes the saved part of a TSS.
    pub fn save<M: PhysMem>(
        &self,
        linear: &mut Linear<'_, M>,
        base: u64,
        state: &TaskState,
    ) -> Result<(), Fault> {
        let mut image = [0; MAX_SIZE];
        let mut values = image.chunks_exact_mut(self.word);
        let mut put = |value: u64| {
            if let Some(place) = values.next() {
                place.copy_from_slice(&value.to_le_bytes()[..self.word]);
            }
        };
        put(state.rip);
        put(state.rflags);
        for register in &Gpr::ALL[..8] {
            put(state.gprs[*register]);
        }
        for segment in &state.segments[..self.segments] {
            put(segment.selector.into());
        }
        let count = 2 + 8 + self.segments;
        linear.write(
            base.wrapping_add(self.registers_at as u64),
            &image[..count * self.word],
        )
    }

    /// The new task's registers. Segments have their selectors, and nothing
    /// behind them yet; CR3, DR7 and TR are the old task's.
    pub fn load(&self, image: &Image, old: &TaskState) -> TaskState {
        let mut gprs = Gprs::default();
        for (n, register) in Gpr::ALL[..8].iter().enumerate() {
            gprs[*register] = self.register(image, 2 + n);
        }
        let selectors = self.selectors(image);
        TaskState {
            gprs,
            rip: self.register(image, 0),
            rflags: self.register(image, 1),
            segments: selectors.segments.map(Segment::unusable),
            ldtr: Segment::unusable(selectors.ldt),
            ..*old
        }
    }

    pub fn selectors(&self, image: &Image) -> Selectors {
        let mut segments = [0; 6];
        for (n, selector) in segments[..self.segments].iter_mut().enumerate() {
            *selector = self.register(image, 10 + n) as u16;
        }
        Selectors {
            segments,
            ldt: word(image, self.ldt_at, 2) as u16,
        }
    }

    pub fn cr3(&self, image: &Image) -> Option<u64> {
        self.cr3_at.map(|at| word(image, at, 4))
    }

    pub fn debug_trap(&self, image: &Image) -> bool {
        self.trap_at.is_some_and(|at| image[at] & 1 != 0)
    }

    fn register(&self, image: &Image, n: usize) -> u64 {
        word(image, self.registers_at + n * self.word, self.word)
    }
}

/// A little-endian number of `len` bytes; 0 outside the image.
fn word(image: &Image, at: usize, len: usize) -> u64 {
    let mut bytes = [0; 8];
    if let (Some(from), Some(into)) = (image.get(at..at + len), bytes.get_mut(..len)) {
        into.copy_from_slice(from);
    }
    u64::from_le_bytes(bytes)
}
