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

/// Finds the tables in the kernel's bytes and decodes them.
pub fn find(kernel: &[u8]) -> Result<Vec<Symbol>> {
    let mut from = 0;
    while let Some(at) = position(kernel, from, DIGITS) {
        from = at + 1;
        if let Some(tokens) = Tokens::around(kernel, at)
            && let Some(names) = Names::before(kernel, &tokens)
            && let Ok(addresses) = addresses(kernel, &tokens, &names)
        {
            return decode(kernel, &tokens, &names, &addresses);
        }
    }
    bail!("the kernel has no symbol table of its own that is known here")
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
    fn around(kernel: &[u8], digits: usize) -> Option<Self> {
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
        let index = at.next_multiple_of(8);
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
    fn before(kernel: &[u8], tokens: &Tokens) -> Option<Self> {
        let lowest = tokens.start.saturating_sub(16 << 20);
        let mut at = tokens.start / 8 * 8;
        while at > lowest + 8 {
            at -= 8;
            let count = word(kernel, at)? as usize;
            if (10..1 << 22).contains(&count) && word(kernel, at + 4)? == 0 {
                let names = Self {
                    count_at: at,
                    count,
                    start: at + 8,
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
fn addresses(kernel: &[u8], tokens: &Tokens, names: &Names) -> Result<Vec<u64>> {
    let length = 4 * names.count;
    let behind = tokens.end.next_multiple_of(8);
    let layouts = [
        (
            names
                .count_at
                .checked_sub(8 + length.next_multiple_of(8))
                .unwrap_or(usize::MAX / 2),
            names.count_at.saturating_sub(8),
        ),
        (behind, behind + length.next_multiple_of(8)),
    ];
    for (offsets, base) in layouts {
        let Some(base) = kernel.get(base..base + 8) else {
            continue;
        };
        let base = u64::from_le_bytes(base.try_into()?);
        // The kernel is linked at a fixed place in the top 2 GiB.
        if base & 0xffff_ffff_800f_ffff != 0xffff_ffff_8000_0000 {
            continue;
        }
        let bytes = kernel
            .get(offsets..offsets + length)
            .context("the offsets are cut off")?;
        return Ok(bytes
            .chunks_exact(4)
            .map(|bytes| {
                let offset = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                // Per-CPU symbols are kept as they are, all others as -1 - distance from the base.
                if offset >= 0 {
                    u64::from(offset.unsigned_abs())
                } else {
                    base.wrapping_add((-1 - i64::from(offset)).unsigned_abs())
                }
            })
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
    use super::{Symbol, find};

    const BASE: u64 = 0xffff_ffff_8100_0000;

    /// The tables as the kernel's build lays them out. Token 200 is "sys_".
    fn kernel(new_layout: bool, count: usize) -> (Vec<u8>, Vec<Symbol>) {
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
            let per_cpu = number == 0;
            let offset = if per_cpu {
                0x40
            } else {
                -1 - 16 * number as i32
            };
            offsets.extend_from_slice(&offset.to_le_bytes());
            expected.push(Symbol {
                address: if per_cpu {
                    0x40
                } else {
                    BASE + 16 * number as u64
                },
                kind: b't',
                name: format!("sys_{tail}"),
            });
        }
        let mut bytes = b"some code 0\x001\x002\x00".to_vec();
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(8), 0);
        pad(&mut bytes);
        let addresses = |bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(&offsets);
            pad(bytes);
            bytes.extend_from_slice(&BASE.to_le_bytes());
        };
        if !new_layout {
            addresses(&mut bytes);
        }
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
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
    fn both_layouts() -> anyhow::Result<()> {
        for new_layout in [false, true] {
            for count in [12, 256, 700] {
                let (bytes, expected) = kernel(new_layout, count);
                assert_eq!(find(&bytes)?, expected, "{new_layout} {count}");
            }
        }
        Ok(())
    }

    #[test]
    fn damaged_tables_are_refused() {
        let (bytes, _) = kernel(false, 300);
        let tokens = bytes.windows(4).position(|window| window == b"sys_");
        let mut broken = bytes.clone();
        if let Some(at) = tokens {
            broken[at + 4] = b'x'; // joins two tokens: the index no longer agrees
        }
        assert!(find(&broken).is_err());
        assert!(find(b"nothing here").is_err());
    }
}
