/*
 * `attack [WORDS]`: tries what isolation forbids, from the system and from a PAL. Prints `refused: WHAT`
 * or `GOT THROUGH: WHAT` for each attempt, and at the end `all N attempts refused`, exit status
 * 0, or `N attempts got through`, 1. With WORDS, only those in whose names they occur. Where no TrustVisor answers, it says so and exits 1.
 *
 * What is refused is answered by 1, by ones where something is read, or by SIGSEGV. After each
 * attempt the PAL works still, unless it was the PAL's own.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attack/attack.h"
#include "pal/attack.h"

static sigjmp_buf before;

static void caught(int signal)
{
	siglongjmp(before, signal);
}

int signal_of(void (*function)(void *), void *argument)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	int signal = sigsetjmp(before, 1);

	if (signal != 0)
		return signal;
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction action = { .sa_handler = caught };

		sigaction(signals[i], &action, NULL);
	}
	function(argument);
	return 0;
}

static void read_it(void *address)
{
	(void)*(volatile char *)address;
}

static void write_it(void *address)
{
	*(volatile char *)address = 0;
}

static void call_it(void *address)
{
	((void (*)(void))address)();
}

int signal_of_read(void *address)
{
	return signal_of(read_it, address);
}

int signal_of_write(void *address)
{
	return signal_of(write_it, address);
}

int signal_of_call(void *address)
{
	return signal_of(call_it, address);
}

int child_succeeds(int (*function)(void *), void *argument)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(function(argument) ? 0 : 1);
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

int page_is(const volatile char *page, unsigned char byte)
{
	for (size_t i = 0; i < PAGE_SIZE; i++)
		if ((unsigned char)page[i] != byte)
			return 0;
	return 1;
}

void load_function(struct tv_pal *pal, const struct tv_pal_params *params, void *function)
{
	if (tv_pal_load(pal, params, function) != 0) {
		printf("attack: a PAL was refused\n");
		exit(1);
	}
}

void load(struct tv_pal *pal)
{
	static const struct tv_pal_params params = {
		.num_params = 3,
		.params = { { .type = TV_PAL_PM_INTEGER },
			    { .type = TV_PAL_PM_INTEGER },
			    { .type = TV_PAL_PM_INTEGER } },
	};

	load_function(pal, &params, (void *)pal_attack);
}

uintptr_t deed(struct tv_pal *pal, uintptr_t what, uintptr_t address, uintptr_t value)
{
	return ((__typeof__(pal_attack) *)pal->entry)(what, address, value);
}

int well(struct tv_pal *pal)
{
	return deed(pal, PAL_NOTHING, 0, 0) == PAL_WELL && tv_pal_unload(pal) == 0;
}

char *section(struct tv_pal *pal, enum tv_pal_section_type type)
{
	for (uint32_t i = 0; i < pal->sections.num_sections; i++)
		if (pal->sections.sections[i].type == type)
			return (char *)(uintptr_t)pal->sections.sections[i].start_addr;
	return NULL;
}

/* Makes attempts of a table; returns how many, and adds to *through those that got through. */
static int make(const struct attempt *attempt, const char *words, int *through)
{
	int count = 0;

	for (; attempt->what != NULL; attempt++) {
		int refused;

		if (strstr(attempt->what, words) == NULL)
			continue;
		count++;
		refused = attempt->refused();
		printf("%s: %s\n", refused ? "refused" : "GOT THROUGH", attempt->what);
		fflush(stdout);
		*through += !refused;
	}
	return count;
}

int main(int argc, char *argv[])
{
	const char *words = argc == 2 ? argv[1] : "";
	int count = 0, through = 0;

	if (argc > 2) {
		fprintf(stderr, "usage: attack [WORDS]\n");
		return 2;
	}
	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	count += make(requests, words, &through);
	count += make(outside, words, &through);
	count += make(inside, words, &through);
	count += make(registers, words, &through);
	if (through)
		printf("%d attempts got through\n", through);
	else
		printf("all %d attempts refused\n", count);
	return through != 0;
}
