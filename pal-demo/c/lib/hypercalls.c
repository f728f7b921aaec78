/*
 * The commands on PALs as functions, and the structures that they take. Nothing here needs a
 * C library.
 */
#include "trustvisor.h"

int tv_pal_register(const struct tv_pal_sections *sections, const struct tv_pal_params *params,
		    const void *entry)
{
	return (int)vmcall(TV_HC_REG, (uintptr_t)sections, 0, (uintptr_t)params, (uintptr_t)entry);
}

int tv_pal_unregister(void *entry)
{
	return (int)vmcall(TV_HC_UNREG, (uintptr_t)entry, 0, 0, 0);
}

int tv_pal_share(const void *entry, void **start, size_t *len, size_t count)
{
	return (int)vmcall(TV_HC_SHARE, (uintptr_t)entry, (uintptr_t)start, (uintptr_t)len, count);
}

int tv_test(void)
{
	return (int)vmcall(TV_HC_TEST, 0, 0, 0, 0);
}

int tv_pal_sections_add(struct tv_pal_sections *sections, int type, void *start_addr, size_t len)
{
	struct tv_pal_section *section;

	if (sections->num_sections >= TV_MAX_SECTIONS || len % 4096 != 0)
		return 1;
	section = &sections->sections[sections->num_sections++];
	section->type = (enum tv_pal_section_type)type;
	section->page_num = (uint32_t)(len / 4096);
	section->start_addr = (uintptr_t)start_addr;
	return 0;
}
