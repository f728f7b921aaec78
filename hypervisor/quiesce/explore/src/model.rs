//! The machine as a model to explore: its state, and what can happen to it next. The
//! world (the guest's NMIs, INIT and SIPI, people) acts within the bounds of [`Wishes`];
//! the rest has to come to an end by itself.

use stateright::{Model, Property};
use stillpoint_quiesce::{CpuWord, Rendezvous, Snapshot};

use crate::bare::Accounts;
use crate::processor::{Processor, Taken};
use crate::program::{At, Handler, Reason};
use crate::properties;
use crate::variants::{Variant, VariantState};

/// What may still happen to a CPU, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wishes {
    /// NMIs of the guest's, at any moment.
    pub nmis: u8,
    /// Exits for the CPU's own reasons.
    pub exits: u8,
    /// Stops that this CPU wants.
    pub stops: u8,
    /// NMIs that a person owes a guest while this CPU holds the machine.
    pub owes: u8,
    /// INITs sent to this CPU.
    pub inits: u8,
    /// SIPIs sent to this CPU.
    pub sipis: u8,
    /// PALs that this CPU runs.
    pub pals: u8,
    /// Failures of the hypervisor on this CPU.
    pub failures: u8,
}

impl Wishes {
    /// Nothing happens to the CPU but what others do to it.
    pub const NONE: Self = Self {
        nmis: 0,
        exits: 0,
        stops: 0,
        owes: 0,
        inits: 0,
        sipis: 0,
        pals: 0,
        failures: 0,
    };
}

/// One CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// The hardware.
    pub processor: Processor,
    /// Where its program is.
    pub at: At,
    /// The NMI handler, which runs before the program goes on.
    pub handler: Option<Handler>,
    /// A PAL runs.
    pub in_pal: bool,
    /// A SIPI brought it out during a stop; it has not looked yet.
    pub woken: bool,
    /// What may still happen.
    pub wishes: Wishes,
    /// What came and what the guest got.
    pub accounts: Accounts,
}

/// The machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    /// The protocol's shared memory.
    pub shared: Snapshot<N>,
    /// The CPUs.
    pub cpus: [Cpu; N],
    /// A CPU has failed, and was the first to.
    pub failed: bool,
    /// What a variant keeps besides.
    pub variant: VariantState<N>,
}

/// What happens next. The number is the CPU that it happens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The CPU's program, or its NMI handler, goes on by one access.
    Step(usize),
    /// A kick arrives.
    KickArrives(usize),
    /// An NMI of the guest's arrives; the second number says whether it was sent
    /// after the latest stop began.
    NmiArrives(usize, usize),
    /// The guest executes IRET at the end of its NMI handler.
    GuestIret(usize),
    /// The guest can take an NMI, and "NMI-window exiting" is on.
    WindowExit(usize),
    /// An INIT takes the CPU out of the guest.
    InitExit(usize),
    /// The PAL ends.
    PalEnds(usize),
    /// The world: an NMI of the guest's is sent.
    SendNmi(usize),
    /// The world: an INIT is sent.
    SendInit(usize),
    /// The world: a SIPI is sent to a CPU that waits for it.
    SendSipi(usize),
    /// The world: the guest does what exits.
    Exit(usize, Reason),
    /// The world: whoever holds the machine owes the other CPU's guest an NMI.
    Owe(usize, usize),
    /// The world: the hypervisor fails on this CPU.
    Fail(usize),
}

impl Action {
    /// Whether the world does it. It need not.
    pub const fn is_the_worlds(self) -> bool {
        matches!(
            self,
            Self::SendNmi(_)
                | Self::SendInit(_)
                | Self::SendSipi(_)
                | Self::Exit(..)
                | Self::Owe(..)
                | Self::Fail(_)
        )
    }

    /// The CPU that it happens on.
    pub const fn cpu(self) -> usize {
        match self {
            Self::Step(cpu)
            | Self::KickArrives(cpu)
            | Self::NmiArrives(cpu, _)
            | Self::GuestIret(cpu)
            | Self::WindowExit(cpu)
            | Self::InitExit(cpu)
            | Self::PalEnds(cpu)
            | Self::SendNmi(cpu)
            | Self::SendInit(cpu)
            | Self::SendSipi(cpu)
            | Self::Exit(cpu, _)
            | Self::Owe(cpu, _)
            | Self::Fail(cpu) => cpu,
        }
    }
}

/// A machine with N CPUs, all in the guest at first.
#[derive(Clone, Copy, Debug)]
pub struct Machine<const N: usize> {
    /// What may happen to each CPU.
    pub wishes: [Wishes; N],
    /// The guest's NMIs take time to arrive. Without, each arrives as it is sent.
    pub slow_nmis: bool,
    /// The protocol as built, or with a mistake put back.
    pub variant: Variant,
}

impl<const N: usize> Machine<N> {
    /// The protocol as built, with these wishes.
    pub const fn new(wishes: [Wishes; N]) -> Self {
        Self {
            wishes,
            slow_nmis: false,
            variant: Variant::AsBuilt,
        }
    }

    /// The same with NMIs that take time to arrive.
    #[must_use]
    pub const fn with_slow_nmis(mut self) -> Self {
        self.slow_nmis = true;
        self
    }

    /// The same with a mistake put back.
    #[must_use]
    pub const fn with(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// The state after an action; `None` if it is the same, which is how waiting
    /// looks: a CPU that spins has no next state until another one changes what it
    /// waits for.
    pub fn after(&self, old: &State<N>, action: Action) -> Option<State<N>> {
        let mut state = *old;
        let me = action.cpu();
        let cpu = &mut state.cpus[me];
        match action {
            Action::Step(_) => self.step(&mut state, me),
            Action::KickArrives(_) => {
                cpu.processor.kicks_coming -= 1;
                cpu.processor.arrive();
            }
            Action::NmiArrives(_, since) => {
                cpu.processor.nmis_coming[since] -= 1;
                cpu.accounts.nmi_arrives();
                cpu.processor.arrive();
            }
            Action::GuestIret(_) => {
                cpu.processor.virtual_blocking = false;
                cpu.accounts.bare.iret();
            }
            Action::WindowExit(_) => cpu.exit(Reason::Window),
            Action::InitExit(_) => {
                cpu.processor.init = false;
                cpu.exit(Reason::Init);
            }
            Action::PalEnds(_) => cpu.exit(Reason::PalEnds),
            Action::SendNmi(_) => {
                cpu.wishes.nmis -= 1;
                cpu.accounts.nmi_sent();
                if self.slow_nmis {
                    cpu.processor.nmis_coming[1] += 1;
                } else {
                    cpu.accounts.nmi_arrives();
                    cpu.processor.arrive();
                }
            }
            Action::SendInit(_) => {
                cpu.wishes.inits -= 1;
                cpu.processor.init = true;
            }
            Action::SendSipi(_) => {
                cpu.wishes.sipis -= 1;
                cpu.exit(Reason::Sipi);
            }
            Action::Exit(_, reason) => {
                let wish = match reason {
                    Reason::Stop => &mut cpu.wishes.stops,
                    Reason::PalBegins => &mut cpu.wishes.pals,
                    _ => &mut cpu.wishes.exits,
                };
                *wish -= 1;
                cpu.exit(reason);
            }
            Action::Owe(_, target) => {
                cpu.wishes.owes -= 1;
                cpu.at = At::Owe(target);
            }
            Action::Fail(_) => {
                cpu.wishes.failures -= 1;
                cpu.at = At::Handle(Reason::Failure);
            }
        }
        state.cpus[me].take_nmi();
        state.close_exposures();
        (state != *old).then_some(state)
    }
}

impl Cpu {
    fn new(wishes: Wishes) -> Self {
        Self {
            processor: Processor {
                non_root: true,
                ..Processor::default()
            },
            at: At::Guest,
            handler: None,
            in_pal: false,
            woken: false,
            wishes,
            accounts: Accounts::default(),
        }
    }

    fn exit(&mut self, reason: Reason) {
        self.processor.vm_exit();
        self.at = At::Exited(reason);
    }

    fn take_nmi(&mut self) {
        match self.processor.take_nmi() {
            Some(Taken::Exit) => self.at = At::Exited(Reason::Nmi),
            Some(Taken::Interrupt) => self.handler = Some(Handler::Count { in_guest: false }),
            None => {}
        }
    }

    /// In the hypervisor for good.
    pub const fn has_failed(&self) -> bool {
        matches!(self.at, At::Failed | At::Panicked)
    }
}

impl<const N: usize> State<N> {
    /// Runs calls of the crate on the shared memory, and checks the ledgers.
    pub(crate) fn with<T>(&mut self, run: impl FnOnce(&Rendezvous<N>) -> T) -> T {
        let machine = Rendezvous::restore(&self.shared);
        let out = run(&machine);
        let before = core::mem::replace(&mut self.shared, machine.snapshot());
        for (cpu, word) in before.words.iter().enumerate() {
            let ledger = machine.ledger(cpu);
            let came = ledger.in_guest + ledger.in_hypervisor + ledger.asked;
            let went = ledger.kicks_consumed + ledger.injected + ledger.merged;
            let kicks = u64::from(word.kick_outstanding()) + ledger.kicks_sent;
            let balances = u64::from(word.owed()) + came == went + u64::from(ledger.owed)
                && kicks == ledger.kicks_consumed + u64::from(ledger.kick_outstanding);
            self.cpus[cpu].accounts.out_of_balance |= !balances;
        }
        out
    }

    /// A stop is in force.
    pub const fn stop_in_force(&self) -> bool {
        self.shared.generation & 1 == 1
    }

    /// This CPU has said to the owner of the stop in force that it stands.
    pub const fn acknowledged(&self, cpu: usize) -> bool {
        self.stop_in_force() && self.shared.acknowledged[cpu] == self.shared.generation
    }

    /// NMIs that have arrived at the processor, or will by a kick, and that the guest
    /// of this CPU has not got: less those that will be taken for a kick.
    pub fn held(&self, me: usize) -> i16 {
        let cpu = &self.cpus[me];
        let word = self.shared.words[me];
        let uncounted = matches!(
            cpu.handler,
            Some(Handler::Count { .. } | Handler::Store { .. })
        ) || cpu.at == At::Exited(Reason::Nmi);
        let kicks = u8::from(word.kick_outstanding()) + self.variant.more_kicks[me];
        let came = word.owed() as u8
            + u8::from(cpu.processor.injecting)
            + u8::from(cpu.processor.latched)
            + u8::from(uncounted)
            + cpu.processor.kicks_coming;
        i16::from(came) - i16::from(kicks)
    }

    /// How many NMIs a bare processor would have given to the guest of this CPU and
    /// this one will not.
    pub fn lost(&self, me: usize) -> i16 {
        let accounts = &self.cpus[me].accounts;
        i16::from(accounts.bare.total()) - i16::from(accounts.delivered) - self.held(me)
    }

    fn close_exposures(&mut self) {
        for me in 0..N {
            let word = self.shared.words[me];
            let stands = !self.stop_in_force() || self.acknowledged(me) || word.parked();
            let cpu = &mut self.cpus[me];
            if stands && !word.kick_outstanding() && !cpu.processor.blocked {
                cpu.accounts.exposure = crate::Exposure::default();
            }
        }
    }
}

impl<const N: usize> Model for Machine<N> {
    type State = State<N>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<N>> {
        vec![State {
            shared: Snapshot {
                generation: 0,
                owner: None,
                words: [CpuWord::default().join().enter(); N],
                acknowledged: [0; N],
            },
            cpus: self.wishes.map(Cpu::new),
            failed: false,
            variant: VariantState::new(),
        }]
    }

    fn actions(&self, state: &State<N>, actions: &mut Vec<Action>) {
        for (me, cpu) in state.cpus.iter().enumerate() {
            let Cpu {
                processor, wishes, ..
            } = cpu;
            let mut add = |when: bool, action| {
                if when {
                    actions.push(action);
                }
            };
            let lives = !cpu.has_failed();
            let in_guest = cpu.at == At::Guest;
            add(!in_guest || cpu.handler.is_some(), Action::Step(me));
            add(processor.kicks_coming > 0, Action::KickArrives(me));
            for since in 0..2 {
                let coming = processor.nmis_coming[since] > 0;
                add(coming, Action::NmiArrives(me, since));
            }
            add(wishes.nmis > 0 && lives, Action::SendNmi(me));
            add(wishes.inits > 0 && !processor.init, Action::SendInit(me));
            if in_guest {
                add(processor.init, Action::InitExit(me));
                let sipi = wishes.sipis > 0 && processor.waits_for_sipi;
                add(sipi, Action::SendSipi(me));
                add(processor.window_exit_due(), Action::WindowExit(me));
            }
            if in_guest && processor.runs_guest() {
                add(
                    processor.virtual_blocking && !cpu.in_pal,
                    Action::GuestIret(me),
                );
                add(cpu.in_pal, Action::PalEnds(me));
                add(wishes.exits > 0, Action::Exit(me, Reason::Own));
                add(wishes.stops > 0, Action::Exit(me, Reason::Stop));
                let pal = wishes.pals > 0 && !cpu.in_pal;
                add(pal, Action::Exit(me, Reason::PalBegins));
            }
            if cpu.handler.is_none() {
                let may_fail = matches!(cpu.at, At::Hold | At::Look { .. } | At::BeginLook);
                add(wishes.failures > 0 && may_fail, Action::Fail(me));
                if cpu.at == At::Hold && wishes.owes > 0 {
                    actions.extend((0..N).map(|target| Action::Owe(me, target)));
                }
            }
        }
    }

    fn next_state(&self, state: &State<N>, action: Action) -> Option<State<N>> {
        self.after(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
