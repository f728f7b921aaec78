//! `test` in C reads its arguments and ends like `test` in Rust. Whether both make the
//! hypercall is the emulator's to show.

use std::path::Path;
use std::process::{Command, Output};

#[test]
fn both_languages_say_the_same() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("test-c");
    let status = Command::new("cc")
        .args(["-std=c11", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(&sources)
        .arg(sources.join("test.c"))
        .status()
        .expect("`cc` is needed to link Rust programs: apt-get install gcc");
    assert!(status.success());

    let run = |program: &Path, arguments: &[&str]| -> (Option<i32>, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(program)
            .args(arguments)
            .output()
            .expect("the program was just built");
        let text = |bytes| String::from_utf8(bytes).expect("ASCII");
        (status.code(), text(stdout), text(stderr))
    };
    for arguments in [
        &[][..],
        &["7"],
        &["7", "8"],
        &["0x7"],
        &["0xFf"],
        &["007"],
        &["4294967295"],
        &["4294967296"],
        &["18446744073709551615"],
        &["18446744073709551616"],
        &["0xffffffff"],
        &["0x10000000000000000"],
        &[""],
        &["0x"],
        &["0X7"],
        &["0x0x7"],
        &["-1"],
        &["+1"],
        &["0x+1"],
        &[" 7"],
        &["7 "],
        &["a"],
    ] {
        let rust = run(Path::new(env!("CARGO_BIN_EXE_test")), arguments);
        assert_eq!(run(&program, arguments), rust, "{arguments:?}");
    }
}
