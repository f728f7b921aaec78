/*
 * The C side of the hypercall interface, for 32-bit and 64-bit programs: what a program
 * in the guest includes to find TrustVisor, to call it, and to have PALs of its own. Names
 * are TrustVisor's where its programs rely on them. docs/hypercall-abi.md says what each
 * command does, docs/pal-guide.md how a PAL is written.
 */
#ifndef TRUSTVISOR_H
#define TRUSTVISOR_H

#include <stddef.h>
#include <stdint.h>

/* The commands, for EAX. */
enum HCcmd {
	TV_HC_REG = 1,
	TV_HC_UNREG = 2,
	TV_HC_UTPM_SEAL_DEPRECATED = 3,
	TV_HC_UTPM_UNSEAL_DEPRECATED = 4,
	TV_HC_UTPM_QUOTE_DEPRECATED = 5,
	TV_HC_SHARE = 6,
	TV_HC_UTPM_PCRREAD = 7,
	TV_HC_UTPM_PCREXT = 8,
	TV_HC_UTPM_GENRAND = 9,
	TV_HC_UTPM_SEAL = 10,
	TV_HC_UTPM_UNSEAL = 11,
	TV_HC_UTPM_QUOTE = 12,
	TV_HC_UTPM_ID_GETPUB = 13,
	TV_HC_TPMNVRAM_GETSIZE = 21,
	TV_HC_TPMNVRAM_READALL = 22,
	TV_HC_TPMNVRAM_WRITEALL = 23,
	TV_HC_TEST = 255,
};

/* What a section of a PAL holds. */
enum tv_pal_section_type {
	TV_PAL_SECTION_CODE = 1,
	TV_PAL_SECTION_DATA = 2,
	TV_PAL_SECTION_PARAM = 3,
	TV_PAL_SECTION_STACK = 4,
	/* Code that the PAL and the system may both run. */
	TV_PAL_SECTION_SHARED_CODE = 5,
};

struct tv_pal_section {
	enum tv_pal_section_type type;
	/* Size in pages of 4 KiB. */
	uint32_t page_num;
	/* Page aligned. */
	uint64_t start_addr;
} __attribute__((packed));

#define TV_MAX_SECTIONS 10

/* What memory a PAL has. */
struct tv_pal_sections {
	uint32_t num_sections;
	uint32_t padding;
	struct tv_pal_section sections[TV_MAX_SECTIONS];
} __attribute__((packed));

/* How a parameter of a PAL's entry function is passed. */
enum tv_pal_param_type {
	/* By value. */
	TV_PAL_PM_INTEGER = 1,
	/* What it points to is copied in, and back out when the PAL returns. */
	TV_PAL_PM_POINTER = 2,
};

struct tv_pal_param {
	enum tv_pal_param_type type;
	uint32_t padding;
	/* Of what a pointer points to: in words, which are as wide as a pointer. */
	uint64_t size;
} __attribute__((packed));

#define TV_MAX_PARAMS 10

/* The parameters of a PAL's entry function. */
struct tv_pal_params {
	uint32_t num_params;
	uint32_t padding;
	struct tv_pal_param params[TV_MAX_PARAMS];
} __attribute__((packed));

/* `pal` of struct tv_presence outside any PAL. */
#define TV_NO_PAL UINT32_MAX

/* What TrustVisor says of itself and of the program that asks. */
struct tv_presence {
	/* Index of the PAL that runs on this CPU, or TV_NO_PAL. */
	uint32_t pal;
	/* 32 or 64: the width of the caller's code, by which arguments are read. */
	int caller_width;
};

/*
 * The functions marked so are put into the code that calls them, so PALs may use them, too,
 * even where the compiler does not optimise.
 */
#define TV_INLINE static inline __attribute__((always_inline, unused))

/*
 * Asks the detection leaf of CPUID: 1 where TrustVisor answers, which is then described
 * in *presence, else 0, and *presence is as before. presence may be a null pointer.
 */
TV_INLINE int tv_presence(struct tv_presence *presence)
{
	/* The leaf, "TrVz" in memory. */
	uint32_t eax = 0x7a567254, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	/*
	 * Only EAX decides: a processor answers a leaf beyond its highest basic one with
	 * the data of that one (Intel SDM vol. 2, CPUID). It is "trvz" in memory.
	 */
	if (eax != 0x7a767274)
		return 0;
	if (presence != NULL) {
		presence->pal = ebx;
		presence->caller_width = ecx & 1 ? 64 : 32;
	}
	return 1;
}

/* tv_presence() without the description. */
TV_INLINE int check_cpuid(void)
{
	return tv_presence(NULL);
}

/*
 * Executes VMCALL with a command in EAX and its arguments in ECX, EDX, ESI and EDI (R-
 * in a 64-bit program); returns EAX or RAX. Only after check_cpuid() has answered 1: on
 * a bare processor VMCALL is an invalid opcode.
 */
TV_INLINE uintptr_t vmcall(uintptr_t eax, uintptr_t ecx, uintptr_t edx, uintptr_t esi,
			   uintptr_t edi)
{
	/* A command may read and write what its arguments point to. */
	__asm__ volatile("vmcall"
			 : "+a"(eax)
			 : "c"(ecx), "d"(edx), "S"(esi), "D"(edi)
			 : "memory");
	return eax;
}

/*
 * The commands on PALs. Each returns 0, or 1 where it was refused, and then nothing has
 * changed. `entry` is the address that the program calls, in a CODE section.
 */

/* REG: from here on the sections are the PAL's alone. */
int tv_pal_register(const struct tv_pal_sections *sections, const struct tv_pal_params *params,
		    const void *entry);
/* UNREG: zeroes what the PAL can write, and gives its pages back. */
int tv_pal_unregister(void *entry);
/* SHARE: lends `count` ranges to a PAL until its next call returns. */
int tv_pal_share(const void *entry, void **start, size_t *len, size_t count);
/* TEST with the number 0. */
int tv_test(void);

/* Appends a section of `len` bytes; 1 where there is no room, or `len` is not of whole pages. */
int tv_pal_sections_add(struct tv_pal_sections *sections, int type, void *start_addr, size_t len);

/*
 * Keep pages in memory while they are a PAL's, make sure that they are there (and private to
 * this process, with do_write), and let them go again. 0, or -1 with errno.
 */
int tv_lock_range(void *ptr, size_t len);
int tv_touch_range(void *ptr, size_t len, int do_write);
int tv_unlock_range(void *ptr, size_t len);

/*
 * Puts a function among the program's PAL code, which lies together and is copied together.
 * Such a function may use what lies there and nothing else: docs/pal-guide.md.
 */
#define TV_PAL_CODE __attribute__((section("tv_pal"), used))

/* Where the linker put the first byte of the PAL code, and the first after it. */
extern char __start_tv_pal[], __stop_tv_pal[];

/* A PAL whose memory tv_pal_load() has made. */
struct tv_pal {
	/* What the program calls, once it is cast to the type of the entry function. */
	void *entry;
	struct tv_pal_sections sections;
	/* All sections, in one mapping. */
	char *memory;
	size_t size;
};

/*
 * Copies the program's PAL code into pages of its own and registers it with `entry`, one of
 * its functions, as the entry function, and with a page each of data, parameters and stack.
 * 0; 1 where it was refused; -1 with errno where there is no memory.
 */
int tv_pal_load(struct tv_pal *pal, const struct tv_pal_params *params, void *entry);

/*
 * Unregisters the PAL and unmaps its memory: 0. Or 1 where it was refused, and the memory stays:
 * a PAL that runs in another thread is refused, and one that was ended is registered no longer.
 *
 * A program must do this before it ends. The system does not know that the pages are lent, and
 * hands them to the next who asks for memory.
 */
int tv_pal_unload(struct tv_pal *pal);

#endif
