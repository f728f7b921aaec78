//! Exit qualifications of memory accesses: EPT violations and accesses to the
//! APIC-access page.
//!
//! Source: Intel SDM, vol. 3, section 28.2.1, "Basic VM-Exit Information".

use core::fmt;

use super::access::raw_qualification;
use crate::bits::named_bits;

named_bits! {
    /// The exit qualification of an EPT violation.
    ///
    /// Bits 3 to 6 are what the EPT entries allowed, bits 0 to 2 what was tried; bits 9 to
    /// 11 hold only where the processor has advanced VM-exit information for EPT violations.
    pub struct EptViolation: u64 {
        READ = 0, "read";
        WRITE = 1, "write";
        FETCH = 2, "instruction fetch";
        READABLE = 3, "readable";
        WRITABLE = 4, "writable";
        EXECUTABLE = 5, "executable";
        USER_EXECUTABLE = 6, "user-mode executable";
        LINEAR_ADDRESS_VALID = 7, "linear address valid";
        TRANSLATED = 8, "translation of a linear address";
        USER_MODE_ADDRESS = 9, "user-mode linear address";
        PAGE_WRITABLE = 10, "read/write page";
        PAGE_EXECUTE_DISABLE = 11, "execute-disable page";
        NMI_UNBLOCKING_DUE_TO_IRET = 12, "NMI unblocking due to IRET";
        SHADOW_STACK = 13, "shadow-stack access";
        SUPERVISOR_SHADOW_STACK = 14, "supervisor shadow-stack page";
        GUEST_PAGING_VERIFICATION = 15, "guest-paging verification";
        ASYNCHRONOUS = 16, "asynchronous";
    }
}

impl EptViolation {
    /// The exit qualification with this value.
    pub const fn from_raw(value: u64) -> EptViolation {
        EptViolation::from_bits_retain(value)
    }
}

raw_qualification! {
    /// The exit qualification of an access to the APIC-access page.
    pub struct ApicAccess;
}

/// How the APIC-access page was accessed: bits 15:12 of the exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicAccessType {
    /// 0: a linear access for a data read by an instruction.
    LinearRead,
    /// 1: a linear access for a data write by an instruction.
    LinearWrite,
    /// 2: a linear access for an instruction fetch.
    LinearFetch,
    /// 3: a linear access during event delivery.
    LinearDelivery,
    /// 4: a linear access for monitoring.
    LinearMonitoring,
    /// 10: a guest-physical access during event delivery.
    PhysicalDelivery,
    /// 11: a guest-physical access for monitoring or trace.
    PhysicalMonitoring,
    /// 15: a guest-physical access for an instruction's fetch or execution.
    PhysicalInstruction,
    /// A number that the SDM does not define.
    Unknown(u8),
}

impl ApicAccess {
    /// Bits 11:0, the offset within the page; undefined for guest-physical accesses.
    pub const fn offset(self) -> u16 {
        (self.0 & 0xfff) as u16
    }

    /// Bits 15:12, the kind of access.
    pub const fn access_type(self) -> ApicAccessType {
        match (self.0 >> 12) & 0xf {
            0 => ApicAccessType::LinearRead,
            1 => ApicAccessType::LinearWrite,
            2 => ApicAccessType::LinearFetch,
            3 => ApicAccessType::LinearDelivery,
            4 => ApicAccessType::LinearMonitoring,
            10 => ApicAccessType::PhysicalDelivery,
            11 => ApicAccessType::PhysicalMonitoring,
            15 => ApicAccessType::PhysicalInstruction,
            unknown => ApicAccessType::Unknown(unknown as u8),
        }
    }
}

impl fmt::Display for ApicAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let linear = match self.access_type() {
            ApicAccessType::LinearRead => "read",
            ApicAccessType::LinearWrite => "write",
            ApicAccessType::LinearFetch => "instruction fetch",
            ApicAccessType::LinearDelivery => "event delivery",
            ApicAccessType::LinearMonitoring => "monitoring",
            // The offset is undefined for these.
            ApicAccessType::PhysicalDelivery => {
                return f.write_str("guest-physical access by event delivery");
            }
            ApicAccessType::PhysicalMonitoring => {
                return f.write_str("guest-physical access by monitoring");
            }
            ApicAccessType::PhysicalInstruction => {
                return f.write_str("guest-physical access by an instruction");
            }
            ApicAccessType::Unknown(number) => return write!(f, "unknown access {number}"),
        };
        write!(f, "{linear} at APIC offset {:#x}", self.offset())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn ept_violations() {
        assert_eq!(
            EptViolation::from_raw(0x182).to_string(),
            "write, linear address valid, translation of a linear address"
        );
        assert_eq!(
            EptViolation::from_raw(0x182b).to_string(),
            "read, write, readable, executable, execute-disable page, NMI unblocking due to IRET"
        );
    }

    #[test]
    fn apic_accesses() {
        let cases = [
            (0x0020, "read at APIC offset 0x20"),
            (0x1300, "write at APIC offset 0x300"),
            (0x2000, "instruction fetch at APIC offset 0x0"),
            (0x30b0, "event delivery at APIC offset 0xb0"),
            (0xa000, "guest-physical access by event delivery"),
            (0xf123, "guest-physical access by an instruction"),
            (0x5000, "unknown access 5"),
        ];
        for (raw, text) in cases {
            assert_eq!(ApicAccess::from_raw(raw).to_string(), text);
        }
    }
}
