//! Switches between two tasks in memory that is mapped one to one.

extern crate std;

use super::*;
use crate::addr::Gpa;
use crate::control_regs::CR0_PE;
use crate::events::{DOUBLE_FAULT, SEGMENT_NOT_PRESENT, STACK_FAULT};
use crate::paging::PhysMemError;
use crate::registers::Gpr;
use TaskSwitchSource::*;
use std::vec::Vec;
use vmcs_inspect::SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};

struct Memory(Vec<u8>);

impl Memory {
    fn part(&mut self, address: Gpa, len: usize) -> Result<&mut [u8], PhysMemError> {
        let start = address.as_u64() as usize;
        self.0
            .get_mut(start..start + len)
            .ok_or(PhysMemError(address))
    }

    fn put32(&mut self, at: u64, value: u32) {
        self.write(Gpa::new(at), &value.to_le_bytes()).unwrap();
    }

    fn get32(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.part(Gpa::new(at), 4).unwrap().try_into().unwrap())
    }

    fn put64(&mut self, at: u64, value: u64) {
        self.write(Gpa::new(at), &value.to_le_bytes()).unwrap();
    }
}

impl PhysMem for Memory {
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        into.copy_from_slice(self.part(address, into.len())?);
        Ok(())
    }

    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
        self.part(address, from.len())?.copy_from_slice(from);
        Ok(())
    }
}

const GDT: u64 = 0x1000;
const OLD_TSS: u64 = 0x2000;
const NEW_TSS: u64 = 0x3000;
const STACK: u64 = 0x5000;

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const OLD: u16 = 0x18;
const NEW: u16 = 0x20;
const LDT: u16 = 0x28;
const USER_DATA: u16 = 0x33;
const ABSENT_DATA: u16 = 0x38;
const ABSENT_CODE: u16 = 0x40;

fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    let low = limit & 0xffff | (base & 0xff_ffff) << 16;
    low | u64::from(access) << 40
        | (limit >> 16) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// Two tasks: the old one runs, the new one is free.
fn memory() -> Memory {
    let mut memory = Memory(std::vec![0; 0x8000]);
    let gdt = [
        0,
        descriptor(0, 0xf_ffff, 0x9a, 0xc),
        descriptor(0, 0xf_ffff, 0x92, 0xc),
        descriptor(OLD_TSS as u32, 0x67, 0x8b, 0),
        descriptor(NEW_TSS as u32, 0x67, 0x89, 0),
        descriptor(0x7000, 0xff, 0x82, 0),
        descriptor(0, 0xf_ffff, 0xf2, 0xc),
        descriptor(0, 0xf_ffff, 0x12, 0xc),
        descriptor(0, 0xf_ffff, 0x1a, 0xc),
    ];
    for (n, descriptor) in gdt.into_iter().enumerate() {
        memory.put64(GDT + 8 * n as u64, descriptor);
    }
    memory.put32(NEW_TSS + 0x1c, 0xabc_d000);
    memory.put32(NEW_TSS + 0x20, 0x4000);
    memory.put32(NEW_TSS + 0x24, 0x2);
    for n in 0..8 {
        memory.put32(NEW_TSS + 0x28 + 4 * n, 0x100 + n as u32);
    }
    memory.put32(NEW_TSS + 0x38, STACK as u32);
    for (n, selector) in [DATA, CODE, DATA, USER_DATA, 0, 0].into_iter().enumerate() {
        memory.put32(NEW_TSS + 0x48 + 4 * n as u64, selector.into());
    }
    memory
}

fn old_task() -> TaskState {
    let flat = |selector, rights| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights: AccessRights::from_raw(rights),
    };
    let mut gprs = Gprs::default();
    for register in &Gpr::ALL[..8] {
        gprs[*register] = 0x200 + *register as u64;
    }
    TaskState {
        gprs,
        rip: 0x1234,
        rflags: 0x4246,
        cr3: 0,
        dr7: 0x7ff,
        segments: [
            flat(DATA, 0xc093),
            flat(CODE, 0xc09b),
            flat(DATA, 0xc093),
            flat(DATA, 0xc093),
            flat(0, 0x1_0000),
            flat(0, 0x1_0000),
        ],
        ldtr: Segment::unusable(0),
        tr: Segment {
            selector: OLD,
            base: OLD_TSS,
            limit: 0x67,
            rights: AccessRights::from_raw(0x8b),
        },
    }
}

fn request(source: TaskSwitchSource) -> Request {
    Request {
        source,
        selector: NEW,
        instruction_length: 7,
        idt_vectoring: InterruptionInfo::NONE,
        error_code: 0,
        gdt_base: GDT,
        gdt_limit: 9 * 8 - 1,
        paging: PagingRegs {
            cr0: CR0_PE,
            ..PagingRegs::default()
        },
    }
}

/// A double fault through a task gate.
fn double_fault() -> Request {
    Request {
        idt_vectoring: InterruptionInfo::hardware_exception(DOUBLE_FAULT, true),
        error_code: 0x55,
        ..request(IdtTaskGate)
    }
}

fn busy(memory: &mut Memory, selector: u16) -> bool {
    memory.get32(GDT + u64::from(selector) + 4) >> 9 & 1 != 0
}

#[test]
fn a_call_nests() {
    let mut memory = memory();
    let old = old_task();
    let switched = switch(&mut memory, &request(Call), &old).unwrap();
    // The old task is in its TSS, and stays busy.
    assert_eq!(memory.get32(OLD_TSS + 0x20), 0x1234 + 7);
    assert_eq!(memory.get32(OLD_TSS + 0x24), 0x4246);
    assert_eq!(memory.get32(OLD_TSS + 0x28), 0x200, "EAX");
    assert_eq!(memory.get32(OLD_TSS + 0x44), 0x207, "EDI");
    assert_eq!(memory.get32(OLD_TSS + 0x48), DATA.into(), "ES");
    assert_eq!(memory.get32(OLD_TSS + 0x4c), CODE.into(), "CS");
    assert!(busy(&mut memory, OLD) && busy(&mut memory, NEW));
    assert_eq!(memory.get32(NEW_TSS) as u16, OLD);
    // The new one is loaded.
    let state = switched.state;
    assert_eq!((state.rip, state.rflags), (0x4000, 0x4002));
    assert_eq!(
        (
            state.gprs[Gpr::Rax],
            state.gprs[Gpr::Rdi],
            state.gprs[Gpr::Rsp]
        ),
        (0x100, 0x107, STACK)
    );
    assert_eq!(
        state.tr,
        Segment {
            selector: NEW,
            base: NEW_TSS,
            limit: 0x67,
            rights: AccessRights::from_raw(0x8b)
        }
    );
    assert_eq!(
        state.segments[Cs as usize],
        Segment {
            selector: CODE,
            base: 0,
            limit: u32::MAX,
            rights: AccessRights::from_raw(0xc09b)
        }
    );
    assert_eq!(state.segments[Ds as usize].selector, USER_DATA);
    assert!(
        state.segments[Fs as usize].rights.unusable()
            && state.segments[Gs as usize].rights.unusable()
    );
    assert!(state.ldtr.rights.unusable());
    assert_eq!(state.dr7, 0x7ff & !0x155);
    assert_eq!(state.cr3, 0, "paging is off");
    assert_eq!(
        (switched.fault, switched.debug_trap, switched.unblock_nmis),
        (None, false, false)
    );
    // Loading a descriptor marks it.
    assert_eq!(memory.get32(GDT + u64::from(CODE) + 4) >> 8 & 0xff, 0x9b);
}

#[test]
fn a_jump_does_not_nest() {
    let mut memory = memory();
    let switched = switch(&mut memory, &request(Jmp), &old_task()).unwrap();
    assert!(!busy(&mut memory, OLD) && busy(&mut memory, NEW));
    assert_eq!(memory.get32(NEW_TSS), 0);
    assert_eq!(
        memory.get32(OLD_TSS + 0x24) & 0x4000,
        0x4000,
        "NT was set, and is saved"
    );
    assert_eq!(switched.state.rflags & RFLAGS_NT, 0);
}

#[test]
fn an_iret_goes_back() {
    let mut memory = memory();
    memory.put64(
        GDT + u64::from(NEW),
        descriptor(NEW_TSS as u32, 0x67, 0x8b, 0),
    );
    memory.put32(NEW_TSS + 0x24, 0x4002);
    let switched = switch(&mut memory, &request(Iret), &old_task()).unwrap();
    assert!(!busy(&mut memory, OLD) && busy(&mut memory, NEW));
    assert_eq!(
        memory.get32(OLD_TSS + 0x24),
        0x246,
        "NT is cleared in the image"
    );
    assert_eq!(switched.state.rflags, 0x4002, "NT is as it was");
    assert!(switched.unblock_nmis);
}

#[test]
fn a_double_fault_pushes_its_error_code() {
    let mut memory = memory();
    let switched = switch(&mut memory, &double_fault(), &old_task()).unwrap();
    assert_eq!(
        memory.get32(OLD_TSS + 0x20),
        0x1234,
        "at the instruction, not after it"
    );
    assert_eq!(switched.state.gprs[Gpr::Rsp], STACK - 4);
    assert_eq!(memory.get32(STACK - 4), 0x55);
    assert_eq!(switched.fault, None);
    // An INT n through a gate is left behind, and has none.
    let int = Request {
        idt_vectoring: InterruptionInfo::event(InterruptionType::SoftwareInterrupt, 0x40),
        ..double_fault()
    };
    let switched = switch(&mut memory, &int, &old_task()).unwrap();
    assert_eq!(memory.get32(OLD_TSS + 0x20), 0x1234 + 7);
    assert_eq!(switched.state.gprs[Gpr::Rsp], STACK);
}

#[test]
fn no_room_for_the_error_code() {
    let mut memory = memory();
    memory.put64(GDT + u64::from(DATA), descriptor(0, 0xfff, 0x92, 0x4));
    let switched = switch(&mut memory, &double_fault(), &old_task()).unwrap();
    assert_eq!(
        switched.fault,
        Some(Fault::with_selector(STACK_FAULT, 0, true))
    );
}

#[test]
fn the_trap_flag_of_a_tss() {
    let mut memory = memory();
    memory.put32(NEW_TSS + 0x64, 1);
    assert!(
        switch(&mut memory, &request(Jmp), &old_task())
            .unwrap()
            .debug_trap
    );
}

#[test]
fn a_16_bit_task() {
    let mut memory = memory();
    memory.put64(
        GDT + u64::from(NEW),
        descriptor(NEW_TSS as u32, 0x2b, 0x81, 0),
    );
    memory.0[NEW_TSS as usize..NEW_TSS as usize + 0x68].fill(0xee);
    let words: [u16; 15] = [
        0x4000, 2, 1, 2, 3, 4, 0x5000, 6, 7, 8, DATA, CODE, DATA, 0, LDT,
    ];
    for (n, word) in words.into_iter().enumerate() {
        memory
            .write(Gpa::new(NEW_TSS + 0x0e + 2 * n as u64), &word.to_le_bytes())
            .unwrap();
    }
    let switched = switch(&mut memory, &request(Call), &old_task()).unwrap();
    let state = switched.state;
    assert_eq!(switched.fault, None);
    assert_eq!(
        (state.rip, state.gprs[Gpr::Rax], state.gprs[Gpr::Rdi]),
        (0x4000, 1, 8)
    );
    assert_eq!(state.segments[Fs as usize], Segment::unusable(0));
    assert_eq!((state.ldtr.base, state.ldtr.limit), (0x7000, 0xff));
    assert!(!switched.debug_trap);
    // And back, from a 16-bit TSS: IP, not EIP, is saved there.
    let back = Request {
        selector: OLD,
        ..request(Iret)
    };
    memory.put32(OLD_TSS + 0x24, 0x2);
    let back = switch(
        &mut memory,
        &back,
        &TaskState {
            rip: 0x4321,
            ..state
        },
    )
    .unwrap();
    assert_eq!(memory.get32(NEW_TSS + 0x0e) as u16, 0x4321 + 7);
    assert_eq!((back.state.rip, back.fault), (0x1234 + 7, None));
}

#[test]
fn virtual_8086_tasks() {
    let mut memory = memory();
    memory.put32(NEW_TSS + 0x24, 0x2_0002);
    memory.put32(NEW_TSS + 0x4c, 0xf000);
    let switched = switch(&mut memory, &request(Call), &old_task()).unwrap();
    assert_eq!(switched.fault, None);
    assert_eq!(
        switched.state.segments[Cs as usize],
        Segment::virtual_8086(0xf000)
    );
    assert_eq!(switched.state.segments[Cs as usize].base, 0xf_0000);
    assert_eq!(switched.state.segments[Es as usize].rights.raw(), 0xf3);
}

/// Each bad selector in the new task, and the fault that the new task meets.
#[test]
fn the_new_tasks_segments_are_checked() {
    for (at, selector, vector) in [
        (0x4c, 0, INVALID_TSS),
        (0x4c, DATA, INVALID_TSS),
        (0x4c, CODE | 3, INVALID_TSS),
        (0x4c, 0x48, INVALID_TSS),
        (0x4c, ABSENT_CODE, SEGMENT_NOT_PRESENT),
        (0x50, 0, INVALID_TSS),
        (0x50, CODE, INVALID_TSS),
        (0x50, USER_DATA, INVALID_TSS),
        (0x50, DATA | 3, INVALID_TSS),
        (0x50, ABSENT_DATA, STACK_FAULT),
        (0x54, DATA | 3, INVALID_TSS),
        (0x54, OLD, INVALID_TSS),
        (0x54, 0x0c, INVALID_TSS),
        (0x58, ABSENT_DATA, SEGMENT_NOT_PRESENT),
        (0x60, CODE, INVALID_TSS),
        (0x60, LDT | 4, INVALID_TSS),
    ] {
        let mut memory = memory();
        memory.put32(NEW_TSS + at, selector.into());
        let switched = switch(&mut memory, &request(Jmp), &old_task()).unwrap();
        let expected = Fault::with_selector(vector, selector, false);
        assert_eq!(switched.fault, Some(expected), "{at:#x} = {selector:#x}");
        let (cs, ss) = (
            switched.state.segments[Cs as usize],
            switched.state.segments[Ss as usize],
        );
        assert_eq!(cs.rights.dpl(), ss.rights.dpl(), "VM entry demands it");
        assert!(!cs.rights.unusable() && !ss.rights.unusable());
        assert!(
            busy(&mut memory, NEW) && !busy(&mut memory, OLD),
            "the switch is made"
        );
    }
}

#[test]
fn tables_end_at_their_limits() {
    let beyond = descriptor(0, 0xf_ffff, 0x93, 0xc);
    for (limit, selector) in [(9 * 8 - 1, 0x48), (9 * 8 + 6, 0x48), (9 * 8 + 7, 0)] {
        let mut memory = memory();
        memory.put64(GDT + 0x48, beyond);
        memory.put32(NEW_TSS + 0x54, 0x48);
        let request = Request {
            gdt_limit: limit,
            ..request(Jmp)
        };
        let fault = switch(&mut memory, &request, &old_task()).unwrap().fault;
        let expected = Fault::with_selector(INVALID_TSS, selector, false);
        assert_eq!(fault, (selector != 0).then_some(expected), "{limit:#x}");
    }
    // An LDT with room for one descriptor, and without.
    for (limit, faults) in [(0xf, false), (0xe, true)] {
        let mut memory = memory();
        memory.put64(GDT + u64::from(LDT), descriptor(0x7000, limit, 0x82, 0));
        memory.put64(0x7008, beyond);
        memory.put32(NEW_TSS + 0x60, LDT.into());
        memory.put32(NEW_TSS + 0x54, 0x0c);
        let fault = switch(&mut memory, &request(Jmp), &old_task())
            .unwrap()
            .fault;
        assert_eq!(fault.is_some(), faults, "{limit:#x}");
    }
}

#[test]
fn the_gdt_may_end_with_the_new_task() {
    let request = Request {
        gdt_limit: u32::from(NEW) + 7,
        ..request(Jmp)
    };
    assert!(switch(&mut memory(), &request, &old_task()).is_ok());
}

#[test]
fn the_instruction_pointer_is_checked() {
    let mut memory = memory();
    memory.put64(GDT + u64::from(CODE), descriptor(0, 0x3fff, 0x9a, 0x4));
    let fault = switch(&mut memory, &double_fault(), &old_task())
        .unwrap()
        .fault;
    assert_eq!(
        fault,
        Some(Fault::with_selector(GENERAL_PROTECTION, 0, true))
    );
}

#[test]
fn descriptors_come_from_the_ldt() {
    let mut memory = memory();
    memory.put32(NEW_TSS + 0x60, LDT.into());
    memory.put64(0x7008, descriptor(0x1_0000, 0x1234, 0xf3, 0x4));
    memory.put32(NEW_TSS + 0x58, 0x0f);
    let switched = switch(&mut memory, &request(Call), &old_task()).unwrap();
    let fs = switched.state.segments[Fs as usize];
    assert_eq!((fs.selector, fs.base, fs.limit), (0x0f, 0x1_0000, 0x1234));
}

#[test]
fn a_bad_tss_faults_in_the_old_task() {
    let old = old_task();
    for change in [
        |memory: &mut Memory, _: &mut Request| {
            memory.put64(
                GDT + u64::from(NEW),
                descriptor(NEW_TSS as u32, 0x66, 0x89, 0),
            )
        },
        |memory: &mut Memory, _: &mut Request| {
            memory.put64(
                GDT + u64::from(NEW),
                descriptor(NEW_TSS as u32, 0x67, 0x82, 0),
            )
        },
        |_: &mut Memory, request: &mut Request| request.gdt_limit = u32::from(NEW) + 6,
    ] {
        let (mut memory, mut request) = (memory(), request(Call));
        change(&mut memory, &mut request);
        let before = memory.0.clone();
        let fault = switch(&mut memory, &request, &old).unwrap_err();
        assert_eq!(fault, Fault::with_selector(INVALID_TSS, NEW, false));
        assert!(memory.0 == before);
    }
}

/// 32-bit paging, 4 KiB pages, everything one to one but what is left out.
fn with_paging(memory: &mut Memory, left_out: u64) -> PagingRegs {
    memory.put32(0x6000, 0x4000 | 7);
    memory.0[0x4000..0x5000].fill(0);
    for page in 0..8 {
        let entry = if page << 12 == left_out {
            0
        } else {
            page << 12 | 3
        };
        memory.put32(0x4000 + 4 * page, entry as u32);
    }
    memory.put32(NEW_TSS + 0x1c, 0x6000);
    PagingRegs {
        cr0: CR0_PE | CR0_PG,
        cr3: 0x6000,
        max_phys_addr: 36,
        ..PagingRegs::default()
    }
}

#[test]
fn page_faults_come_before_anything_is_changed() {
    for (page, code) in [(OLD_TSS, 2), (NEW_TSS, 0), (GDT, 0)] {
        let mut memory = memory();
        let paging = with_paging(&mut memory, page);
        let before = memory.0.clone();
        let fault = switch(
            &mut memory,
            &Request {
                paging,
                ..request(Jmp)
            },
            &old_task(),
        )
        .unwrap_err();
        assert_eq!(
            fault.event,
            Event::exception(PAGE_FAULT, Some(code)),
            "{page:#x}"
        );
        assert_eq!(fault.cr2.map(|cr2| cr2 & !0xfff), Some(page));
        assert!(memory.0 == before);
    }
}

#[test]
fn with_paging_the_address_space_changes_too() {
    let mut memory = memory();
    let paging = with_paging(&mut memory, 0x7000);
    let switched = switch(
        &mut memory,
        &Request {
            paging,
            ..request(Call)
        },
        &old_task(),
    )
    .unwrap();
    assert_eq!(
        (switched.state.cr3, switched.pdptes, switched.fault),
        (0x6000, None, None)
    );
    // The new address space does not have the GDT.
    memory.put32(0x7000, 0);
    memory.put32(NEW_TSS + 0x1c, 0x7000);
    memory.put64(
        GDT + u64::from(NEW),
        descriptor(NEW_TSS as u32, 0x67, 0x89, 0),
    );
    let switched = switch(
        &mut memory,
        &Request {
            paging,
            ..request(Call)
        },
        &old_task(),
    )
    .unwrap();
    let fault = switched.fault.unwrap();
    assert_eq!(fault.event, Event::exception(PAGE_FAULT, Some(0)));
    assert_eq!(fault.cr2, Some(GDT + u64::from(CODE)));
    assert_eq!(switched.state.cr3, 0x7000);
}

#[test]
fn the_error_code_is_pushed_at_the_new_tasks_level() {
    for (rpl, code) in [(0, None), (3, Some(7))] {
        let mut memory = memory();
        let paging = with_paging(&mut memory, 0x7000);
        for (at, selector) in [(CODE, 0x9a | rpl << 5), (DATA, 0x92 | rpl << 5)] {
            let flat = descriptor(0, 0xf_ffff, selector as u8, 0xc);
            memory.put64(GDT + u64::from(at), flat);
        }
        for (at, selector) in [(0x48, DATA), (0x4c, CODE), (0x50, DATA)] {
            memory.put32(NEW_TSS + at, u32::from(selector) | rpl as u32);
        }
        let request = Request {
            paging,
            ..double_fault()
        };
        let fault = switch(&mut memory, &request, &old_task()).unwrap().fault;
        let expected = code.map(|code| Fault {
            event: Event::exception(PAGE_FAULT, Some(code)),
            cr2: Some(STACK - 4),
        });
        assert_eq!(fault, expected, "the stack is the kernel's");
    }
}

#[test]
fn pae_paging_loads_the_pdptes() {
    let mut memory = memory();
    // One directory of 2 MiB pages.
    memory.put64(0x6000, 0x6000 | 1 | 0x1000);
    memory.put64(0x7000, 0x83);
    let paging = PagingRegs {
        cr0: CR0_PE | CR0_PG,
        cr3: 0x6000,
        cr4: CR4_PAE,
        pdptes: Some([0x7001, 0, 0, 0]),
        max_phys_addr: 36,
        ..PagingRegs::default()
    };
    memory.put32(NEW_TSS + 0x1c, 0x6000);
    let switched = switch(
        &mut memory,
        &Request {
            paging,
            ..request(Call)
        },
        &old_task(),
    )
    .unwrap();
    assert_eq!(switched.pdptes, Some([0x7001, 0, 0, 0]));
    memory.put64(0x6008, 0x7003);
    memory.put64(
        GDT + u64::from(NEW),
        descriptor(NEW_TSS as u32, 0x67, 0x89, 0),
    );
    let switched = switch(
        &mut memory,
        &Request {
            paging,
            ..request(Call)
        },
        &old_task(),
    )
    .unwrap();
    assert_eq!(
        switched.fault,
        Some(Fault::with_selector(GENERAL_PROTECTION, 0, false))
    );
}
