//! Which VMCS fields the processor has.
//!
//! Asking for one that it lacks leaves error 12 in the VMCS, over the error of a VM
//! entry that failed. So [`setup`](super::setup) tries all of them once, on a VMCS that
//! no guest runs by, and [`Current`](super::instructions::Current) never asks in vain.

use spin::Once;
use vmcs_inspect::Field;

use super::instructions::vmread;

const WORDS: usize = Field::COUNT.div_ceil(64);

/// A bit for each field, by its place among [`Field::all`].
static PRESENT: Once<[u64; WORDS]> = Once::new();

/// Tries every field. The current VMCS is one that no guest runs by.
pub fn probe() {
    PRESENT.call_once(|| {
        let mut present = [0; WORDS];
        for (index, info) in Field::all().iter().enumerate() {
            if vmread(info.field).is_ok() {
                present[index / 64] |= 1 << (index % 64);
            }
        }
        present
    });
}

/// Whether the processor has `field`. All processors of a machine are taken to be alike.
pub fn has(field: Field) -> bool {
    let index = field.index();
    PRESENT
        .get()
        .is_some_and(|present| present[index / 64] & 1 << (index % 64) != 0)
}
