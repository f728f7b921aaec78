//! One CPU's guest: the run loop, and what happens between an exit and the next
//! entry whatever the exit was.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use gdb_stub::{StopKind, StopReason};
use stillpoint_core::cpu_state::{self, GuestReset, ResetInput, StartAction, StartState};
use stillpoint_core::events::{self, Event, Merged, NmiAction, NmiState};
use stillpoint_core::registers::{Gpr, Gprs};
use stillpoint_core::vmcs_plan::{ControlValues, VmxMsrs};
use stillpoint_quiesce::Waiter;
use vmcs_inspect::{
    ActivityState, Field, GuestInterruptibility, InterruptionInfo, PinBasedControls,
    PrimaryControls, VmcsSnapshot,
};

use super::entry::{self, GuestRegisters, Run};
use super::instructions::{Current, get, set};
use super::{ept, exits, state};
use crate::cpu::percpu::PerCpu;
use crate::cpu::tsc;
use crate::debug::{self, host, remote};
use crate::trace::PalEnd;
use crate::{RENDEZVOUS, clock, pal, trace};

/// #MC
const MACHINE_CHECK: u8 = 18;

/// The guest of one CPU. Owned by that CPU's run loop.
pub struct Vcpu {
    /// The CPU that it runs on.
    pub cpu: &'static PerCpu,
    /// The registers that the VMCS does not hold.
    pub registers: GuestRegisters,
    /// The controls that the VMCS was set up with.
    pub controls: ControlValues,
    /// Does it wait for a SIPI?
    pub start_state: StartState,
    /// The next entry's guest executes one instruction with the hypervisor's range
    /// readable as zeros.
    pub zero_view: bool,
    /// The debugger steps this CPU: events are held.
    pub stepping: bool,
    /// DR0 to DR3 and DR7 as the guest believes them, while the debugger uses the
    /// registers.
    pub guest_debug: Option<debug::registers::GuestDebug>,
    /// What would have stopped the machine, had it not been a step's.
    pub stopped_in_step: Option<StopKind>,
    /// The debugger's changes that this CPU has caught up with.
    pub debug_epoch: u64,
    /// Has the VMCS been entered since its VMCLEAR?
    pub launched: bool,
    /// When the guest was let go after the last exit that was recorded: the
    /// time-stamp counter.
    pub entered: u64,
    /// The preemption timer has expired, and that is not recorded.
    pub polled: bool,
    /// The PAL that the guest is in.
    pub pal: Option<usize>,
    /// What that PAL's caller left.
    pub caller: pal::calls::CallerState,
}

/// What can be seen of a CPU that is parked and cannot be asked.
pub struct Published {
    snapshot: UnsafeCell<VmcsSnapshot>,
    gprs: UnsafeCell<Gprs>,
}

// SAFETY: written by its own CPU before it parks (and before a stop could read
// it), read by the owner of a stop while the CPU is parked and does not serve.
unsafe impl Sync for Published {}

impl Published {
    /// The state after INIT is the same each time: it is published once, with that
    /// state loaded.
    fn publish(&self, gprs: &Gprs) {
        // SAFETY: this CPU is not parked yet, so nobody reads.
        let (snapshot, kept_gprs) = unsafe { (&mut *self.snapshot.get(), &mut *self.gprs.get()) };
        *kept_gprs = *gprs;
        // The VMCS is current: what it lacks, the processor lacks.
        let _always = snapshot.capture(&mut Current);
    }

    /// The VMCS when the CPU parked. The caller holds the machine, and the CPU is
    /// parked.
    pub fn vmcs(&self) -> &VmcsSnapshot {
        // SAFETY: see the impl of Sync.
        unsafe { &*self.snapshot.get() }
    }

    /// The general-purpose registers when the CPU parked.
    pub fn gprs(&self) -> &Gprs {
        // SAFETY: see the impl of Sync.
        unsafe { &*self.gprs.get() }
    }
}

impl Vcpu {
    /// A guest that has no state yet.
    pub fn new(cpu: &'static PerCpu, controls: ControlValues) -> Self {
        Self {
            cpu,
            registers: GuestRegisters {
                xmm: [[0; 16]; 16],
                gprs: Gprs::default(),
                mxcsr: 0x1f80,
            },
            controls,
            start_state: StartState::WaitForSipi,
            zero_view: false,
            stepping: false,
            guest_debug: None,
            stopped_in_step: None,
            debug_epoch: 0,
            launched: false,
            entered: 0,
            polled: false,
            pal: None,
            caller: pal::calls::CallerState::default(),
        }
    }

    /// Loads a state: at boot, and after INIT.
    pub fn load(&mut self, reset: &GuestReset) {
        for &(field, value) in &reset.fields {
            set(field, value);
        }
        self.registers.gprs = reset.gprs;
        self.set_cr2(reset.cr2);
        debug::registers::reset(self, reset.dr6);
    }

    /// What the states after INIT and at the boot sector depend on.
    pub fn reset_input(&self) -> ResetInput {
        ResetInput {
            fixed: state::fixed_bits(),
            signature: state::cpuid(1, 0).eax,
            cr0: get(Field::GUEST_CR0),
            entry_controls: self.controls.entry,
        }
    }

    /// Runs the guest for ever; `wait`: from a stop in the debugger on.
    pub fn run(mut self, wait: bool) -> ! {
        self.cpu.vcpu.store(&raw mut self, Ordering::Release);
        self.arm_timer();
        entry::make_look_again(self.cpu);
        if wait {
            self.stop(StopKind::Wait);
        }
        loop {
            self.run_once();
        }
    }

    /// One entry, and the handling of the exit that follows. False if it never
    /// came to the entry.
    pub fn run_once(&mut self) -> bool {
        match entry::run(&mut self.registers, self.launched) {
            Run::Exit => {
                exits::handle(self);
                true
            }
            Run::Look => {
                self.look();
                false
            }
            Run::Failed(failure) => {
                debug::entry_failed(self, Some(failure));
                false
            }
        }
    }

    /// Acts on whatever came up since the last look. What comes up during it asks for
    /// another one, and the next entry sees that.
    pub fn look(&mut self) {
        exits::trace_poll(self);
        RENDEZVOUS.begin_look(self.cpu.index);
        if !self.stepping {
            let me = self.cpu.index;
            let joined = RENDEZVOUS.acknowledged(me);
            RENDEZVOUS.look(me, self);
            if RENDEZVOUS.acknowledged(me) != joined {
                trace::event(trace::Event::StopLeft);
            }
        }
        debug::registers::catch_up(self);
        ept::catch_up(self.cpu);
        self.deliver_nmis();
        self.entered = tsc();
    }

    fn deliver_nmis(&mut self) {
        let me = self.cpu.index;
        let interruptibility = interruptibility();
        let blocked = interruptibility.contains(GuestInterruptibility::BLOCKING_BY_NMI);
        let info = InterruptionInfo::from_raw(get(Field::VM_ENTRY_INTERRUPTION_INFO) as u32);
        // One that goes in with the next entry is being handled already.
        let handling = blocked || info.valid() && info.is_nmi();
        let owed = RENDEZVOUS.settle(me, handling);
        let activity = ActivityState::from_raw(get(Field::GUEST_ACTIVITY_STATE) as u32)
            .unwrap_or(ActivityState::Active);
        let state = NmiState {
            owed,
            interruptibility,
            injecting: info.valid(),
            stepping: self.stepping,
            in_pal: self.pal.is_some(),
            activity,
        };
        let window = match events::owed_nmi(&state) {
            NmiAction::Nothing | NmiAction::Hold => false,
            NmiAction::OpenWindow => true,
            NmiAction::Inject { window } => {
                if RENDEZVOUS.inject(me).is_some() {
                    self.inject(Event::nmi());
                }
                window
            }
        };
        if self.control(PrimaryControls::NMI_WINDOW_EXITING, window) && window {
            trace::event(trace::Event::NmiWindowOpened);
        }
    }

    /// Sets or clears one of the primary processor-based controls. False if it was so
    /// before.
    pub fn control(&mut self, bit: PrimaryControls, on: bool) -> bool {
        let bit = u64::from(bit.bits());
        let old = get(Field::PRIMARY_PROCESSOR_BASED_CONTROLS);
        let new = if on { old | bit } else { old & !bit };
        if new != old {
            set(Field::PRIMARY_PROCESSOR_BASED_CONTROLS, new);
        }
        new != old
    }

    /// The next entry delivers this event.
    pub fn inject(&mut self, event: Event) {
        let event = event.in_mode(get(Field::GUEST_CR0));
        trace::event(trace::Event::Injected(event.info));
        // A processor refuses such an entry; an emulator may not.
        assert!(
            !event.info.is_nmi()
                || !interruptibility().contains(GuestInterruptibility::BLOCKING_BY_NMI)
        );
        set(
            Field::VM_ENTRY_INTERRUPTION_INFO,
            u64::from(event.info.raw()),
        );
        set(
            Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
            u64::from(event.error_code),
        );
        set(
            Field::VM_ENTRY_INSTRUCTION_LENGTH,
            u64::from(event.instruction_length),
        );
    }

    /// The instruction that exited faults instead.
    pub fn fault(&mut self, vector: u8, error_code: Option<u32>) {
        self.fault_during(None, Event::exception(vector, error_code));
    }

    /// An exception, possibly while `original` was being delivered.
    pub fn fault_during(&mut self, original: Option<Event>, exception: Event) {
        if self.pal.is_some() {
            let end = PalEnd::Exception(exception.info);
            // A machine check is the system's, whoever runs.
            let event = match exception.info.vector() {
                MACHINE_CHECK => exception,
                _ => Event::general_protection(),
            };
            return pal::ending::end_running(self, end, event);
        }
        // An NMI whose own delivery faults is spent, and blocks others until the
        // next IRET all the same: so on a processor.
        if original.is_some_and(|event| event.info.is_nmi()) {
            set_nmi_blocking(true);
        }
        match events::merge(original, exception) {
            Merged::Deliver(event) => self.inject(event),
            Merged::TripleFault => exits::triple_fault(self),
        }
    }

    /// #GP(0)
    pub fn general_protection(&mut self) {
        self.fault(13, Some(0));
    }

    /// #UD
    pub fn invalid_opcode(&mut self) {
        self.fault(6, None);
    }

    /// Goes on behind the instruction that exited, which the hypervisor has
    /// executed: its shadows end, and a trap that single-stepping owes is pending.
    pub fn skip_instruction(&mut self) {
        let rip = get(Field::GUEST_RIP);
        let mut next = rip.wrapping_add(get(Field::VM_EXIT_INSTRUCTION_LENGTH));
        // Only 64-bit code runs past 4 GiB.
        if (rip ^ next) >> 32 != 0 && !self.in_64_bit_code() {
            next &= 0xffff_ffff;
        }
        set(Field::GUEST_RIP, next);
        self.end_shadows();
        const TF: u64 = 1 << 8;
        const RF: u64 = 1 << 16;
        let rflags = get(Field::GUEST_RFLAGS);
        // Every instruction ends with RF = 0: the next one may be a breakpoint's.
        if rflags & RF != 0 {
            set(Field::GUEST_RFLAGS, rflags & !RF);
        }
        if rflags & TF != 0 {
            const BTF: u64 = 1 << 1;
            const BS: u64 = 1 << 14;
            if get(Field::GUEST_IA32_DEBUGCTL) & BTF == 0 {
                let pending = get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS);
                set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending | BS);
            }
        }
    }

    /// Blocking by STI and by MOV SS last for one instruction.
    pub fn end_shadows(&mut self) {
        let interruptibility = get(Field::GUEST_INTERRUPTIBILITY);
        if interruptibility & 3 != 0 {
            set(Field::GUEST_INTERRUPTIBILITY, interruptibility & !3);
        }
    }

    /// CS.L of the guest, in IA-32e mode.
    pub fn in_64_bit_code(&self) -> bool {
        get(Field::GUEST_CS_ACCESS_RIGHTS) & (1 << 13) != 0
            && get(Field::GUEST_IA32_EFER) & (1 << 10) != 0
    }

    /// The guest's privilege level.
    pub fn cpl(&self) -> u8 {
        (get(Field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
    }

    /// A general-purpose register, RSP included.
    pub fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => get(Field::GUEST_RSP),
            other => self.registers.gprs[other],
        }
    }

    /// Sets a general-purpose register, RSP included.
    pub fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rsp => set(Field::GUEST_RSP, value),
            other => self.registers.gprs[other] = value,
        }
    }

    /// Sets the guest's CR2, which the processor keeps over VM exits.
    pub fn set_cr2(&mut self, value: u64) {
        // SAFETY: the hypervisor's own page faults are its end, so CR2 is the guest's.
        unsafe {
            core::arch::asm!("mov cr2, {}", in(reg) value,
                             options(nomem, nostack, preserves_flags));
        }
    }

    /// Starts the VMX-preemption timer anew, if this CPU polls the debugger's port.
    pub fn arm_timer(&mut self) {
        if self
            .controls
            .pin_based
            .contains(PinBasedControls::ACTIVATE_VMX_PREEMPTION_TIMER)
        {
            let shift = VmxMsrs::from(&state::capabilities()).preemption_timer_shift();
            let ticks = (clock::ticks_per_ms() >> shift).clamp(1, u64::from(u32::MAX));
            set(Field::GUEST_PREEMPTION_TIMER_VALUE, ticks);
        }
    }

    /// INIT, SIPI or triple fault.
    pub fn start_action(&mut self, action: StartAction) {
        match action {
            StartAction::Park => {
                pal::ending::end_parked(self);
                self.park();
            }
            StartAction::Start(vector) => {
                self.start_state = StartState::Started;
                RENDEZVOUS.unpark(self.cpu.index);
                trace::event(trace::Event::Unparked { vector });
                self.load(&cpu_state::after_init(&self.reset_input()));
                for (field, value) in cpu_state::sipi_fields(vector) {
                    set(field, value);
                }
            }
            StartAction::ResetMachine => {
                pal::ending::end_all(self);
                crate::reset::reset_machine()
            }
            StartAction::Ignore => {}
        }
    }

    /// This CPU is to wait for a SIPI. It counts as stopped from the next look on, and
    /// looks before it runs anything else.
    ///
    /// A SIPI that comes before the entry is lost, and guests send it soon after the
    /// INIT: so the rest of the state that INIT makes is loaded when the SIPI has come.
    fn park(&mut self) {
        self.start_state = StartState::WaitForSipi;
        set(
            Field::GUEST_ACTIVITY_STATE,
            u64::from(ActivityState::WaitForSipi.raw()),
        );
        // Nothing that was due before goes in after.
        set(Field::GUEST_INTERRUPTIBILITY, 0);
        set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
        set(Field::VM_ENTRY_INTERRUPTION_INFO, 0);
        trace::event(trace::Event::Parked);
        while !RENDEZVOUS.try_park(self.cpu.index) {
            core::hint::spin_loop();
        }
    }

    /// A CPU's first state: after INIT, waiting for a SIPI.
    pub fn wait_for_sipi(&mut self) {
        self.load(&cpu_state::after_init(&self.reset_input()));
        self.cpu.published.publish(&self.registers.gprs);
        self.park();
    }

    /// Stops the machine for the debugger, on this CPU.
    pub fn stop(&mut self, kind: StopKind) {
        let cpu = gdb_stub::CpuIndex(self.cpu.index as u16);
        debug::stop(self, StopReason { cpu, kind });
    }
}

/// While another CPU holds the machine, this one does what it asks.
impl Waiter for Vcpu {
    fn joined(&mut self) {
        let generation = RENDEZVOUS.generation();
        trace::event(trace::Event::StopJoined { generation });
    }

    fn wait(&mut self) {
        let cpu = self.cpu;
        // The owner waits for no answer from a CPU that has failed.
        if !host::has_failed(cpu.index) {
            remote::serve(&cpu.work, self);
        }
        core::hint::spin_loop();
    }
}

/// The guest's interruptibility state.
pub fn interruptibility() -> GuestInterruptibility {
    GuestInterruptibility::from_bits_retain(get(Field::GUEST_INTERRUPTIBILITY) as u32)
}

/// Sets or clears the guest's virtual-NMI blocking.
pub fn set_nmi_blocking(on: bool) {
    let bit = u64::from(GuestInterruptibility::BLOCKING_BY_NMI.bits());
    let old = get(Field::GUEST_INTERRUPTIBILITY);
    set(
        Field::GUEST_INTERRUPTIBILITY,
        if on { old | bit } else { old & !bit },
    );
}
