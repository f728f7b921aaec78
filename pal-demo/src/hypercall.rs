//! VMCALL and the CPUID leaf that says whether it may be executed.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use stillpoint_abi::{Hypercall, detect};

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
        let [rcx, rdx, rsi, rdi] = arguments;
        let result: u64;
        // SAFETY: detection has shown that a hypervisor answers VMCALL, so it
        // is no #UD. It preserves every register but RAX. What the command
        // does to memory is the caller's promise; nothing here tells the
        // compiler that memory stays as it was.
        unsafe {
            asm!(
                "vmcall",
                inlateout("rax") u64::from(command) => result,
                in("rcx") rcx,
                in("rdx") rdx,
                in("rsi") rsi,
                in("rdi") rdi,
                options(nostack),
            );
        }
        result
    }
}
