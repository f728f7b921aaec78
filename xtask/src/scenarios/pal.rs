//! PALs as programs have them: each demo program in each form that a Debian runs, in one boot for
//! each architecture. What the programs compare inside and outside a PAL they check themselves;
//! here their verdicts are read, and the micro-TPM's quotes are given to `openssl`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use xshell::cmd;

use super::{Plan, Workshop};
use crate::console::Console;
use crate::kernel::{REFUSED_WRITE, TROUBLE};
use crate::machine::Machine;

/// A program in the guest; the first quote of a boot needs the key, which takes a while to make.
const PATIENCE: Duration = Duration::from_secs(400);

/// How many attempts `attack` makes, lest it make none.
const ATTEMPTS: usize = 70;

/// 64-bit Debian: Rust, 64-bit C and 32-bit C.
pub fn amd64(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::debian(2))?;
    for suffix in ["", "64", "32"] {
        demonstrate(workshop, &machine, &mut console, suffix)?;
    }
    for program in ["attack", "attack32"] {
        attack(&mut console, program)?;
    }
    side_by_side(&mut console, "test_args", "test_args32")
}

/// 32-bit Debian: 32-bit C.
pub fn i386(workshop: &Workshop) -> Result<()> {
    let (machine, mut console) = workshop.boot(Plan::i386(2))?;
    demonstrate(workshop, &machine, &mut console, "")?;
    attack(&mut console, "attack")?;
    side_by_side(&mut console, "test_args", "test_args")
}

/// `main`, `test_args` and `utpm` in one of their forms.
fn demonstrate(
    workshop: &Workshop,
    machine: &Machine,
    console: &mut Console,
    suffix: &str,
) -> Result<()> {
    let output = console.check(&format!("./main{suffix} 3a 7"), PATIENCE)?;
    ensure!(
        output.matches(" 0x41 = my_pal(0x3a, ").count() == 2
            && output.matches(" 0x8 = *").count() == 2,
        "main{suffix}: {output}"
    );
    let output = console.check(&format!("./test_args{suffix} 7 7 7"), PATIENCE)?;
    ensure!(
        output == format!("{}\nTest pass\n", ".".repeat(21)),
        "test_args{suffix}: {output}"
    );
    // The first one of a boot makes the key.
    console.detect_lockups(false, PATIENCE)?;
    let output = console.check(&format!("./utpm{suffix}"), PATIENCE)?;
    console.detect_lockups(true, PATIENCE)?;
    ensure!(
        output.ends_with("utpm: all ok\n") && !output.contains("FAILED"),
        "utpm{suffix}: {output}"
    );
    verify_quote(workshop, machine.folder(), &output)
        .with_context(|| format!("utpm{suffix}: {output}"))
}

/// Every attempt is refused, and the kernel has not noticed but for the one system call that it had
/// to break off.
fn attack(console: &mut Console, program: &str) -> Result<()> {
    let output = console.check(&format!("./{program}"), PATIENCE)?;
    ensure!(
        output.matches("refused: ").count() == ATTEMPTS
            && output.ends_with(&format!("all {ATTEMPTS} attempts refused\n")),
        "{program}: {output}"
    );
    // Prints what it finds, and then fails.
    console.check(
        &format!("! dmesg | grep -v '{REFUSED_WRITE}' | grep -E '{TROUBLE}'"),
        PATIENCE,
    )?;
    Ok(())
}

/// Two programs that register, call and unregister PALs at once.
fn side_by_side(console: &mut Console, one: &str, other: &str) -> Result<()> {
    let command = format!("./{one} 7 20 1 & ./{other} 7 20 2; other=$?; wait $!; echo $? $other");
    let output = console.check(&command, PATIENCE)?;
    ensure!(
        output.matches("Test pass").count() == 2 && output.ends_with("0 0\n"),
        "{output}"
    );
    Ok(())
}

/// Has `openssl` check the signature in what `utpm` printed, and that it is of no other nonce.
fn verify_quote(workshop: &Workshop, folder: &Path, output: &str) -> Result<()> {
    let value = |name: &str| -> Result<Vec<u8>> {
        let found = Regex::new(&format!(r"(?m)^{name}: ([0-9a-f]+)$"))?
            .captures(output)
            .with_context(|| format!("no {name}"))?;
        let digits = found[1].as_bytes().chunks(2);
        digits
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect()
    };
    let shell = &workshop.shell;
    let file = |name: &str| folder.join(name);
    for name in ["key", "composite", "signature"] {
        fs::write(file(name), value(name)?)?;
    }
    let (key, pem, composite) = (file("key"), file("key.pem"), file("composite"));
    cmd!(
        shell,
        "openssl rsa -RSAPublicKey_in -inform DER -in {key} -pubout -out {pem}"
    )
    .quiet()
    .ignore_stderr()
    .run()?;
    let digest = cmd!(shell, "openssl dgst -sha1 -binary {composite}")
        .quiet()
        .output()?
        .stdout;
    let nonce = value("nonce")?;
    let mut another = nonce.clone();
    another[0] ^= 1;
    for (nonce, right) in [(nonce, true), (another, false)] {
        // TPM_QUOTE_INFO, see docs/micro-tpm.md.
        let info = [&b"\x01\x01\0\0QUOT"[..], &digest, &nonce].concat();
        let (signed, signature) = (file("quote"), file("signature"));
        fs::write(&signed, info)?;
        let verified = cmd!(
            shell,
            "openssl dgst -sha1 -verify {pem} -signature {signature} {signed}"
        )
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .ignore_status()
        .output()?
        .status
        .success();
        ensure!(
            verified == right,
            "the signature {} the quote of {}",
            if verified { "fits" } else { "does not fit" },
            if right { "its nonce" } else { "another nonce" }
        );
    }
    Ok(())
}
