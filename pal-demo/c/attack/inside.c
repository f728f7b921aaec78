/*
 * A PAL at what is not its own. It is ended, and its caller gets SIGSEGV; or the hypercall that
 * it makes is refused.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "attack.h"
#include "pal/attack.h"

/* A call of a PAL. */
struct call {
	struct tv_pal *pal;
	uintptr_t what, address, value, result;
};

static void make_call(void *argument)
{
	struct call *call = argument;

	call->result = deed(call->pal, call->what, call->address, call->value);
}

/* The deed ends the PAL: SIGSEGV, what it could write is zero, and it is registered no longer. */
static int ends(struct tv_pal *pal, uintptr_t what, uintptr_t address)
{
	struct call call = { pal, what, address, PAL_SECRET, 0 };
	int good;

	deed(pal, PAL_WRITE, (uintptr_t)section(pal, TV_PAL_SECTION_DATA), PAL_SECRET);
	good = signal_of(make_call, &call) == SIGSEGV &&
	       page_is(section(pal, TV_PAL_SECTION_DATA), 0) &&
	       page_is(section(pal, TV_PAL_SECTION_STACK), 0) && tv_pal_unregister(pal->entry) == 1;
	munmap(pal->memory, pal->size);
	return good;
}

/* The same with a PAL of its own. */
static int new_one_ends(uintptr_t what, uintptr_t address)
{
	struct tv_pal pal;

	load(&pal);
	return ends(&pal, what, address);
}

static volatile uintptr_t target;

static int system_memory(void)
{
	target = 7;
	return new_one_ends(PAL_READ, (uintptr_t)&target) &&
	       new_one_ends(PAL_WRITE, (uintptr_t)&target) && target == 7;
}

static int system_code(void)
{
	return new_one_ends(PAL_CALL, (uintptr_t)system_memory) &&
	       new_one_ends(PAL_RETURN, (uintptr_t)system_memory);
}

static int stack_of_caller(void)
{
	volatile uintptr_t local = 7;

	return new_one_ends(PAL_READ, (uintptr_t)&local) &&
	       new_one_ends(PAL_WRITE, (uintptr_t)&local) && local == 7;
}

static int another_pal(void)
{
	struct tv_pal other;
	uintptr_t data;
	int good;

	load(&other);
	data = (uintptr_t)section(&other, TV_PAL_SECTION_DATA);
	deed(&other, PAL_WRITE, data, PAL_SECRET);
	good = new_one_ends(PAL_READ, data) && new_one_ends(PAL_WRITE, data) &&
	       new_one_ends(PAL_CALL, (uintptr_t)other.entry) &&
	       deed(&other, PAL_READ, data, 0) == PAL_SECRET;
	return well(&other) && good;
}

static int page_zero(void)
{
	return new_one_ends(PAL_READ, 8) && new_one_ends(PAL_WRITE, 8) &&
	       new_one_ends(PAL_CALL, 8) && new_one_ends(PAL_RETURN, 8) &&
	       new_one_ends(PAL_READ, 4) && new_one_ends(PAL_CALL, 0);
}

static int kernel(void)
{
	uintptr_t address = (uintptr_t)(sizeof(void *) == 8 ? 0xffffffff81000000 : 0xc1000000);

	return new_one_ends(PAL_READ, address) && new_one_ends(PAL_WRITE, address) &&
	       new_one_ends(PAL_CALL, address);
}

static int own_code(void)
{
	struct tv_pal pal;

	load(&pal);
	return ends(&pal, PAL_WRITE, (uintptr_t)pal.memory);
}

static int own_data(void)
{
	struct tv_pal data, stack;

	load(&data);
	load(&stack);
	return ends(&data, PAL_CALL, (uintptr_t)section(&data, TV_PAL_SECTION_DATA)) &&
	       ends(&stack, PAL_CALL, (uintptr_t)section(&stack, TV_PAL_SECTION_STACK));
}

static int stack_overflow(void)
{
	return new_one_ends(PAL_PUSH, 0);
}

static int divide_by_zero(void)
{
	return new_one_ends(PAL_DIVIDE_BY_ZERO, 0);
}

static int invalid_opcode(void)
{
	return new_one_ends(PAL_UD2, 0);
}

static int breakpoint(void)
{
	return new_one_ends(PAL_INT3, 0);
}

static int system_calls(void)
{
	return new_one_ends(PAL_INT80, 0) && new_one_ends(PAL_SYSTEM_CALL, 0);
}

static int privileged(void)
{
	return new_one_ends(PAL_CLI, 0) && new_one_ends(PAL_HLT, 0) &&
	       new_one_ends(PAL_RDMSR, 0) && new_one_ends(PAL_READ_CR3, 0);
}

static int ports(void)
{
	return new_one_ends(PAL_IN, 0) && new_one_ends(PAL_OUT, 0);
}

static int descriptor(void)
{
	return new_one_ends(PAL_LOAD_SELECTOR, 0);
}

static int hypercalls(void)
{
	struct tv_pal pal;
	uintptr_t data;
	int good;

	load(&pal);
	data = (uintptr_t)section(&pal, TV_PAL_SECTION_DATA);
	good = deed(&pal, PAL_REGISTER, data, (uintptr_t)pal.entry) == 1 &&
	       deed(&pal, PAL_UNREGISTER, 0, (uintptr_t)pal.entry) == 1 &&
	       deed(&pal, PAL_SHARE, data, (uintptr_t)pal.entry) == 1;
	return well(&pal) && good;
}

static int micro_tpm_addresses(void)
{
	static uint8_t untouched[20];
	struct tv_pal pal;
	int good;

	load(&pal);
	good = deed(&pal, PAL_PCRREAD, (uintptr_t)untouched, 0) == 1 &&
	       deed(&pal, PAL_PCRREAD, (uintptr_t)pal.memory, 0) == 1 &&
	       deed(&pal, PAL_PCRREAD, 8, 0) == 1 && deed(&pal, PAL_PCRREAD, UINTPTR_MAX - 8, 0) == 1;
	for (int i = 0; i < 20; i++)
		good &= untouched[i] == 0;
	return well(&pal) && good;
}

static int unshared(void)
{
	struct tv_pal pal;
	uintptr_t *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	void *start = page;
	size_t len = PAGE_SIZE;
	int good;

	load(&pal);
	*page = 7;
	/* While it is lent the system sees ones; the PAL sees and changes it, for one call. */
	good = tv_pal_share(pal.entry, &start, &len, 1) == 0 &&
	       *(volatile uintptr_t *)page == UINTPTR_MAX &&
	       signal_of_write(page) == SIGSEGV &&
	       deed(&pal, PAL_WRITE, (uintptr_t)page, PAL_SECRET) == PAL_WELL &&
	       *(volatile uintptr_t *)page == PAL_SECRET;
	good &= ends(&pal, PAL_READ, (uintptr_t)page);
	munmap(page, PAGE_SIZE);
	return good;
}

const struct attempt inside[] = {
	{ "a PAL at the system's memory", system_memory },
	{ "a PAL at the system's code", system_code },
	{ "a PAL at its caller's stack", stack_of_caller },
	{ "a PAL at another PAL", another_pal },
	{ "a PAL at page 0", page_zero },
	{ "a PAL at the kernel", kernel },
	{ "a PAL that writes its code", own_code },
	{ "a PAL that runs its data", own_data },
	{ "a PAL that overruns its stack", stack_overflow },
	{ "a PAL that divides by zero", divide_by_zero },
	{ "a PAL with an invalid opcode", invalid_opcode },
	{ "a PAL with a breakpoint", breakpoint },
	{ "a PAL's system calls", system_calls },
	{ "a PAL's privileged instructions", privileged },
	{ "a PAL at I/O ports", ports },
	{ "a PAL that loads a selector", descriptor },
	{ "a PAL's REG, UNREG and SHARE", hypercalls },
	{ "a PAL's micro-TPM at others' addresses", micro_tpm_addresses },
	{ "a PAL at a page that was shared before", unshared },
	{ NULL, NULL },
};
