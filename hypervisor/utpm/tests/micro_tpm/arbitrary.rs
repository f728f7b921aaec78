//! Calls with any arguments, on any memory: an answer, never a panic, and nothing
//! written where the answer is a refusal.

use proptest::prelude::*;
use stillpoint_abi::pal::Width;
use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_utpm::{MAX_SEALED_DATA, Outcome};

use crate::support::{BASE, Pal, SIZE};

/// Numbers, and addresses in and around the PAL's memory.
fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..16_u64,
        (0..64_u64).prop_map(|i| u64::MAX - i),
        (BASE - 64..BASE + 64),
        (0..SIZE as u64 / 8).prop_map(|i| BASE + 8 * i),
        (BASE + SIZE as u64 - 64..BASE + SIZE as u64 + 64),
    ]
}

/// Memory whose words are numbers and addresses of the same kinds.
fn memory() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(argument(), SIZE / 8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_call_is_answered(
        words in memory(),
        calls in proptest::collection::vec(
            (0..Hypercall::ALL.len(), any::<bool>(), [argument(), argument(), argument(), argument()]),
            64,
        ),
    ) {
        let mut pal = Pal::new(Width::Bits64);
        pal.memory.bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (call, wide, arguments) in calls {
            pal.width = if wide { Width::Bits64 } else { Width::Bits32 };
            pal.execute(Hypercall::ALL[call], arguments);
        }
    }

    #[test]
    fn any_bytes_are_no_blob(bytes in proptest::collection::vec(any::<u8>(), 0..2100), first_form: bool) {
        let mut pal = Pal::new(Width::Bits64);
        let blob = pal.put(&bytes);
        let input = pal.pair(blob, bytes.len() as u64);
        let (to, length, creation) = (pal.room(2100), pal.room(4), pal.room(20));
        let output = pal.pair(to, length);
        let (call, last) = match first_form {
            true => (Hypercall::UnsealDeprecated, 0),
            false => (Hypercall::Unseal, creation),
        };
        let outcome = pal.execute(call, [input, output, last, 0]);
        prop_assert_eq!(outcome, Outcome::Done(HypercallResult::Failure));
    }

    #[test]
    fn any_length_of_data_is_sealed_or_refused(length: u32, wide: bool, upper: u32) {
        let mut pal = Pal::new(if wide { Width::Bits64 } else { Width::Bits32 });
        // A 64-bit caller's length has 32 bits in a field of 64.
        let length = if length % 3 == 0 { length } else { length % 2100 };
        let input = pal.pair(BASE, u64::from(length) | u64::from(upper) << 32);
        let info = pal.put(&[0; 43]);
        let (to, to_length) = (pal.room(2100), pal.room(4));
        let output = pal.pair(to, to_length);
        let expected = if length as usize <= MAX_SEALED_DATA {
            HypercallResult::Success
        } else {
            HypercallResult::Failure
        };
        let outcome = pal.execute(Hypercall::Seal, [input, info, output, 0]);
        prop_assert_eq!(outcome, Outcome::Done(expected));
    }
}
