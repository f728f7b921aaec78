//! Hardware breakpoints and watchpoints: four debug registers shared among requests.
//!
//! A watched range may take several registers, for each watches 1, 2, 4 or 8 bytes
//! at an address aligned to that length (Intel SDM, order number 325462-081US,
//! September 2023, volume 3, section 18.2.5 "Breakpoint Field Recognition").

use crate::machine::{HardwareBreakpoint, HardwareBreakpoints, WatchCondition};

/// What the client asked for, before it is cut to the registers' shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Linear address of the first byte.
    pub address: u64,
    /// Bytes watched; 1 for execution.
    pub length: u64,
    /// What triggers it.
    pub condition: WatchCondition,
}

/// The debug registers are all in use, or the range takes more than are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFreeRegister;

/// The client's hardware breakpoints, and the registers that they take.
pub struct HardwareTable {
    /// Which request each register belongs to, and its part of it.
    slots: [Option<(Request, HardwareBreakpoint)>; 4],
    /// What the machine was told last.
    applied: HardwareBreakpoints,
}

impl HardwareTable {
    /// None.
    pub const fn new() -> Self {
        Self {
            slots: [None; 4],
            applied: HardwareBreakpoints { slots: [None; 4] },
        }
    }

    /// Takes registers for a request. Repeating a request changes nothing.
    pub fn insert(&mut self, request: Request) -> Result<(), NoFreeRegister> {
        if self
            .slots
            .iter()
            .flatten()
            .any(|(owner, _)| *owner == request)
        {
            return Ok(());
        }
        let mut slots = self.slots;
        let mut address = request.address;
        let mut rest = request.length;
        while rest > 0 {
            let length = largest_part(address, rest);
            let slot = slots
                .iter_mut()
                .find(|slot| slot.is_none())
                .ok_or(NoFreeRegister)?;
            let part = HardwareBreakpoint {
                address,
                length,
                condition: request.condition,
            };
            *slot = Some((request, part));
            address = address.wrapping_add(u64::from(length));
            rest -= u64::from(length);
        }
        self.slots = slots;
        Ok(())
    }

    /// Gives the registers of a request back. False if there is no such request.
    pub fn remove(&mut self, request: Request) -> bool {
        let mut found = false;
        for slot in &mut self.slots {
            if slot.is_some_and(|(owner, _)| owner == request) {
                *slot = None;
                found = true;
            }
        }
        found
    }

    /// Gives all registers back.
    pub fn clear(&mut self) {
        self.slots = [None; 4];
    }

    /// What the debug registers should hold, if the machine does not know yet.
    ///
    /// The client takes its breakpoints out at each stop and puts them back; only
    /// what differs when the machine moves again costs a round through all CPUs.
    pub fn take_change(&mut self) -> Option<HardwareBreakpoints> {
        let plan = HardwareBreakpoints {
            slots: self.slots.map(|slot| Some(slot?.1)),
        };
        (plan != self.applied).then(|| {
            self.applied = plan;
            plan
        })
    }

    /// The request behind a register that the machine reports as hit, with the
    /// register's own part of it. The registers are as they were applied.
    pub fn hit(&self, slot: u8) -> Option<HardwareBreakpoint> {
        self.applied.slots.get(usize::from(slot)).copied().flatten()
    }

    /// The register that watches for execution at this address.
    pub fn executing_at(&self, address: u64) -> Option<(u8, HardwareBreakpoint)> {
        (0_u8..).zip(self.slots).find_map(|(n, slot)| {
            let (_, part) = slot?;
            (part.address == address && part.condition == WatchCondition::Execute)
                .then_some((n, part))
        })
    }

    /// The registers in use, with their number.
    pub fn iter(&self) -> impl Iterator<Item = (usize, HardwareBreakpoint)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(n, slot)| Some((n, (*slot)?.1)))
    }
}

/// The longest stretch that one register can watch from `address`, at most `rest` bytes.
fn largest_part(address: u64, rest: u64) -> u8 {
    [8_u8, 4, 2]
        .into_iter()
        .find(|&length| address.is_multiple_of(length.into()) && u64::from(length) <= rest)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn write(address: u64, length: u64) -> Request {
        Request {
            address,
            length,
            condition: WatchCondition::Write,
        }
    }

    fn parts(table: &HardwareTable) -> Vec<(u64, u8)> {
        table
            .iter()
            .map(|(_, part)| (part.address, part.length))
            .collect()
    }

    #[test]
    fn an_unaligned_range_takes_aligned_registers() {
        let mut table = HardwareTable::new();
        table.insert(write(0x1003, 6)).unwrap();
        assert_eq!(parts(&table), [(0x1003, 1), (0x1004, 4), (0x1008, 1)]);
        assert_eq!(table.insert(write(0x2001, 2)), Err(NoFreeRegister));
        assert_eq!(
            parts(&table).len(),
            3,
            "a request that does not fit takes nothing"
        );
        assert!(table.remove(write(0x1003, 6)));
        assert!(parts(&table).is_empty());
    }

    #[test]
    fn a_fifth_breakpoint_has_no_register() {
        let mut table = HardwareTable::new();
        for address in 0..4 {
            table.insert(write(address, 1)).unwrap();
        }
        assert_eq!(table.insert(write(4, 1)), Err(NoFreeRegister));
        assert_eq!(table.insert(write(3, 1)), Ok(()), "it is there already");
    }

    #[test]
    fn only_a_change_is_told_to_the_machine() {
        let mut table = HardwareTable::new();
        assert_eq!(table.take_change(), None);
        table.insert(write(8, 8)).unwrap();
        assert!(table.take_change().is_some());
        table.remove(write(8, 8));
        table.insert(write(8, 8)).unwrap();
        assert_eq!(table.take_change(), None);
        assert_eq!(table.hit(0).unwrap().address, 8);
        table.clear();
        assert!(table.take_change().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn parts_cover_the_range_and_nothing_else(address in any::<u64>(), length in 0_u64..40) {
            let mut table = HardwareTable::new();
            let address = address.min(u64::MAX - 64);
            if table.insert(write(address, length)).is_ok() {
                let mut next = address;
                for (start, length) in parts(&table) {
                    prop_assert_eq!(start, next);
                    prop_assert!(start.is_multiple_of(length.into()));
                    next += u64::from(length);
                }
                prop_assert_eq!(next, address + length);
            }
        }
    }
}
