//! All fields of a VMCS at one moment.
//!
//! A snapshot stands for a CPU that is parked and cannot be asked, and is what
//! `monitor vmcs diff` compares with. It has a fixed size, about 1.7 KB, and needs no
//! allocation: keep it in static storage, and fill it in place.

use crate::{Field, VmcsAccess, VmcsError};

const WORDS: usize = Field::COUNT.div_ceil(64);

/// The value of every field that a processor has, at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct VmcsSnapshot {
    values: [u64; Field::COUNT],
    present: [u64; WORDS],
}

/// A field that differs between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field.
    pub field: Field,
    /// Its value in the earlier snapshot, if it was there.
    pub before: Option<u64>,
    /// Its value in the later snapshot, if it is there.
    pub after: Option<u64>,
}

impl VmcsSnapshot {
    /// A snapshot without any field.
    pub const fn empty() -> VmcsSnapshot {
        VmcsSnapshot {
            values: [0; Field::COUNT],
            present: [0; WORDS],
        }
    }

    /// Whether no field is there: nothing was captured.
    pub fn is_empty(&self) -> bool {
        self.present.iter().all(|word| *word == 0)
    }

    /// Reads every field into this snapshot; those that the processor does not have are
    /// left out.
    ///
    /// # Errors
    /// Any other error of `vmcs` ends the capture; the snapshot is then empty.
    pub fn capture(&mut self, vmcs: &mut (impl VmcsAccess + ?Sized)) -> Result<(), VmcsError> {
        self.present = [0; WORDS];
        for info in Field::all() {
            match vmcs.read(info.field) {
                Ok(value) => self.set(info.field, value),
                Err(VmcsError::Unsupported(_)) => {}
                Err(error) => {
                    self.present = [0; WORDS];
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The field's value; `None` if the processor does not have the field.
    pub fn get(&self, field: Field) -> Option<u64> {
        let index = field.index();
        let present = self.present[index / 64] & (1 << (index % 64)) != 0;
        present.then(|| self.values[index])
    }

    /// Sets the field's value.
    pub fn set(&mut self, field: Field, value: u64) {
        let index = field.index();
        self.values[index] = value;
        self.present[index / 64] |= 1 << (index % 64);
    }

    /// The fields that differ between this snapshot and a `later` one, in order of
    /// encoding.
    pub fn changes<'a>(&'a self, later: &'a VmcsSnapshot) -> impl Iterator<Item = Change> + 'a {
        Field::all().iter().filter_map(|info| {
            let change = Change {
                field: info.field,
                before: self.get(info.field),
                after: later.get(info.field),
            };
            (change.before != change.after).then_some(change)
        })
    }
}

impl Default for VmcsSnapshot {
    fn default() -> Self {
        Self::empty()
    }
}

impl core::fmt::Debug for VmcsSnapshot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let fields = Field::all()
            .iter()
            .filter_map(|info| Some((info.name, self.get(info.field)?)));
        f.debug_map().entries(fields).finish()
    }
}

/// A snapshot can be read as the VMCS that it was taken of, but not written.
impl VmcsAccess for &VmcsSnapshot {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        if self.is_empty() {
            return Err(VmcsError::Unavailable);
        }
        self.get(field).ok_or(VmcsError::Unsupported(field))
    }

    fn write(&mut self, _: Field, _: u64) -> Result<(), VmcsError> {
        Err(VmcsError::Unavailable)
    }
}

/// As for `&VmcsSnapshot`.
impl VmcsAccess for VmcsSnapshot {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        VmcsAccess::read(&mut &*self, field)
    }

    fn write(&mut self, field: Field, value: u64) -> Result<(), VmcsError> {
        VmcsAccess::write(&mut &*self, field, value)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::fake::FakeVmcs;

    #[test]
    fn a_capture_holds_what_the_vmcs_held() {
        let mut vmcs = FakeVmcs::zeroed();
        for info in Field::all() {
            vmcs.set(info.field, u64::from(info.field.encoding()));
        }
        vmcs.remove(Field::PML_ADDRESS);
        let mut snapshot = VmcsSnapshot::empty();
        snapshot.capture(&mut vmcs).unwrap();
        for info in Field::all() {
            let captured = VmcsAccess::read(&mut snapshot, info.field);
            assert_eq!(captured, vmcs.read(info.field), "{}", info.name);
        }
        assert!(snapshot.write(Field::GUEST_RIP, 0).is_err());
    }

    #[test]
    fn an_unreadable_vmcs_leaves_an_empty_snapshot() {
        let mut vmcs = FakeVmcs::zeroed();
        let mut snapshot = VmcsSnapshot::empty();
        snapshot.capture(&mut vmcs).unwrap();
        vmcs.fail_with(Some(VmcsError::NoCurrentVmcs));
        assert_eq!(snapshot.capture(&mut vmcs), Err(VmcsError::NoCurrentVmcs));
        assert!(snapshot.is_empty());
        assert_eq!(
            VmcsAccess::read(&mut snapshot, Field::VPID),
            Err(VmcsError::Unavailable)
        );
    }

    #[test]
    fn changes_are_found_both_ways() {
        let mut before = VmcsSnapshot::empty();
        before.set(Field::GUEST_RIP, 1);
        before.set(Field::GUEST_RSP, 2);
        before.set(Field::VPID, 3);
        let mut after = before.clone();
        after.set(Field::GUEST_RIP, 9);
        after.set(Field::GUEST_CR0, 0);
        let changes: Vec<Change> = before.changes(&after).collect();
        let change = |field, before, after| Change {
            field,
            before,
            after,
        };
        assert_eq!(
            changes,
            [
                change(Field::GUEST_CR0, None, Some(0)),
                change(Field::GUEST_RIP, Some(1), Some(9)),
            ]
        );
    }

    #[test]
    fn the_size_is_as_documented() {
        assert!(core::mem::size_of::<VmcsSnapshot>() < 1800);
    }
}
