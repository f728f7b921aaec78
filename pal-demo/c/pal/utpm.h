/*
 * PAL code of `utpm`: one command of the micro-TPM for each call, its input and output in a
 * structure that is passed by a pointer.
 */
#ifndef UTPM_H
#define UTPM_H

#include <stdint.h>

#include "tv_utpm.h"

/* What goes in and out. Who needs less leaves the rest. */
struct utpm_exchange {
	/* Of a PCR. */
	uint32_t index;
	/* Bytes in `in`; room in `out` and `extra` before, and bytes there after. */
	uint32_t in_len, out_len, extra_len;
	TPM_PCR_INFO info;
	TPM_NONCE nonce;
	uint8_t padding;
	uint8_t in[256], out[384], extra[256];
};

/* Does the micro-TPM's command (enum HCcmd); returns its result. */
uintptr_t pal_utpm(uintptr_t command, struct utpm_exchange *x);

#endif
