//! What Linux counts of NMIs: the row of `/proc/interrupts`. Used by `nmi_storm`.

use std::fs;
use std::io;

/// NMIs that each online CPU has taken since the boot.
pub fn nmi_counts() -> io::Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/interrupts")?;
    parse(&text).ok_or_else(|| io::Error::other("/proc/interrupts has no row of NMIs"))
}

fn parse(text: &str) -> Option<Vec<u64>> {
    let row = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("NMI:"))?;
    let counts: Vec<u64> = row
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    (!counts.is_empty()).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_row_is_found_and_its_words_left_out() {
        let text = "           CPU0       CPU1\n  0:   40   0  IO-APIC   2-edge  timer\nNMI:   3   17   Non-maskable interrupts\n";
        assert_eq!(parse(text), Some(vec![3, 17]));
    }

    #[test]
    fn without_a_row_there_is_nothing() {
        assert_eq!(parse("LOC: 1 2 Local timer interrupts\n"), None);
        assert_eq!(parse("NMI: none\n"), None);
    }
}
