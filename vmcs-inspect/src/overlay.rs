//! A VMCS with some fields thought otherwise, to see what a write would do before
//! it is done. Used by `monitor vmcs set` and by whoever edits registers.

use crate::{Field, VmcsAccess, VmcsError};

/// A VMCS whose fields in `changes` read as the values given there.
#[derive(Debug)]
pub struct Overlay<'a, V: ?Sized> {
    inner: &'a mut V,
    changes: &'a [(Field, u64)],
}

impl<'a, V: VmcsAccess + ?Sized> Overlay<'a, V> {
    /// `inner` as if each field of `changes` had the value beside it. If a field comes
    /// twice, the last one counts.
    pub fn new(inner: &'a mut V, changes: &'a [(Field, u64)]) -> Self {
        Overlay { inner, changes }
    }
}

impl<V: VmcsAccess + ?Sized> VmcsAccess for Overlay<'_, V> {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        // The inner VMCS is asked first: a field that the processor does not have
        // stays without a value.
        let value = self.inner.read(field)?;
        let changed = self.changes.iter().rev().find(|(f, _)| *f == field);
        Ok(changed.map_or(value, |(_, new)| *new))
    }

    /// Writes nothing: an overlay is for looking.
    fn write(&mut self, _: Field, _: u64) -> Result<(), VmcsError> {
        Err(VmcsError::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeVmcs;

    #[test]
    fn changes_are_seen_and_nothing_is_written() {
        let mut vmcs = FakeVmcs::zeroed();
        vmcs.remove(Field::VPID);
        let changes = [
            (Field::GUEST_RIP, 7),
            (Field::VPID, 1),
            (Field::GUEST_RIP, 8),
        ];
        let mut overlay = Overlay::new(&mut vmcs, &changes);
        assert_eq!(overlay.read(Field::GUEST_RIP), Ok(8));
        assert_eq!(overlay.read(Field::GUEST_RSP), Ok(0));
        assert_eq!(
            overlay.read(Field::VPID),
            Err(VmcsError::Unsupported(Field::VPID))
        );
        assert!(overlay.write(Field::GUEST_RSP, 1).is_err());
        assert_eq!(vmcs.read(Field::GUEST_RIP), Ok(0));
    }
}
