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

#[cfg(test)]
mod tests {
    use super::number;

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
