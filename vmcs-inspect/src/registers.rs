//! Processor registers as the VMCS names and holds them: general-purpose and segment
//! registers by number, and the bits of the control registers for printing.

use core::fmt;

use crate::bits::named_bits;

macro_rules! numbered {
    ($(#[$meta:meta])* pub enum $Type:ident { $( $Name:ident = $number:literal, $text:literal; )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $Type {
            $(
                #[doc = concat!("Number ", $number, ", ", $text, ".")]
                $Name = $number,
            )+
        }

        impl $Type {
            /// Every register, in the order of the numbers.
            pub const ALL: &'static [$Type] = &[$( $Type::$Name, )+];

            /// The register with this number; `None` if there is none.
            pub const fn from_number(number: u8) -> Option<$Type> {
                match number {
                    $( $number => Some($Type::$Name), )+
                    _ => None,
                }
            }

            /// The register's number.
            pub const fn number(self) -> u8 {
                self as u8
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $( $Type::$Name => $text, )+ })
            }
        }
    };
}

numbered! {
    /// A general-purpose register, numbered as in exit qualifications and
    /// VM-exit instruction information.
    ///
    /// Source: Intel SDM, vol. 3, section 28.2.1, "Basic VM-Exit Information", table "Exit
    /// Qualification for Control-Register Accesses".
    pub enum Gpr {
        Rax = 0, "RAX";
        Rcx = 1, "RCX";
        Rdx = 2, "RDX";
        Rbx = 3, "RBX";
        Rsp = 4, "RSP";
        Rbp = 5, "RBP";
        Rsi = 6, "RSI";
        Rdi = 7, "RDI";
        R8 = 8, "R8";
        R9 = 9, "R9";
        R10 = 10, "R10";
        R11 = 11, "R11";
        R12 = 12, "R12";
        R13 = 13, "R13";
        R14 = 14, "R14";
        R15 = 15, "R15";
    }
}

impl Gpr {
    /// The register that four bits name.
    pub(crate) const fn from_bits(bits: u64) -> Gpr {
        match Gpr::from_number((bits & 0xf) as u8) {
            Some(register) => register,
            None => Gpr::Rax,
        }
    }
}

numbered! {
    /// A segment register, numbered as in VM-exit instruction information.
    ///
    /// Source: Intel SDM, vol. 3, section 28.2.5, "Information for VM Exits Due to
    /// Instruction Execution".
    pub enum SegmentRegister {
        Es = 0, "ES";
        Cs = 1, "CS";
        Ss = 2, "SS";
        Ds = 3, "DS";
        Fs = 4, "FS";
        Gs = 5, "GS";
    }
}

named_bits! {
    /// CR0, for printing. Source: Intel SDM, vol. 3, section 2.5, "Control Registers".
    pub struct Cr0: u64 {
        PE = 0, "PE";
        MP = 1, "MP";
        EM = 2, "EM";
        TS = 3, "TS";
        ET = 4, "ET";
        NE = 5, "NE";
        WP = 16, "WP";
        AM = 18, "AM";
        NW = 29, "NW";
        CD = 30, "CD";
        PG = 31, "PG";
    }
}

named_bits! {
    /// CR4, for printing. Source: Intel SDM, vol. 3, section 2.5, "Control Registers".
    pub struct Cr4: u64 {
        VME = 0, "VME";
        PVI = 1, "PVI";
        TSD = 2, "TSD";
        DE = 3, "DE";
        PSE = 4, "PSE";
        PAE = 5, "PAE";
        MCE = 6, "MCE";
        PGE = 7, "PGE";
        PCE = 8, "PCE";
        OSFXSR = 9, "OSFXSR";
        OSXMMEXCPT = 10, "OSXMMEXCPT";
        UMIP = 11, "UMIP";
        LA57 = 12, "LA57";
        VMXE = 13, "VMXE";
        SMXE = 14, "SMXE";
        FSGSBASE = 16, "FSGSBASE";
        PCIDE = 17, "PCIDE";
        OSXSAVE = 18, "OSXSAVE";
        KL = 19, "KL";
        SMEP = 20, "SMEP";
        SMAP = 21, "SMAP";
        PKE = 22, "PKE";
        CET = 23, "CET";
        PKS = 24, "PKS";
        UINTR = 25, "UINTR";
        LASS = 27, "LASS";
        LAM_SUP = 28, "LAM_SUP";
        FRED = 32, "FRED";
    }
}

named_bits! {
    /// IA32_EFER, for printing. Source: Intel SDM, vol. 3, section 2.2.1, "Extended Feature Enable
    /// Register".
    pub struct Efer: u64 {
        SCE = 0, "SCE";
        LME = 8, "LME";
        LMA = 10, "LMA";
        NXE = 11, "NXE";
    }
}

named_bits! {
    /// RFLAGS, for printing; IOPL is two bits, and bit 1 goes without saying. Source:
    /// Intel SDM, vol. 3, section 2.3, "System Flags and Fields in the EFLAGS Register".
    pub struct Rflags: u64, default1 2 {
        CF = 0, "CF";
        PF = 2, "PF";
        AF = 4, "AF";
        ZF = 6, "ZF";
        SF = 7, "SF";
        TF = 8, "TF";
        IF = 9, "IF";
        DF = 10, "DF";
        OF = 11, "OF";
        IOPL_1 = 12, "IOPL+1";
        IOPL_2 = 13, "IOPL+2";
        NT = 14, "NT";
        RF = 16, "RF";
        VM = 17, "VM";
        AC = 18, "AC";
        VIF = 19, "VIF";
        VIP = 20, "VIP";
        ID = 21, "ID";
    }
}

named_bits! {
    /// IA32_DEBUGCTL, for printing. Source: Intel SDM, vol. 3, chapter 18, "IA32_DEBUGCTL MSR".
    pub struct Debugctl: u64 {
        LBR = 0, "LBR";
        BTF = 1, "BTF";
        BLD = 2, "BLD";
        TR = 6, "TR";
        BTS = 7, "BTS";
        BTINT = 8, "BTINT";
        BTS_OFF_OS = 9, "BTS_OFF_OS";
        BTS_OFF_USR = 10, "BTS_OFF_USR";
        FREEZE_LBRS_ON_PMI = 11, "FREEZE_LBRS_ON_PMI";
        FREEZE_PERFMON_ON_PMI = 12, "FREEZE_PERFMON_ON_PMI";
        ENABLE_UNCORE_PMI = 13, "ENABLE_UNCORE_PMI";
        FREEZE_WHILE_SMM = 14, "FREEZE_WHILE_SMM";
        RTM = 15, "RTM";
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn registers_are_numbered_as_in_modrm() {
        let names = [
            "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11",
            "R12", "R13", "R14", "R15",
        ];
        for (number, name) in (0u8..).zip(names) {
            assert_eq!(Gpr::from_bits(u64::from(number)).to_string(), name);
            assert_eq!(Gpr::from_bits(u64::from(number)).number(), number);
        }
        assert_eq!(Gpr::from_number(16), None);
        for (number, name) in (0u8..).zip(["ES", "CS", "SS", "DS", "FS", "GS"]) {
            assert_eq!(
                SegmentRegister::from_number(number).unwrap().to_string(),
                name
            );
        }
        assert_eq!(SegmentRegister::from_number(6), None);
    }

    #[test]
    fn control_registers_print_their_bits() {
        assert_eq!(
            Cr0::from_bits_retain(0x8005_0033).to_string(),
            "PE, MP, ET, NE, WP, AM, PG"
        );
        assert_eq!(
            Cr4::from_bits_retain(0x37_26f0).to_string(),
            "PSE, PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, VMXE, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP"
        );
        assert_eq!(
            Efer::from_bits_retain(0xd01).to_string(),
            "SCE, LME, LMA, NXE"
        );
        assert_eq!(Rflags::from_bits_retain(0x246).to_string(), "PF, ZF, IF");
    }
}
