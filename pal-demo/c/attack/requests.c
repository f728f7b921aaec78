/*
 * Requests that are wrong in one point each. Every one has to be answered by 1, and the pages
 * that it names have to be the program's as before.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "attack.h"
#include "pal/attack.h"

/* A request that would be granted, on five pages of which the last is in no section. */
static char *pages;
static struct tv_pal_sections sections;
static struct tv_pal_params params;

/* Fresh pages and a good request. */
static void prepare(void)
{
	static const int types[] = { TV_PAL_SECTION_CODE, TV_PAL_SECTION_DATA, TV_PAL_SECTION_PARAM,
				     TV_PAL_SECTION_STACK };

	pages = mmap(NULL, 5 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	memset(pages, 0, 5 * PAGE_SIZE);
	memset(&sections, 0, sizeof(sections));
	memset(&params, 0, sizeof(params));
	for (int i = 0; i < 4; i++)
		tv_pal_sections_add(&sections, types[i], pages + i * PAGE_SIZE, PAGE_SIZE);
}

/* REG is refused, and every page is the program's still. */
static int refused_at(const void *sections_at, const void *params_at, const void *entry)
{
	int result = (int)vmcall(TV_HC_REG, (uintptr_t)sections_at, 0, (uintptr_t)params_at,
				 (uintptr_t)entry);
	int untouched = 1;

	if (result == 0) {
		tv_pal_unregister((void *)entry);
		return 0;
	}
	for (int i = 0; i < 5; i++) {
		volatile char *page = pages + i * PAGE_SIZE;

		/* A page without access in the middle of the attempt has none now, either. */
		mprotect((void *)page, PAGE_SIZE, PROT_READ | PROT_WRITE);
		*page = 0x5a;
		untouched &= *page == 0x5a;
	}
	munmap(pages, 5 * PAGE_SIZE);
	return result == 1 && untouched;
}

static int refused(void)
{
	return refused_at(&sections, &params, pages);
}

static int type_0(void)
{
	prepare();
	sections.sections[1].type = 0;
	return refused();
}

static int type_6(void)
{
	prepare();
	sections.sections[1].type = 6;
	return refused();
}

static int type_8(void)
{
	prepare();
	sections.sections[1].type = 8;
	return refused();
}

static int no_sections(void)
{
	prepare();
	sections.num_sections = 0;
	return refused();
}

static int eleven_sections(void)
{
	prepare();
	sections.num_sections = TV_MAX_SECTIONS + 1;
	return refused();
}

static int no_stack(void)
{
	prepare();
	sections.num_sections = 3;
	return refused();
}

static int no_pages(void)
{
	prepare();
	sections.sections[1].page_num = 0;
	return refused();
}

static int all_pages(void)
{
	prepare();
	sections.sections[1].page_num = UINT32_MAX;
	return refused();
}

static int unaligned(void)
{
	prepare();
	sections.sections[1].start_addr += 8;
	return refused();
}

static int wraps(void)
{
	prepare();
	sections.sections[1].start_addr = UINT64_MAX - PAGE_SIZE + 1;
	sections.sections[1].page_num = 2;
	return refused();
}

static int page_zero(void)
{
	prepare();
	sections.sections[1].start_addr = 0;
	return refused();
}

static int kernel_page(void)
{
	prepare();
	sections.sections[1].start_addr = sizeof(void *) == 8 ? 0xffffffff81000000 : 0xc1000000;
	return refused();
}

static int not_canonical(void)
{
	prepare();
	sections.sections[1].start_addr = 0x0123456789abc000;
	return refused();
}

static int overlapping(void)
{
	prepare();
	sections.sections[1].start_addr = sections.sections[2].start_addr;
	return refused();
}

static int same_frame_twice(void)
{
	char *again;
	int good;

	/* Two addresses of one page. */
	prepare();
	munmap(pages, 5 * PAGE_SIZE);
	pages = mmap(NULL, 5 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	for (uint32_t i = 0; i < 4; i++)
		sections.sections[i].start_addr = (uintptr_t)(pages + i * PAGE_SIZE);
	again = mremap(pages + PAGE_SIZE, 0, PAGE_SIZE, MREMAP_MAYMOVE);
	if (again == MAP_FAILED)
		return 0;
	*(volatile char *)again = 1;
	sections.sections[2].start_addr = (uintptr_t)again;
	good = refused();
	munmap(again, PAGE_SIZE);
	return good;
}

static int unmapped(void)
{
	prepare();
	mprotect(pages + PAGE_SIZE, PAGE_SIZE, PROT_NONE);
	return refused();
}

static int read_only_data(void)
{
	prepare();
	mprotect(pages + PAGE_SIZE, PAGE_SIZE, PROT_READ);
	return refused();
}

static int code_not_executable(void)
{
	prepare();
	/* ret */
	pages[0] = (char)0xc3;
	mprotect(pages, PAGE_SIZE, PROT_READ | PROT_WRITE);
	/* Some 32-bit systems run such a page themselves; there is nothing to refuse then. */
	if (signal_of_call(pages) == 0)
		return munmap(pages, 5 * PAGE_SIZE) == 0;
	return refused();
}

static int entry_in_data(void)
{
	prepare();
	return refused_at(&sections, &params, pages + PAGE_SIZE);
}

static int entry_nowhere(void)
{
	prepare();
	return refused_at(&sections, &params, pages + 4 * PAGE_SIZE);
}

static int eleven_parameters(void)
{
	prepare();
	params.num_params = TV_MAX_PARAMS + 1;
	return refused();
}

static int parameter_type_3(void)
{
	prepare();
	params.num_params = 1;
	params.params[0].type = 3;
	return refused();
}

static int too_large_parameter(void)
{
	prepare();
	params.num_params = 1;
	params.params[0].type = TV_PAL_PM_POINTER;
	params.params[0].size = PAGE_SIZE / sizeof(uintptr_t);
	return refused();
}

static int huge_parameter(void)
{
	prepare();
	params.num_params = 1;
	params.params[0].type = TV_PAL_PM_POINTER;
	params.params[0].size = UINT64_MAX / sizeof(uintptr_t) + 2;
	return refused();
}

static int sections_nowhere(void)
{
	prepare();
	return refused_at((void *)(uintptr_t)8, &params, pages);
}

static int sections_in_kernel(void)
{
	uint64_t kernel = sizeof(void *) == 8 ? 0xffffffff81000000 : 0xc1000000;

	prepare();
	return refused_at((void *)(uintptr_t)kernel, &params, pages);
}

static int parameters_nowhere(void)
{
	prepare();
	return refused_at(&sections, (void *)(uintptr_t)8, pages);
}

static int lent_page(void)
{
	struct tv_pal other;
	int good;

	load(&other);
	prepare();
	sections.sections[1].start_addr = (uintptr_t)section(&other, TV_PAL_SECTION_DATA);
	good = refused();
	return well(&other) && good;
}

static int registered_twice(void)
{
	struct tv_pal pal;
	int good;

	load(&pal);
	good = tv_pal_register(&pal.sections, &params, pal.entry) == 1;
	return well(&pal) && good;
}

static int unregister_nothing(void)
{
	return tv_pal_unregister((void *)unregister_nothing) == 1 && tv_pal_unregister(NULL) == 1;
}

static int unregister_elsewhere(void)
{
	struct tv_pal pal;
	int good;

	load(&pal);
	good = tv_pal_unregister((char *)pal.entry + 1) == 1 &&
	       tv_pal_unregister(section(&pal, TV_PAL_SECTION_DATA)) == 1;
	return well(&pal) && good;
}

static int unregister_in_child(void *entry)
{
	return tv_pal_unregister(entry) == 1;
}

static int unregister_of_another(void)
{
	struct tv_pal pal;
	int good;

	load(&pal);
	good = child_succeeds(unregister_in_child, pal.entry);
	return well(&pal) && good;
}

static int unregister_twice(void)
{
	struct tv_pal pal;

	load(&pal);
	return tv_pal_unregister(pal.entry) == 0 && tv_pal_unregister(pal.entry) == 1 &&
	       munmap(pal.memory, pal.size) == 0;
}

static int share_with_nothing(void)
{
	void *start;
	size_t len = PAGE_SIZE;
	int good;

	prepare();
	start = pages;
	good = tv_pal_share((void *)share_with_nothing, &start, &len, 1) == 1;
	munmap(pages, 5 * PAGE_SIZE);
	return good;
}

/* SHARE of one range is refused. */
static int share_refused(struct tv_pal *pal, void *start, size_t len)
{
	return tv_pal_share(pal->entry, &start, &len, 1) == 1;
}

static int share_wrong(void)
{
	struct tv_pal pal;
	int good;

	load(&pal);
	prepare();
	good = share_refused(&pal, section(&pal, TV_PAL_SECTION_DATA), PAGE_SIZE) &&
	       share_refused(&pal, pages + 8, PAGE_SIZE) &&
	       share_refused(&pal, (void *)(uintptr_t)PAGE_SIZE, PAGE_SIZE) &&
	       tv_pal_share(pal.entry, (void **)(uintptr_t)8, NULL, 1) == 1 &&
	       tv_pal_share(pal.entry, NULL, NULL, SIZE_MAX) == 1;
	munmap(pages, 5 * PAGE_SIZE);
	return well(&pal) && good;
}

static int unknown_commands(void)
{
	static const uintptr_t commands[] = { 0, 14, 20, 24, 254, 256, 0x7fffffff };
	int good = 1;

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		good &= vmcall(commands[i], 0, 0, 0, 0) == 1;
	return good;
}

static int micro_tpm_outside(void)
{
	uint8_t value[20];

	return vmcall(TV_HC_UTPM_PCRREAD, 0, (uintptr_t)value, 0, 0) == 1;
}

const struct attempt requests[] = {
	{ "REG with a section of type 0", type_0 },
	{ "REG with a section of type 6", type_6 },
	{ "REG with a section of type 8", type_8 },
	{ "REG with no sections", no_sections },
	{ "REG with eleven sections", eleven_sections },
	{ "REG without a stack", no_stack },
	{ "REG with a section of no pages", no_pages },
	{ "REG with a section of 2^32 - 1 pages", all_pages },
	{ "REG with an unaligned section", unaligned },
	{ "REG with a section that wraps round", wraps },
	{ "REG with page 0", page_zero },
	{ "REG with a page of the kernel", kernel_page },
	{ "REG with an address that is none", not_canonical },
	{ "REG with overlapping sections", overlapping },
	{ "REG with one page at two addresses", same_frame_twice },
	{ "REG with a page that is not there", unmapped },
	{ "REG with data that is read-only", read_only_data },
	{ "REG with code that is not executable", code_not_executable },
	{ "REG with an entry in the data", entry_in_data },
	{ "REG with an entry in no section", entry_nowhere },
	{ "REG with eleven parameters", eleven_parameters },
	{ "REG with a parameter of type 3", parameter_type_3 },
	{ "REG with a parameter that does not fit", too_large_parameter },
	{ "REG with a parameter of 2^64 bytes", huge_parameter },
	{ "REG with sections that are not there", sections_nowhere },
	{ "REG with sections in the kernel", sections_in_kernel },
	{ "REG with parameters that are not there", parameters_nowhere },
	{ "REG with a page of another PAL", lent_page },
	{ "REG of what is a PAL", registered_twice },
	{ "UNREG of no PAL", unregister_nothing },
	{ "UNREG at another address of a PAL", unregister_elsewhere },
	{ "UNREG of another process's PAL", unregister_of_another },
	{ "UNREG of what was a PAL", unregister_twice },
	{ "SHARE with no PAL", share_with_nothing },
	{ "SHARE of what cannot be shared", share_wrong },
	{ "commands that there are not", unknown_commands },
	{ "the micro-TPM outside a PAL", micro_tpm_outside },
	{ NULL, NULL },
};
