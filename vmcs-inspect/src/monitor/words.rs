//! The words that every `monitor` command reads alike: numbers, and CPUs.
//!
//! `vmcs` takes its arguments apart with these, and so do the stub's other commands.

/// A number, in decimal or with `0x` in hexadecimal; `_` may stand between digits.
///
/// `None` for anything else, or more than 64 bits.
pub fn number(word: &str) -> Option<u64> {
    let hex = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    let mut value: Option<u64> = None;
    for character in digits.chars().filter(|c| *c != '_') {
        let digit = u64::from(character.to_digit(radix)?);
        value = Some(
            value
                .unwrap_or(0)
                .checked_mul(u64::from(radix))?
                .checked_add(digit)?,
        );
    }
    value
}

/// A CPU's number, in decimal digits alone: `0x681e` is a field.
pub fn cpu_number(word: &str) -> Option<usize> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_unless_marked() {
        assert_eq!(number("16"), Some(16));
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("0xffff_ffff_ffff_ffff"), Some(u64::MAX));
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "0x",
            "_",
            "-1",
            "+1",
            "0x+1",
            "1f",
            "0x10000000000000000",
            "18446744073709551616",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cpu_is_written_in_decimal_digits() {
        assert_eq!(cpu_number("12"), Some(12));
        for bad in ["", "+1", "-1", "0x1", "1_0", "18446744073709551616"] {
            assert_eq!(cpu_number(bad), None, "{bad}");
        }
    }
}
