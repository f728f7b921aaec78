//! Finding the field that a person means: by name, by prefix, by encoding.

use core::fmt;

use crate::{Field, FieldInfo};

/// How many candidates an ambiguous or unknown name lists.
const LISTED: usize = 6;
/// The longest name that the search for near ones compares.
const LONGEST: usize = 64;

/// Why a word names no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameError<'a> {
    /// No field has that encoding.
    UnknownEncoding(u32),
    /// The encoding is that of this field's high half.
    HighHalf(u32, Field),
    /// Several fields begin so.
    Ambiguous(&'a str),
    /// None begins so.
    Unknown(&'a str),
}

/// The field that `word` names: an encoding with `0x`, or a name, or an
/// unambiguous beginning of one. Case does not count, and `-` stands for `_`.
pub(super) fn find(word: &str) -> Result<Field, NameError<'_>> {
    if let Some(encoding) = encoding(word) {
        if let Some(field) = Field::from_encoding(encoding) {
            return Ok(field);
        }
        return Err(match Field::from_encoding(encoding & !1) {
            Some(field) => NameError::HighHalf(encoding, field),
            None => NameError::UnknownEncoding(encoding),
        });
    }
    let mut candidates = with_prefix(word);
    let Some(first) = candidates.next() else {
        return Err(NameError::Unknown(word));
    };
    if candidates.next().is_none() {
        return Ok(first.field);
    }
    // A whole name is meant even where it begins a longer one.
    with_prefix(word)
        .find(|info| info.name.len() == word.len())
        .map(|info| info.field)
        .ok_or(NameError::Ambiguous(word))
}

/// The fields whose names begin with `prefix`.
pub(super) fn with_prefix(prefix: &str) -> impl Iterator<Item = &'static FieldInfo> + '_ {
    Field::all()
        .iter()
        .filter(move |info| starts_with(info.name, prefix))
}

fn encoding(word: &str) -> Option<u32> {
    let digits = word
        .strip_prefix("0x")
        .or_else(|| word.strip_prefix("0X"))?;
    u32::from_str_radix(digits, 16).ok()
}

fn canonical(byte: u8) -> u8 {
    match byte {
        b'-' => b'_',
        other => other.to_ascii_uppercase(),
    }
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(a, b)| a == canonical(b))
}

fn contains(name: &str, part: &str) -> bool {
    (0..name.len()).any(|start| {
        name.get(start..)
            .is_some_and(|tail| starts_with(tail, part))
    })
}

/// The number of edits that make `word` of `name` (Levenshtein's distance).
fn distance(name: &str, word: &str) -> usize {
    let mut row: [usize; LONGEST + 1] = core::array::from_fn(|i| i);
    for (i, a) in word.bytes().take(LONGEST).map(canonical).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.bytes().take(LONGEST).enumerate() {
            let above = row[j + 1];
            let substituted = diagonal + usize::from(a != b);
            row[j + 1] = substituted.min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[name.len().min(LONGEST)]
}

/// Writes names, `LISTED` of them at most, and how many more there are.
fn list(
    f: &mut fmt::Formatter<'_>,
    fields: impl Iterator<Item = &'static FieldInfo>,
) -> fmt::Result {
    let mut more = 0;
    for (i, info) in fields.enumerate() {
        if i < LISTED {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, info.name)?;
        } else {
            more += 1;
        }
    }
    if more > 0 {
        write!(f, " and {more} more")?;
    }
    Ok(())
}

impl fmt::Display for NameError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            NameError::UnknownEncoding(encoding) => {
                write!(f, "no field has the encoding {encoding:#x}")
            }
            NameError::HighHalf(encoding, field) => write!(
                f,
                "{encoding:#x} is the high half of {field}; name the whole field, {:#x}",
                field.encoding()
            ),
            NameError::Ambiguous(word) => {
                write!(f, "{word} begins several names: ")?;
                list(f, with_prefix(word))?;
                write!(f, "; say more of it, or {word}* for all")
            }
            NameError::Unknown(word) => {
                write!(f, "no field is called {word}; ")?;
                let holding = || Field::all().iter().filter(|info| contains(info.name, word));
                if holding().next().is_some() {
                    f.write_str("these have it in their names: ")?;
                    return list(f, holding());
                }
                let all = || Field::all().iter();
                let least = all().map(|info| distance(info.name, word)).min();
                // With more than half of it wrong nothing is near.
                if least.is_none_or(|least| least > word.len() / 2) {
                    return f.write_str("vmcs all lists those that there are");
                }
                f.write_str("nearest: ")?;
                list(
                    f,
                    all().filter(|info| Some(distance(info.name, word)) == least),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn every_name_and_encoding_finds_its_field() {
        for info in Field::all() {
            assert_eq!(find(info.name), Ok(info.field));
            assert_eq!(find(&info.name.to_lowercase()), Ok(info.field));
            let encoding = std::format!("{:#x}", info.field.encoding());
            assert_eq!(find(&encoding), Ok(info.field));
        }
    }

    #[test]
    fn unambiguous_beginnings_are_enough() {
        assert_eq!(find("guest_rip"), Ok(Field::GUEST_RIP));
        assert_eq!(find("GUEST-INTERRUPTIB"), Ok(Field::GUEST_INTERRUPTIBILITY));
        assert_eq!(find("pin"), Ok(Field::PIN_BASED_CONTROLS));
        assert_eq!(find("0X4824"), Ok(Field::GUEST_INTERRUPTIBILITY));
        // A whole name that begins others.
        assert_eq!(find("guest_deadline"), Ok(Field::GUEST_DEADLINE));
    }

    #[test]
    fn what_finds_none_says_what_might_be_meant() {
        let cases = [
            (
                "vm_exit_i",
                "vm_exit_i begins several names: VM_EXIT_INTERRUPTION_INFO, \
                 VM_EXIT_INTERRUPTION_ERROR_CODE, VM_EXIT_INSTRUCTION_LENGTH, \
                 VM_EXIT_INSTRUCTION_INFO; say more of it, or vm_exit_i* for all",
            ),
            (
                "rip",
                "no field is called rip; these have it in their names: \
                 POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, IO_RIP, GUEST_RIP, HOST_RIP",
            ),
            (
                "guest_rop",
                "no field is called guest_rop; nearest: GUEST_RSP, GUEST_RIP",
            ),
            (
                "gest_rflgs",
                "no field is called gest_rflgs; nearest: GUEST_RFLAGS",
            ),
            (
                "nmi",
                "no field is called nmi; vmcs all lists those that there are",
            ),
            ("0x1234", "no field has the encoding 0x1234"),
            (
                "0x2001",
                "0x2001 is the high half of IO_BITMAP_A; name the whole field, 0x2000",
            ),
        ];
        for (word, text) in cases {
            assert_eq!(find(word).unwrap_err().to_string(), text);
        }
        let more = std::format!(" and {} more;", with_prefix("guest").count() - LISTED);
        assert!(find("guest").unwrap_err().to_string().contains(&more));
    }

    #[test]
    fn odd_words_are_errors_not_panics() {
        for word in ["", "é", "0x", "0xfffffffff", "*", &"x".repeat(500)] {
            let _ = find(word).map_err(|error| error.to_string());
        }
    }
}
