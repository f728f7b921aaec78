//! The hypervisor's policy as pure functions.
//!
//! `hypervisor` is mechanism: it reads fields, asks a function here what to
//! do, and does it. Nothing here touches hardware, allocates, or panics on
//! what a guest can send; so every rule is tested on the host, by tables and
//! by properties.
//!
//! | question | module |
//! |---|---|
//! | what did the boot loader's command line ask for? | [`cmdline`] |
//! | where does the hypervisor live, and what map does the guest see? | [`memmap`], [`int15`] |
//! | which memory type has a page? | [`mtrr`] |
//! | what are the extended page tables? | [`ept`] |
//! | what does a guest-virtual address mean? | [`paging`] |
//! | what do CPUID, RDMSR, WRMSR, XSETBV, MOV CR answer? | [`cpuid`], [`msr`], [`xsetbv`], [`control_regs`] |
//! | which event goes into the guest at the next entry? | [`events`] |
//! | what state does a CPU start in? | [`cpu_state`] |
//! | which VMX controls are set, and can this CPU do it? | [`vmcs_plan`] |
//! | what is a PAL, and how do calls go in and out? | [`pal`] |
//! | which port accesses restart the machine? | [`reset_ports`] |
//! | what does a task switch, or INS and OUTS to a hidden port? | [`task_switch`], [`string_io`] |
//!
//! [`addr`], [`registers`] and [`segment`] are what the others speak in.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod cmdline;
pub mod control_regs;
pub mod cpu_state;
pub mod cpuid;
pub mod ept;
pub mod events;
pub mod int15;
pub mod memmap;
pub mod msr;
pub mod mtrr;
pub mod paging;
pub mod pal;
pub mod registers;
pub mod reset_ports;
pub mod segment;
pub mod string_io;
pub mod task_switch;
pub mod vmcs_plan;
pub mod xsetbv;
