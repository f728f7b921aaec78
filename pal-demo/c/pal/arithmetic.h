/*
 * PAL code that `main` and `test_args` run inside a PAL and outside, to compare: sums of
 * arguments that come in every way in which arguments can.
 */
#ifndef ARITHMETIC_H
#define ARITHMETIC_H

#include <stdint.h>

/*
 * Set in the first integer where a function is to find itself in a PAL, clear where it is to
 * find itself outside; it does not count in the sum. Where it is wrong, the result says so.
 */
#define PAL_FLAG_MASK ((uintptr_t)0x80000000)

/* What the results of a function that is not where it is to be start with. */
#define WRONG_PLACE ((uintptr_t)0xdead0000)

/* a + (*b)++ */
uintptr_t my_pal(uintptr_t a, uintptr_t *b);

/* a[0] + 2 * a[1] + ... + 10 * a[9] */
uintptr_t pal_10_int(uintptr_t a0, uintptr_t a1, uintptr_t a2, uintptr_t a3, uintptr_t a4,
		     uintptr_t a5, uintptr_t a6, uintptr_t a7, uintptr_t a8, uintptr_t a9);

/* The same of what they point to, each of which grows by one. The flag is in *p0. */
uintptr_t pal_10_ptr(uintptr_t *p0, uintptr_t *p1, uintptr_t *p2, uintptr_t *p3, uintptr_t *p4,
		     uintptr_t *p5, uintptr_t *p6, uintptr_t *p7, uintptr_t *p8, uintptr_t *p9);

/* The same of five arrays of so many words, one after the other; each word grows. */
uintptr_t pal_5_ptr(uintptr_t n0, uintptr_t *p0, uintptr_t n1, uintptr_t *p1, uintptr_t n2,
		    uintptr_t *p2, uintptr_t n3, uintptr_t *p3, uintptr_t n4, uintptr_t *p4);

#endif
