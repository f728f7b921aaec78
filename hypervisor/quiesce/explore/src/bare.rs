//! The processor that the guest would have had to itself, and the accounts that
//! compare it with what the guest got under Stillpoint. None of this is part of the
//! protocol: it says what "lost" and "invented" mean.

/// A processor without a hypervisor, with its guest at the point where Stillpoint's
/// guest is: it blocks NMIs until that guest's IRET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BareProcessor {
    /// An NMI is being handled.
    pub in_service: bool,
    /// One waits behind it, or for a SIPI.
    pub latched: bool,
    /// How many have been given to the guest.
    pub delivered: u8,
    /// In wait-for-SIPI.
    pub waits_for_sipi: bool,
}

impl BareProcessor {
    /// An NMI arrives.
    pub const fn arrive(&mut self) {
        if self.in_service || self.waits_for_sipi {
            self.latched = true;
        } else {
            self.in_service = true;
            self.delivered += 1;
        }
    }

    /// The guest executes IRET.
    pub const fn iret(&mut self) {
        self.in_service = false;
        self.take_latched();
    }

    /// INIT, with `delivered` given to the guest so far and `held` not yet: one waits.
    pub const fn init(&mut self, delivered: u8, held: u8) {
        *self = Self {
            in_service: false,
            latched: held > 0,
            delivered,
            waits_for_sipi: true,
        };
    }

    /// SIPI
    pub const fn start(&mut self) {
        self.waits_for_sipi = false;
        self.take_latched();
    }

    const fn take_latched(&mut self) {
        if core::mem::replace(&mut self.latched, false) {
            self.in_service = true;
            self.delivered += 1;
        }
    }

    /// What the guest has got or is sure to get.
    pub const fn total(&self) -> u8 {
        self.delivered + self.latched as u8
    }
}

/// What came for the guest of one CPU, and what it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accounts {
    /// The bare processor that has received the same NMIs.
    pub bare: BareProcessor,
    /// NMIs for the guest that arrived at the processor, or that a person asked for.
    pub arrived: u8,
    /// NMIs given to the guest.
    pub delivered: u8,
    /// How often a kick and an NMI of the guest's, sent after the stop began, were
    /// under way at once. The processor may then have merged two into one.
    pub met: u8,
    /// Since the stop began, and until this CPU stands with no kick on its way.
    pub exposure: Exposure,
    /// One was given while a PAL ran.
    pub delivered_in_pal: bool,
    /// A call of the crate left a ledger out of balance.
    pub out_of_balance: bool,
}

/// What a CPU may receive at once while a stop takes hold of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Exposure {
    /// A stop is taking hold.
    pub open: bool,
    /// A kick was sent.
    pub kick: bool,
    /// An NMI of the guest's was sent.
    pub nmi: bool,
}

impl Accounts {
    /// A stop begins.
    pub const fn stop_begins(&mut self) {
        self.exposure.open = true;
    }

    /// A kick was sent here.
    pub const fn kick_sent(&mut self) {
        self.exposure.open = true;
        let met = self.exposure.nmi && !self.exposure.kick;
        self.exposure.kick = true;
        self.met += met as u8;
    }

    /// An NMI of the guest's was sent here.
    pub const fn nmi_sent(&mut self) {
        if self.exposure.open {
            let met = self.exposure.kick && !self.exposure.nmi;
            self.exposure.nmi = true;
            self.met += met as u8;
        }
    }

    /// An NMI of the guest's arrives here.
    pub const fn nmi_arrives(&mut self) {
        self.arrived += 1;
        self.bare.arrive();
    }
}
