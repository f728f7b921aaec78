/*
 * `test_args FUNCS ITERS SEED`: calls PALs with arguments of every kind and compares each result,
 * and everything that the arguments point to, with those of the same function outside.
 *
 * FUNCS is a sum of 1 (ten integers), 2 (ten pointers) and 4 (five integers and five pointers to
 * 0 to 99 words, with a new PAL each time). Prints a `.` for each of the ITERS calls of each, and
 * then `Test pass`, exit status 0, or `Test failed`, 1. Where no TrustVisor answers, it says so
 * and exits 1.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pal/arithmetic.h"
#include "trustvisor.h"

#define LONGEST 99
/* A word before, between and after the arrays, which no PAL may touch. */
#define WORDS (5 * (LONGEST + 1) + 1)

#define TEN_OF(a) a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]
#define PAIRS_OF(n, p) n[0], p[0], n[1], p[1], n[2], p[2], n[3], p[3], n[4], p[4]

static uint64_t state;

static uint64_t next(void)
{
	state = state * 6364136223846793005 + 1442695040888963407;
	return state;
}

static uintptr_t random_word(void)
{
	/* The low bits of such a sequence are not random. */
	uint64_t high = next() >> 32;

	return (uintptr_t)(high << 32 | next() >> 32);
}

static void load(struct tv_pal *pal, const struct tv_pal_params *params, void *entry)
{
	if (tv_pal_load(pal, params, entry) != 0) {
		printf("\ntest_args: the PAL was refused\n");
		exit(1);
	}
}

static void unload(struct tv_pal *pal)
{
	if (tv_pal_unload(pal) != 0) {
		printf("\ntest_args: unregistering the PAL was refused\n");
		exit(1);
	}
}

static void dot(void)
{
	printf(".");
	fflush(stdout);
}

/* 1, and a line, where the results differ. */
static int result_differs(uintptr_t outside, uintptr_t inside)
{
	if (outside == inside)
		return 0;
	printf("\nError: 0x%" PRIxPTR " outside, 0x%" PRIxPTR " in the PAL\n", outside, inside);
	return 1;
}

/* 1, and a line, where `count` words differ. */
static int words_differ(const uintptr_t *outside, const uintptr_t *inside, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (outside[i] != inside[i]) {
			printf("\nError: word %zu is 0x%" PRIxPTR " outside, 0x%" PRIxPTR
			       " after the PAL\n",
			       i, outside[i], inside[i]);
			return 1;
		}
	}
	return 0;
}

static unsigned int ten_integers(unsigned int iters)
{
	struct tv_pal_params params = { .num_params = 10 };
	unsigned int wrong = 0;
	struct tv_pal pal;

	for (int i = 0; i < 10; i++)
		params.params[i].type = TV_PAL_PM_INTEGER;
	load(&pal, &params, (void *)pal_10_int);
	for (unsigned int iter = 0; iter < iters; iter++) {
		uintptr_t a[10], outside;

		for (int i = 0; i < 10; i++)
			a[i] = random_word();
		dot();
		a[0] &= ~PAL_FLAG_MASK;
		outside = pal_10_int(TEN_OF(a));
		a[0] |= PAL_FLAG_MASK;
		wrong += (unsigned int)result_differs(
			outside, ((__typeof__(pal_10_int) *)pal.entry)(TEN_OF(a)));
	}
	unload(&pal);
	return wrong;
}

static unsigned int ten_pointers(unsigned int iters)
{
	struct tv_pal_params params = { .num_params = 10 };
	unsigned int wrong = 0;
	struct tv_pal pal;

	for (int i = 0; i < 10; i++) {
		params.params[i].type = TV_PAL_PM_POINTER;
		params.params[i].size = 1;
	}
	load(&pal, &params, (void *)pal_10_ptr);
	for (unsigned int iter = 0; iter < iters; iter++) {
		uintptr_t here[21], there[21], *p[10], *q[10], outside, inside;

		for (int i = 0; i < 21; i++)
			here[i] = there[i] = random_word();
		for (int i = 0; i < 10; i++) {
			p[i] = &here[2 * i + 1];
			q[i] = &there[2 * i + 1];
		}
		dot();
		*p[0] &= ~PAL_FLAG_MASK;
		outside = pal_10_ptr(TEN_OF(p));
		*q[0] |= PAL_FLAG_MASK;
		inside = ((__typeof__(pal_10_ptr) *)pal.entry)(TEN_OF(q));
		wrong += result_differs(outside, inside) || words_differ(here, there, 21);
	}
	unload(&pal);
	return wrong;
}

static unsigned int five_pairs(unsigned int iters)
{
	unsigned int wrong = 0;

	for (unsigned int iter = 0; iter < iters; iter++) {
		uintptr_t here[WORDS], there[WORDS], *p[5], *q[5], n[5], outside, inside;
		struct tv_pal_params params = { .num_params = 10 };
		struct tv_pal pal;
		size_t at = 1;

		for (size_t i = 0; i < WORDS; i++)
			here[i] = there[i] = random_word();
		for (int i = 0; i < 5; i++) {
			n[i] = (next() >> 32) % (LONGEST + 1);
			params.params[2 * i].type = TV_PAL_PM_INTEGER;
			params.params[2 * i + 1].type = TV_PAL_PM_POINTER;
			params.params[2 * i + 1].size = n[i];
			p[i] = &here[at];
			q[i] = &there[at];
			at += n[i] + 1;
		}
		dot();
		outside = pal_5_ptr(PAIRS_OF(n, p));
		n[0] |= PAL_FLAG_MASK;
		load(&pal, &params, (void *)pal_5_ptr);
		inside = ((__typeof__(pal_5_ptr) *)pal.entry)(PAIRS_OF(n, q));
		unload(&pal);
		wrong += result_differs(outside, inside) || words_differ(here, there, WORDS);
	}
	return wrong;
}

/* Reads a decimal number of 32 bits; 0 where text is none. */
static int number(const char *text, unsigned int *value)
{
	unsigned long long read;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return 0;
	errno = 0;
	read = strtoull(text, &end, 10);
	*value = (unsigned int)read;
	return errno == 0 && *end == '\0' && *value == read;
}

int main(int argc, char *argv[])
{
	unsigned int funcs, iters, seed, wrong = 0;

	if (argc != 4 || !number(argv[1], &funcs) || !number(argv[2], &iters) ||
	    !number(argv[3], &seed)) {
		fprintf(stderr, "usage: test_args FUNCS ITERS SEED\n");
		return 2;
	}
	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	state = seed;
	if (funcs & 1)
		wrong += ten_integers(iters);
	if (funcs & 2)
		wrong += ten_pointers(iters);
	if (funcs & 4)
		wrong += five_pairs(iters);
	printf("\n%s\n", wrong ? "Test failed" : "Test pass");
	return wrong != 0;
}
