//! The hypercalls' numbers and results.
//!
//! The hypervisor decodes EAX with [`Hypercall::from_command`]; guest programs
//! take the number of a call from [`Hypercall::command`].

/// A command that a guest may ask for with `VMCALL`.
///
/// The numbers are TrustVisor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hypercall {
    /// Register a piece of application logic (PAL).
    /// CX = sections, DX = 0, SI = parameters, DI = entry address.
    Register = 1,
    /// Give a PAL's pages back to the guest. CX = entry address.
    Unregister = 2,
    /// Seal in the form of the original tee-sdk, kept for its number only.
    SealDeprecated = 3,
    /// Unseal in the form of the original tee-sdk, kept for its number only.
    UnsealDeprecated = 4,
    /// Quote in the form of the original tee-sdk, kept for its number only.
    QuoteDeprecated = 5,
    /// Lend pages to a PAL for one call.
    /// CX = entry address, DX = addresses, SI = lengths, DI = count.
    Share = 6,
    /// Read a PCR. CX = index, DX = 20-byte buffer.
    PcrRead = 7,
    /// Extend a PCR. CX = index, DX = 20-byte measurement.
    PcrExtend = 8,
    /// Random bytes. CX = destination, DX = length in and out.
    GenerateRandom = 9,
    /// Seal data to PCR values.
    Seal = 10,
    /// Unseal what [`Hypercall::Seal`] gave.
    Unseal = 11,
    /// Sign PCR values and a nonce.
    Quote = 12,
    /// The public key that checks a quote. CX = destination, DX = length.
    IdentityPublicKey = 13,
    /// Size of the NV storage.
    NvramGetSize = 21,
    /// Read the NV storage.
    NvramReadAll = 22,
    /// Write the NV storage.
    NvramWriteAll = 23,
    /// Logs CX and succeeds: the smallest round trip there is.
    Test = 255,
}

impl Hypercall {
    /// Every hypercall, in the order of the numbers.
    pub const ALL: [Self; 17] = [
        Self::Register,
        Self::Unregister,
        Self::SealDeprecated,
        Self::UnsealDeprecated,
        Self::QuoteDeprecated,
        Self::Share,
        Self::PcrRead,
        Self::PcrExtend,
        Self::GenerateRandom,
        Self::Seal,
        Self::Unseal,
        Self::Quote,
        Self::IdentityPublicKey,
        Self::NvramGetSize,
        Self::NvramReadAll,
        Self::NvramWriteAll,
        Self::Test,
    ];

    /// The number that a caller puts in EAX.
    pub const fn command(self) -> u32 {
        self as u32
    }

    /// The hypercall that EAX names, or `None` for a number without one.
    pub const fn from_command(command: u32) -> Option<Self> {
        // A match, not a search in ALL: this is on the path of every VMCALL.
        Some(match command {
            1 => Self::Register,
            2 => Self::Unregister,
            3 => Self::SealDeprecated,
            4 => Self::UnsealDeprecated,
            5 => Self::QuoteDeprecated,
            6 => Self::Share,
            7 => Self::PcrRead,
            8 => Self::PcrExtend,
            9 => Self::GenerateRandom,
            10 => Self::Seal,
            11 => Self::Unseal,
            12 => Self::Quote,
            13 => Self::IdentityPublicKey,
            21 => Self::NvramGetSize,
            22 => Self::NvramReadAll,
            23 => Self::NvramWriteAll,
            255 => Self::Test,
            _ => return None,
        })
    }
}

/// What a hypercall answers in RAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HypercallResult {
    /// It was done.
    Success = 0,
    /// It was refused, and nothing changed. Unknown commands answer this too.
    Failure = 1,
    /// Micro-TPM: the PCR's index is out of range.
    PcrOutOfRange = 2,
    /// Micro-TPM: not enough entropy was available.
    InsufficientEntropy = 3,
    /// Micro-TPM: any other error.
    TpmError = 4,
}

impl HypercallResult {
    /// The value for RAX.
    pub const fn code(self) -> u64 {
        self as u64
    }

    /// The result that RAX holds, or `None` for a value that no call answers.
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::Failure,
            2 => Self::PcrOutOfRange,
            3 => Self::InsufficientEntropy,
            4 => Self::TpmError,
            _ => return None,
        })
    }
}

/// Hypercalls that only an image built with its `test-hooks` feature answers.
///
/// They provoke what a healthy hypervisor never does, and give benchmarks
/// something to measure. An image without the feature treats their numbers as
/// any unknown command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TestHook {
    /// Panic in the hypervisor.
    Panic = TestHook::BASE,
    /// Read an address in VMX root operation that no page maps.
    HostPageFault = TestHook::BASE + 1,
    /// Execute `UD2` in VMX root operation.
    HostInvalidOpcode = TestHook::BASE + 2,
    /// The hypervisor's memory: RCX = first address, RDX = first one after it.
    HypervisorRange = TestHook::BASE + 3,
    /// Stop every other CPU and let it go again. RAX = 0; RCX = ticks of the
    /// time-stamp counter from the request until all are stopped, RDX = ticks
    /// until all are released.
    QuiesceRound = TestHook::BASE + 4,
    /// Owe this CPU's guest one NMI.
    OweNmi = TestHook::BASE + 5,
    /// Exits counted on this CPU since its start, in RAX.
    ExitCount = TestHook::BASE + 6,
    /// The next NMI of this CPU's guest is used up for landing another one on an
    /// instruction of the VM-entry sequence: RCX = its byte, counted from shortly
    /// before the sequence. RAX = 0; RCX = how many such aims have hit an
    /// instruction so far, RDX = the byte where VMRESUME is.
    AimNmi = TestHook::BASE + 7,
    /// RCX = ticks of the time-stamp counter that measuring the last PAL that was
    /// registered took. RAX = 0.
    MeasuringTicks = TestHook::BASE + 8,
}

impl TestHook {
    /// The first number of the range that is kept for test hooks.
    pub const BASE: u32 = 0x5350_0000;

    /// Every test hook, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::Panic,
        Self::HostPageFault,
        Self::HostInvalidOpcode,
        Self::HypervisorRange,
        Self::QuiesceRound,
        Self::OweNmi,
        Self::ExitCount,
        Self::AimNmi,
        Self::MeasuringTicks,
    ];

    /// The number that a caller puts in EAX.
    pub const fn command(self) -> u32 {
        self as u32
    }

    /// The test hook that EAX names.
    pub fn from_command(command: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.command() == command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_decodes_to_itself() {
        for call in Hypercall::ALL {
            assert_eq!(Hypercall::from_command(call.command()), Some(call));
        }
        for hook in TestHook::ALL {
            assert_eq!(TestHook::from_command(hook.command()), Some(hook));
            assert_eq!(Hypercall::from_command(hook.command()), None);
        }
    }

    #[test]
    fn no_other_command_decodes() {
        let known = (0..=0x1_0000).filter(|&c| Hypercall::from_command(c).is_some());
        assert_eq!(known.count(), Hypercall::ALL.len());
        assert_eq!(TestHook::from_command(TestHook::BASE - 1), None);
    }

    #[test]
    fn the_numbers_are_trustvisors() {
        assert_eq!(Hypercall::Register.command(), 1);
        assert_eq!(Hypercall::Share.command(), 6);
        assert_eq!(Hypercall::IdentityPublicKey.command(), 13);
        assert_eq!(Hypercall::NvramWriteAll.command(), 23);
        assert_eq!(Hypercall::Test.command(), 255);
    }

    #[test]
    fn results_round_trip() {
        for code in 0..5 {
            assert_eq!(
                HypercallResult::from_code(code).map(HypercallResult::code),
                Some(code)
            );
        }
        assert_eq!(HypercallResult::from_code(5), None);
        assert_eq!(HypercallResult::from_code(1 << 32), None);
    }
}
