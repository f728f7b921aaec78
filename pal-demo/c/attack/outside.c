/*
 * The system and other programs at a PAL's pages: reads give ones, writes and fetches SIGSEGV,
 * and the PAL does not notice.
 *
 * One way is left out: writing through /proc/PID/mem. There the kernel itself writes, at an
 * address of its own, where it expects no fault; it would kill the program and be left with a
 * lock.
 */
#define _GNU_SOURCE
/* Addresses of 32-bit programs do not fit 31 bits. */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attack.h"
#include "pal/attack.h"

#define SECRET ((uintptr_t)PAL_SECRET)

/* A PAL with a secret in its data. */
static void load_with_secret(struct tv_pal *pal)
{
	load(pal);
	deed(pal, PAL_WRITE, (uintptr_t)section(pal, TV_PAL_SECTION_DATA), SECRET);
}

/* The secret is still there, and the PAL works and goes. */
static int well_with_secret(struct tv_pal *pal)
{
	return deed(pal, PAL_READ, (uintptr_t)section(pal, TV_PAL_SECTION_DATA), 0) == SECRET &&
	       well(pal);
}

static int reads_ones(struct tv_pal *pal)
{
	for (size_t at = 0; at < pal->size; at += PAGE_SIZE)
		if (!page_is(pal->memory + at, 0xff))
			return 0;
	return 1;
}

static int read_every_page(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	good = reads_ones(&pal);
	return well_with_secret(&pal) && good;
}

static int write_every_page(void)
{
	struct tv_pal pal;
	int good = 1;

	load_with_secret(&pal);
	/* The code is not even writable for the program, so let it be. */
	mprotect(pal.memory, pal.size, PROT_READ | PROT_WRITE | PROT_EXEC);
	for (size_t at = 0; at < pal.size; at += PAGE_SIZE)
		good &= signal_of_write(pal.memory + at) == SIGSEGV;
	return well_with_secret(&pal) && good;
}

static int call_elsewhere(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	good = signal_of_call((char *)pal.entry + 1) == SIGSEGV &&
	       signal_of_call(pal.memory + PAGE_SIZE - 16) == SIGSEGV;
	return well_with_secret(&pal) && good;
}

static int call_data(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	mprotect(pal.memory, pal.size, PROT_READ | PROT_WRITE | PROT_EXEC);
	good = signal_of_call(section(&pal, TV_PAL_SECTION_DATA)) == SIGSEGV;
	return well_with_secret(&pal) && good;
}

static int system_call_reads(void)
{
	struct tv_pal pal;
	char byte = 0;
	int ends[2], good;

	load_with_secret(&pal);
	good = pipe(ends) == 0 &&
	       write(ends[1], section(&pal, TV_PAL_SECTION_DATA), 1) == 1 &&
	       read(ends[0], &byte, 1) == 1 && byte == '\xff';
	close(ends[0]);
	close(ends[1]);
	return well_with_secret(&pal) && good;
}

static int system_call_writes(void)
{
	struct tv_pal pal;
	int ends[2], good;

	load_with_secret(&pal);
	good = pipe(ends) == 0 && write(ends[1], "x", 1) == 1 &&
	       read(ends[0], section(&pal, TV_PAL_SECTION_DATA), 1) == -1 && errno == EFAULT;
	close(ends[0]);
	close(ends[1]);
	return well_with_secret(&pal) && good;
}

static int read_by_proc(void)
{
	struct tv_pal pal;
	uintptr_t word = 0;
	int file, good;

	load_with_secret(&pal);
	file = open("/proc/self/mem", O_RDONLY);
	good = file >= 0 && pread(file, &word, sizeof(word),
				  (off_t)(uintptr_t)section(&pal, TV_PAL_SECTION_DATA)) == sizeof(word) &&
	       word == UINTPTR_MAX;
	close(file);
	return well_with_secret(&pal) && good;
}

static int reads_memory_of_parent(void *argument)
{
	struct tv_pal *pal = argument;
	uintptr_t word = 0;
	struct iovec here = { &word, sizeof(word) };
	struct iovec there = { section(pal, TV_PAL_SECTION_DATA), sizeof(word) };

	return process_vm_readv(getppid(), &here, 1, &there, 1, 0) == sizeof(word) &&
	       word == UINTPTR_MAX;
}

static int read_by_another_process(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	good = child_succeeds(reads_memory_of_parent, &pal);
	return well_with_secret(&pal) && good;
}

/* In a child that has the pages. */
static int reads_and_calls(void *argument)
{
	struct tv_pal *pal = argument;

	return reads_ones(pal) && signal_of_call(pal->entry) == SIGSEGV;
}

static int forked(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	madvise(pal.memory, pal.size, MADV_DOFORK);
	good = child_succeeds(reads_and_calls, &pal);
	return well_with_secret(&pal) && good;
}

/* A PAL whose memory is mapped a second time, at *again. */
static void load_shared(struct tv_pal *pal, char **again)
{
	struct tv_pal_params params = { .num_params = 3 };
	char *memory;

	for (int i = 0; i < 3; i++)
		params.params[i].type = TV_PAL_PM_INTEGER;
	load(pal);
	tv_pal_unregister(pal->entry);
	memory = mmap(pal->memory, pal->size, PROT_READ | PROT_WRITE | PROT_EXEC,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED | MAP_LOCKED | MAP_POPULATE, -1, 0);
	memcpy(memory, __start_tv_pal, (size_t)(__stop_tv_pal - __start_tv_pal));
	*again = mremap(memory, 0, pal->size, MREMAP_MAYMOVE);
	/* The second mapping is there before the pages are lent. */
	tv_touch_range(*again, pal->size, 1);
	if (tv_pal_register(&pal->sections, &params, pal->entry) == 0)
		deed(pal, PAL_WRITE, (uintptr_t)section(pal, TV_PAL_SECTION_DATA), SECRET);
}

static int second_mapping(void)
{
	struct tv_pal pal;
	char *again;
	int good = 1;

	load_shared(&pal, &again);
	for (size_t at = 0; at < pal.size; at += PAGE_SIZE)
		good &= page_is(again + at, 0xff) && signal_of_write(again + at) == SIGSEGV;
	good &= signal_of_call(again + ((char *)pal.entry - pal.memory)) == SIGSEGV;
	munmap(again, pal.size);
	return well_with_secret(&pal) && good;
}

static int secret_after_unregister(void)
{
	struct tv_pal pal;
	int good;

	load_with_secret(&pal);
	good = tv_pal_unregister(pal.entry) == 0 &&
	       page_is(section(&pal, TV_PAL_SECTION_DATA), 0) &&
	       page_is(section(&pal, TV_PAL_SECTION_PARAM), 0) &&
	       page_is(section(&pal, TV_PAL_SECTION_STACK), 0);
	munmap(pal.memory, pal.size);
	return good;
}

/* Has a PAL do many sums; NULL where one was wrong. */
static void *keep_calling(void *argument)
{
	struct tv_pal *pal = argument;
	uintptr_t data = (uintptr_t)section(pal, TV_PAL_SECTION_DATA);

	for (uintptr_t i = 0; i < 200; i++)
		if (deed(pal, PAL_READ, data, i) != SECRET || deed(pal, PAL_NOTHING, i, i) != PAL_WELL)
			return NULL;
	return pal;
}

static int two_threads(void)
{
	struct tv_pal pal;
	pthread_t threads[2];
	int good = 1;

	load_with_secret(&pal);
	for (int i = 0; i < 2; i++)
		good &= pthread_create(&threads[i], NULL, keep_calling, &pal) == 0;
	for (int i = 0; good && i < 2; i++) {
		void *answer;

		pthread_join(threads[i], &answer);
		good &= answer == &pal;
	}
	return well_with_secret(&pal) && good;
}

const struct attempt outside[] = {
	{ "reading a PAL's pages", read_every_page },
	{ "writing a PAL's pages", write_every_page },
	{ "calling a PAL at another address", call_elsewhere },
	{ "calling a PAL's data", call_data },
	{ "a system call that reads a PAL's page", system_call_reads },
	{ "a system call that writes a PAL's page", system_call_writes },
	{ "reading a PAL's page by /proc", read_by_proc },
	{ "reading a PAL's page from another process", read_by_another_process },
	{ "reading and calling a PAL after fork", forked },
	{ "all of that by a second mapping", second_mapping },
	{ "finding a PAL's secret after UNREG", secret_after_unregister },
	{ "disturbing a PAL from another thread", two_threads },
	{ NULL, NULL },
};
