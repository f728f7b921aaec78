//! VMCALL and the CPUID leaf that says whether it may be executed.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use stillpoint_abi::{Hypercall, TestHook, detect};

/// Proof that the detection leaf answered: VMCALL reaches TrustVisor here.
#[derive(Clone, Copy, Debug)]
pub struct TrustVisor {
    pal: u32,
    caller_is_64_bit: bool,
}

impl TrustVisor {
    /// Asks the detection leaf.
    ///
    /// Only EAX decides. A processor answers a leaf beyond its highest basic
    /// one with the data of that highest leaf (Intel SDM vol. 2, CPUID), so a
    /// non-zero answer alone says nothing.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let answer = __cpuid_count(detect::TRUSTVISOR_LEAF, 0);
        (answer.eax == detect::TRUSTVISOR_PRESENT).then_some(Self {
            pal: answer.ebx,
            caller_is_64_bit: answer.ecx & 1 != 0,
        })
    }

    /// Index of the PAL that runs on this CPU; `None` outside any.
    #[must_use]
    pub fn pal(&self) -> Option<u32> {
        (self.pal != detect::NO_PAL).then_some(self.pal)
    }

    /// Whether the hypervisor sees this program as 64-bit code (CS.L).
    #[must_use]
    pub fn caller_is_64_bit(&self) -> bool {
        self.caller_is_64_bit
    }

    /// The TEST hypercall: logs `number`, changes nothing, returns 0.
    pub fn test(&self, number: u32) -> u32 {
        // SAFETY: TEST takes no address, so it can neither read nor write
        // this program's memory.
        let result = unsafe { self.call(Hypercall::Test.command(), [number.into(), 0, 0, 0]) };
        // The result of a command is 32 bits wide for every caller.
        result as u32
    }

    /// Executes VMCALL with a command and its arguments in RCX, RDX, RSI and
    /// RDI, and returns RAX.
    ///
    /// # Safety
    ///
    /// The command may read and write this program's memory through the
    /// addresses among its arguments, or take pages away (REG). The caller
    /// answers for those addresses as for a raw pointer's.
    pub unsafe fn call(&self, command: u32, arguments: [u64; 4]) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { vmcall(command, arguments)[0] }
    }

    /// A hypercall that only an image with test hooks answers: RAX, RCX, RDX.
    /// An image without them answers 1 (failure).
    pub fn test_hook(&self, hook: TestHook) -> [u64; 3] {
        // SAFETY: no test hook takes an address. What they may do to the
        // machine they do to the hypervisor, not to this program's memory.
        unsafe { vmcall(hook.command(), [0; 4]) }
    }
}

/// The PAL that runs this code, by the detection leaf: `None` where nobody answers, and
/// [`detect::NO_PAL`] outside any. PAL code may call it.
#[inline(always)]
#[must_use]
pub fn running_pal() -> Option<u32> {
    let (mut eax, mut rbx) = (detect::TRUSTVISOR_LEAF, 0_u64);
    // SAFETY: CPUID has no effect but on four registers. RBX is put back: it is the compiler's.
    unsafe {
        asm!(
            "xchg rbx, {rbx}",
            "cpuid",
            "xchg rbx, {rbx}",
            rbx = inout(reg) rbx,
            inout("eax") eax,
            inout("ecx") 0 => _,
            out("edx") _,
            options(nomem, nostack, preserves_flags),
        );
    }
    (eax == detect::TRUSTVISOR_PRESENT).then_some(rbx as u32)
}

/// VMCALL; RAX, RCX and RDX as it leaves them. PAL code may call it.
///
/// # Safety
///
/// Detection must have shown that VMCALL is answered, and the command and its
/// arguments must be sound for this program's memory.
#[inline(always)]
pub(crate) unsafe fn vmcall(command: u32, arguments: [u64; 4]) -> [u64; 3] {
    let [mut rcx, mut rdx, rsi, rdi] = arguments;
    let rax: u64;
    // SAFETY: the caller's promise. Test hooks answer in RCX and RDX too; every
    // other register is kept. Nothing here tells the compiler that memory
    // stays as it was.
    unsafe {
        asm!(
            "vmcall",
            inlateout("rax") u64::from(command) => rax,
            inlateout("rcx") rcx,
            inlateout("rdx") rdx,
            in("rsi") rsi,
            in("rdi") rdi,
            options(nostack),
        );
    }
    [rax, rcx, rdx]
}
