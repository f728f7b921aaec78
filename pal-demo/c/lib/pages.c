/*
 * The memory of PALs on Linux: pages that are there, stay there, and are no other process's.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "trustvisor.h"

#define PAGE_SIZE ((size_t)4096)

/* What a range touches, in whole pages. */
static char *first_page(void *ptr)
{
	return (char *)((uintptr_t)ptr & ~(PAGE_SIZE - 1));
}

static size_t whole_pages(void *ptr, size_t len)
{
	size_t bytes = (size_t)((char *)ptr - first_page(ptr)) + len;

	return (bytes + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
}

int tv_lock_range(void *ptr, size_t len)
{
	return mlock(first_page(ptr), whole_pages(ptr, len));
}

int tv_unlock_range(void *ptr, size_t len)
{
	return munlock(first_page(ptr), whole_pages(ptr, len));
}

int tv_touch_range(void *ptr, size_t len, int do_write)
{
	volatile char *page = first_page(ptr);
	size_t size = whole_pages(ptr, len);

	for (size_t at = 0; at < size; at += PAGE_SIZE) {
		char byte = page[at];

		if (do_write)
			page[at] = byte;
	}
	return 0;
}

int tv_pal_load(struct tv_pal *pal, const struct tv_pal_params *params, void *entry)
{
	size_t code = (size_t)(__stop_tv_pal - __start_tv_pal);
	size_t code_size = (code + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	static const int after_code[] = { TV_PAL_SECTION_DATA, TV_PAL_SECTION_PARAM,
					  TV_PAL_SECTION_STACK };
	char *next;

	memset(pal, 0, sizeof(*pal));
	pal->size = code_size + 3 * PAGE_SIZE;
	next = mmap(NULL, pal->size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
	if (next == MAP_FAILED)
		return -1;
	pal->memory = next;
	pal->entry = next + ((char *)entry - __start_tv_pal);
	memcpy(next, __start_tv_pal, code);
	/*
	 * A child would share the pages until either writes, and then the system would copy one
	 * that it cannot read. And the lock that MAP_LOCKED asks for may fail in silence.
	 */
	if (mprotect(next, code_size, PROT_READ | PROT_EXEC) != 0 ||
	    madvise(next, pal->size, MADV_DONTFORK) != 0 || mlock(next, pal->size) != 0) {
		munmap(next, pal->size);
		return -1;
	}
	tv_pal_sections_add(&pal->sections, TV_PAL_SECTION_CODE, next, code_size);
	next += code_size;
	for (size_t i = 0; i < sizeof(after_code) / sizeof(after_code[0]); i++) {
		tv_pal_sections_add(&pal->sections, after_code[i], next, PAGE_SIZE);
		next += PAGE_SIZE;
	}
	if (tv_pal_register(&pal->sections, params, pal->entry) != 0) {
		munmap(pal->memory, pal->size);
		return 1;
	}
	return 0;
}

int tv_pal_unload(struct tv_pal *pal)
{
	if (tv_pal_unregister(pal->entry) != 0)
		return 1;
	munmap(pal->memory, pal->size);
	memset(pal, 0, sizeof(*pal));
	return 0;
}
