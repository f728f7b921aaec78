//! A program that has PALs: code at CPL 3 in an address space, 64-bit or 32-bit. It does
//! one thing at a time, a hypercall or a call, and comes back by a trap.

use core::arch::naked_asm;

use stillpoint_abi::Hypercall;
use stillpoint_abi::pal::{Parameter, Section, Width, encode_parameters, encode_sections};

use super::image::Pal;
use super::legacy;
use super::space::{Kind, Space};
use crate::boot::MAX_CPUS;
use crate::descriptors::{Shared, USER_RETURN_VECTOR};
use crate::harness::{Context, Failure, Outcome};
use crate::modes::{self, Level, vmcall_and_return};
use crate::trap::{Frame, Trap};
use crate::{apic, check, check_eq, smp};

/// Bytes of a stack at CPL 3.
const STACK_SIZE: u64 = 4096;

/// What lies above the first word of a stack.
const ABOVE: u64 = 256;

static STACKS: [Shared<[u8; STACK_SIZE as usize]>; MAX_CPUS] =
    [const { Shared::new([0; STACK_SIZE as usize]) }; MAX_CPUS];

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its memory.
    pub space: Space,
    /// How wide its code is.
    pub width: Width,
}

/// Calls the address in RAX, and comes back. The bytes are the same in 32-bit code.
#[unsafe(naked)]
unsafe extern "C" fn call_and_return() {
    naked_asm!("call rax", "int {vector}", vector = const USER_RETURN_VECTOR)
}

/// Where [`Program::call`] returns to from a PAL.
pub fn after_call() -> u64 {
    call_and_return as *const () as u64 + 2
}

/// A trap by which code at CPL 3 came back as it should: its RAX.
pub fn result(trap: &Trap) -> Result<u64, Failure> {
    if trap.vector() == USER_RETURN_VECTOR {
        Ok(trap.frame.rax)
    } else {
        Err(Failure::new(format_args!("at CPL 3: {trap}")))
    }
}

impl Program {
    /// 64-bit code in 4-level paging.
    pub fn usual() -> Self {
        Self {
            space: Space::new(Kind::Level4),
            width: Width::Bits64,
        }
    }

    /// Goes on in a context until a trap; the segments are this program's.
    pub fn resume(&self, frame: &Frame) -> Trap {
        let level = match self.width {
            Width::Bits32 => Level::User32,
            Width::Bits64 => Level::User64,
        };
        let (cs, ss) = level.selectors();
        let frame = Frame {
            cs: cs.into(),
            ss: ss.into(),
            ..*frame
        };
        if self.space.kind.is_long() {
            self.space.with(|| modes::resume(&frame))
        } else {
            legacy::resume(&self.space, &frame)
        }
    }

    /// Runs code with these registers; RIP, RSP and RFLAGS are set here.
    pub fn run(&self, code: unsafe extern "C" fn(), registers: &Frame) -> Trap {
        self.resume(&Frame {
            rip: code as *const () as u64,
            rsp: stack_top(apic::id()),
            rflags: 2,
            ..*registers
        })
    }

    /// A hypercall: what RAX is then.
    pub fn hypercall(&self, command: Hypercall, arguments: [u64; 4]) -> Result<u64, Failure> {
        let [rcx, rdx, rsi, rdi] = arguments;
        let rax = command.command().into();
        let registers = Frame {
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            ..Frame::default()
        };
        result(&self.run(vmcall_and_return, &registers))
    }

    /// REG.
    pub fn register(&self, pal: &Pal) -> Result<u64, Failure> {
        self.register_sections(&pal.sections(), pal.parameters, pal.entry())
    }

    /// REG of any sections and parameters.
    pub fn register_sections(
        &self,
        sections: &[Section],
        parameters: &[Parameter],
        entry: u64,
    ) -> Result<u64, Failure> {
        let structures = encode_sections(sections).zip(encode_parameters(parameters));
        let Some((sections, parameters)) = structures else {
            crate::fail!("too many sections or parameters");
        };
        let [sections, parameters] = [sections.as_ptr(), parameters.as_ptr()];
        let arguments = [sections as u64, 0, parameters as u64, entry];
        self.hypercall(Hypercall::Register, arguments)
    }

    /// REG of a PAL whose pages have just been filled; it must be done.
    pub fn give(&self, pal: &Pal) -> Outcome {
        pal.fill();
        check_eq!(self.register(pal)?, 0, "REG");
        Ok(())
    }

    /// UNREG.
    pub fn unregister(&self, pal: &Pal) -> Result<u64, Failure> {
        self.hypercall(Hypercall::Unregister, [pal.entry(), 0, 0, 0])
    }

    /// UNREG, which must be done, and the pages must be as they should be then.
    pub fn take_back(&self, pal: &Pal) -> Outcome {
        check_eq!(self.unregister(pal)?, 0, "UNREG");
        pal.check_given_back()
    }

    /// The context of a call, before it, with the stack of a CPU.
    pub fn before_call(&self, cpu: usize, pal: &Pal, arguments: &[u64]) -> Frame {
        let word = self.width.bytes();
        let mut frame = Frame {
            rip: call_and_return as *const () as u64,
            rax: pal.entry(),
            rflags: 2,
            ..Frame::default()
        };
        let in_registers = match self.width {
            Width::Bits32 => 0,
            Width::Bits64 => arguments.len().min(6),
        };
        let (first, rest) = arguments.split_at(in_registers);
        let registers = [
            &mut frame.rdi,
            &mut frame.rsi,
            &mut frame.rdx,
            &mut frame.rcx,
            &mut frame.r8,
            &mut frame.r9,
        ];
        for (register, &argument) in registers.into_iter().zip(first) {
            *register = argument;
        }
        frame.rsp = stack_top(cpu);
        for (n, &argument) in (0..).zip(rest) {
            let place = frame.rsp + n * word;
            // SAFETY: the stack has room above its first word.
            unsafe {
                match self.width {
                    Width::Bits32 => (place as *mut u32).write_volatile(argument as u32),
                    Width::Bits64 => (place as *mut u64).write_volatile(argument),
                }
            }
        }
        frame
    }

    /// Calls a PAL: the trap that ends it.
    pub fn call(&self, pal: &Pal, arguments: &[u64]) -> Trap {
        self.resume(&self.before_call(apic::id(), pal, arguments))
    }

    /// Calls a PAL, which must return.
    pub fn called(&self, pal: &Pal, arguments: &[u64]) -> Result<u64, Failure> {
        result(&self.call(pal, arguments))
    }
}

/// The first word of a CPU's stack at CPL 3.
pub fn stack_top(cpu: usize) -> u64 {
    STACKS[cpu].get() as u64 + STACK_SIZE - ABOVE
}

/// What another CPU does in a program, and the trap that it came back by.
struct Order {
    program: Program,
    frame: Frame,
    trap: Trap,
}

static ORDERS: [Shared<Option<Order>>; MAX_CPUS] = [const { Shared::new(None) }; MAX_CPUS];

/// Has another CPU call a PAL. [`finished`] is to follow.
pub fn call_on(cpu: usize, program: &Program, pal: &Pal, arguments: &[u64]) {
    let order = Order {
        program: *program,
        frame: program.before_call(cpu, pal, arguments),
        trap: Trap::default(),
    };
    // SAFETY: the CPU has nothing to do, and looks here after `give` alone.
    unsafe { ORDERS[cpu].get().write(Some(order)) };
    smp::give(cpu, |cpu| {
        // SAFETY: CPU 0 leaves the order alone until this CPU is done.
        if let Some(order) = unsafe { &mut *ORDERS[cpu].get() } {
            order.trap = order.program.resume(&order.frame);
        }
    });
}

/// Waits until another CPU is through with its call: the trap that ended it.
pub fn finished(cpu: usize) -> Result<Trap, Failure> {
    if !smp::done(cpu) {
        crate::fail!("CPU {cpu} does not come back from its call");
    }
    // SAFETY: the CPU is done.
    match unsafe { &*ORDERS[cpu].get() } {
        Some(order) => Ok(order.trap),
        None => crate::fail!("CPU {cpu} had no order"),
    }
}

/// Starts the other CPUs, of which there must be so many at least.
pub fn others(context: &Context, at_least: usize) -> Outcome {
    context.require_stillpoint()?;
    let cpus = context.config.cpus;
    check!(cpus > at_least, "the configuration says cpus={cpus}");
    match smp::start_all(cpus) {
        Ok(()) => Ok(()),
        Err(index) => crate::fail!("CPU {index} does not start"),
    }
}
