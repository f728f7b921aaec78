//! The programs that exist in Rust and in C read their arguments and end alike. Whether both
//! make the hypercalls is the emulator's to show.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds a C program for the host.
fn build(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-c"));
    let of = |folder: &str| {
        std::fs::read_dir(sources.join(folder))
            .expect("a folder of the sources")
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
    };
    let status = Command::new("cc")
        .args(["-std=c11", "-I"])
        .arg(&sources)
        .arg("-o")
        .arg(&program)
        .arg(sources.join(name).with_extension("c"))
        .args(of("pal"))
        .args(of("lib"))
        .status()
        .expect("`cc` is needed to link Rust programs: apt-get install gcc");
    assert!(status.success());
    program
}

/// Exit status, standard output and error of a program.
fn run(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
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
}

fn both_say_the_same(name: &str, rust: &str, lists: &[&[&str]]) {
    let c = build(name);
    for arguments in lists {
        let (rust, c) = (run(Path::new(rust), arguments), run(&c, arguments));
        assert_eq!(c, rust, "{name} {arguments:?}");
    }
}

#[test]
fn test() {
    let lists = [
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
    ];
    both_say_the_same("test", env!("CARGO_BIN_EXE_test"), &lists);
}

#[test]
fn utpm() {
    both_say_the_same("utpm", env!("CARGO_BIN_EXE_utpm"), &[&[]]);
}

#[test]
fn main() {
    let lists = [
        &[][..],
        &["7"],
        &["7", "8"],
        &["0x7", "fF"],
        &["7", "8", "9"],
        &["7", "0X8"],
        &["7", "0x"],
        &["", "8"],
        &["7", "8 "],
        &["7", "+8"],
        &["-7", "8"],
        &["7", "g"],
        &["ffffffffffffffff", "0"],
        &["0x10000000000000000", "0"],
    ];
    both_say_the_same("main", env!("CARGO_BIN_EXE_main"), &lists);
}

#[test]
fn test_args() {
    let lists = [
        &[][..],
        &["7", "7", "7"],
        &["7", "7"],
        &["7", "7", "7", "7"],
        &["7", "7", "0x7"],
        &["7", "", "7"],
        &["+7", "7", "7"],
        &["7", "4294967295", "7"],
        &["7", "4294967296", "7"],
        &["7", "99999999999999999999", "7"],
        &["7", "7", "-1"],
    ];
    both_say_the_same("test_args", env!("CARGO_BIN_EXE_test_args"), &lists);
}
