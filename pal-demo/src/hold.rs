//! Vector and x87 state held in the registers across VM exits.
//!
//! `xmm_hold` fills a [`State`] with a pattern, and [`State::hold`] loads all
//! of it, provokes exits with nothing but the exits in between, and stores
//! what is there then. A hypervisor that touches the guest's registers on any
//! path shows up as a [`Difference`].

use core::arch::naked_asm;
use core::fmt;

/// How many vector registers 64-bit code has without AVX-512.
const VECTORS: usize = 16;

/// How many registers the x87 stack has.
const X87_REGISTERS: usize = 8;

/// Which vector registers the program holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// XMM0-15: the low 128 bits.
    Xmm,
    /// YMM0-15: all 256 bits.
    Ymm,
}

impl Vectors {
    /// The widest that the processor has and the kernel saves.
    #[must_use]
    pub fn widest() -> Self {
        // The macro looks at XCR0 too, as it must (Intel SDM vol. 1, ch. 14,
        // Detection of Intel AVX instructions).
        if std::arch::is_x86_feature_detected!("avx") {
            Self::Ymm
        } else {
            Self::Xmm
        }
    }

    /// Bytes of each register that are held and compared.
    fn width(self) -> usize {
        match self {
            Self::Xmm => 16,
            Self::Ymm => 32,
        }
    }
}

/// What provokes the exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID, which exits on every hypervisor.
    Cpuid,
    /// CPUID and the TEST hypercall, in turn.
    CpuidAndVmcall,
}

/// The registers that are held. The naked functions below know the offsets.
#[repr(C, align(32))]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    vectors: [[u8; 32]; VECTORS],
    /// ST(0) first; each the 80-bit format in the low 10 bytes.
    x87: [[u8; 16]; X87_REGISTERS],
    mxcsr: u32,
    x87_control: u32,
}

const _: () = assert!(
    core::mem::offset_of!(State, x87) == 512
        && core::mem::offset_of!(State, mxcsr) == 640
        && core::mem::offset_of!(State, x87_control) == 644
);

/// The first register that was not as it had been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A vector register: its number, and the first byte that differs.
    Vector {
        /// 0 to 15.
        register: usize,
        /// 0 (lowest) to 31.
        byte: usize,
    },
    /// An x87 register, by its place on the stack.
    X87(usize),
    /// MXCSR: what was loaded and what was found.
    Mxcsr(u32, u32),
    /// The x87 control word: what was loaded and what was found.
    X87Control(u32, u32),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector { register, byte } if *byte < 16 => {
                write!(f, "xmm{register} differs at byte {byte}")
            }
            Self::Vector { register, byte } => {
                write!(f, "upper half of ymm{register} differs at byte {byte}")
            }
            Self::X87(register) => write!(f, "st({register}) differs"),
            Self::Mxcsr(loaded, found) => write!(f, "mxcsr is {found:#x}, was {loaded:#x}"),
            Self::X87Control(loaded, found) => {
                write!(f, "x87 control word is {found:#x}, was {loaded:#x}")
            }
        }
    }
}

impl State {
    /// A state in which no two registers are alike; another `seed`, another state.
    #[must_use]
    pub fn pattern(seed: u64) -> Self {
        let mut sequence = seed;
        let mut next = move || {
            sequence = crate::lcg::walk(sequence, 1);
            sequence
        };
        let mut state = Self {
            vectors: [[0; 32]; VECTORS],
            x87: [[0; 16]; X87_REGISTERS],
            // Every rounding mode in turn; exceptions masked, FTZ off.
            mxcsr: 0x1f80 | ((seed as u32 & 3) << 13),
            // Extended precision, or loading would not be exact everywhere.
            x87_control: 0x037f | ((seed as u32 >> 2 & 3) << 10),
        };
        for bytes in state.vectors.iter_mut().flat_map(|v| v.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&next().to_le_bytes());
        }
        for register in &mut state.x87 {
            // A normal number (explicit integer bit, middling exponent), so
            // that FLD and FSTP move it unchanged.
            register[..8].copy_from_slice(&(next() | 1 << 63).to_le_bytes());
            register[8..10].copy_from_slice(&(0x3fff_u16 + (next() >> 58) as u16).to_le_bytes());
        }
        state
    }

    /// Loads this state, provokes `rounds` exits of each kind, and returns the
    /// registers as they are then. The caller's own are as before.
    ///
    /// [`Vectors::Ymm`] must come from [`Vectors::widest`], and
    /// [`Exit::CpuidAndVmcall`] from a successful detection; else the program
    /// ends with SIGILL.
    #[must_use]
    pub fn hold(&self, vectors: Vectors, exit: Exit, rounds: u64) -> Self {
        let mut found = Self {
            vectors: [[0; 32]; VECTORS],
            x87: [[0; 16]; X87_REGISTERS],
            mxcsr: 0,
            x87_control: 0,
        };
        let vmcall = u64::from(exit == Exit::CpuidAndVmcall);
        // SAFETY: both functions read one State, write one State, use RSP as
        // any C function does, and restore what the C calling convention says
        // is the caller's. `rounds` is at least 1, as their loop expects.
        unsafe {
            match vectors {
                Vectors::Xmm => hold_xmm(self, &mut found, rounds.max(1), vmcall),
                Vectors::Ymm => hold_ymm(self, &mut found, rounds.max(1), vmcall),
            }
        }
        found
    }

    /// The first register of `found` that is not as in this state.
    #[must_use]
    pub fn difference(&self, found: &Self, vectors: Vectors) -> Option<Difference> {
        for (register, (loaded, found)) in self.vectors.iter().zip(&found.vectors).enumerate() {
            let differs = |&byte: &usize| loaded[byte] != found[byte];
            if let Some(byte) = (0..vectors.width()).find(differs) {
                return Some(Difference::Vector { register, byte });
            }
        }
        let x87 = self.x87.iter().zip(&found.x87);
        if let Some((register, _)) = x87.enumerate().find(|(_, (loaded, found))| loaded != found) {
            return Some(Difference::X87(register));
        }
        if self.mxcsr != found.mxcsr {
            return Some(Difference::Mxcsr(self.mxcsr, found.mxcsr));
        }
        (self.x87_control != found.x87_control)
            .then_some(Difference::X87Control(self.x87_control, found.x87_control))
    }
}

/// The body of `hold_xmm` and `hold_ymm`, which differ in the instruction and
/// the register's name alone.
///
/// RDI = state to load, RSI = where to store, RDX = rounds, RCX = 1 to execute
/// VMCALL too. The loop keeps its own state in R8-R10 and RBX, which CPUID
/// overwrites, is saved around it.
macro_rules! hold {
    ($mov:literal, $reg:literal, $upper:literal) => {
        naked_asm!(
            "push rbx",
            "push rdi",
            "push rsi",
            "sub rsp, 16",
            "stmxcsr [rsp]",
            "fnstcw [rsp + 4]",
            "mov r8, rdx",
            "mov r9, rcx",
            "xor r10d, r10d",
            // ST(0) is loaded last.
            "fninit",
            "fldcw [rdi + 644]",
            "fld tbyte ptr [rdi + 512 + 7 * 16]",
            "fld tbyte ptr [rdi + 512 + 6 * 16]",
            "fld tbyte ptr [rdi + 512 + 5 * 16]",
            "fld tbyte ptr [rdi + 512 + 4 * 16]",
            "fld tbyte ptr [rdi + 512 + 3 * 16]",
            "fld tbyte ptr [rdi + 512 + 2 * 16]",
            "fld tbyte ptr [rdi + 512 + 1 * 16]",
            "fld tbyte ptr [rdi + 512]",
            "ldmxcsr [rdi + 640]",
            concat!($mov, " ", $reg, "0, [rdi]"),
            concat!($mov, " ", $reg, "1, [rdi + 1 * 32]"),
            concat!($mov, " ", $reg, "2, [rdi + 2 * 32]"),
            concat!($mov, " ", $reg, "3, [rdi + 3 * 32]"),
            concat!($mov, " ", $reg, "4, [rdi + 4 * 32]"),
            concat!($mov, " ", $reg, "5, [rdi + 5 * 32]"),
            concat!($mov, " ", $reg, "6, [rdi + 6 * 32]"),
            concat!($mov, " ", $reg, "7, [rdi + 7 * 32]"),
            concat!($mov, " ", $reg, "8, [rdi + 8 * 32]"),
            concat!($mov, " ", $reg, "9, [rdi + 9 * 32]"),
            concat!($mov, " ", $reg, "10, [rdi + 10 * 32]"),
            concat!($mov, " ", $reg, "11, [rdi + 11 * 32]"),
            concat!($mov, " ", $reg, "12, [rdi + 12 * 32]"),
            concat!($mov, " ", $reg, "13, [rdi + 13 * 32]"),
            concat!($mov, " ", $reg, "14, [rdi + 14 * 32]"),
            concat!($mov, " ", $reg, "15, [rdi + 15 * 32]"),
            "2:",
            // Leaves 0 and 1 in turn.
            "xor r10d, 1",
            "mov eax, r10d",
            "xor ecx, ecx",
            "cpuid",
            "test r9, r9",
            "jz 3f",
            "mov eax, {test}",
            "mov ecx, r8d",
            "vmcall",
            "3:",
            "dec r8",
            "jnz 2b",
            "mov rsi, [rsp + 16]",
            concat!($mov, " [rsi], ", $reg, "0"),
            concat!($mov, " [rsi + 1 * 32], ", $reg, "1"),
            concat!($mov, " [rsi + 2 * 32], ", $reg, "2"),
            concat!($mov, " [rsi + 3 * 32], ", $reg, "3"),
            concat!($mov, " [rsi + 4 * 32], ", $reg, "4"),
            concat!($mov, " [rsi + 5 * 32], ", $reg, "5"),
            concat!($mov, " [rsi + 6 * 32], ", $reg, "6"),
            concat!($mov, " [rsi + 7 * 32], ", $reg, "7"),
            concat!($mov, " [rsi + 8 * 32], ", $reg, "8"),
            concat!($mov, " [rsi + 9 * 32], ", $reg, "9"),
            concat!($mov, " [rsi + 10 * 32], ", $reg, "10"),
            concat!($mov, " [rsi + 11 * 32], ", $reg, "11"),
            concat!($mov, " [rsi + 12 * 32], ", $reg, "12"),
            concat!($mov, " [rsi + 13 * 32], ", $reg, "13"),
            concat!($mov, " [rsi + 14 * 32], ", $reg, "14"),
            concat!($mov, " [rsi + 15 * 32], ", $reg, "15"),
            "stmxcsr [rsi + 640]",
            "fnstcw [rsi + 644]",
            "fstp tbyte ptr [rsi + 512]",
            "fstp tbyte ptr [rsi + 512 + 1 * 16]",
            "fstp tbyte ptr [rsi + 512 + 2 * 16]",
            "fstp tbyte ptr [rsi + 512 + 3 * 16]",
            "fstp tbyte ptr [rsi + 512 + 4 * 16]",
            "fstp tbyte ptr [rsi + 512 + 5 * 16]",
            "fstp tbyte ptr [rsi + 512 + 6 * 16]",
            "fstp tbyte ptr [rsi + 512 + 7 * 16]",
            "fninit",
            "fldcw [rsp + 4]",
            "ldmxcsr [rsp]",
            $upper,
            "add rsp, 16",
            "pop rsi",
            "pop rdi",
            "pop rbx",
            "ret",
            test = const stillpoint_abi::Hypercall::Test.command(),
        )
    };
}

#[unsafe(naked)]
unsafe extern "C" fn hold_xmm(from: *const State, to: *mut State, rounds: u64, vmcall: u64) {
    hold!("movups", "xmm", "")
}

#[unsafe(naked)]
unsafe extern "C" fn hold_ymm(from: *const State, to: *mut State, rounds: u64, vmcall: u64) {
    hold!("vmovups", "ymm", "vzeroupper")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_state_comes_back_whole() {
        for seed in 0..16 {
            let state = State::pattern(seed);
            let vectors = Vectors::widest();
            let found = state.hold(vectors, Exit::Cpuid, 3);
            assert_eq!(state.difference(&found, vectors), None, "seed {seed}");
        }
    }

    #[test]
    fn xmm_alone_comes_back_too() {
        let state = State::pattern(5);
        let found = state.hold(Vectors::Xmm, Exit::Cpuid, 1);
        assert_eq!(state.difference(&found, Vectors::Xmm), None);
        // The upper halves were not stored, so a wider comparison must object.
        assert!(state.difference(&found, Vectors::Ymm).is_some());
    }

    #[test]
    fn the_callers_control_registers_are_restored() {
        let before = control_registers();
        let _ = State::pattern(7).hold(Vectors::widest(), Exit::Cpuid, 1);
        assert_eq!(control_registers(), before);
    }

    fn control_registers() -> (u32, u16) {
        let (mut mxcsr, mut x87_control) = (0_u32, 0_u16);
        // SAFETY: the two instructions store to the two locals and do nothing else.
        unsafe {
            core::arch::asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &mut mxcsr, in(reg) &mut x87_control);
        }
        (mxcsr, x87_control)
    }

    #[test]
    fn each_register_is_compared() {
        let state = State::pattern(1);
        let difference = |change: &dyn Fn(&mut State)| {
            let mut found = state.clone();
            change(&mut found);
            state.difference(&found, Vectors::Ymm)
        };
        for register in 0..VECTORS {
            for byte in [0, 15, 16, 31] {
                assert_eq!(
                    difference(&|found| found.vectors[register][byte] ^= 1),
                    Some(Difference::Vector { register, byte })
                );
            }
        }
        for register in 0..X87_REGISTERS {
            assert_eq!(
                difference(&|found| found.x87[register][9] ^= 1),
                Some(Difference::X87(register))
            );
        }
        assert!(matches!(
            difference(&|s| s.mxcsr ^= 1),
            Some(Difference::Mxcsr(..))
        ));
        assert!(matches!(
            difference(&|s| s.x87_control ^= 1),
            Some(Difference::X87Control(..))
        ));
    }

    #[test]
    fn patterns_are_distinct() {
        let state = State::pattern(3);
        for (i, a) in state.vectors.iter().enumerate() {
            assert!(state.vectors[i + 1..].iter().all(|b| a != b));
        }
        assert_ne!(State::pattern(3), State::pattern(4));
    }
}
