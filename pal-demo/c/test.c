/*
 * `test N`: makes the TEST hypercall with the number N, decimal or hexadecimal with 0x.
 *
 * Prints `0 = vmcall(TV_HC_TEST, N)` and exits with the result; the Rust program of the
 * same name prints the same. Where no TrustVisor answers, it says so and exits 1.
 */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trustvisor.h"

/* Reads a number that fits 64 bits into *value; 0 where text is none. */
static int number(const char *text, unsigned long long *value)
{
	int base = 10;
	char *end;

	if (strncmp(text, "0x", 2) == 0) {
		text += 2;
		base = 16;
	}
	/* strtoull() would take space, a sign, and a second 0x. */
	if (!isxdigit((unsigned char)text[0]) || text[1] == 'x' || text[1] == 'X')
		return 0;
	errno = 0;
	*value = strtoull(text, &end, base);
	return errno == 0 && end != text && *end == '\0';
}

int main(int argc, char *argv[])
{
	unsigned long long given;
	uint32_t n, result;

	if (argc != 2 || !number(argv[1], &given)) {
		fprintf(stderr, "usage: test N\n");
		return 2;
	}
	if (given > UINT32_MAX) {
		fprintf(stderr, "test: N must fit 32 bits\n");
		return 2;
	}
	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	n = (uint32_t)given;
	/* The result of a command is 32 bits wide for every caller. */
	result = (uint32_t)vmcall(TV_HC_TEST, n, 0, 0, 0);
	printf("%u = vmcall(TV_HC_TEST, %u)\n", result, n);
	/* An exit status has 8 bits; a failure must not wrap round to success. */
	return result > UINT8_MAX ? UINT8_MAX : (int)result;
}
