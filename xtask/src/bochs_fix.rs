//! A repair of Bochs 3.0, made in the copy under `target/tools` when it is fetched. Used by `tools`.
//!
//! With several CPUs, that release does not commit RIP after an exception has been delivered
//! (`BX_CPU_C::cpu_run_trace` lacks what `cpu_loop`, for one CPU, begins with: `prev_rip = RIP`).
//! A VM exit that comes at that very boundary, by the preemption timer, an NMI or INIT, then saves
//! the RIP of the faulting instruction with the CS and RSP of the exception's handler, and the guest
//! goes on with user code at kernel privilege. Under `debug=`, with an exit each millisecond, a
//! Linux with two CPUs dies of it within seconds of page faults. No hypervisor can tell, so the
//! emulator is repaired: the function's beginning commits RIP.

use anyhow::{Context, Result, bail, ensure};
use object::endian::LittleEndian as LE;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSegment};

/// How `cpu_run_trace` begins in Debian's build, up to the call of `handleAsyncEvent`. Offset 91E0h
/// of the CPU's state is `async_event`.
const FUNCTION: &[u8] = &[
    0xf3, 0x0f, 0x1e, 0xfa, // endbr64
    0x55, 0x53, // push rbp; push rbx
    0x48, 0x89, 0xfb, // mov rbx, rdi
    0x48, 0x83, 0xec, 0x08, // sub rsp, 8
    0x8b, 0x87, 0xe0, 0x91, 0x00, 0x00, // mov eax, [rdi + 91E0h]
    0x85, 0xc0, // test eax, eax
    0x74, 0x09, // jz over the call
    0xe8, // call
];

/// The instruction in it that is replaced by a jump, and where it ends.
const REPLACED: std::ops::Range<usize> = 13..19;

/// What is put in front of the replaced instruction. Offsets E0h, 118h and 130h of the CPU's state
/// are RIP, `prev_rip` and `speculative_rsp`, as `cpu_loop` uses them.
const COMMIT: &[u8] = &[
    0x48, 0x8b, 0x87, 0xe0, 0x00, 0x00, 0x00, // mov rax, [rdi + E0h]
    0x48, 0x89, 0x87, 0x18, 0x01, 0x00, 0x00, // mov [rdi + 118h], rax
    0xc6, 0x87, 0x30, 0x01, 0x00, 0x00, 0x00, // mov byte [rdi + 130h], 0
];

const JUMP: u8 = 0xe9;
const NOP: u8 = 0x90;

/// The emulator's executable, repaired.
pub fn repair(executable: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<LE>::parse(executable)?;
    let text = file
        .section_by_name(".text")
        .context("an executable has code")?
        .address();
    let code = file
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&text))
        .context("code lies in a segment")?;
    let (start, length) = code.file_range();
    ensure!(
        start == code.address(),
        "addresses are not offsets in the file"
    );
    let (start, end) = (usize::try_from(start)?, usize::try_from(start + length)?);
    patch(executable, start, end)
}

/// Patches the code between the offsets `start` and `end`; the new code goes behind `end`, where the
/// last page of the segment is empty.
fn patch(executable: &[u8], start: usize, end: usize) -> Result<Vec<u8>> {
    let mut found = executable
        .get(start..end)
        .context("the code segment is cut off")?
        .windows(FUNCTION.len())
        .enumerate()
        .filter(|(_, window)| *window == FUNCTION);
    let (Some((function, _)), None) = (found.next(), found.next()) else {
        bail!("this build of the emulator is not known");
    };
    let replaced = start + function + REPLACED.start;
    let resume = start + function + REPLACED.end;
    let room = end.next_multiple_of(16);
    let mut new = COMMIT.to_vec();
    new.extend_from_slice(&FUNCTION[REPLACED]);
    new.push(JUMP);
    new.extend_from_slice(&distance(room + new.len() + 4, resume)?);
    let place = room..room + new.len();
    ensure!(
        executable
            .get(place.clone())
            .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
            && place.end <= end.next_multiple_of(4096),
        "no room behind the emulator's code"
    );
    let mut repaired = executable.to_vec();
    repaired[place].copy_from_slice(&new);
    let jump = &mut repaired[replaced..resume];
    jump[0] = JUMP;
    jump[1..5].copy_from_slice(&distance(replaced + 5, room)?);
    jump[5] = NOP;
    Ok(repaired)
}

fn distance(from: usize, to: usize) -> Result<[u8; 4]> {
    let distance = i64::try_from(to)? - i64::try_from(from)?;
    Ok(i32::try_from(distance)?.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::{COMMIT, FUNCTION, patch};

    /// Two pages: some code with the function in it up to `end`, zeros behind.
    fn executable(end: usize) -> Vec<u8> {
        let mut bytes = vec![0xcc; end];
        bytes[0x100..0x100 + FUNCTION.len()].copy_from_slice(FUNCTION);
        bytes.resize(0x2000, 0);
        bytes
    }

    #[test]
    fn the_jumps_meet() -> anyhow::Result<()> {
        let end = 0x1801;
        let patched = patch(&executable(end), 0, end)?;
        let word = |at: usize| -> anyhow::Result<usize> {
            let bytes: [u8; 4] = patched[at..at + 4].try_into()?;
            Ok(i32::from_le_bytes(bytes) as usize)
        };
        assert_eq!(patched[0x10d], 0xe9);
        let room = word(0x10e)?.wrapping_add(0x112);
        assert_eq!(room, 0x1810);
        assert!(patched[room..].starts_with(COMMIT));
        // The replaced instruction, then back to behind it.
        let after = room + COMMIT.len();
        assert_eq!(patched[after..after + 6], FUNCTION[13..19]);
        assert_eq!(patched[after + 6], 0xe9);
        assert_eq!(
            word(after + 7)?.wrapping_add(after + 11) & 0xffff_ffff,
            0x113
        );
        Ok(())
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let end = 0x1801;
        assert!(patch(&vec![0; 0x2000], 0, end).is_err());
        let mut twice = executable(end);
        twice.copy_within(0x100..0x200, 0x400);
        assert!(patch(&twice, 0, end).is_err());
        // No room: the code fills its last page.
        assert!(patch(&executable(0x1ffc), 0, 0x1ffc).is_err());
    }
}
