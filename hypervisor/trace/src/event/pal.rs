//! What ended a PAL, as it is recorded and told.

use core::fmt;

use vmcs_inspect::{ExitReason, InterruptionInfo};

/// Why a PAL was ended before it was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PalEnd {
    /// It caused this exception.
    Exception(InterruptionInfo),
    /// It touched this guest-physical address, which is not its own.
    Outside(u64),
    /// It did what no PAL may: a VM exit for this basic reason.
    Exit(u16),
    /// The debugger ended it.
    Killed,
    /// The program that had registered it has gone.
    Orphaned,
    /// The machine restarts.
    Restart,
}

/// The largest number of a PAL that a record has room for, and the mask of it.
const ID: u32 = 0xffff;

impl PalEnd {
    /// The small number of a record and its last word, for the end of the PAL `id`.
    pub(super) fn encode(self, id: u32) -> (u64, u64) {
        let (code, detail) = match self {
            Self::Exception(info) => (0, u64::from(info.raw())),
            Self::Outside(gpa) => (1, gpa),
            Self::Exit(reason) => (2, u64::from(reason)),
            Self::Killed => (3, 0),
            Self::Orphaned => (4, 0),
            Self::Restart => (5, 0),
        };
        (code << 16 | u64::from(id & ID), detail)
    }

    /// The inverse of [`encode`](Self::encode).
    pub(super) fn decode(small: u32, detail: u64) -> Option<(u32, Self)> {
        let end = match small >> 16 {
            0 => Self::Exception(InterruptionInfo::from_raw(detail as u32)),
            1 => Self::Outside(detail),
            2 => Self::Exit(detail as u16),
            3 => Self::Killed,
            4 => Self::Orphaned,
            5 => Self::Restart,
            _ => return None,
        };
        Some((small & ID, end))
    }
}

impl fmt::Display for PalEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exception(info) => info.fmt(f),
            Self::Outside(gpa) => write!(f, "touched {gpa:#x}, not its own"),
            Self::Exit(reason) => match ExitReason::from_raw(*reason) {
                Some(reason) => write!(f, "exit {reason}"),
                None => write!(f, "exit {reason}"),
            },
            Self::Killed => f.write_str("killed by the debugger"),
            Self::Orphaned => f.write_str("its program has gone"),
            Self::Restart => f.write_str("the machine restarts"),
        }
    }
}
