/*
 * `main A B`, both hexadecimal: A + B by one function, outside any PAL and as a PAL, with A as
 * an integer and B behind a pointer, which the function increments. Both times it prints
 *
 *  B = *POINTER
 *  A+B = my_pal(A, POINTER)
 *  B+1 = *POINTER
 *
 * and it exits 1 where the two differ. Where no TrustVisor answers, it says so and exits 1.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "pal/arithmetic.h"
#include "trustvisor.h"

typedef uintptr_t entry_function(uintptr_t, uintptr_t *);

/* Reads a hexadecimal number that fits a word; 0 where text is none. */
static int word(const char *text, uintptr_t *value)
{
	unsigned long long read;
	char *end;

	/* strtoull() would take space, a sign, and a large X. */
	if (!isxdigit((unsigned char)text[0]) || text[1] == 'X')
		return 0;
	errno = 0;
	read = strtoull(text, &end, 16);
	*value = (uintptr_t)read;
	return errno == 0 && *end == '\0' && *value == read;
}

/* Calls `function`, prints what came of it, and returns that: the sum, and B in *b. */
static uintptr_t call(const char *how, entry_function *function, uintptr_t flag, uintptr_t a,
		      uintptr_t *b)
{
	uintptr_t result;

	printf("%s:\n 0x%" PRIxPTR " = *%p\n", how, *b, (void *)b);
	/* Whatever happens now, this much is told. */
	fflush(stdout);
	result = function(a | flag, b);
	printf(" 0x%" PRIxPTR " = my_pal(0x%" PRIxPTR ", %p)\n", result, a, (void *)b);
	printf(" 0x%" PRIxPTR " = *%p\n\n", *b, (void *)b);
	return result;
}

int main(int argc, char *argv[])
{
	struct tv_pal_params params = {
		.num_params = 2,
		.params = { { .type = TV_PAL_PM_INTEGER }, { .type = TV_PAL_PM_POINTER, .size = 1 } },
	};
	uintptr_t a, b, outside, inside, outside_b, inside_b;
	struct tv_pal pal;

	if (argc != 3 || !word(argv[1], &a) || !word(argv[2], &b)) {
		fprintf(stderr, "usage: main A B\n");
		return 2;
	}
	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	a &= ~PAL_FLAG_MASK;
	outside_b = inside_b = b;
	outside = call("Without PAL", my_pal, 0, a, &outside_b);

	if (tv_pal_load(&pal, &params, (void *)my_pal) != 0) {
		printf("main: the PAL was refused\n");
		return 1;
	}
	inside = call("With PAL", (entry_function *)pal.entry, PAL_FLAG_MASK, a, &inside_b);
	if (tv_pal_unload(&pal) != 0) {
		printf("main: unregistering the PAL was refused\n");
		return 1;
	}
	if (outside != a + b || inside != outside || outside_b != b + 1 || inside_b != outside_b) {
		printf("main: wrong\n");
		return 1;
	}
	return 0;
}
