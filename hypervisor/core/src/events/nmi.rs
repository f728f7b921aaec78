//! NMIs that the guest is owed: now, at the next window, or later.
//!
//! The quiesce protocol decides whose NMI an NMI is, and counts those that
//! are the guest's. Here is only when the guest takes one. The entry path
//! calls [`owed_nmi`] last, with what it is about to inject.

use vmcs_inspect::{ActivityState, GuestInterruptibility};

/// What decides whether the guest gets an NMI that it is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NmiState {
    /// NMIs owed.
    pub owed: u32,
    /// Guest interruptibility state, as it will be at the entry.
    pub interruptibility: GuestInterruptibility,
    /// Guest activity state, as it will be at the entry.
    pub activity: ActivityState,
    /// Another event is injected at this entry.
    pub injecting: bool,
    /// The debugger steps this CPU with interrupts held.
    pub stepping: bool,
    /// A PAL runs.
    pub in_pal: bool,
}

/// What becomes of the NMIs that the guest is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NmiAction {
    /// None is owed: NMI-window exiting off.
    Nothing,
    /// Inject one now, after which one fewer is owed; NMI-window exiting on
    /// if `window`, for the next.
    Inject {
        /// More are owed.
        window: bool,
    },
    /// NMI-window exiting on.
    OpenWindow,
    /// NMI-window exiting off, though some are owed: they wait for the step
    /// or the PAL to end, or for the CPU to be started.
    Hold,
}

impl NmiAction {
    /// Should NMI-window exiting be on?
    pub const fn window(self) -> bool {
        matches!(self, Self::OpenWindow | Self::Inject { window: true })
    }
}

/// Blocking that keeps an NMI out. The SDM lets a processor refuse an NMI
/// under blocking by STI; the window opens one instruction later.
///
/// Source: Intel SDM, vol. 3, section 27.3.1.5, "Checks on Guest Non-Register State".
const BLOCKING: GuestInterruptibility = GuestInterruptibility::BLOCKING_BY_NMI
    .union(GuestInterruptibility::BLOCKING_BY_MOV_SS)
    .union(GuestInterruptibility::BLOCKING_BY_STI);

/// Decides about owed NMIs. Never answers [`NmiAction::Inject`] where VM entry
/// would refuse it: while virtual NMIs are blocked above all, which emulators let
/// pass.
pub const fn owed_nmi(state: &NmiState) -> NmiAction {
    if state.owed == 0 {
        return NmiAction::Nothing;
    }
    let held =
        state.stepping || state.in_pal || matches!(state.activity, ActivityState::WaitForSipi);
    if held {
        return NmiAction::Hold;
    }
    if state.injecting || state.interruptibility.intersects(BLOCKING) {
        return NmiAction::OpenWindow;
    }
    NmiAction::Inject {
        window: state.owed > 1,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use NmiAction::*;
    use proptest::prelude::*;

    const READY: NmiState = NmiState {
        owed: 1,
        interruptibility: GuestInterruptibility::empty(),
        activity: ActivityState::Active,
        injecting: false,
        stepping: false,
        in_pal: false,
    };

    fn blocked(bits: u32) -> NmiState {
        NmiState {
            interruptibility: GuestInterruptibility::from_bits_retain(bits),
            ..READY
        }
    }

    #[test]
    fn when_an_nmi_goes_in() {
        let halted = NmiState {
            activity: ActivityState::Hlt,
            ..READY
        };
        for (state, expected) in [
            (READY, Inject { window: false }),
            (NmiState { owed: 2, ..READY }, Inject { window: true }),
            (NmiState { owed: 0, ..READY }, Nothing),
            (halted, Inject { window: false }),
            (
                NmiState {
                    activity: ActivityState::WaitForSipi,
                    ..READY
                },
                Hold,
            ),
            (
                NmiState {
                    injecting: true,
                    ..READY
                },
                OpenWindow,
            ),
            (
                NmiState {
                    stepping: true,
                    ..READY
                },
                Hold,
            ),
            (
                NmiState {
                    in_pal: true,
                    ..READY
                },
                Hold,
            ),
            (blocked(1 << 0), OpenWindow),
            (blocked(1 << 1), OpenWindow),
            (blocked(1 << 3), OpenWindow),
            // Blocking by SMI and an enclave's interruption don't hold NMIs back.
            (blocked(1 << 2 | 1 << 4), Inject { window: false }),
            (
                NmiState {
                    owed: 0,
                    stepping: true,
                    in_pal: true,
                    ..blocked(8)
                },
                Nothing,
            ),
            (
                NmiState {
                    stepping: true,
                    ..blocked(8)
                },
                Hold,
            ),
        ] {
            assert_eq!(owed_nmi(&state), expected, "{state:?}");
        }
    }

    fn states() -> impl Strategy<Value = NmiState> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (0..4u32, 0..32u32, 0..4u32, flags).prop_map(|(owed, bits, activity, flags)| NmiState {
            owed,
            interruptibility: GuestInterruptibility::from_bits_retain(bits),
            activity: ActivityState::from_raw(activity).unwrap(),
            injecting: flags.0,
            stepping: flags.1,
            in_pal: flags.2,
        })
    }

    proptest! {
        #[test]
        fn an_nmi_is_never_injected_where_entry_refuses_it(state in states()) {
            if let Inject { .. } = owed_nmi(&state) {
                prop_assert!(state.owed > 0 && !state.injecting);
                prop_assert_eq!(state.interruptibility.bits() & 0b1011, 0);
                prop_assert!(!state.in_pal && !state.stepping);
            }
        }

        /// No owed NMI is forgotten: it goes in, or an exit comes when it
        /// can, or something whose end is seen holds it.
        #[test]
        fn an_owed_nmi_is_never_forgotten(state in states()) {
            let held = state.stepping || state.in_pal || state.activity == ActivityState::WaitForSipi;
            match owed_nmi(&state) {
                Nothing => prop_assert_eq!(state.owed, 0),
                Inject { window } => prop_assert_eq!(window, state.owed > 1),
                OpenWindow => prop_assert!(!held),
                Hold => prop_assert!(held),
            }
        }
    }
}
