/*
 * The C side of the hypercall interface, for 32-bit and 64-bit programs: what a program
 * in the guest includes to find TrustVisor and to call it. Names are TrustVisor's where
 * its programs rely on them. docs/hypercall-abi.md says what each command does.
 */
#ifndef TRUSTVISOR_H
#define TRUSTVISOR_H

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
 * Asks the detection leaf of CPUID: 1 where TrustVisor answers, which is then described
 * in *presence, else 0, and *presence is as before. presence may be a null pointer.
 */
int tv_presence(struct tv_presence *presence);

/* tv_presence() without the description. */
int check_cpuid(void);

/*
 * Executes VMCALL with a command in EAX and its arguments in ECX, EDX, ESI and EDI (R-
 * in a 64-bit program); returns EAX or RAX. Only after check_cpuid() has answered 1: on
 * a bare processor VMCALL is an invalid opcode.
 */
uintptr_t vmcall(uintptr_t eax, uintptr_t ecx, uintptr_t edx, uintptr_t esi, uintptr_t edi);

#endif
