//! The guest program: assembled and linked by the C compiler that links Rust programs
//! too, so that GDB has symbols, lines and unwind tables to work with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the program lies in virtual memory: where Linux has its text.
pub const BASE: u64 = 0xffff_ffff_8100_0000;

/// An ELF file and what is to be in memory of it.
pub struct Guest {
    /// The file, for GDB.
    pub elf: PathBuf,
    /// Bytes by virtual address.
    pub segments: Vec<(u64, Vec<u8>)>,
    /// Address of `_start`.
    pub entry: u64,
    /// Address of `work`.
    pub work: u64,
    /// Address of `counter`.
    pub counter: u64,
}

/// The program, built once per test process.
pub fn guest() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(build)
}

fn build() -> Guest {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/guest.c");
    // The tests' programs run one after the other, and may leave theirs to the next.
    let elf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!(
        "guest-",
        env!("CARGO_CRATE_NAME"),
        ".elf"
    ));
    let status = Command::new("cc")
        .args([
            "-g",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
        ])
        .arg(format!("-Wl,-Ttext={BASE:#x},-Tdata={:#x}", BASE + 0x2000))
        .arg("-o")
        .arg(&elf)
        .arg(&source)
        .status()
        .expect("`cc` is needed to link Rust programs: apt-get install gcc");
    assert!(status.success(), "cc could not build {}", source.display());
    let file = std::fs::read(&elf).expect("the file was just written");
    let (work, counter) = (symbol(&file, "work"), symbol(&file, "counter"));
    Guest {
        segments: segments(&file),
        entry: u64_at(&file, 24),
        work,
        counter,
        elf,
    }
}

fn u16_at(file: &[u8], offset: usize) -> usize {
    usize::from(u16::from_le_bytes(
        file[offset..offset + 2].try_into().unwrap(),
    ))
}

fn u32_at(file: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(file[offset..offset + 4].try_into().unwrap())
}

fn u64_at(file: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(file[offset..offset + 8].try_into().unwrap())
}

/// The contents of the PT_LOAD segments that lie in the kernel's range.
fn segments(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (table, size, count) = (
        u64_at(file, 32) as usize,
        u16_at(file, 54),
        u16_at(file, 56),
    );
    (0..count)
        .map(|n| table + n * size)
        .filter(|&header| u32_at(file, header) == 1 && u64_at(file, header + 16) >= BASE)
        .map(|header| {
            let start = u64_at(file, header + 8) as usize;
            let length = u64_at(file, header + 32) as usize;
            (
                u64_at(file, header + 16),
                file[start..start + length].to_vec(),
            )
        })
        .collect()
}

/// The value of a symbol.
fn symbol(file: &[u8], name: &str) -> u64 {
    let (table, size, count) = (
        u64_at(file, 40) as usize,
        u16_at(file, 58),
        u16_at(file, 60),
    );
    let section = |n: usize| table + n * size;
    let symbols = (0..count)
        .map(section)
        .find(|&s| u32_at(file, s + 4) == 2)
        .expect(".symtab");
    let strings = u64_at(file, section(u32_at(file, symbols + 40) as usize) + 24) as usize;
    let start = u64_at(file, symbols + 24) as usize;
    let length = u64_at(file, symbols + 32) as usize;
    (start..start + length)
        .step_by(24)
        .find(|&symbol| {
            let text = &file[strings + u32_at(file, symbol) as usize..];
            text.starts_with(name.as_bytes()) && text[name.len()] == 0
        })
        .map(|symbol| u64_at(file, symbol + 8))
        .expect("the guest defines it")
}
