//! Reads the symbol table that a kernel carries for its own use (Linux, kernel/kallsyms.c and
//! scripts/kallsyms.c, 6.1 to 6.12). Nothing points at the tables, so they are recognised by
//! their inner relations. Used by `vmlinux`.

use anyhow::{Context, Result, bail, ensure};

/// One symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its address, as linked.
    pub address: u64,
    /// The letter that nm gives it.
    pub kind: u8,
    /// Its name.
    pub name: String,
}

/// The tokens of single digits stand as themselves, one after the other, in the token table.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// Finds the tables in the bytes of the kernel's ELF file and decodes them.
pub fn find(kernel: &[u8]) -> Result<Vec<Symbol>> {
    let width = match kernel {
        // EI_CLASS is ELFCLASS32.
        [0x7f, b'E', b'L', b'F', 1, ..] => Width::Bits32,
        _ => Width::Bits64,
    };
    let mut from = 0;
    while let Some(at) = position(kernel, from, DIGITS) {
        from = at + 1;
        if let Some(tokens) = Tokens::around(kernel, at, width)
            && let Some(names) = Names::before(kernel, &tokens, width)
            && let Ok(addresses) = addresses(kernel, &tokens, &names, width)
        {
            return decode(kernel, &tokens, &names, &addresses);
        }
    }
    bail!("the kernel has no symbol table of its own that is known here")
}

/// How wide the kernel's addresses are. Each table is aligned to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

impl Width {
    /// Bytes of an address.
    fn bytes(self) -> usize {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    /// The address at `at`.
    fn address(self, kernel: &[u8], at: usize) -> Option<u64> {
        let low = u64::from(word(kernel, at)?);
        match self {
            Self::Bits32 => Some(low),
            Self::Bits64 => Some(u64::from(word(kernel, at + 4)?) << 32 | low),
        }
    }

    /// Whether a kernel may be linked at `base`: in the top 2 GiB.
    fn is_base(self, base: u64) -> bool {
        let (mask, value) = match self {
            Self::Bits32 => (0x800f_ffff, 0x8000_0000),
            Self::Bits64 => (0xffff_ffff_800f_ffff, 0xffff_ffff_8000_0000),
        };
        base & mask == value
    }

    /// The address of the symbol whose entry among the offsets is `offset`.
    fn symbol(self, base: u64, offset: u32) -> u64 {
        match self {
            Self::Bits32 => u64::from((base as u32).wrapping_add(offset)),
            // Per-CPU symbols are kept as they are, all others as -1 - distance from the base.
            Self::Bits64 if offset <= i32::MAX as u32 => u64::from(offset),
            Self::Bits64 => base.wrapping_add(u64::from(!offset)),
        }
    }
}

/// The token table: 256 strings that bytes of the names stand for.
struct Tokens {
    start: usize,
    offsets: Vec<u16>,
    /// Where the index after the table ends.
    end: usize,
}

impl Tokens {
    /// The token table whose digits are at `digits`, if its index agrees.
    fn around(kernel: &[u8], digits: usize, width: Width) -> Option<Self> {
        let mut start = digits;
        for _ in 0..b'0' {
            // Back over a NUL to the one before, which ends the token before.
            start = kernel[..start.checked_sub(1)?]
                .iter()
                .rposition(|&byte| byte == 0)?
                + 1;
        }
        // The table is aligned: padding before it looks like empty tokens, none of which exist.
        let mut offsets = Vec::with_capacity(256);
        let mut at = start;
        for _ in 0..256 {
            offsets.push(u16::try_from(at - start).ok()?);
            at += kernel.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
        let index = at.next_multiple_of(width.bytes());
        let found = kernel.get(index..index + 512)?;
        let same = found
            .chunks_exact(2)
            .zip(&offsets)
            .all(|(bytes, &offset)| bytes == offset.to_le_bytes());
        same.then_some(Self {
            start,
            offsets,
            end: index + 512,
        })
    }

    fn text<'a>(&self, kernel: &'a [u8], token: u8) -> &'a [u8] {
        let start = self.start + usize::from(self.offsets[usize::from(token)]);
        let length = kernel[start..]
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(0);
        &kernel[start..start + length]
    }
}

/// The compressed names: a count, then each name's length and tokens; then markers, which are
/// the offset of each 256th name.
struct Names {
    count_at: usize,
    count: usize,
    start: usize,
}

impl Names {
    fn before(kernel: &[u8], tokens: &Tokens, width: Width) -> Option<Self> {
        let step = width.bytes();
        let lowest = tokens.start.saturating_sub(16 << 20);
        let mut at = tokens.start / step * step;
        while at > lowest + step {
            at -= step;
            // 32 bits, and padding up to the names.
            let count = usize::try_from(width.address(kernel, at)?).ok()?;
            if (10..1 << 22).contains(&count) {
                let names = Self {
                    count_at: at,
                    count,
                    start: at + step,
                };
                if names.agree_with_markers(kernel, tokens.start) {
                    return Some(names);
                }
            }
        }
        None
    }

    /// Whether `count` names are followed by markers that say where they are.
    fn agree_with_markers(&self, kernel: &[u8], limit: usize) -> bool {
        let mut at = self.start;
        let mut expected = Vec::new();
        for index in 0..self.count {
            if index % 256 == 0 {
                expected.push((at - self.start) as u32);
            }
            match name_length(kernel, at) {
                Some((header, length)) if length > 0 && at + header + length <= limit => {
                    at += header + length;
                }
                _ => return false,
            }
        }
        // Alignment differs between kernels: 4 or 8.
        [at.next_multiple_of(4), at.next_multiple_of(8)]
            .iter()
            .any(|&markers| {
                expected
                    .iter()
                    .enumerate()
                    .all(|(index, &offset)| word(kernel, markers + 4 * index) == Some(offset))
            })
    }
}

/// The length of a name, after its own one or two bytes.
fn name_length(kernel: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = usize::from(*kernel.get(at)?);
    if first & 0x80 == 0 {
        return Some((1, first));
    }
    let second = usize::from(*kernel.get(at + 1)?);
    Some((2, first & 0x7f | second << 7))
}

/// The addresses: 32-bit offsets and a base, before the count (6.1) or behind the tokens (6.12).
fn addresses(kernel: &[u8], tokens: &Tokens, names: &Names, width: Width) -> Result<Vec<u64>> {
    let (bytes, length) = (width.bytes(), 4 * names.count);
    let padded = length.next_multiple_of(bytes);
    let before = names.count_at.checked_sub(bytes + padded);
    let behind = Some(tokens.end.next_multiple_of(bytes));
    for offsets in [before, behind].into_iter().flatten() {
        let Some(base) = width.address(kernel, offsets + padded) else {
            continue;
        };
        if !width.is_base(base) {
            continue;
        }
        let offsets = kernel
            .get(offsets..offsets + length)
            .context("the offsets are cut off")?;
        return Ok(offsets
            .chunks_exact(4)
            .filter_map(|bytes| word(bytes, 0))
            .map(|offset| width.symbol(base, offset))
            .collect());
    }
    bail!("no addresses beside the names")
}

fn decode(kernel: &[u8], tokens: &Tokens, names: &Names, addresses: &[u64]) -> Result<Vec<Symbol>> {
    let mut at = names.start;
    let mut symbols = Vec::with_capacity(names.count);
    for &address in addresses {
        let (header, length) = name_length(kernel, at).context("the names are cut off")?;
        at += header;
        let text: Vec<u8> = kernel[at..at + length]
            .iter()
            .flat_map(|&token| tokens.text(kernel, token))
            .copied()
            .collect();
        at += length;
        let text = String::from_utf8(text)?;
        let kind = *text.as_bytes().first().context("a symbol without a kind")?;
        ensure!(kind.is_ascii_alphabetic(), "a symbol of kind {kind:#x}");
        symbols.push(Symbol {
            address,
            kind,
            name: text[1..].to_owned(),
        });
    }
    Ok(symbols)
}

fn word(kernel: &[u8], at: usize) -> Option<u32> {
    let bytes = kernel.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn position(kernel: &[u8], from: usize, pattern: &[u8]) -> Option<usize> {
    kernel
        .get(from..)?
        .windows(pattern.len())
        .position(|window| window == pattern)
        .map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use super::{Symbol, Width, find};

    /// The tables as the kernel's build lays them out. Token 200 is "sys_".
    fn kernel(width: Width, new_layout: bool, count: usize) -> (Vec<u8>, Vec<Symbol>) {
        let base: u64 = match width {
            Width::Bits32 => 0xc100_0000,
            Width::Bits64 => 0xffff_ffff_8100_0000,
        };
        let mut tokens = Vec::new();
        let mut index = Vec::new();
        for token in 0..=255u8 {
            index.extend_from_slice(&(tokens.len() as u16).to_le_bytes());
            match token {
                200 => tokens.extend_from_slice(b"sys_"),
                b'0'..=b'z' => tokens.push(token),
                _ => tokens.extend_from_slice(b"xy"),
            }
            tokens.push(0);
        }
        let mut names = Vec::new();
        let mut markers = Vec::new();
        let mut offsets = Vec::new();
        let mut expected = Vec::new();
        for number in 0..count {
            if number % 256 == 0 {
                markers.extend_from_slice(&(names.len() as u32).to_le_bytes());
            }
            // One long name needs two bytes of length.
            let tail = if number == 3 {
                "q".repeat(150)
            } else {
                format!("n{number}")
            };
            let length = tail.len() + 2;
            if length > 127 {
                names.extend_from_slice(&[(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
            } else {
                names.push(length as u8);
            }
            names.extend_from_slice(&[b't', 200]);
            names.extend_from_slice(tail.as_bytes());
            let distance = 16 * number as u32;
            let (offset, address) = match width {
                Width::Bits32 => (distance, base + u64::from(distance)),
                Width::Bits64 if number == 0 => (0x40, 0x40), // a per-CPU symbol
                Width::Bits64 => (!distance, base + u64::from(distance)),
            };
            offsets.extend_from_slice(&offset.to_le_bytes());
            expected.push(Symbol {
                address,
                kind: b't',
                name: format!("sys_{tail}"),
            });
        }
        let class = match width {
            Width::Bits32 => 1,
            Width::Bits64 => 2,
        };
        let mut bytes = b"\x7fELF".to_vec();
        bytes.push(class);
        bytes.extend_from_slice(b"some code 0\x001\x002\x00");
        let pad =
            |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(width.bytes()), 0);
        let number =
            |bytes: &mut Vec<u8>, value: u64| bytes.extend(&value.to_le_bytes()[..width.bytes()]);
        pad(&mut bytes);
        let addresses = |bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(&offsets);
            pad(bytes);
            number(bytes, base);
        };
        if !new_layout {
            addresses(&mut bytes);
        }
        number(&mut bytes, count as u64);
        bytes.extend_from_slice(&names);
        pad(&mut bytes);
        bytes.extend_from_slice(&markers);
        pad(&mut bytes);
        bytes.extend_from_slice(&tokens);
        pad(&mut bytes);
        bytes.extend_from_slice(&index);
        pad(&mut bytes);
        if new_layout {
            addresses(&mut bytes);
        }
        bytes.extend_from_slice(b"more of the kernel behind it");
        (bytes, expected)
    }

    #[test]
    fn both_widths_and_layouts() -> anyhow::Result<()> {
        for width in [Width::Bits32, Width::Bits64] {
            for new_layout in [false, true] {
                for count in [12, 256, 700] {
                    let (bytes, expected) = kernel(width, new_layout, count);
                    assert_eq!(find(&bytes)?, expected, "{width:?} {new_layout} {count}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn damaged_tables_are_refused() {
        let (bytes, _) = kernel(Width::Bits64, false, 300);
        let tokens = bytes.windows(4).position(|window| window == b"sys_");
        let mut broken = bytes.clone();
        if let Some(at) = tokens {
            broken[at + 4] = b'x'; // joins two tokens: the index no longer agrees
        }
        assert!(find(&broken).is_err());
        assert!(find(b"nothing here").is_err());
    }
}
