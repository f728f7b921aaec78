/*
 * PAL code of `attack`: a PAL that does what its program tells it to, and most of that is what
 * no PAL may do.
 */
#ifndef PAL_ATTACK_H
#define PAL_ATTACK_H

#include <stdint.h>

enum pal_deed {
	/* Returns PAL_WELL. */
	PAL_NOTHING,
	/* Reads, writes or calls an address; the first returns what is there. */
	PAL_READ,
	PAL_WRITE,
	PAL_CALL,
	/* Returns to an address. */
	PAL_RETURN,
	/* Pushes until there is no more stack. */
	PAL_PUSH,
	/* Instructions that fault, or that only a system may execute. */
	PAL_DIVIDE_BY_ZERO,
	PAL_UD2,
	PAL_INT3,
	PAL_INT80,
	PAL_SYSTEM_CALL,
	PAL_CLI,
	PAL_HLT,
	PAL_IN,
	PAL_OUT,
	PAL_RDMSR,
	PAL_READ_CR3,
	PAL_LOAD_SELECTOR,
	/* Hypercalls that are not a PAL's; each returns its result. */
	PAL_REGISTER,
	PAL_UNREGISTER,
	PAL_SHARE,
	/* PCR 0 to an address. */
	PAL_PCRREAD,
};

/* What PAL_NOTHING and PAL_WRITE return. */
#define PAL_WELL ((uintptr_t)0x600d)

uintptr_t pal_attack(uintptr_t deed, uintptr_t address, uintptr_t value);

/*
 * Looks for the caller's vector and x87 state, with `area` for 1 KiB of its own memory, 64-byte
 * aligned; leaves its own. Returns PAL_WELL, or the first byte of the area that was not initial.
 */
uintptr_t pal_vectors(uint8_t *area, uintptr_t has_avx);

/* Returns with a secret in every register. */
void pal_registers(void);

/* The secret that pal_registers() and pal_vectors() leave. */
#define PAL_SECRET 0x5ec2e75e

#endif
