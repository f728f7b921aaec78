/*
 * `spin`: calls a PAL that never returns, so that there is something to stop, to look at and to
 * end. Prints `spin: PAL entered`, and when the PAL has been ended from outside (`monitor pal
 * kill`) `spin: the PAL was ended`, exit status 0. Where no TrustVisor answers, it says so and
 * exits 1.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "pal/spin.h"
#include "trustvisor.h"

static void ended(int signal)
{
	static const char line[] = "spin: the PAL was ended\n";

	(void)signal;
	_exit(write(1, line, sizeof(line) - 1) < 0);
}

int main(void)
{
	static const struct tv_pal_params params;
	struct tv_pal pal;

	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	if (tv_pal_load(&pal, &params, (void *)pal_spin) != 0) {
		printf("spin: the PAL was refused\n");
		return 1;
	}
	signal(SIGSEGV, ended);
	printf("spin: PAL entered\n");
	fflush(stdout);
	((__typeof__(pal_spin) *)pal.entry)();
	printf("spin: the PAL returned\n");
	return 1;
}
