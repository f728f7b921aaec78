/* See arithmetic.h. */
#include "pal/arithmetic.h"
#include "trustvisor.h"

/* By how much pal_5_ptr() makes each word grow. */
#define GROWTH ((uintptr_t)0x9e3779b97f4a7c15)

/* Takes the flag out of *first: 0, or a result that says what is wrong. */
TV_INLINE uintptr_t wrong_place(uintptr_t *first)
{
	int expected = (*first & PAL_FLAG_MASK) != 0;
	struct tv_presence presence;

	*first &= ~PAL_FLAG_MASK;
	if (!tv_presence(&presence))
		return WRONG_PLACE + 1;
	if (expected && presence.pal == TV_NO_PAL)
		return WRONG_PLACE + 2;
	if (!expected && presence.pal != TV_NO_PAL)
		return WRONG_PLACE + 3;
	return 0;
}

TV_PAL_CODE uintptr_t my_pal(uintptr_t a, uintptr_t *b)
{
	uintptr_t wrong = wrong_place(&a);

	return wrong ? wrong : a + (*b)++;
}

TV_PAL_CODE uintptr_t pal_10_int(uintptr_t a0, uintptr_t a1, uintptr_t a2, uintptr_t a3,
				 uintptr_t a4, uintptr_t a5, uintptr_t a6, uintptr_t a7,
				 uintptr_t a8, uintptr_t a9)
{
	uintptr_t wrong = wrong_place(&a0);

	if (wrong)
		return wrong;
	return a0 + a1 * 2 + a2 * 3 + a3 * 4 + a4 * 5 + a5 * 6 + a6 * 7 + a7 * 8 + a8 * 9 + a9 * 10;
}

TV_PAL_CODE uintptr_t pal_10_ptr(uintptr_t *p0, uintptr_t *p1, uintptr_t *p2, uintptr_t *p3,
				 uintptr_t *p4, uintptr_t *p5, uintptr_t *p6, uintptr_t *p7,
				 uintptr_t *p8, uintptr_t *p9)
{
	uintptr_t wrong = wrong_place(p0);

	if (wrong)
		return wrong;
	return (*p0)++ + (*p1)++ * 2 + (*p2)++ * 3 + (*p3)++ * 4 + (*p4)++ * 5 + (*p5)++ * 6 +
	       (*p6)++ * 7 + (*p7)++ * 8 + (*p8)++ * 9 + (*p9)++ * 10;
}

/* One array of pal_5_ptr(); *factor goes on to the next one. */
TV_INLINE uintptr_t sum(uintptr_t n, uintptr_t *p, uintptr_t *factor)
{
	uintptr_t total = 0;

	for (uintptr_t i = 0; i < n; i++) {
		total += p[i] * (*factor)++;
		p[i] += GROWTH;
	}
	return total;
}

TV_PAL_CODE uintptr_t pal_5_ptr(uintptr_t n0, uintptr_t *p0, uintptr_t n1, uintptr_t *p1,
				uintptr_t n2, uintptr_t *p2, uintptr_t n3, uintptr_t *p3,
				uintptr_t n4, uintptr_t *p4)
{
	uintptr_t factor = 1, total = 0, wrong = wrong_place(&n0);

	if (wrong)
		return wrong;
	total += sum(n0, p0, &factor);
	total += sum(n1, p1, &factor);
	total += sum(n2, p2, &factor);
	total += sum(n3, p3, &factor);
	total += sum(n4, p4, &factor);
	return total;
}
