//! Access rights: may a page that is mapped be touched so?
//!
//! Source: Intel SDM, vol. 3, section 4.6, "Access Rights".

use super::{Access, AccessKind, AccessMode, PagingMode, PagingRegs, error_code};
use crate::control_regs::{CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE};

const RFLAGS_AC: u64 = 1 << 18;

/// What the entries on the way to a page say, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub user: bool,
    pub writable: bool,
    pub executable: bool,
    /// Protection key of the page.
    pub key: u8,
}

/// The bits of an error code that tell of the access, not of what it met.
pub(super) const fn access_bits(regs: &PagingRegs, access: Access) -> u32 {
    let user = match access.mode {
        AccessMode::User => error_code::USER,
        _ => 0,
    };
    match access.kind {
        AccessKind::Read => user,
        AccessKind::Write => user | error_code::WRITE,
        AccessKind::Execute if reports_fetches(regs) => user | error_code::FETCH,
        AccessKind::Execute => user,
    }
}

/// I/D is reported only where something can make fetches differ from reads.
const fn reports_fetches(regs: &PagingRegs) -> bool {
    regs.cr4 & CR4_SMEP != 0
        || (!matches!(regs.mode(), PagingMode::Bits32) && regs.efer & EFER_NXE != 0)
}

/// # Errors
/// The error code of the page fault.
pub(super) const fn check(regs: &PagingRegs, rights: Rights, access: Access) -> Result<(), u32> {
    let fault = error_code::PRESENT | access_bits(regs, access);
    let allowed = match access.mode {
        AccessMode::Debugger => return Ok(()),
        AccessMode::User => user_may(rights, access.kind),
        AccessMode::Supervisor => supervisor_may(regs, rights, access.kind, true),
        AccessMode::Implicit => supervisor_may(regs, rights, access.kind, false),
    };
    if !allowed {
        return Err(fault);
    }
    if !key_allows(regs, rights, access) {
        return Err(fault | error_code::PROTECTION_KEY);
    }
    Ok(())
}

const fn user_may(rights: Rights, kind: AccessKind) -> bool {
    rights.user
        && match kind {
            AccessKind::Read => true,
            AccessKind::Write => rights.writable,
            AccessKind::Execute => rights.executable,
        }
}

const fn supervisor_may(
    regs: &PagingRegs,
    rights: Rights,
    kind: AccessKind,
    explicit: bool,
) -> bool {
    let smap_forbids =
        rights.user && regs.cr4 & CR4_SMAP != 0 && !(explicit && regs.rflags & RFLAGS_AC != 0);
    match kind {
        AccessKind::Read => !smap_forbids,
        AccessKind::Write => !smap_forbids && (rights.writable || regs.cr0 & CR0_WP == 0),
        AccessKind::Execute => rights.executable && !(rights.user && regs.cr4 & CR4_SMEP != 0),
    }
}

/// Protection keys speak for data accesses to user-mode addresses, by whom ever.
///
/// Source: Intel SDM, vol. 3, section 4.6.2, "Protection Keys".
const fn key_allows(regs: &PagingRegs, rights: Rights, access: Access) -> bool {
    let Some(pkru) = regs.pkru else {
        return true;
    };
    let counts = rights.user && matches!(regs.mode(), PagingMode::Level4 | PagingMode::Level5);
    if !counts {
        return true;
    }
    let bits = pkru >> (2 * (rights.key & 15));
    let access_disabled = bits & 1 != 0;
    let write_disabled = bits & 2 != 0;
    match access.kind {
        AccessKind::Execute => true,
        AccessKind::Read => !access_disabled,
        AccessKind::Write => {
            let user = matches!(access.mode, AccessMode::User);
            !access_disabled && !(write_disabled && (user || regs.cr0 & CR0_WP != 0))
        }
    }
}
