//! PAL code that `main` and `test_args` run inside a PAL and outside, to compare: sums of
//! arguments that come in every way in which arguments can. `c/pal/arithmetic.c` is the same in C.

use stillpoint_abi::detect;

use crate::running_pal;

/// Set in the first integer where a function is to find itself in a PAL, clear where it is to find
/// itself outside; it does not count in the sum. Where it is wrong, the result says so.
pub const PAL_FLAG_MASK: u64 = 0x8000_0000;

/// What the results of a function that is not where it is to be start with.
pub const WRONG_PLACE: u64 = 0xdead_0000;

/// By how much [`five_pairs`] makes each word grow.
const GROWTH: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first argument without the flag, or a result that says what is wrong.
#[inline(always)]
fn right_place(first: u64) -> Result<u64, u64> {
    let expected = first & PAL_FLAG_MASK != 0;
    match running_pal() {
        None => Err(WRONG_PLACE + 1),
        Some(detect::NO_PAL) if expected => Err(WRONG_PLACE + 2),
        Some(pal) if !expected && pal != detect::NO_PAL => Err(WRONG_PLACE + 3),
        Some(_) => Ok(first & !PAL_FLAG_MASK),
    }
}

/// The word that `p` points to, which then grows by `growth`.
#[inline(always)]
fn take(p: *mut u64, growth: u64) -> u64 {
    // SAFETY: callers pass pointers to words of their own, and TrustVisor passes a PAL the
    // addresses of its copies.
    unsafe {
        let word = *p;
        *p = word.wrapping_add(growth);
        word
    }
}

/// `a + (*b)++`
#[unsafe(link_section = "tv_pal")]
pub extern "C" fn sum(a: u64, b: *mut u64) -> u64 {
    match right_place(a) {
        Ok(a) => a.wrapping_add(take(b, 1)),
        Err(wrong) => wrong,
    }
}

/// `a0 + 2 * a1 + ... + 10 * a9`
#[unsafe(link_section = "tv_pal")]
pub extern "C" fn ten_integers(
    a0: u64,
    a1: u64,
    a2: u64,
    a3: u64,
    a4: u64,
    a5: u64,
    a6: u64,
    a7: u64,
    a8: u64,
    a9: u64,
) -> u64 {
    let a0 = match right_place(a0) {
        Ok(a0) => a0,
        Err(wrong) => return wrong,
    };
    weighted([a0, a1, a2, a3, a4, a5, a6, a7, a8, a9])
}

/// The same of what they point to, each of which grows by one. The flag is in `*p0`.
#[unsafe(link_section = "tv_pal")]
pub extern "C" fn ten_pointers(
    p0: *mut u64,
    p1: *mut u64,
    p2: *mut u64,
    p3: *mut u64,
    p4: *mut u64,
    p5: *mut u64,
    p6: *mut u64,
    p7: *mut u64,
    p8: *mut u64,
    p9: *mut u64,
) -> u64 {
    // The flag leaves the word, too.
    if let Err(wrong) = right_place(take(p0, 0)) {
        return wrong;
    }
    let flag = take(p0, 0) & PAL_FLAG_MASK;
    take(p0, 0_u64.wrapping_sub(flag));
    weighted([
        take(p0, 1),
        take(p1, 1),
        take(p2, 1),
        take(p3, 1),
        take(p4, 1),
        take(p5, 1),
        take(p6, 1),
        take(p7, 1),
        take(p8, 1),
        take(p9, 1),
    ])
}

#[inline(always)]
fn weighted(a: [u64; 10]) -> u64 {
    let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9] = a;
    a0.wrapping_add(a1.wrapping_mul(2))
        .wrapping_add(a2.wrapping_mul(3))
        .wrapping_add(a3.wrapping_mul(4))
        .wrapping_add(a4.wrapping_mul(5))
        .wrapping_add(a5.wrapping_mul(6))
        .wrapping_add(a6.wrapping_mul(7))
        .wrapping_add(a7.wrapping_mul(8))
        .wrapping_add(a8.wrapping_mul(9))
        .wrapping_add(a9.wrapping_mul(10))
}

/// The sum of five arrays of so many words, one after the other, each word times its number; each
/// word grows.
#[unsafe(link_section = "tv_pal")]
pub extern "C" fn five_pairs(
    n0: u64,
    p0: *mut u64,
    n1: u64,
    p1: *mut u64,
    n2: u64,
    p2: *mut u64,
    n3: u64,
    p3: *mut u64,
    n4: u64,
    p4: *mut u64,
) -> u64 {
    let n0 = match right_place(n0) {
        Ok(n0) => n0,
        Err(wrong) => return wrong,
    };
    let sum = (0, 1);
    let sum = array(sum, n0, p0);
    let sum = array(sum, n1, p1);
    let sum = array(sum, n2, p2);
    let sum = array(sum, n3, p3);
    array(sum, n4, p4).0
}

/// One array of [`five_pairs`]: the sum so far, and the next word's factor.
#[inline(always)]
fn array((mut total, mut factor): (u64, u64), words: u64, p: *mut u64) -> (u64, u64) {
    let mut at = 0;
    while at < words {
        let word = take(p.wrapping_add(at as usize), GROWTH);
        total = word.wrapping_mul(factor).wrapping_add(total);
        factor = factor.wrapping_add(1);
        at = at.wrapping_add(1);
    }
    (total, factor)
}
