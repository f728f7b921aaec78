/*
 * `ticks`: prints the processor's time-stamp counter, `ticks=N`: on the emulator, how many
 * instructions a machine with one CPU has executed since it was switched on, and how long it stood
 * idle meanwhile. A full Debian runs it before its login prompt.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

int main(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	printf("ticks=%" PRIu64 "\n", (uint64_t)high << 32 | low);
	return 0;
}
