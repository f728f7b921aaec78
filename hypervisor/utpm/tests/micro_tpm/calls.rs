//! Every hypercall of the micro-TPM, in both widths, as a PAL makes it.

use crate::support::{BASE, Pal, SIZE, Silent};
use stillpoint_abi::pal::Width;
use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_utpm::{Outcome, Tpm};

const WIDTHS: [Width; 2] = [Width::Bits32, Width::Bits64];

/// The first address that cannot be written.
const READ_ONLY: u64 = BASE + (SIZE as u64) / 4 * 3;

#[test]
fn a_pcr_is_read_and_extended() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        let measurement = pal.put(&[0x11; 20]);
        let to = pal.room(20);
        let extend = pal.call(Hypercall::PcrExtend, [3, measurement, 0, 0]);
        assert_eq!(extend, HypercallResult::Success);
        let read = pal.call(Hypercall::PcrRead, [3, to, 0, 0]);
        assert_eq!(read, HypercallResult::Success);
        assert_eq!(pal.get(to, 20), pal.pcrs.read(3).unwrap());
        assert_ne!(pal.get(to, 20), [0; 20]);
    }
}

#[test]
fn there_is_no_ninth_pcr() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        let at = pal.room(20);
        for call in [Hypercall::PcrRead, Hypercall::PcrExtend] {
            for index in [8, 0xffff_ffff] {
                let result = pal.call(call, [index, at, 0, 0]);
                assert_eq!(result, HypercallResult::PcrOutOfRange);
            }
        }
    }
}

#[test]
fn only_the_low_half_of_a_32_bit_callers_registers_counts() {
    let mut pal = Pal::new(Width::Bits32);
    let to = pal.room(20);
    let arguments = [7 | 1 << 32, to | 1 << 40, 0, 0];
    assert_eq!(
        pal.call(Hypercall::PcrRead, arguments),
        HypercallResult::Success
    );
    pal.width = Width::Bits64;
    assert_eq!(
        pal.call(Hypercall::PcrRead, arguments),
        HypercallResult::PcrOutOfRange
    );
}

#[test]
fn random_bytes_are_as_many_as_asked() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        let length = pal.put(&100_u32.to_le_bytes());
        let to = pal.room(4096);
        let result = pal.call(Hypercall::GenerateRandom, [to, length, 0, 0]);
        assert_eq!(result, HypercallResult::Success);
        assert_eq!(pal.number(length), 100);
        let bytes = pal.get(to, 128);
        assert_ne!(bytes[80..100], [0; 20]);
        assert_eq!(bytes[100..], [0; 28]);
    }
}

#[test]
fn more_random_bytes_than_4096_are_refused() {
    let mut pal = Pal::new(Width::Bits64);
    let to = pal.room(4112);
    for (length, expected) in [
        (4096_u32, HypercallResult::Success),
        (4097, HypercallResult::Failure),
    ] {
        let length = pal.put(&length.to_le_bytes());
        let result = pal.call(Hypercall::GenerateRandom, [to, length, 0, 0]);
        assert_eq!(result, expected);
    }
}

#[test]
fn the_nv_storage_keeps_what_was_written() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        let size = pal.room(4);
        let result = pal.call(Hypercall::NvramGetSize, [size, 0, 0, 0]);
        assert_eq!(result, HypercallResult::Success);
        assert_eq!(pal.number(size), 32);
        let to = pal.room(32);
        pal.call(Hypercall::NvramReadAll, [to, 0, 0, 0]);
        assert_eq!(pal.get(to, 32), [0xff; 32]);
        let from = pal.put(&[0x5a; 32]);
        let result = pal.call(Hypercall::NvramWriteAll, [from, 0, 0, 0]);
        assert_eq!(result, HypercallResult::Success);
        pal.call(Hypercall::NvramReadAll, [to, 0, 0, 0]);
        assert_eq!(pal.get(to, 32), [0x5a; 32]);
    }
}

#[test]
fn data_of_the_first_form_comes_back_to_its_pal_alone() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        pal.pcrs.extend(0, &[1; 20]);
        let pcr0 = *pal.pcrs.read(0).unwrap();
        let data = pal.put(b"a secret of the first form");
        let input = pal.pair(data, 26);
        let own_pcr0 = pal.put(&pcr0);
        let (blob, blob_length) = (pal.room(128), pal.room(4));
        let sealed = pal.pair(blob, blob_length);
        let (back, back_length) = (pal.room(128), pal.room(4));
        let opened = pal.pair(back, back_length);
        for pcr0_at in [0, own_pcr0] {
            let result = pal.call(Hypercall::SealDeprecated, [input, pcr0_at, sealed, 0]);
            assert_eq!(result, HypercallResult::Success);
            assert_eq!(pal.number(blob_length), 96);
            let length = pal.number(blob_length) as u64;
            let input = pal.pair(blob, length);
            let result = pal.call(Hypercall::UnsealDeprecated, [input, opened, 0, 0]);
            assert_eq!(result, HypercallResult::Success);
            assert_eq!(pal.number(back_length), 26);
            assert_eq!(pal.get(back, 26), b"a secret of the first form");
            let before = pal.pcrs.clone();
            pal.pcrs.extend(0, &[2; 20]);
            let result = pal.call(Hypercall::UnsealDeprecated, [input, opened, 0, 0]);
            assert_eq!(result, HypercallResult::Failure);
            pal.pcrs = before;
        }
    }
}

#[test]
fn calls_that_are_not_the_micro_tpms_fail() {
    let mut pal = Pal::new(Width::Bits64);
    for call in [
        Hypercall::Register,
        Hypercall::Unregister,
        Hypercall::Share,
        Hypercall::Test,
        Hypercall::QuoteDeprecated,
    ] {
        assert_eq!(pal.call(call, [BASE; 4]), HypercallResult::Failure);
    }
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    for width in WIDTHS {
        let mut pal = Pal::new(width);
        let length = pal.put(&20_u32.to_le_bytes());
        let to = pal.room(64);
        for call in [
            (Hypercall::PcrRead, [0, READ_ONLY - 19, 0, 0]),
            (Hypercall::GenerateRandom, [READ_ONLY - 19, length, 0, 0]),
            (Hypercall::GenerateRandom, [to, READ_ONLY, 0, 0]),
            (Hypercall::NvramGetSize, [READ_ONLY - 3, 0, 0, 0]),
            (Hypercall::NvramReadAll, [READ_ONLY - 31, 0, 0, 0]),
        ] {
            assert_eq!(pal.call(call.0, call.1), HypercallResult::Failure);
        }
    }
}

#[test]
fn a_micro_tpm_that_was_wiped_answers_nothing() {
    let mut pal = Pal::new(Width::Bits64);
    pal.tpm.wipe();
    let to = pal.room(32);
    for call in [Hypercall::NvramReadAll, Hypercall::PcrRead] {
        let result = pal.call(call, [to; 4]);
        assert_eq!(result, HypercallResult::TpmError);
    }
    assert_eq!(pal.get(to, 32), [0; 32]);
}

#[test]
fn there_is_no_micro_tpm_without_randomness() {
    assert!(Tpm::new(&mut Silent).is_err());
}

#[test]
fn a_key_that_is_not_there_yet_asks_for_the_call_again() {
    let mut pal = Pal::new(Width::Bits64);
    let to = pal.room(270);
    let length = pal.put(&270_u32.to_le_bytes());
    let outcome = pal.execute(Hypercall::IdentityPublicKey, [to, length, 0, 0]);
    assert_eq!(outcome, Outcome::Again);
}
