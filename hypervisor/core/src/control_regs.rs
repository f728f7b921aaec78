//! CR0 and CR4: which bits the guest owns, and what its moves to them do.
//!
//! VMX operation fixes some bits. Those, and the bits whose features are hidden,
//! are in the guest/host masks: the guest reads them from the read shadows,
//! and a move that would change them exits. The start-up state takes its masks
//! and shadows from here, the exit for control-register accesses its outcome.
//!
//! Sources: Intel SDM, vol. 3, section 24.8, "Restrictions on VMX Operation";
//! section 25.6.6, "Guest/Host Masks and Read Shadows for CR0 and CR4"; vol. 2,
//! "MOV—Move to/from Control Registers".

use vmcs_inspect::{Capabilities, Cr0, Cr4, Efer};

/// CR0.PE.
pub const CR0_PE: u64 = Cr0::PE.bits();
/// CR0.TS.
pub const CR0_TS: u64 = Cr0::TS.bits();
/// CR0.ET, which is always 1.
pub const CR0_ET: u64 = Cr0::ET.bits();
/// CR0.NE.
pub const CR0_NE: u64 = Cr0::NE.bits();
/// CR0.WP.
pub const CR0_WP: u64 = Cr0::WP.bits();
/// CR0.AM.
pub const CR0_AM: u64 = Cr0::AM.bits();
/// CR0.NW.
pub const CR0_NW: u64 = Cr0::NW.bits();
/// CR0.CD.
pub const CR0_CD: u64 = Cr0::CD.bits();
/// CR0.PG.
pub const CR0_PG: u64 = Cr0::PG.bits();

/// CR4.PSE.
pub const CR4_PSE: u64 = Cr4::PSE.bits();
/// CR4.PAE.
pub const CR4_PAE: u64 = Cr4::PAE.bits();
/// CR4.PGE.
pub const CR4_PGE: u64 = Cr4::PGE.bits();
/// CR4.LA57.
pub const CR4_LA57: u64 = Cr4::LA57.bits();
/// CR4.VMXE.
pub const CR4_VMXE: u64 = Cr4::VMXE.bits();
/// CR4.SMXE.
pub const CR4_SMXE: u64 = Cr4::SMXE.bits();
/// CR4.PCIDE.
pub const CR4_PCIDE: u64 = Cr4::PCIDE.bits();
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = Cr4::OSXSAVE.bits();
/// CR4.KL.
pub const CR4_KL: u64 = Cr4::KL.bits();
/// CR4.SMEP.
pub const CR4_SMEP: u64 = Cr4::SMEP.bits();
/// CR4.SMAP.
pub const CR4_SMAP: u64 = Cr4::SMAP.bits();
/// CR4.PKE.
pub const CR4_PKE: u64 = Cr4::PKE.bits();
/// CR4.CET.
pub const CR4_CET: u64 = Cr4::CET.bits();
/// CR4.FRED.
pub const CR4_FRED: u64 = Cr4::FRED.bits();

/// IA32_EFER.LME.
pub const EFER_LME: u64 = Efer::LME.bits();
/// IA32_EFER.LMA.
pub const EFER_LMA: u64 = Efer::LMA.bits();
/// IA32_EFER.NXE.
pub const EFER_NXE: u64 = Efer::NXE.bits();

/// The bits that CR0 has. Writes to the others below bit 32 come to nothing.
const CR0_DEFINED: u64 = 0xe005_003f;

/// Bits of CR4 whose features the guest's CPUID does not offer, though the
/// processor may have them.
const CR4_HIDDEN: u64 = CR4_VMXE | CR4_SMXE | CR4_KL | CR4_FRED;

/// What a CPU demands of CR0 and CR4 in VMX operation, as the four MSRs say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedBits {
    /// IA32_VMX_CR0_FIXED0, MSR 0x486: bits that are 1 here must be 1.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1, MSR 0x487: bits that are 0 here must be 0.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0, MSR 0x488.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1, MSR 0x489.
    pub cr4_fixed1: u64,
}

impl From<&Capabilities> for FixedBits {
    fn from(capabilities: &Capabilities) -> Self {
        Self {
            cr0_fixed0: capabilities.cr0_fixed0,
            cr0_fixed1: capabilities.cr0_fixed1,
            cr4_fixed0: capabilities.cr4_fixed0,
            cr4_fixed1: capabilities.cr4_fixed1,
        }
    }
}

/// What the VMCS holds for a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlRegister {
    /// Guest-state field: what the processor runs with.
    pub real: u64,
    /// Read shadow: what the guest reads in the bits that the mask holds.
    pub shadow: u64,
    /// Guest/host mask.
    pub mask: u64,
}

impl ControlRegister {
    /// What the guest reads.
    pub const fn guest_view(self) -> u64 {
        (self.real & !self.mask) | (self.shadow & self.mask)
    }
}

/// What a move to a control register becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Write these to the VMCS and go on with the next instruction.
    Set {
        /// The new guest-state field and shadow.
        ///
        /// CD and NW of CR0 are to be put into the processor's own CR0 too, as
        /// VM entry doesn't load them (Intel SDM, vol. 3, section 27.3.2.1,
        /// "Loading Guest Control Registers, Debug Registers, and MSRs").
        register: ControlRegister,
        /// The new IA32_EFER, if it changes. "IA-32e mode guest" of the
        /// VM-entry controls is to follow its LMA.
        efer: Option<u64>,
        /// The PDPTEs are to be loaded from where CR3 points, by
        /// [`crate::paging::load_pdptes`]; if they are bad, it is #GP(0) instead.
        load_pdptes: bool,
        /// The translations that are cached for the guest on this CPU are to be
        /// flushed (Intel SDM, vol. 3, section 4.10.4.1, "Operations that Invalidate
        /// TLBs and Paging-Structure Caches").
        flush: bool,
    },
    /// #GP(0), nothing changed.
    GeneralProtection,
}

/// State that the rules for a move to a control register look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestModes {
    /// CR0's fields.
    pub cr0: ControlRegister,
    /// CR4's fields.
    pub cr4: ControlRegister,
    /// IA32_EFER.
    pub efer: u64,
    /// CR3.
    pub cr3: u64,
    /// CS.L.
    pub cs_l: bool,
    /// TR holds a 16-bit TSS (type 3).
    pub tr_is_16_bit: bool,
}

impl FixedBits {
    /// CR0's guest/host mask: what must be 1 or 0, and reserved bits. Unrestricted
    /// guests own PE and PG (Intel SDM, vol. 3, section 24.8).
    pub const fn cr0_mask(&self) -> u64 {
        (self.cr0_fixed0 | !self.cr0_fixed1) & !(CR0_PE | CR0_PG)
    }

    /// CR4's guest/host mask: what must be 1 or 0, and the bits of hidden features.
    pub const fn cr4_mask(&self) -> u64 {
        self.cr4_fixed0 | !self.cr4_fixed1 | CR4_HIDDEN
    }

    /// The bits of CR4 that the guest may set.
    pub const fn cr4_guest_bits(&self) -> u64 {
        self.cr4_fixed1 & !CR4_HIDDEN
    }

    /// CR0's fields for the value that the guest is to read.
    pub const fn cr0(&self, guest: u64) -> ControlRegister {
        let must = self.cr0_fixed0 & !(CR0_PE | CR0_PG);
        ControlRegister {
            real: (guest | must) & self.cr0_fixed1,
            shadow: guest,
            mask: self.cr0_mask(),
        }
    }

    /// CR4's fields for the value that the guest is to read.
    pub const fn cr4(&self, guest: u64) -> ControlRegister {
        ControlRegister {
            real: (guest | self.cr4_fixed0) & self.cr4_fixed1,
            shadow: guest,
            mask: self.cr4_mask(),
        }
    }

    /// MOV of this value to CR0.
    pub const fn mov_to_cr0(&self, modes: &GuestModes, value: u64) -> Outcome {
        let old = modes.cr0.guest_view();
        let cr4 = modes.cr4.guest_view();
        let long_mode = modes.efer & EFER_LMA != 0;
        let paging = value & CR0_PG != 0;
        let paging_before = old & CR0_PG != 0;

        let contradicts_itself = value >> 32 != 0
            || (paging && value & CR0_PE == 0)
            || (value & CR0_NW != 0 && value & CR0_CD == 0)
            || (value & CR0_WP == 0 && cr4 & CR4_CET != 0);
        // Entering IA-32e mode, and leaving it.
        let enters_badly = paging
            && !paging_before
            && modes.efer & EFER_LME != 0
            && (cr4 & CR4_PAE == 0 || modes.cs_l || modes.tr_is_16_bit);
        let leaves_badly =
            !paging && paging_before && ((long_mode && modes.cs_l) || cr4 & CR4_PCIDE != 0);
        if contradicts_itself || enters_badly || leaves_badly {
            return Outcome::GeneralProtection;
        }
        let new = value & CR0_DEFINED | CR0_ET;
        let efer = if paging && modes.efer & EFER_LME != 0 {
            modes.efer | EFER_LMA
        } else {
            modes.efer & !EFER_LMA
        };
        let changed = old ^ new;
        Outcome::Set {
            register: self.cr0(new),
            efer: if efer == modes.efer { None } else { Some(efer) },
            load_pdptes: paging
                && cr4 & CR4_PAE != 0
                && efer & EFER_LMA == 0
                && changed & (CR0_PG | CR0_CD | CR0_NW) != 0,
            flush: !paging && paging_before,
        }
    }

    /// MOV of this value to CR4. Bits that the guest's CPUID doesn't offer are
    /// reserved to it, VMXE being one.
    pub const fn mov_to_cr4(&self, modes: &GuestModes, value: u64) -> Outcome {
        let old = modes.cr4.guest_view();
        let cr0 = modes.cr0.guest_view();
        let long_mode = modes.efer & EFER_LMA != 0;
        let changed = old ^ value;

        let reserved = value & !self.cr4_guest_bits() != 0;
        let breaks_long_mode = long_mode && (value & CR4_PAE == 0 || changed & CR4_LA57 != 0);
        let sets_pcide_badly =
            changed & value & CR4_PCIDE != 0 && (!long_mode || modes.cr3 & 0xfff != 0);
        let sets_cet_badly = value & CR4_CET != 0 && cr0 & CR0_WP == 0;
        if reserved || breaks_long_mode || sets_pcide_badly || sets_cet_badly {
            return Outcome::GeneralProtection;
        }
        let pae_paging = cr0 & CR0_PG != 0 && value & CR4_PAE != 0 && !long_mode;
        Outcome::Set {
            register: self.cr4(value),
            efer: None,
            load_pdptes: pae_paging && changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) != 0,
            flush: changed & (CR4_PAE | CR4_PGE | CR4_PSE) != 0
                || changed & old & CR4_PCIDE != 0
                || changed & value & CR4_SMEP != 0,
        }
    }

    /// LMSW: the low four bits of CR0, of which PE can be set but not cleared.
    pub const fn lmsw(&self, modes: &GuestModes, source: u16) -> Outcome {
        let old = modes.cr0.guest_view();
        let kept = old & !(0xf & !CR0_PE);
        self.mov_to_cr0(modes, kept | source as u64 & 0xf)
    }

    /// CLTS.
    pub const fn clts(&self, modes: &GuestModes) -> Outcome {
        self.mov_to_cr0(modes, modes.cr0.guest_view() & !CR0_TS)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;

    const FIXED: FixedBits = FixedBits {
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x0037_67ff,
    };

    const CR4_ANY: u64 = CR4_PAE | CR4_PGE;

    fn modes(cr0: u64, cr4: u64, efer: u64) -> GuestModes {
        GuestModes {
            cr0: FIXED.cr0(cr0),
            cr4: FIXED.cr4(cr4),
            efer,
            cr3: 0x1000,
            cs_l: false,
            tr_is_16_bit: false,
        }
    }

    fn real_mode() -> GuestModes {
        modes(CR0_ET, 0, 0)
    }

    fn long_mode() -> GuestModes {
        let modes = modes(0x8005_0033, CR4_ANY, EFER_LME | EFER_LMA);
        GuestModes {
            cs_l: true,
            ..modes
        }
    }

    #[test]
    fn masks() {
        assert_eq!(FIXED.cr0_mask(), 0xffff_ffff_0000_0020);
        assert_eq!(FIXED.cr4_mask(), !0x0037_07ff);
        assert_eq!(FIXED.cr4_guest_bits() & (CR4_VMXE | CR4_SMXE), 0);
    }

    #[test]
    fn the_guest_reads_what_it_wrote() {
        let cr0 = FIXED.cr0(CR0_ET);
        assert_eq!((cr0.real, cr0.shadow), (CR0_ET | CR0_NE, CR0_ET));
        assert_eq!(cr0.guest_view(), CR0_ET);
        let cr4 = FIXED.cr4(CR4_PAE);
        assert_eq!((cr4.real, cr4.guest_view()), (CR4_PAE | CR4_VMXE, CR4_PAE));
    }

    #[test]
    fn what_flushes() {
        let flushes = |outcome| matches!(outcome, Outcome::Set { flush: true, .. });
        let paging = CR0_PG | CR0_PE;
        for (old, new, expected) in [
            (paging, CR0_PE, true),
            (CR0_PE, paging, false),
            (paging, paging | CR0_WP, false),
            (CR0_PE, 0, false),
        ] {
            let outcome = FIXED.mov_to_cr0(&modes(old, 0, 0), new);
            assert_eq!(flushes(outcome), expected, "CR0 {old:#x} -> {new:#x}");
        }
        let wide = FixedBits {
            cr4_fixed1: FIXED.cr4_fixed1 | CR4_PCIDE | CR4_SMEP,
            ..FIXED
        };
        for (old, new, expected) in [
            (0, CR4_PGE, true),
            (CR4_PGE, 0, true),
            (0, CR4_PSE, true),
            (0, CR4_PAE, true),
            (CR4_PCIDE, 0, true),
            (0, CR4_SMEP, true),
            (CR4_SMEP, 0, false),
            (CR4_PGE, CR4_PGE | 1 << 9, false),
        ] {
            let outcome = wide.mov_to_cr4(&modes(paging, old, 0), new);
            assert_eq!(flushes(outcome), expected, "CR4 {old:#x} -> {new:#x}");
        }
    }

    #[test]
    fn setting_ne_only_changes_the_shadow() {
        let Outcome::Set {
            register,
            efer,
            load_pdptes,
            ..
        } = FIXED.mov_to_cr0(&real_mode(), CR0_ET | CR0_NE | CR0_PE)
        else {
            panic!()
        };
        assert_eq!(register.real, CR0_ET | CR0_NE | CR0_PE);
        assert_eq!(register.guest_view(), CR0_ET | CR0_NE | CR0_PE);
        assert_eq!((efer, load_pdptes), (None, false));
    }

    #[test]
    fn bits_that_cr0_lacks_are_dropped() {
        let Outcome::Set { register, .. } = FIXED.mov_to_cr0(&real_mode(), 0x1ffa_ffc0) else {
            panic!()
        };
        assert_eq!(register.guest_view(), CR0_ET);
    }

    #[test]
    fn what_cr0_refuses() {
        let gp = Outcome::GeneralProtection;
        let real = real_mode();
        assert_eq!(FIXED.mov_to_cr0(&real, 1 << 32), gp);
        assert_eq!(FIXED.mov_to_cr0(&real, CR0_PG), gp);
        assert_eq!(FIXED.mov_to_cr0(&real, CR0_NW), gp);
        let entering = modes(CR0_ET | CR0_PE, CR4_PAE, EFER_LME);
        let on = CR0_PG | CR0_PE | CR0_NE;
        assert!(matches!(
            FIXED.mov_to_cr0(&entering, on),
            Outcome::Set { .. }
        ));
        for bad in [
            modes(CR0_ET | CR0_PE, 0, EFER_LME),
            GuestModes {
                cs_l: true,
                ..entering
            },
            GuestModes {
                tr_is_16_bit: true,
                ..entering
            },
        ] {
            assert_eq!(FIXED.mov_to_cr0(&bad, on), gp, "{bad:?}");
        }
        assert_eq!(
            FIXED.mov_to_cr0(&long_mode(), CR0_PE),
            gp,
            "paging off in 64-bit mode"
        );
        let compatibility = GuestModes {
            cs_l: false,
            ..long_mode()
        };
        assert!(matches!(
            FIXED.mov_to_cr0(&compatibility, CR0_PE),
            Outcome::Set { .. }
        ));
        let cr4 = FIXED.cr4(CR4_ANY | CR4_PCIDE);
        assert_eq!(
            FIXED.mov_to_cr0(
                &GuestModes {
                    cr4,
                    ..compatibility
                },
                CR0_PE
            ),
            gp
        );
    }

    #[test]
    fn paging_turns_ia_32e_mode_on_and_off() {
        let entering = modes(CR0_ET | CR0_PE, CR4_PAE, EFER_LME);
        let outcome = FIXED.mov_to_cr0(&entering, CR0_PG | CR0_PE | CR0_NE);
        let Outcome::Set {
            efer, load_pdptes, ..
        } = outcome
        else {
            panic!()
        };
        assert_eq!((efer, load_pdptes), (Some(EFER_LME | EFER_LMA), false));
        let compatibility = GuestModes {
            cs_l: false,
            ..long_mode()
        };
        let Outcome::Set { efer, .. } = FIXED.mov_to_cr0(&compatibility, CR0_PE) else {
            panic!()
        };
        assert_eq!(efer, Some(EFER_LME));
    }

    #[test]
    fn pae_paging_loads_the_pdptes() {
        let before = modes(CR0_ET | CR0_PE, CR4_PAE, 0);
        let on = CR0_PG | CR0_PE;
        assert!(matches!(
            FIXED.mov_to_cr0(&before, on),
            Outcome::Set {
                load_pdptes: true,
                ..
            }
        ));
        let paging = modes(CR0_ET | on, CR4_PAE, 0);
        assert!(matches!(
            FIXED.mov_to_cr0(&paging, on | CR0_NE),
            Outcome::Set {
                load_pdptes: false,
                ..
            }
        ));
        assert!(matches!(
            FIXED.mov_to_cr4(&paging, CR4_PAE | CR4_PGE),
            Outcome::Set {
                load_pdptes: true,
                ..
            }
        ));
        assert!(matches!(
            FIXED.mov_to_cr4(&paging, CR4_PAE),
            Outcome::Set {
                load_pdptes: false,
                ..
            }
        ));
    }

    #[test]
    fn other_paging_loads_no_pdptes() {
        let unpaged = modes(CR0_ET | CR0_PE, 0, 0);
        let bits_32 = modes(CR0_ET | CR0_PE | CR0_PG, CR4_PSE, 0);
        for (modes, value) in [
            (unpaged, CR4_PAE),
            (bits_32, CR4_PGE),
            (long_mode(), CR4_PAE),
        ] {
            assert!(matches!(
                FIXED.mov_to_cr4(&modes, value),
                Outcome::Set {
                    load_pdptes: false,
                    ..
                }
            ));
        }
    }

    #[test]
    fn what_cr4_refuses() {
        let gp = Outcome::GeneralProtection;
        let long = long_mode();
        for value in [
            CR4_ANY | CR4_VMXE,
            CR4_ANY | CR4_SMXE,
            CR4_ANY | 1 << 63,
            CR4_ANY | CR4_CET,
            CR4_PGE,
            CR4_ANY | CR4_LA57,
        ] {
            assert_eq!(FIXED.mov_to_cr4(&long, value), gp, "{value:#x}");
        }
        let with_pcid = CR4_ANY | CR4_PCIDE;
        assert!(matches!(
            FIXED.mov_to_cr4(&long, with_pcid),
            Outcome::Set { .. }
        ));
        assert_eq!(
            FIXED.mov_to_cr4(
                &GuestModes {
                    cr3: 0x1001,
                    ..long
                },
                with_pcid
            ),
            gp
        );
        assert_eq!(FIXED.mov_to_cr4(&real_mode(), with_pcid), gp);
    }

    #[test]
    fn cet_needs_write_protection() {
        let fixed = FixedBits {
            cr4_fixed1: FIXED.cr4_fixed1 | CR4_CET,
            ..FIXED
        };
        let gp = Outcome::GeneralProtection;
        let protected = modes(0x8001_0033, CR4_ANY, 0);
        let with_cet = CR4_ANY | CR4_CET;
        assert!(matches!(
            fixed.mov_to_cr4(&protected, with_cet),
            Outcome::Set { .. }
        ));
        let unprotected = modes(0x8000_0033, CR4_ANY, 0);
        assert_eq!(fixed.mov_to_cr4(&unprotected, with_cet), gp);
        let cet = GuestModes {
            cr4: fixed.cr4(with_cet),
            ..protected
        };
        assert_eq!(fixed.mov_to_cr0(&cet, 0x8000_0033), gp);
        assert!(matches!(
            fixed.mov_to_cr0(&cet, 0x8001_0033),
            Outcome::Set { .. }
        ));
    }

    #[test]
    fn lmsw_sets_pe_and_never_clears_it() {
        let Outcome::Set { register, .. } = FIXED.lmsw(&real_mode(), 0xfff9) else {
            panic!()
        };
        assert_eq!(register.guest_view(), CR0_ET | CR0_PE | CR0_TS);
        let protected = modes(CR0_ET | CR0_PE | CR0_TS | CR0_NE, 0, 0);
        let Outcome::Set { register, .. } = FIXED.lmsw(&protected, 0) else {
            panic!()
        };
        assert_eq!(register.guest_view(), CR0_ET | CR0_PE | CR0_NE);
        let Outcome::Set { register, .. } = FIXED.clts(&protected) else {
            panic!()
        };
        assert_eq!(register.guest_view(), CR0_ET | CR0_PE | CR0_NE);
    }

    proptest! {
        /// Whatever the guest moves, VM entry's checks on CR0 and CR4 hold
        /// (Intel SDM, vol. 3, section 27.3.1.1).
        #[test]
        fn what_is_set_can_be_entered(value in any::<u64>(), low in any::<bool>(), long in any::<bool>()) {
            let value = if low { value & 0xffff_ffff } else { value };
            let modes = if long { long_mode() } else { real_mode() };
            if let Outcome::Set { register, .. } = FIXED.mov_to_cr0(&modes, value) {
                let must = FIXED.cr0_fixed0 & !(CR0_PE | CR0_PG);
                prop_assert_eq!(register.real & must, must);
                prop_assert_eq!(register.real & !FIXED.cr0_fixed1, 0);
                prop_assert_eq!(register.guest_view(), value & CR0_DEFINED | CR0_ET);
            }
            if let Outcome::Set { register, .. } = FIXED.mov_to_cr4(&modes, value & FIXED.cr4_fixed1) {
                prop_assert_eq!(register.real & FIXED.cr4_fixed0, FIXED.cr4_fixed0);
                prop_assert_eq!(register.real & !FIXED.cr4_fixed1, 0);
                prop_assert_eq!(register.guest_view(), value & FIXED.cr4_fixed1);
            }
        }
    }
}
