//! Sealed blobs against the `openssl` program: what it makes by the formats'
//! description opens here, and what is made here opens there.

use std::format;
use std::io::Write;
use std::process::{Command, Stdio};
use std::string::String;
use std::vec::Vec;

use crate::first_form;
use crate::pcr::{Composite, Pcrs, Selection};
use crate::sealing::{PcrInfo, SealingKeys};

const SECRET: [u8; 20] = *b"twenty bytes, secret";
const DATA: &[u8] = b"data that is no whole number of blocks";

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program openssl is needed: install the package openssl");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = format!("hexkey:{}", hex(key));
    let arguments = ["dgst", "-sha1", "-mac", "HMAC", "-macopt", &key, "-binary"];
    openssl(&arguments, message)
}

/// AES-128-CBC with the key that the master secret gives.
fn aes(direction: &str, iv: &[u8], text: &[u8]) -> Vec<u8> {
    let key = hex(&hmac(&SECRET, b"sealingaes")[..16]);
    let arguments = [
        "enc",
        direction,
        "-aes-128-cbc",
        "-nopad",
        "-K",
        &key,
        "-iv",
        &hex(iv),
    ];
    openssl(&arguments, text)
}

fn authenticate(message: &[u8]) -> Vec<u8> {
    hmac(&hmac(&SECRET, b"sealinghmac"), message)
}

/// What [`append_data`](crate::sealing::append_data) appends, written anew.
fn with_data(mut head: Vec<u8>) -> Vec<u8> {
    head.extend((DATA.len() as u32).to_le_bytes());
    head.extend(DATA);
    while !head.len().is_multiple_of(16) {
        head.push(0);
    }
    head
}

fn pcrs() -> Pcrs {
    let mut pcrs = Pcrs::new();
    pcrs.extend(0, &[0x10; 20]);
    pcrs.extend(2, &[0x12; 20]);
    pcrs
}

/// PCRs 0 and 2, as they are: their composite, and the digest of it.
fn composite() -> (Vec<u8>, Vec<u8>) {
    let mut composite = Vec::from([1, 0, 0b101, 0, 0, 0, 40]);
    for measured in [[0x10; 20], [0x12; 20]] {
        let message = [[0; 20], measured].concat();
        composite.extend(openssl(&["dgst", "-sha1", "-binary"], &message));
    }
    let digest = openssl(&["dgst", "-sha1", "-binary"], &composite);
    (composite, digest)
}

#[test]
fn a_composite_and_its_digest_are_as_openssl_makes_them() {
    let (expected, digest) = composite();
    let composite = Composite::new(Selection::Bits(0b101), &pcrs());
    assert_eq!(composite.bytes(), expected);
    assert_eq!(composite.digest(), *digest);
}

#[test]
fn openssl_opens_a_blob() {
    let iv = [0x1f; 16];
    let at_release = [0xab; 20];
    for (selection, head) in [
        (Selection::Empty, Vec::from([0, 0])),
        (
            Selection::Bits(0b101),
            [&[1, 0, 0b101], &at_release[..], &composite().1].concat(),
        ),
    ] {
        let info = PcrInfo {
            selection,
            at_release,
        };
        let blob = SealingKeys::new(&SECRET)
            .seal(iv, info, &pcrs(), DATA)
            .unwrap();
        let (authenticated, mac) = blob.split_at(blob.len() - 20);
        assert_eq!(mac, authenticate(authenticated));
        assert_eq!(authenticated[..16], iv);
        assert_eq!(aes("-d", &iv, &authenticated[16..]), with_data(head));
    }
}

#[test]
fn a_blob_of_openssls_opens() {
    let iv = [0x2e; 16];
    let at_creation = [0xcd; 20];
    for (head, expected) in [
        (Vec::from([0, 0]), [0; 20]),
        (
            [&[1, 0, 0b101], &composite().1[..], &at_creation].concat(),
            at_creation,
        ),
    ] {
        let mut blob = [iv.to_vec(), aes("-e", &iv, &with_data(head))].concat();
        blob.extend(authenticate(&blob));
        let keys = SealingKeys::new(&SECRET);
        let unsealed = keys.unseal(&pcrs(), &mut blob).unwrap();
        assert_eq!(unsealed.data, DATA);
        assert_eq!(unsealed.at_creation, expected);
    }
}

#[test]
fn openssl_opens_a_blob_of_the_first_form() {
    let (confounder, pcr0) = ([0x3d; 20], [0x77; 20]);
    let keys = SealingKeys::new(&SECRET);
    let blob = first_form::seal(&keys, &confounder, &pcr0, DATA).unwrap();
    let plain = with_data([confounder, [0; 20], pcr0].concat());
    let mac = authenticate(&plain);
    let expected = [&plain[..20], &mac, &plain[40..]].concat();
    assert_eq!(aes("-d", &[0; 16], &blob), expected);
}

#[test]
fn a_blob_of_openssls_in_the_first_form_opens() {
    let pcr0 = *pcrs().read(0).unwrap();
    let plain = with_data([[0x4c; 20], [0; 20], pcr0].concat());
    let mac = authenticate(&plain);
    let mut blob = aes("-e", &[0; 16], &[&plain[..20], &mac, &plain[40..]].concat());
    let keys = SealingKeys::new(&SECRET);
    let data = first_form::unseal(&keys, &pcrs(), &mut blob).unwrap();
    assert_eq!(data, DATA);
}
