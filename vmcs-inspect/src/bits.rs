//! The macro behind every type made of named bits: the bits' constants come from
//! `bitflags`, and printing names each set bit as the SDM does.

use core::fmt;

/// Declares a `bitflags` type whose bits carry the SDM's names.
///
/// Every bit is kept, defined or not, so no value read from a VMCS is altered.
/// `Display` prints the names of the set bits, then those without a name in hexadecimal, or
/// `none`. Reserved bits of the default1 class, given by `default1`, go without
/// saying and are not printed.
macro_rules! named_bits {
    (
        $(#[$meta:meta])*
        pub struct $Type:ident: $int:ty, default1 $default1:literal {
            $( $NAME:ident = $bit:literal, $text:literal; )+
        }
    ) => {
        bitflags::bitflags! {
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $Type: $int {
                $(
                    #[doc = concat!("Bit ", $bit, ": ", $text, ".")]
                    const $NAME = 1 << $bit;
                )+
                // Bits without a name are kept as they are.
                const _ = !0;
            }
        }

        impl $Type {
            /// The position and the SDM's name of each defined bit, in ascending order.
            pub const NAMES: &'static [(u8, &'static str)] = &[$( ($bit, $text), )+];

            /// The reserved bits that a processor requires to be 1 unless it reports otherwise.
            pub const RESERVED_DEFAULT1: $int = $default1;

            /// The set bits that have no name here.
            pub const fn unnamed(self) -> $int {
                self.bits() & !(0 $( | 1 << $bit )+)
            }
        }

        impl core::fmt::Display for $Type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                $crate::bits::write_names(
                    f,
                    self.bits() & !Self::RESERVED_DEFAULT1,
                    self.unnamed() & !Self::RESERVED_DEFAULT1,
                    Self::NAMES,
                )
            }
        }
    };
    (
        $(#[$meta:meta])*
        pub struct $Type:ident: $int:ty { $($body:tt)+ }
    ) => {
        $crate::bits::named_bits! {
            $(#[$meta])*
            pub struct $Type: $int, default1 0 { $($body)+ }
        }
    };
}
pub(crate) use named_bits;

/// Writes the names of the set bits, separated by commas; `none` if there are none.
pub(crate) fn write_names<T: Into<u64>>(
    f: &mut fmt::Formatter<'_>,
    bits: T,
    unnamed: T,
    names: &[(u8, &str)],
) -> fmt::Result {
    let (bits, unnamed) = (bits.into(), unnamed.into());
    if bits == 0 {
        return f.write_str("none");
    }
    let mut separator = "";
    for (bit, name) in names {
        if bits & (1 << bit) != 0 {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
    }
    if unnamed != 0 {
        write!(f, "{separator}{unnamed:#x}")?;
    }
    Ok(())
}
