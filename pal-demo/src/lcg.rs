//! The arithmetic of the `load` program: one sequence, computed in two ways.
//!
//! The worker walks the sequence; the parent jumps ahead in it. A register, a
//! flag or a page that was disturbed on the way makes the two differ.

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// The `steps`-th number after `seed`, by taking every step.
#[must_use]
pub fn walk(seed: u64, steps: u64) -> u64 {
    // black_box keeps the loop a loop: it is the load.
    (0..steps).fold(seed, |x, _| {
        std::hint::black_box(x.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT))
    })
}

/// The `steps`-th number after `seed`, in about log2(`steps`) operations:
/// the step is an affine map, and those are composed by squaring.
#[must_use]
pub fn jump(seed: u64, mut steps: u64) -> u64 {
    let (mut factor, mut offset) = (1_u64, 0_u64);
    let (mut square, mut shift) = (MULTIPLIER, INCREMENT);
    while steps != 0 {
        if steps & 1 != 0 {
            factor = factor.wrapping_mul(square);
            offset = offset.wrapping_mul(square).wrapping_add(shift);
        }
        shift = shift.wrapping_mul(square).wrapping_add(shift);
        square = square.wrapping_mul(square);
        steps >>= 1;
    }
    seed.wrapping_mul(factor).wrapping_add(offset)
}

#[cfg(test)]
mod tests {
    use super::{jump, walk};

    #[test]
    fn one_step_is_the_affine_map() {
        assert_eq!(walk(0, 1), super::INCREMENT);
        assert_eq!(walk(1, 0), 1);
    }

    #[test]
    fn both_ways_agree() {
        for seed in [0, 1, 0xdead_beef, u64::MAX] {
            for steps in [0, 1, 2, 3, 7, 64, 1000, 4097] {
                assert_eq!(walk(seed, steps), jump(seed, steps), "{seed} {steps}");
            }
        }
    }
}
