//! Reading the programs' numeric arguments.

/// A number, decimal or hexadecimal with `0x`.
///
/// `None` when it is neither, or does not fit 64 bits.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        // `from_str_radix` would take a sign; an argument has none.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    }
}

/// A hexadecimal number, with or without `0x`.
#[must_use]
pub fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // `from_str_radix` would take a sign.
    let sign = digits.starts_with('+');
    u64::from_str_radix(digits, 16).ok().filter(|_| !sign)
}

#[cfg(test)]
mod tests {
    use super::{hexadecimal, number};

    #[test]
    fn hexadecimal_needs_no_prefix() {
        for (text, value) in [("7", 7), ("0x3a", 0x3a), ("fF", 0xff), ("0", 0)] {
            assert_eq!(hexadecimal(text), Some(value), "{text:?}");
        }
        for text in [
            "",
            "0x",
            "+1",
            "0x+1",
            "-1",
            "0X1",
            "g",
            "0x10000000000000000",
        ] {
            assert_eq!(hexadecimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn decimal_and_hexadecimal_are_read() {
        assert_eq!(number("7"), Some(7));
        assert_eq!(number("0x3a"), Some(0x3a));
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0x",
            "-1",
            "+1",
            "0x+1",
            "7 ",
            "a",
            "18446744073709551616",
        ] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
