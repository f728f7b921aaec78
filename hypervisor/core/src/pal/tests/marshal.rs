//! Calls in and out, against a model that lays everything out byte by byte.

extern crate std;

use super::*;
use crate::registers::{Gpr, Gprs};
use proptest::prelude::*;
use std::vec;
use stillpoint_abi::pal::{Parameter, ParameterType, Section, SectionType};

/// Regions of bytes, some of which may be missing. One byte may be read-only; as in
/// any caller's memory, it is not read either.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bytes {
    regions: Vec<(u64, Vec<Option<u8>>)>,
    read_only: Option<u64>,
}

/// The address that isn't there, or may not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Missing(u64);

impl Bytes {
    fn add(&mut self, start: u64, bytes: &[u8]) {
        let bytes = bytes.iter().copied().map(Some).collect();
        self.regions.push((start, bytes));
    }

    fn at(&mut self, at: u64) -> Option<&mut Option<u8>> {
        let mut regions = self.regions.iter_mut();
        regions.find_map(|(start, bytes)| bytes.get_mut(at.checked_sub(*start)? as usize))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, &byte) in (at..).zip(bytes) {
            *self.at(at).unwrap() = Some(byte);
        }
    }

    fn get(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.clone().read(at, &mut bytes).unwrap();
        bytes
    }

    fn remove(&mut self, at: u64) {
        *self.at(at).unwrap() = None;
    }
}

impl VirtualMemory for Bytes {
    type Error = Missing;

    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), Missing> {
        for (at, byte) in (gva..).zip(into) {
            if self.read_only == Some(at) {
                return Err(Missing(at));
            }
            *byte = self.at(at).copied().flatten().ok_or(Missing(at))?;
        }
        Ok(())
    }

    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), Missing> {
        for (at, &byte) in (gva..).zip(from) {
            if self.read_only == Some(at) {
                return Err(Missing(at));
            }
            let place = self.at(at).and_then(Option::as_mut);
            *place.ok_or(Missing(at))? = byte;
        }
        Ok(())
    }
}

/// A call: the PAL's parameters, and all that the caller has.
#[derive(Debug, Clone)]
struct Call {
    request: Request,
    gprs: Gprs,
    rsp: u64,
    values: Vec<u64>,
    memory: Bytes,
}

const AREA: u64 = 0x7000_1000;
const AREA_PAGES: u32 = 3;
const STACK: u64 = 0x6000_0000;
const STACK_END: u64 = STACK + 0x2000;
const ENTRY: u64 = 0x5000_0123;
const RETURN: u64 = 0x1111_2222_3333_4444;
const CALLER_DATA: u64 = 0x2000_0000;
const CALLER_STACK: u64 = 0x3fff_0000;

fn section(kind: SectionType, pages: u32, start: u64) -> Section {
    Section { kind, pages, start }
}

fn request(width: Width, parameters: &[Parameter]) -> Request {
    let sections = [
        section(SectionType::Code, 1, 0x5000_0000),
        section(SectionType::Stack, 2, STACK),
        section(SectionType::Param, AREA_PAGES, AREA),
        section(SectionType::Stack, 1, 0x6800_0000),
        section(SectionType::Param, 1, 0x7800_0000),
    ];
    Request {
        sections: heapless::Vec::from_slice(&sections).unwrap(),
        parameters: heapless::Vec::from_slice(parameters).unwrap(),
        entry: ENTRY,
        width,
    }
}

fn word(width: Width, value: u64) -> Vec<u8> {
    value.to_le_bytes()[..width.bytes() as usize].to_vec()
}

fn in_registers(width: Width) -> usize {
    if width == Width::Bits64 { 6 } else { 0 }
}

/// A parameter with the value that it is passed as. Pointers lead to a small
/// region, so that some overlap.
fn parameter() -> impl Strategy<Value = (Parameter, u64)> {
    let integer = any::<(u64, u64)>().prop_map(|(words, value)| {
        let kind = ParameterType::Integer;
        (Parameter { kind, words }, value)
    });
    let pointer = (0..=140u64, 0..0x400u64).prop_map(|(words, offset)| {
        let kind = ParameterType::Pointer;
        (Parameter { kind, words }, CALLER_DATA + offset)
    });
    prop_oneof![integer, pointer]
}

fn call() -> impl Strategy<Value = Call> {
    (
        prop::sample::select(vec![Width::Bits32, Width::Bits64]),
        prop::collection::vec(parameter(), 0..=10),
        prop::collection::vec(any::<u8>(), 0x900),
        any::<[u64; 16]>(),
        0..16u64,
    )
        .prop_map(|(width, parameters, data, registers, offset)| {
            let (parameters, values): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
            let values = values.into_iter().map(|v| width.truncate(v)).collect();
            make_call(
                request(width, &parameters),
                values,
                &data,
                registers,
                offset,
            )
        })
}

fn make_call(
    request: Request,
    values: Vec<u64>,
    data: &[u8],
    registers: [u64; 16],
    offset: u64,
) -> Call {
    let width = request.width;
    let mut gprs = Gprs::new(registers);
    let mut memory = Bytes::default();
    memory.add(CALLER_DATA, data);
    let arguments = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9];
    for (&register, &value) in arguments[..in_registers(width)].iter().zip(&values) {
        gprs[register] = value;
    }
    let mut frame = word(width, RETURN);
    for &value in values.iter().skip(in_registers(width)) {
        frame.extend(word(width, value));
    }
    let rsp = CALLER_STACK + offset;
    memory.add(rsp, &frame);
    // What 32-bit code doesn't see.
    let unseen = if width == Width::Bits32 {
        0xabcd << 32
    } else {
        0
    };
    Call {
        request,
        gprs,
        rsp: rsp | unseen,
        values,
        memory,
    }
}

fn pal_memory() -> Bytes {
    let mut pal = Bytes::default();
    pal.add(AREA, &[0; AREA_PAGES as usize * 4096]);
    pal.add(STACK, &[0; 0x2000]);
    pal
}

impl Call {
    fn word_bytes(&self) -> u64 {
        self.request.width.bytes()
    }

    fn is_pointer(&self, n: usize) -> bool {
        self.request.parameters[n].kind == ParameterType::Pointer
    }

    /// Bytes of a pointer's data.
    fn data_len(&self, n: usize) -> u64 {
        self.request.parameters[n].words * self.word_bytes()
    }

    /// The parameter area, and where in it each pointer's data are.
    fn area(&self) -> (Vec<u8>, BTreeMap<usize, u64>) {
        let mut area = (self.values.len() as u64).to_le_bytes().to_vec();
        let mut data = BTreeMap::new();
        for n in (0..self.values.len()).rev() {
            let parameter = self.request.parameters[n];
            let bytes = parameter.words.saturating_mul(self.word_bytes());
            area.extend((parameter.kind as u64).to_le_bytes());
            area.extend(bytes.to_le_bytes());
            area.extend(self.values[n].to_le_bytes());
            if self.is_pointer(n) {
                data.insert(n, AREA + 0x10 + area.len() as u64);
                area.extend(self.memory.get(self.values[n], bytes));
            }
        }
        (area, data)
    }

    fn enter(&self, pal: &mut Bytes) -> Result<Entry, CopyError<Missing, Missing>> {
        let marshalling = Marshalling::new(&self.request).unwrap();
        let mut caller = self.memory.clone();
        // What was there before means nothing.
        let (mut piece, mut entry) = (Piece([0xa5; _]), Entry::default());
        entry.pointers.fill(0xbad);
        let from = (&self.gprs, self.rsp);
        let entered = marshalling.enter(from, &mut caller, pal, &mut piece, &mut entry);
        assert_eq!(caller, self.memory, "the caller's memory has changed");
        entered.map(|()| entry)
    }

    fn leave(
        &self,
        entry: &Entry,
        caller: &mut Bytes,
        pal: &mut Bytes,
    ) -> Result<(), CopyError<Missing, Missing>> {
        let marshalling = Marshalling::new(&self.request).unwrap();
        marshalling.leave(entry, caller, pal, &mut Piece([0xa5; _]))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_pal_gets_what_its_caller_passes(call in call()) {
        let width = call.request.width;
        let mut pal = pal_memory();
        let entry = call.enter(&mut pal).unwrap();

        let (area, data) = call.area();
        let mut arguments = call.values.clone();
        for (&n, &at) in &data {
            arguments[n] = at;
        }
        let mut gprs = call.gprs;
        let registers = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9];
        for (&register, &value) in registers[..in_registers(width)].iter().zip(&arguments) {
            gprs[register] = value;
        }
        let mut stack = word(width, 4);
        for &value in arguments.iter().skip(in_registers(width)) {
            stack.extend(word(width, value));
        }

        prop_assert_eq!(entry.gprs, gprs);
        prop_assert_eq!(entry.return_address, width.truncate(RETURN));
        prop_assert_eq!(entry.caller_rsp, width.truncate(call.rsp) + call.word_bytes());
        for &n in data.keys() {
            prop_assert_eq!(entry.pointers[n], call.values[n]);
        }
        prop_assert_eq!((entry.rsp + call.word_bytes()) % 16, 0);
        let gap = STACK_END - 0x10 - (entry.rsp + stack.len() as u64);
        prop_assert!(gap < 16);
        let mut expected = pal_memory();
        expected.put(AREA + 0x10, &area);
        expected.put(entry.rsp, &stack);
        prop_assert!(pal == expected);
    }

    #[test]
    fn the_caller_gets_back_what_the_pal_leaves(call in call(), noise in any::<[u8; 7]>()) {
        let mut pal = pal_memory();
        let entry = call.enter(&mut pal).unwrap();
        // All of the area: nothing there may be believed.
        let area = pal.get(AREA, u64::from(AREA_PAGES) * 4096);
        let noisy: Vec<_> = area.iter().zip(noise.iter().cycle()).map(|(a, b)| a ^ b).collect();
        pal.put(AREA, &noisy);
        let mut expected = call.memory.clone();
        for (&n, &at) in call.area().1.iter().rev() {
            expected.put(call.values[n], &pal.get(at, call.data_len(n)));
        }
        let left = pal.clone();
        let mut caller = call.memory.clone();
        call.leave(&entry, &mut caller, &mut pal).unwrap();
        prop_assert!(caller == expected);
        prop_assert!(pal == left);
    }

    #[test]
    fn a_fault_of_the_callers_is_told_and_can_be_repeated(
        call in call(),
        at in 0..0x900u64,
    ) {
        let missing = CALLER_DATA + at;
        let touched = (0..call.values.len()).any(|n| {
            call.is_pointer(n)
                && call.values[n] <= missing
                && missing - call.values[n] < call.data_len(n)
        });

        // On the way in: absent, and there but not to be written.
        let mut absent = call.clone();
        absent.memory.remove(missing);
        let mut read_only = call.clone();
        read_only.memory.read_only = Some(missing);
        let mut pal = pal_memory();
        for broken in [&absent, &read_only] {
            let error = broken.enter(&mut pal).err();
            prop_assert_eq!(error, touched.then_some(CopyError::Caller(Missing(missing))));
        }
        let entry = call.enter(&mut pal).unwrap();
        let mut fresh = pal_memory();
        prop_assert_eq!(&call.enter(&mut fresh).unwrap(), &entry);
        prop_assert!(pal == fresh);

        // On the way out.
        for (n, at) in call.area().1 {
            let changed = vec![n as u8 + 1; call.data_len(n) as usize];
            pal.put(at, &changed);
        }
        let mut caller = call.memory.clone();
        call.leave(&entry, &mut caller, &mut pal).unwrap();
        let mut broken = read_only.memory.clone();
        let error = call.leave(&entry, &mut broken, &mut pal).err();
        prop_assert_eq!(error, touched.then_some(CopyError::Caller(Missing(missing))));
        broken.read_only = None;
        call.leave(&entry, &mut broken, &mut pal).unwrap();
        prop_assert!(broken == caller);
    }
}

#[test]
fn the_return_address_is_read_first() {
    for width in [Width::Bits32, Width::Bits64] {
        let mut call = make_call(request(width, &[]), vec![], &[], [0; 16], 0);
        call.memory = Bytes::default();
        let error = call.enter(&mut pal_memory()).unwrap_err();
        assert_eq!(error, CopyError::Caller(Missing(CALLER_STACK)));
    }
}

#[test]
fn a_fault_of_the_pals_is_told_apart() {
    let pointer = Parameter {
        kind: ParameterType::Pointer,
        words: 1,
    };
    let request = request(Width::Bits64, &[pointer]);
    let call = make_call(request, vec![CALLER_DATA], &[7; 8], [0; 16], 0);
    let mut pal = pal_memory();
    let entry = call.enter(&mut pal).unwrap();
    let data = AREA + 0x10 + 8 + 24;
    pal.remove(data);
    let error = CopyError::Pal(Missing(data));
    assert_eq!(call.enter(&mut pal), Err(error));
    let mut caller = call.memory.clone();
    let left = call.leave(&entry, &mut caller, &mut pal);
    assert_eq!(left, Err(error));
    pal = pal_memory();
    pal.remove(entry.rsp);
    assert_eq!(
        call.enter(&mut pal),
        Err(CopyError::Pal(Missing(entry.rsp)))
    );
}

#[test]
fn parameters_fit_their_section_or_are_refused() {
    let bytes = u64::from(AREA_PAGES) * 4096;
    for width in [Width::Bits32, Width::Bits64] {
        let most = (bytes - 0x10 - 8 - 2 * 24) / width.bytes();
        let new = |words| {
            let pointer = Parameter {
                kind: ParameterType::Pointer,
                words,
            };
            let integer = Parameter {
                kind: ParameterType::Integer,
                words: u64::MAX,
            };
            Marshalling::new(&request(width, &[integer, pointer])).err()
        };
        assert_eq!(new(most), None);
        for words in [most + 1, 1 << 61, 1 << 62, u64::MAX / 8, u64::MAX] {
            assert_eq!(new(words), Some(Refusal::ParametersTooLarge), "{words:#x}");
        }
    }
}

#[test]
fn without_parameters_a_stack_is_enough() {
    let mut only_stack = request(Width::Bits64, &[]);
    only_stack.sections.truncate(2);
    let call = make_call(only_stack, vec![], &[], [5; 16], 8);
    let mut pal = Bytes::default();
    pal.add(STACK, &[0; 0x2000]);
    let entry = call.enter(&mut pal).unwrap();
    assert_eq!(entry.rsp, STACK_END - 0x18);
    assert_eq!(pal.get(entry.rsp, 8), word(Width::Bits64, 4));

    let integer = Parameter {
        kind: ParameterType::Integer,
        words: 0,
    };
    let mut no_section = request(Width::Bits64, &[integer]);
    no_section.sections.truncate(2);
    let refused = Marshalling::new(&no_section);
    assert_eq!(refused.err(), Some(Refusal::NoParameterSection));
    no_section.sections.truncate(1);
    let refused = Marshalling::new(&no_section);
    assert_eq!(refused.err(), Some(Refusal::NoStack));
}

#[test]
fn after_the_return_only_the_result_is_the_pals() {
    let at_call = Gprs::new(core::array::from_fn(|n| 0x1111_1111_0000_0000 + n as u64));
    let at_return = Gprs::new(core::array::from_fn(|n| 0x2222_2222_0000_0000 + n as u64));
    // RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the result, zero, or kept.
    let kinds = [
        (Width::Bits64, *b"r00kkk000000kkkk"),
        (Width::Bits32, *b"r00kkkkkkkkkkkkk"),
    ];
    for (width, kinds) in kinds {
        let after = registers_after(width, &at_call, &at_return);
        for (&register, kind) in Gpr::ALL.iter().zip(kinds) {
            let expected = match kind {
                b'r' => width.truncate(at_return[register]),
                b'0' => 0,
                _ => at_call[register],
            };
            assert_eq!(after[register], expected, "{width:?} {register:?}");
        }
    }
}
