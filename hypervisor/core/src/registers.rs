//! General-purpose registers as the exit stub saves them.
//!
//! Indexed by the numbers that instruction encodings, exit qualifications and
//! VM-exit instruction information use, so that a decoded register number
//! needs no further table.

/// The number of a general-purpose register in an instruction's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Gpr {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Gpr {
    /// Every register, in the order of the numbers.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with this number; only the low four bits count.
    pub const fn from_number(number: u8) -> Self {
        Self::ALL[(number & 15) as usize]
    }
}

/// The sixteen general-purpose registers, in the order of their numbers.
///
/// While the guest runs, RSP is in the VMCS: who copies it in and out is the
/// hypervisor's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Gprs([u64; 16]);

impl Gprs {
    /// Registers with these values, in the order of [`Gpr::ALL`].
    pub const fn new(values: [u64; 16]) -> Self {
        Self(values)
    }

    /// The values, in the order of [`Gpr::ALL`].
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
    fn numbers_and_names_agree() {
        for (number, register) in Gpr::ALL.into_iter().enumerate() {
            assert_eq!(register as usize, number);
            assert_eq!(Gpr::from_number(number as u8), register);
        }
    }

    #[test]
    fn each_register_has_its_own_place() {
        let mut gprs = Gprs::default();
        for register in Gpr::ALL {
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
