//! How a program finds out, with CPUID, that it runs under Stillpoint.
//!
//! The hypervisor answers these leaves; guest programs look at them before
//! they execute `VMCALL`, which is an invalid opcode on a bare processor.

/// Leaf that TrustVisor's programs ask first, with ECX = 0.
pub const TRUSTVISOR_LEAF: u32 = 0x7a56_7254;

/// EAX of [`TRUSTVISOR_LEAF`] where TrustVisor's calls are answered.
pub const TRUSTVISOR_PRESENT: u32 = 0x7a76_7274;

/// EBX of [`TRUSTVISOR_LEAF`] outside any PAL; inside, EBX is the PAL's index.
pub const NO_PAL: u32 = 0xffff_ffff;

/// First of the leaves that are set aside for hypervisors: EAX is the last
/// such leaf, and EBX, ECX, EDX hold [`SIGNATURE`].
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// EAX of this leaf is Stillpoint's version, as [`pack_version`] forms it.
pub const VERSION_LEAF: u32 = 0x4000_0001;

/// The last hypervisor leaf that is answered.
pub const LAST_HYPERVISOR_LEAF: u32 = VERSION_LEAF;

/// The twelve bytes that [`HYPERVISOR_LEAF`] spells in EBX, ECX and EDX.
pub const SIGNATURE: [u8; 12] = *b"StillpointHV";

/// [`SIGNATURE`] as the values of EBX, ECX and EDX.
pub const fn signature_registers() -> [u32; 3] {
    let s = SIGNATURE;
    [
        u32::from_le_bytes([s[0], s[1], s[2], s[3]]),
        u32::from_le_bytes([s[4], s[5], s[6], s[7]]),
        u32::from_le_bytes([s[8], s[9], s[10], s[11]]),
    ]
}

/// Major, minor and patch numbers in one register: bits 31:24, 23:16 and 15:0.
pub const fn pack_version(major: u8, minor: u8, patch: u16) -> u32 {
    ((major as u32) << 24) | ((minor as u32) << 16) | patch as u32
}

/// What [`pack_version`] packed.
pub const fn unpack_version(version: u32) -> (u8, u8, u16) {
    ((version >> 24) as u8, (version >> 16) as u8, version as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_reads_in_register_order() {
        let [ebx, ecx, edx] = signature_registers();
        assert_eq!(ebx.to_le_bytes(), *b"Stil");
        assert_eq!(ecx.to_le_bytes(), *b"lpoi");
        assert_eq!(edx.to_le_bytes(), *b"ntHV");
    }

    #[test]
    fn versions_round_trip() {
        assert_eq!(pack_version(1, 2, 3), 0x0102_0003);
        assert_eq!(
            unpack_version(pack_version(255, 254, 65535)),
            (255, 254, 65535)
        );
    }

    #[test]
    fn trustvisors_leaves_keep_their_spelling() {
        // "TrVz" and "trvz", as programs that were compiled long ago ask.
        assert_eq!(TRUSTVISOR_LEAF.to_le_bytes(), *b"TrVz");
        assert_eq!(TRUSTVISOR_PRESENT.to_le_bytes(), *b"trvz");
    }
}
