//! Quotes: what the `openssl` program says of the signature and the key.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use stillpoint_abi::pal::Width;
use stillpoint_abi::{Hypercall, HypercallResult};

use crate::support::Pal;

/// A quote, and where its parts are in the PAL's memory.
struct Quote {
    signature: Vec<u8>,
    composite: Vec<u8>,
}

const NONCE: [u8; 20] = *b"a number used once  ";

fn quote(pal: &mut Pal, selection: &[u8; 3]) -> Quote {
    pal.rewind();
    let selection = pal.put(selection);
    let nonce = pal.put(&NONCE);
    let (signature, composite) = (pal.room(300), pal.room(200));
    let signature_length = pal.put(&300_u32.to_le_bytes());
    let composite_length = pal.put(&200_u32.to_le_bytes());
    let signature_pair = pal.pair(signature, signature_length);
    let composite_pair = pal.pair(composite, composite_length);
    let result = pal.call(
        Hypercall::Quote,
        [selection, signature_pair, nonce, composite_pair],
    );
    assert_eq!(result, HypercallResult::Success);
    let signature_length = pal.number(signature_length);
    let composite_length = pal.number(composite_length);
    Quote {
        signature: pal.get(signature, signature_length),
        composite: pal.get(composite, composite_length),
    }
}

fn public_key(pal: &mut Pal) -> Vec<u8> {
    pal.rewind();
    let to = pal.room(300);
    let length = pal.put(&300_u32.to_le_bytes());
    let result = pal.call(Hypercall::IdentityPublicKey, [to, length, 0, 0]);
    assert_eq!(result, HypercallResult::Success);
    let length = pal.number(length);
    pal.get(to, length)
}

/// Whether the program succeeds, and what it prints.
fn openssl(arguments: &[&str]) -> (bool, Vec<u8>) {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("the program openssl is needed: install the package openssl");
    (output.status.success(), output.stdout)
}

fn file(name: &str, contents: &[u8]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whether openssl believes the signature of this composite and nonce.
fn believed(key: &str, composite: &[u8], nonce: &[u8], signature: &[u8]) -> bool {
    let composite = file("composite", composite);
    let (_, digest) = openssl(&["dgst", "-sha1", "-binary", &composite]);
    let info = [b"\x01\x01\x00\x00QUOT", &digest[..], nonce].concat();
    let info = file("quote-info", &info);
    let signature = file("signature", signature);
    openssl(&[
        "dgst",
        "-sha1",
        "-verify",
        key,
        "-signature",
        &signature,
        &info,
    ])
    .0
}

#[test]
fn openssl_believes_a_quote_and_no_other() {
    let mut pal = Pal::new(Width::Bits32);
    pal.pcrs.extend(0, &[1; 20]);
    pal.pcrs.extend(5, &[2; 20]);
    let der = public_key(&mut pal);
    let der = file("key.der", &der);
    let (converted, pem) = openssl(&[
        "rsa",
        "-RSAPublicKey_in",
        "-inform",
        "DER",
        "-in",
        &der,
        "-pubout",
    ]);
    assert!(converted, "openssl does not read the public key");
    let key = file("key.pem", &pem);
    let (_, text) = openssl(&["rsa", "-pubin", "-in", &key, "-noout", "-text"]);
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("2048 bit") && text.contains("65537"),
        "{text}"
    );

    for width in [Width::Bits32, Width::Bits64] {
        pal.width = width;
        let Quote {
            signature,
            composite,
        } = quote(&mut pal, &[1, 0, 0b10_0001]);
        let pcr = |index| pal.pcrs.read(index).unwrap().to_vec();
        let expected = [vec![1, 0, 0b10_0001, 0, 0, 0, 40], pcr(0), pcr(5)].concat();
        assert_eq!(composite, expected);
        assert_eq!(signature.len(), 256);
        assert!(believed(&key, &composite, &NONCE, &signature));
        let mut other = composite.clone();
        other[20] ^= 1;
        assert!(!believed(&key, &other, &NONCE, &signature));
        assert!(!believed(&key, &composite, &[0; 20], &signature));
    }
    let nothing = quote(&mut pal, &[0, 0, 0]);
    assert_eq!(nothing.composite, [0; 6]);
    assert!(believed(&key, &[0; 6], &NONCE, &nothing.signature));
    room_is_looked_at(&mut pal);
}

/// What is one byte too small is refused, and nothing is written.
fn room_is_looked_at(pal: &mut Pal) {
    pal.rewind();
    let selection = pal.put(&[1, 0, 1]);
    let nonce = pal.put(&NONCE);
    let to = pal.room(300);
    let composite = pal.room(40);
    for (signature_room, composite_room, expected) in [
        (256_u32, 27_u32, HypercallResult::Success),
        (255, 27, HypercallResult::Failure),
        (256, 26, HypercallResult::Failure),
    ] {
        let signature_length = pal.put(&signature_room.to_le_bytes());
        let composite_length = pal.put(&composite_room.to_le_bytes());
        let signature_pair = pal.pair(to, signature_length);
        let composite_pair = pal.pair(composite, composite_length);
        let arguments = [selection, signature_pair, nonce, composite_pair];
        assert_eq!(pal.call(Hypercall::Quote, arguments), expected);
    }
    for (room, expected) in [
        (270_u32, HypercallResult::Success),
        (269, HypercallResult::Failure),
    ] {
        let length = pal.put(&room.to_le_bytes());
        let result = pal.call(Hypercall::IdentityPublicKey, [to, length, 0, 0]);
        assert_eq!(result, expected);
    }
}
