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

    /// GDB's view of the x87's control part, by its place in the description: fctrl,
    /// fstat, ftag, fiseg, fioff, foseg, fooff, fop. The 64-bit instruction and data
    /// pointers of FXSAVE64 are split, as GDB splits them, into their halves.
    pub(crate) fn control_word(&self, n: u8) -> u32 {
        match n {
            0 => u32::from(self.word(0)),
            1 => u32::from(self.word(2)),
            2 => u32::from(self.full_tags()),
            3 => self.dword(12),
            4 => self.dword(8),
            5 => self.dword(20),
            6 => self.dword(16),
            _ => u32::from(self.word(6) & 0x7ff),
        }
    }

    /// Replaces what [`control_word`](Self::control_word) reads.
    pub(crate) fn set_control_word(&mut self, n: u8, value: u32) {
        match n {
            0 => self.put(0, &(value as u16).to_le_bytes()),
            1 => self.put(2, &(value as u16).to_le_bytes()),
            2 => self.set_full_tags(value as u16),
            3 => self.put(12, &value.to_le_bytes()),
            4 => self.put(8, &value.to_le_bytes()),
            5 => self.put(20, &value.to_le_bytes()),
            6 => self.put(16, &value.to_le_bytes()),
            _ => self.put(6, &(value as u16 & 0x7ff).to_le_bytes()),
        }
    }

    /// The 16-bit tag word, two bits a physical register, made from the abridged byte
    /// and the registers' contents.
    ///
    /// Intel SDM, order number 325462-081US, September 2023, volume 1, section 10.5.1
    /// "FXSAVE Area", table "Recreating FSAVE Format".
    fn full_tags(&self) -> u16 {
        const VALID: u16 = 0;
        const ZERO: u16 = 1;
        const SPECIAL: u16 = 2;
        const EMPTY: u16 = 3;
        let present = self.array::<1>(4)[0];
        let top = usize::from(self.word(2) >> 11 & 7);
        (0..8).fold(0, |tags, physical| {
            let tag = if present & 1 << physical == 0 {
                EMPTY
            } else {
                let value = self.st((physical + 8 - top) & 7);
                let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
                let integer_bit = value[7] & 0x80 != 0;
                match exponent {
                    0 if value[..8] == [0; 8] => ZERO,
                    0 | 0x7fff => SPECIAL,
                    _ if integer_bit => VALID,
                    _ => SPECIAL,
                }
            };
            tags | tag << (2 * physical)
        })
    }

    /// Keeps of a full tag word what FXRSTOR takes: which registers are empty.
    fn set_full_tags(&mut self, tags: u16) {
        let present = (0..8)
            .filter(|physical| tags >> (2 * physical) & 3 != 3)
            .fold(0_u8, |byte, physical| byte | 1 << physical);
        self.put(4, &[present]);
    }

    fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    fn dword(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
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
#[expect(
    missing_docs,
    reason = "the fields are the registers they are named after"
)]
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

impl Registers {
    /// The linear address of the next instruction: what GDB calls `$pc`, so that
    /// `x/i $pc` and breakpoints are right in real mode too.
    pub fn linear_rip(&self) -> u64 {
        self.rip.wrapping_add(self.cs.base)
    }

    /// Sets RIP so that the next instruction is at this linear address.
    pub fn set_linear_rip(&mut self, address: u64) {
        self.rip = address.wrapping_sub(self.cs.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_word_follows_the_stack_top_and_the_contents() {
        let mut image = FxsaveImage::default();
        // Top of stack 6: ST(0) is physical register 6, ST(1) is 7, ST(2) is 0.
        image.put(2, &(6_u16 << 11).to_le_bytes());
        image.put(4, &[0b1100_0001]);
        image.set_st(0, &[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]); // 1.0
        image.set_st(1, &[0; 10]);
        image.set_st(2, &[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]); // infinity
        assert_eq!(image.control_word(2), 0b01_00_11_11_11_11_11_10);
    }

    #[test]
    fn writing_the_tag_word_keeps_which_registers_are_empty() {
        let mut image = FxsaveImage::default();
        image.set_control_word(2, 0b11_00_11_01_11_10_11_00);
        assert_eq!(image.0[4], 0b0101_0101);
    }
}
