//! The records of several CPUs in the order of time: for `monitor trace`.

use core::ops::Range;

/// Calls `each` with the records of several CPUs, oldest first: with the index of the
/// CPU, the time and the record.
///
/// `numbers` has which records to read of each CPU, and is used up; `read` reads one,
/// with its time. What it does not find any more is left out. The records of one CPU
/// stay in the order of their numbers. Of records of the same time those of the CPU
/// with the smaller index come first: an emulator may give each CPU its turn before
/// the time moves on, and then that is the order in which things happened.
pub fn merge<T>(
    numbers: &mut [Range<u64>],
    read: impl Fn(usize, u64) -> Option<(u64, T)>,
    mut each: impl FnMut(usize, u64, T),
) {
    loop {
        let mut oldest: Option<(usize, u64, T)> = None;
        for (cpu, left) in numbers.iter_mut().enumerate() {
            let found = loop {
                if left.is_empty() {
                    break None;
                }
                match read(cpu, left.start) {
                    Some(record) => break Some(record),
                    None => left.start += 1,
                }
            };
            if let Some((time, record)) = found
                && oldest
                    .as_ref()
                    .is_none_or(|(_, earliest, _)| time < *earliest)
            {
                oldest = Some((cpu, time, record));
            }
        }
        let Some((cpu, time, record)) = oldest else {
            return;
        };
        if let Some(left) = numbers.get_mut(cpu) {
            left.start += 1;
        }
        each(cpu, time, record);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::merge;

    fn merged(cpus: &[&[Option<u64>]]) -> Vec<(usize, u64, u64)> {
        let mut numbers: Vec<_> = cpus.iter().map(|times| 0..times.len() as u64).collect();
        let mut out = Vec::new();
        merge(
            &mut numbers,
            |cpu, number| cpus[cpu][number as usize].map(|time| (time, number)),
            |cpu, time, number| out.push((cpu, time, number)),
        );
        out
    }

    #[test]
    fn by_time_then_cpu_then_number() {
        assert_eq!(
            merged(&[&[Some(5), Some(7), Some(7)], &[Some(5), Some(6)], &[]]),
            [(0, 5, 0), (1, 5, 0), (1, 6, 1), (0, 7, 1), (0, 7, 2)]
        );
    }

    #[test]
    fn what_is_gone_is_left_out_and_what_follows_is_not() {
        assert_eq!(
            merged(&[&[None, Some(2), None, None, Some(3)], &[None]]),
            [(0, 2, 1), (0, 3, 4)]
        );
    }

    #[test]
    fn one_cpus_records_stay_in_their_order() {
        // The first was interrupted by the second after it had read the time.
        assert_eq!(
            merged(&[&[Some(9), Some(8)], &[Some(8)]]),
            [(1, 8, 0), (0, 9, 0), (0, 8, 1)]
        );
    }
}
