//! Sealed blobs: what is sealed comes back, and only with the right PCRs and
//! every bit as it was.

use crate::support::{Pal, Repeatable};
use proptest::prelude::*;
use sha1::{Digest as _, Sha1};
use stillpoint_abi::HypercallResult;
use stillpoint_abi::pal::Width;
use stillpoint_utpm::{Digest, Pcrs};

/// SHA-1 of the composite, written anew.
fn composite_hash(selection: u8, pcrs: &Pcrs) -> Digest {
    let mut hash = Sha1::new();
    hash.update([1, 0, selection]);
    hash.update((selection.count_ones() * 20).to_be_bytes());
    for index in (0..8).filter(|index| selection >> index & 1 != 0) {
        hash.update(pcrs.read(index).unwrap());
    }
    hash.finalize().into()
}

/// The most data that a blob holds.
const MOST: usize = 1984;

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Bits32), Just(Width::Bits64)]
}

proptest! {
    #[test]
    fn what_is_sealed_comes_back(
        width in width(),
        selection: u8,
        measured in proptest::collection::vec((0..8_usize, any::<Digest>()), 0..12),
        data in proptest::collection::vec(any::<u8>(), 0..=MOST),
    ) {
        let mut pal = Pal::new(width);
        for (index, measurement) in measured {
            pal.pcrs.extend(index, &measurement);
        }
        let now = composite_hash(selection, &pal.pcrs);
        let blob = pal.seal(selection, &now, &data).unwrap();
        let (back, creation) = pal.unseal(&blob).unwrap();
        prop_assert_eq!(back, data);
        prop_assert_eq!(creation, if selection == 0 { [0; 20] } else { now });
    }

    #[test]
    fn other_pcrs_refuse(
        selection in 1_u8..,
        changed in 0..8_usize,
        measurement: Digest,
        data in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut pal = Pal::new(Width::Bits64);
        let now = composite_hash(selection, &pal.pcrs);
        let blob = pal.seal(selection, &now, &data).unwrap();
        pal.pcrs.extend(changed, &measurement);
        let result = pal.unseal(&blob);
        if selection >> changed & 1 != 0 {
            prop_assert_eq!(result, Err(HypercallResult::Failure));
        } else {
            prop_assert_eq!(result.unwrap().0, data);
        }
    }

    #[test]
    fn data_can_be_sealed_for_pcrs_to_come(measurement: Digest, selection in 1_u8..) {
        let mut pal = Pal::new(Width::Bits64);
        let then = {
            let mut pcrs = Pcrs::new();
            for index in 0..8 {
                pcrs.extend(index, &measurement);
            }
            composite_hash(selection, &pcrs)
        };
        let created = composite_hash(selection, &pal.pcrs);
        let blob = pal.seal(selection, &then, b"later").unwrap();
        prop_assert_eq!(pal.unseal(&blob), Err(HypercallResult::Failure));
        for index in 0..8 {
            pal.pcrs.extend(index, &measurement);
        }
        prop_assert_eq!(pal.unseal(&blob), Ok((b"later".to_vec(), created.to_vec())));
    }

    #[test]
    fn a_blob_with_a_flipped_bit_is_refused(
        selection: u8,
        data in proptest::collection::vec(any::<u8>(), 0..200),
        place: prop::sample::Index,
        bit in 0..8_u32,
    ) {
        let mut pal = Pal::new(Width::Bits64);
        let now = composite_hash(selection, &pal.pcrs);
        let mut blob = pal.seal(selection, &now, &data).unwrap();
        let place = place.index(blob.len());
        blob[place] ^= 1 << bit;
        prop_assert_eq!(pal.unseal(&blob), Err(HypercallResult::Failure));
    }

    #[test]
    fn the_first_form_keeps_data_as_it_was(
        width in width(),
        measurement: Digest,
        data in proptest::collection::vec(any::<u8>(), 0..=MOST),
        place: prop::sample::Index,
        bit in 0..8_u32,
    ) {
        let mut pal = Pal::new(width);
        pal.pcrs.extend(0, &measurement);
        let mut blob = pal.seal_first_form(&data).unwrap();
        prop_assert_eq!(pal.unseal_first_form(&blob), Ok(data));
        let place = place.index(blob.len());
        blob[place] ^= 1 << bit;
        prop_assert_eq!(pal.unseal_first_form(&blob), Err(HypercallResult::Failure));
    }

    #[test]
    fn a_part_of_a_blob_is_refused(data in proptest::collection::vec(any::<u8>(), 0..200), cut: prop::sample::Index) {
        let mut pal = Pal::new(Width::Bits64);
        let blob = pal.seal(0, &[0; 20], &data).unwrap();
        let cut = cut.index(blob.len());
        prop_assert_eq!(pal.unseal(&blob[..cut]), Err(HypercallResult::Failure));
        prop_assert_eq!(pal.unseal(&blob[blob.len() - cut..]), Err(HypercallResult::Failure));
    }
}

#[test]
fn more_data_than_fits_is_refused() {
    let mut pal = Pal::new(Width::Bits64);
    let now = composite_hash(1, &pal.pcrs);
    let most = vec![7; MOST];
    let blob = pal.seal(1, &now, &most).unwrap();
    assert_eq!(blob.len(), 2068);
    assert_eq!(pal.unseal(&blob).unwrap().0, most);
    let too_much = vec![7; MOST + 1];
    assert_eq!(pal.seal(1, &now, &too_much), Err(HypercallResult::Failure));
    let blob = pal.seal_first_form(&most).unwrap();
    assert_eq!(pal.unseal_first_form(&blob), Ok(most));
    let result = pal.seal_first_form(&too_much);
    assert_eq!(result, Err(HypercallResult::Failure));
}

#[test]
fn no_two_blobs_are_alike() {
    let mut pal = Pal::new(Width::Bits64);
    let first = pal.seal(0, &[0; 20], b"the same").unwrap();
    let second = pal.seal(0, &[0; 20], b"the same").unwrap();
    assert_ne!(first[..16], second[..16]);
    assert_ne!(first[16..], second[16..]);
    let first = pal.seal_first_form(b"the same").unwrap();
    let second = pal.seal_first_form(b"the same").unwrap();
    assert_ne!(first, second);
}

#[test]
fn another_boot_cannot_open_a_blob() {
    let mut pal = Pal::new(Width::Bits64);
    let blob = pal.seal(0, &[0; 20], b"of this boot").unwrap();
    pal.tpm = stillpoint_utpm::Tpm::new(&mut Repeatable(2)).unwrap();
    assert_eq!(pal.unseal(&blob), Err(HypercallResult::Failure));
}
