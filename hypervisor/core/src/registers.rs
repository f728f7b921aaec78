//! General-purpose registers as the exit stub saves them.
//!
//! Indexed by the numbers that instruction encodings, exit qualifications and
//! VM-exit instruction information use, so that a decoded register number
//! needs no further table.

pub use vmcs_inspect::Gpr;

/// The sixteen general-purpose registers, in the order of their numbers.
///
/// While the guest runs, RSP is in the VMCS: who copies it in and out is the
/// hypervisor's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Gprs([u64; 16]);

impl Gprs {
    /// Registers with these values, in the order of the numbers.
    pub const fn new(values: [u64; 16]) -> Self {
        Self(values)
    }

    /// The values, in the order of the numbers.
    pub const fn values(&self) -> &[u64; 16] {
        &self.0
    }
}

impl core::ops::Index<Gpr> for Gprs {
    type Output = u64;

    fn index(&self, register: Gpr) -> &u64 {
        &self.0[register as usize]
    }
}

impl core::ops::IndexMut<Gpr> for Gprs {
    fn index_mut(&mut self, register: Gpr) -> &mut u64 {
        &mut self.0[register as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_has_its_own_place() {
        let mut gprs = Gprs::default();
        for &register in Gpr::ALL {
            gprs[register] = register as u64 + 100;
        }
        assert!(
            gprs.values()
                .iter()
                .zip(100..)
                .all(|(&value, expected)| value == expected)
        );
    }
}
