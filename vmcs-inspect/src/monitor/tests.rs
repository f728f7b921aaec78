//! `monitor vmcs` as a person sees it, on a fake machine of two CPUs and a parked one.

extern crate std;

use std::string::String;
use std::vec::Vec;

use super::{HELP, NmiState, VmcsHost, run};
use crate::fake::{FakeVmcs, capabilities};
use crate::{Capabilities, Field, VmcsAccess, VmcsError, VmcsSnapshot};

struct FakeHost {
    vmcss: Vec<FakeVmcs>,
    nmi_states: Vec<NmiState>,
    previous: Vec<Option<VmcsSnapshot>>,
    current: usize,
    caps: Capabilities,
}

impl VmcsHost for FakeHost {
    fn cpus(&self) -> usize {
        self.vmcss.len()
    }

    fn current_cpu(&self) -> usize {
        self.current
    }

    fn with_vmcs(
        &mut self,
        cpu: usize,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError> {
        f(&mut self.vmcss[cpu]);
        Ok(())
    }

    fn nmi_state(&mut self, cpu: usize) -> NmiState {
        self.nmi_states[cpu]
    }

    fn capabilities(&self) -> Capabilities {
        self.caps
    }

    fn previous(&self, cpu: usize) -> Option<&VmcsSnapshot> {
        self.previous[cpu].as_ref()
    }
}

impl FakeHost {
    fn new() -> FakeHost {
        let mut vmcss = std::vec![FakeVmcs::well_formed(); 3];
        vmcss[1].set(Field::GUEST_INTERRUPTIBILITY, 8);
        vmcss[1].set(Field::IDT_VECTORING_INFO, 0x8000_0b0e);
        vmcss[1].set(Field::GUEST_ACTIVITY_STATE, 1);
        vmcss[2].fail_with(Some(VmcsError::Unavailable));
        FakeHost {
            vmcss,
            nmi_states: std::vec![
                NmiState {
                    quiesce_generation: 12,
                    ..NmiState::default()
                },
                NmiState {
                    owed: 1,
                    kick_outstanding: true,
                    merged: 3,
                    quiesce_generation: 12,
                },
                NmiState::default(),
            ],
            previous: std::vec![None, None, None],
            current: 1,
            caps: capabilities(),
        }
    }

    fn run(&mut self, args: &str) -> String {
        let mut out = String::new();
        run(args, self, &mut out).unwrap();
        for line in out.lines() {
            assert!(line.len() <= 100, "{line}");
            assert_eq!(line.trim_end(), line);
        }
        out
    }

    fn get(&mut self, cpu: usize, field: Field) -> u64 {
        self.vmcss[cpu].read(field).unwrap()
    }
}

#[test]
fn the_overview_shows_what_decides_about_nmis() {
    let mut host = FakeHost::new();
    host.vmcss[0].set(Field::VM_ENTRY_INTERRUPTION_INFO, 0x8000_0202);
    let window = host.get(0, Field::PRIMARY_PROCESSOR_BASED_CONTROLS) | 1 << 22;
    host.vmcss[0].set(Field::PRIMARY_PROCESSOR_BASED_CONTROLS, window);
    assert_eq!(
        host.run(""),
        "     guest       NMI  virt. NMI    to be      in         guest         NMIs  kicks NMIs   quiesce
cpu  blocking    exit NMIs  window injected   delivery   activity      owed  out   merged gen.
 0   none        on   on    on     NMI        none       active        0     0     0      12
*1   NMI         on   on    off    none       #PF        HLT           1     1     3      12
 2   the CPU cannot be asked now; NMIs owed 0, kicks out 0, merged 0, quiesce generation 0
"
    );
}

#[test]
fn one_row_alone() {
    let mut host = FakeHost::new();
    let all = host.run("");
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(host.run("0").lines().collect::<Vec<_>>(), lines[..3]);
    assert_eq!(
        host.run("3"),
        "error: there is no CPU 3; there are 3, from 0 on\n"
    );
}

#[test]
fn fields_by_name_prefix_and_encoding() {
    let mut host = FakeHost::new();
    assert_eq!(
        host.run("Guest-Interruptib 0x4826 guest_rip"),
        "\
GUEST_INTERRUPTIBILITY              0x8                blocking by NMI
GUEST_ACTIVITY_STATE                0x1                HLT
GUEST_RIP                           0xffffffff81000000
"
    );
    // An ambiguous name does not keep the others from being shown.
    assert_eq!(
        host.run("guest_interr vpid"),
        "\
error: guest_interr begins several names: GUEST_INTERRUPT_STATUS, GUEST_INTERRUPTIBILITY; say more
       of it, or guest_interr* for all
VPID                                0x1
"
    );
    assert_eq!(
        host.run("guest_cs* 0"),
        "\
GUEST_CS_SELECTOR                   0x10
GUEST_CS_LIMIT                      0xffffffff
GUEST_CS_ACCESS_RIGHTS              0xa09b             code, execute/read, accessed, DPL 0, P, L, G
GUEST_CS_BASE                       0x0
"
    );
    assert_eq!(
        host.run("nothing* 0"),
        "error: no field's name begins with nothing\n"
    );
}

#[test]
fn a_field_that_the_processor_lacks_shows_as_a_dash() {
    let mut host = FakeHost::new();
    host.vmcss[0].remove(Field::PML_ADDRESS);
    host.vmcss[0].set(Field::VM_INSTRUCTION_ERROR, 7);
    let all = host.run("all 0");
    assert!(
        all.contains("VM entry with invalid control fields"),
        "{all}"
    );
    assert_eq!(
        host.run("pml_a 0"),
        "PML_ADDRESS                         -                  not on this processor\n"
    );
    let all = host.run("all 0");
    assert!(
        all.contains("cpu 0, guest state:\nGUEST_ES_SELECTOR "),
        "{all}"
    );
    assert!(!all.contains("PML_ADDRESS"));
    assert!(all.ends_with("1 field is not on this processor\n"));
    let lines = all
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    assert_eq!(lines.count(), Field::COUNT - 1);
}

#[test]
fn a_parked_cpu_is_told_in_every_command() {
    let mut host = FakeHost::new();
    let error = "error: cpu 2: the CPU cannot be asked now\n";
    assert_eq!(
        host.run("all 2"),
        std::format!("cpu 2, guest state:\n{error}")
    );
    assert_eq!(host.run("diff 2"), error);
    assert_eq!(
        host.run("check 2"),
        "cpu 2: error: the CPU cannot be asked now\n"
    );
    assert_eq!(
        host.run("set vpid 2 2"),
        "error: the CPU cannot be asked now\n"
    );
    assert_eq!(
        host.run("vpid 2"),
        "VPID                                the CPU cannot be asked now\n"
    );
}

#[test]
fn set_writes_and_shows_what_it_changed() {
    let mut host = FakeHost::new();
    assert_eq!(
        host.run("set guest_rflags 0x2"),
        "GUEST_RFLAGS                        0x202 -> 0x2\n\
         \x20                                   none\n"
    );
    assert_eq!(host.get(1, Field::GUEST_RFLAGS), 2);
    assert_eq!(host.get(0, Field::GUEST_RFLAGS), 0x202);
    assert_eq!(
        host.run("set guest_rsp 4096 0"),
        "GUEST_RSP                           0xffffc90000000000 -> 0x1000\n"
    );
}

#[test]
fn set_refuses_what_would_break_vm_entry() {
    let mut host = FakeHost::new();
    let refusal = "\
error: refused, with this value a VM entry would fail:
  SDM 27.3.1.5  GUEST_INTERRUPTIBILITY = 0x8
      no NMI may be injected while virtual NMIs are blocked
to write it all the same: vmcs set! VM_ENTRY_INTERRUPTION_INFO 0x80000202
";
    assert_eq!(
        host.run("set vm_entry_interruption_info 0x80000202"),
        refusal
    );
    assert_eq!(host.get(1, Field::VM_ENTRY_INTERRUPTION_INFO), 0);
    let forced = host.run("set vm_entry_interruption_info 0x80000202 !");
    assert_eq!(
        forced,
        "\
warning: with this value a VM entry fails:
  SDM 27.3.1.5  GUEST_INTERRUPTIBILITY = 0x8
      no NMI may be injected while virtual NMIs are blocked
VM_ENTRY_INTERRUPTION_INFO          0x0 -> 0x80000202
                                    NMI
"
    );
    assert_eq!(host.get(1, Field::VM_ENTRY_INTERRUPTION_INFO), 0x8000_0202);
    // It is broken now: what breaks nothing more may be written, and what mends may too.
    assert!(host.run("set guest_rsp 0").starts_with("GUEST_RSP "));
    assert!(
        host.run("set guest_interruptibility 0")
            .starts_with("GUEST_INTERRUPTIBILITY ")
    );
}

#[test]
fn set_refuses_what_no_vmwrite_can_do() {
    let mut host = FakeHost::new();
    let cases = [
        (
            "set exit_reason 0",
            "error: EXIT_REASON is a VM-exit information field, which this processor lets nobody \
             write\n",
        ),
        (
            "set vpid 0x10000",
            "error: the value does not fit: VPID holds up to 0xffff\n",
        ),
        (
            "set guest_rop 0",
            "error: no field is called guest_rop; nearest: GUEST_RSP, GUEST_RIP\n",
        ),
        (
            "set vpid",
            "error: set needs a field and a value: vmcs set FIELD VALUE [CPU]\n",
        ),
    ];
    for (args, text) in cases {
        assert_eq!(host.run(args), text);
    }
    host.vmcss[1].remove(Field::PML_ADDRESS);
    assert_eq!(
        host.run("set pml_address 0"),
        "error: this processor has no field PML_ADDRESS\n"
    );
}

#[test]
fn diff_shows_what_changed_since_the_last_stop() {
    let mut host = FakeHost::new();
    let first = "cpu 0: this is the first stop, there is nothing to compare with\n";
    assert_eq!(host.run("diff 0"), first);
    let mut before = VmcsSnapshot::empty();
    before.capture(&mut host.vmcss[0]).unwrap();
    host.previous[0] = Some(before);
    assert_eq!(
        host.run("diff 0"),
        "cpu 0: nothing changed since the last stop\n"
    );
    host.vmcss[0].set(Field::GUEST_RIP, 0x7c00);
    assert!(
        host.run("diff 0")
            .starts_with("cpu 0: 1 field changed since the last stop\n")
    );
    host.vmcss[0].set(Field::GUEST_INTERRUPTIBILITY, 9);
    host.vmcss[0].remove(Field::VPID);
    assert_eq!(
        host.run("diff 0"),
        "\
cpu 0: 3 fields changed since the last stop
VPID                                0x1 -> -
GUEST_INTERRUPTIBILITY              0x0 -> 0x9
                                    blocking by STI, blocking by NMI
GUEST_RIP                           0xffffffff81000000 -> 0x7c00
"
    );
}

#[test]
fn check_names_each_broken_rule_and_the_last_failure() {
    let mut host = FakeHost::new();
    assert_eq!(
        host.run("check"),
        "\
cpu 0: the VMCS passes the checks of a VM entry
cpu 1: the VMCS passes the checks of a VM entry
cpu 2: error: the CPU cannot be asked now
"
    );
    host.vmcss[0].set(Field::VPID, 0);
    host.vmcss[0].set(Field::GUEST_RFLAGS, 0);
    host.vmcss[0].set(Field::EXIT_REASON, 0x8000_0021);
    host.vmcss[0].set(Field::VM_INSTRUCTION_ERROR, 7);
    // Its last failure is told where a field is missing too.
    host.vmcss[0].remove(Field::GUEST_PENDING_DEBUG_EXCEPTIONS);
    assert_eq!(
        host.run("check 0"),
        "\
cpu 0: a VM entry would fail, 2 rules are broken
  SDM 27.2.1.1  VPID = 0x0
      with \"enable VPID\" the VPID must not be 0
  SDM 27.3.1.4  GUEST_RFLAGS = 0x0
      bits 63:22, 15, 5 and 3 must be 0, and bit 1 must be 1
      wrong bits: 0x2
the last VM exit was a failed entry: VM-entry failure: guest state, VM entry failed
EXIT_QUALIFICATION                  0x0                not told which check
the last VM-instruction error, 7: VM entry with invalid control fields
"
    );
}

#[test]
fn help_fits_and_names_every_command() {
    let mut host = FakeHost::new();
    for args in ["help", "--help", "-h"] {
        assert_eq!(host.run(args), HELP);
    }
    for word in ["all", "set", "set!", "diff", "check", "FIELD", "CPU"] {
        assert!(HELP.contains(word));
    }
    assert!(HELP.lines().all(|line| line.len() <= 100));
}

#[test]
fn the_examples_of_the_help_work() {
    let mut host = FakeHost::new();
    let examples: Vec<&str> = HELP
        .split('(')
        .skip(1)
        .filter_map(|text| text.split_once(')'))
        .map(|(example, _)| example)
        .collect();
    assert_eq!(examples, ["guest_rip", "guest_act", "guest_cs*", "0x681e"]);
    for example in examples {
        let out = host.run(example);
        assert!(out.starts_with("GUEST_"), "{out}");
    }
}

#[test]
fn wrong_bits_are_named() {
    let mut host = FakeHost::new();
    assert_eq!(
        host.run("set guest_cr0 0x80000011"),
        "\
error: refused, with this value a VM entry would fail:
  SDM 27.3.1.1  GUEST_CR0 = 0x80000011
      CR0 must have the bits that VMX operation fixes; \"unrestricted guest\" frees PE and PG
      wrong bits: 0x20, NE
to write it all the same: vmcs set! GUEST_CR0 0x80000011
"
    );
    let refused = host.run("set pin_based 0");
    assert!(refused.contains("\n      wrong bits: 0x16\n"), "{refused}");
}

/// Whatever is typed, there is an answer and no panic, and nothing but `set` writes.
#[test]
fn anything_may_be_typed() {
    let words = [
        "all",
        "set",
        "set!",
        "!",
        "vpid",
        "vpid*",
        "*",
        "0",
        "9",
        "0x0",
        "é",
        "-h",
        "guest_",
        "99999999999999999999",
        "diff",
        "check",
    ];
    let mut host = FakeHost::new();
    let before = std::format!("{:?}", host.vmcss);
    for a in words {
        for b in words {
            let mut out = String::new();
            run(&[a, b, "0"].join(" "), &mut host, &mut out).unwrap();
            assert!(!out.is_empty(), "{a} {b}");
            if a.starts_with("set") {
                host = FakeHost::new();
            }
        }
    }
    assert_eq!(std::format!("{:?}", host.vmcss), before);
}
