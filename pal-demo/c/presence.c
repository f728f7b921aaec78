/*
 * `presence`: prints what the detection leaf of CPUID says, such as
 * `TrustVisor answers a 32-bit program outside any PAL`. Where no TrustVisor answers, it
 * says so and exits 1. The width is the one that TrustVisor sees, so 64-bit code that is
 * taken for 32-bit, or the reverse, shows.
 */
#include <stdio.h>

#include "trustvisor.h"

int main(void)
{
	struct tv_presence presence;

	if (!tv_presence(&presence)) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	printf("TrustVisor answers a %d-bit program ", presence.caller_width);
	if (presence.pal == TV_NO_PAL)
		printf("outside any PAL\n");
	else
		printf("in PAL %u\n", presence.pal);
	return 0;
}
