//! A caller's arguments: reading them out of the PAL's memory, each once, and
//! writing answers back when all is known to be well.

use stillpoint_abi::pal::Width;

use crate::error::Refusal;

/// Something at an address of the PAL that it may not access that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadAddress;

/// The memory of the PAL that called, by its own addresses.
///
/// Ranges may cross pages. One that runs past the end of the address space is
/// bad. An empty range is never bad.
pub trait CallerMemory {
    /// Copies the PAL's memory from `gva` on; bad where it cannot read.
    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), BadAddress>;

    /// Whether the PAL can write these bytes.
    fn writable(&mut self, gva: u64, length: usize) -> Result<(), BadAddress>;

    /// Copies to the PAL's memory, which has been found writable.
    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), BadAddress>;
}

/// Reads a structure of fixed size.
pub fn read<const N: usize>(memory: &mut impl CallerMemory, gva: u64) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    memory.read(gva, &mut bytes)?;
    Ok(bytes)
}

/// Reads a 32-bit length.
pub fn read_length(memory: &mut impl CallerMemory, gva: u64) -> Result<usize, Refusal> {
    Ok(u32::from_le_bytes(read(memory, gva)?) as usize)
}

/// Reads a pair of words: an address and an address, or an address and a length.
pub fn read_pair(
    memory: &mut impl CallerMemory,
    gva: u64,
    width: Width,
) -> Result<[u64; 2], Refusal> {
    Ok(match width {
        Width::Bits32 => {
            let pair = u64::from_le_bytes(read(memory, gva)?);
            [pair as u32 as u64, pair >> 32]
        }
        Width::Bits64 => {
            let pair = u128::from_le_bytes(read(memory, gva)?);
            [pair as u64, (pair >> 64) as u64]
        }
    })
}

/// An input: where it is, and its length, which has 32 bits in either width.
pub fn read_input(
    memory: &mut impl CallerMemory,
    gva: u64,
    width: Width,
) -> Result<(u64, usize), Refusal> {
    let [address, length] = read_pair(memory, gva, width)?;
    Ok((address, length as u32 as usize))
}

/// Writes every answer, or none: first each place is looked at.
pub fn write_all(memory: &mut impl CallerMemory, answers: &[(u64, &[u8])]) -> Result<(), Refusal> {
    for (gva, bytes) in answers {
        memory.writable(*gva, bytes.len())?;
    }
    for (gva, bytes) in answers {
        memory.write(*gva, bytes)?;
    }
    Ok(())
}
