/*
 * VMCALL and the CPUID leaf that says whether it may be executed. It is all of
 * libtrustvisor.a, and uses nothing of the C library.
 */
#include <cpuid.h>
#include <stddef.h>

#include "trustvisor.h"

/* The detection leaf, and EAX of its answer: "TrVz" and "trvz" in memory. */
#define LEAF 0x7a567254
#define PRESENT 0x7a767274

int tv_presence(struct tv_presence *presence)
{
	uint32_t eax, ebx, ecx, edx;

	/*
	 * Only EAX decides: a processor answers a leaf beyond its highest basic one with
	 * the data of that one (Intel SDM vol. 2, CPUID).
	 */
	__cpuid_count(LEAF, 0, eax, ebx, ecx, edx);
	if (eax != PRESENT)
		return 0;
	if (presence != NULL) {
		presence->pal = ebx;
		presence->caller_width = ecx & 1 ? 64 : 32;
	}
	return 1;
}

int check_cpuid(void)
{
	return tv_presence(NULL);
}

uintptr_t vmcall(uintptr_t eax, uintptr_t ecx, uintptr_t edx, uintptr_t esi, uintptr_t edi)
{
	/* A command may read and write what its arguments point to. */
	__asm__ volatile("vmcall"
			 : "+a"(eax)
			 : "c"(ecx), "d"(edx), "S"(esi), "D"(edi)
			 : "memory");
	return eax;
}
