//! The registers of one CPU as the stub reads and writes them.
//!
//! Filled by the hypervisor, turned into GDB's numbering by [`arch`](crate::arch).

/// A segment register's visible part and its base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The base address.
    pub base: u64,
}

/// The 512 bytes that FXSAVE64 stores: x87 state, MXCSR and XMM0 to XMM15.
///
/// Intel SDM, order number 325462-081US, September 2023, volume 1, section 10.5.1
/// "FXSAVE Area".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FxsaveImage(pub [u8; 512]);

impl Default for FxsaveImage {
    fn default() -> Self {
        Self([0; 512])
    }
}

impl FxsaveImage {
    /// Where ST(0) lies; each register takes 16 bytes, of which 10 are used.
    const ST0: usize = 32;
    /// Where XMM0 lies; each register takes 16 bytes.
    const XMM0: usize = 160;
    const MXCSR: usize = 24;

    /// The ten bytes of ST(`n`), `n` from 0 to 7.
    pub fn st(&self, n: usize) -> [u8; 10] {
        self.array(Self::ST0 + 16 * (n & 7))
    }

    /// Replaces the ten bytes of ST(`n`).
    pub fn set_st(&mut self, n: usize, value: &[u8; 10]) {
        self.put(Self::ST0 + 16 * (n & 7), value);
    }

    /// The sixteen bytes of XMM`n`, `n` from 0 to 15.
    pub fn xmm(&self, n: usize) -> [u8; 16] {
        self.array(Self::XMM0 + 16 * (n & 15))
    }

    /// Replaces the sixteen bytes of XMM`n`.
    pub fn set_xmm(&mut self, n: usize, value: &[u8; 16]) {
        self.put(Self::XMM0 + 16 * (n & 15), value);
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.array(Self::MXCSR))
    }

    /// Replaces MXCSR.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.put(Self::MXCSR, &value.to_le_bytes());
    }

    /// A little-endian 16-bit word at `offset`, 0 beyond the image.
    pub(crate) fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    /// Replaces the word at `offset`.
    pub(crate) fn set_word(&mut self, offset: usize, value: u16) {
        self.put(offset, &value.to_le_bytes());
    }

    /// The little-endian 32-bit word at `offset`.
    pub(crate) fn dword(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    /// Replaces the 32-bit word at `offset`.
    pub(crate) fn set_dword(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    /// The abridged tag byte: a set bit for each register (by number, not by stack
    /// position) that is not empty.
    pub(crate) fn abridged_tags(&self) -> u8 {
        self.array::<1>(4)[0]
    }

    /// Replaces the abridged tag byte.
    pub(crate) fn set_abridged_tags(&mut self, value: u8) {
        self.put(4, &[value]);
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(source) = self.0.get(offset..offset + N) {
            bytes.copy_from_slice(source);
        }
        bytes
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(target) = self.0.get_mut(offset..offset + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }
}

/// One CPU's registers: the guest's, or the hypervisor's own when it was stopped there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the registers they are named after")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// The offset in CS. For GDB it is made a linear address by adding the base of CS.
    pub rip: u64,
    pub rflags: u64,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub es: Segment,
    /// With FS.base, also in 64-bit mode.
    pub fs: Segment,
    /// With GS.base, also in 64-bit mode.
    pub gs: Segment,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    /// x87 and SSE state.
    pub fxsave: FxsaveImage,
}
