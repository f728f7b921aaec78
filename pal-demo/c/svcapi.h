/*
 * The micro-TPM as functions for PAL code, under the names of TrustVisor's SDK. They are put
 * into the code that calls them. Outside a PAL each returns UTPM_ERR_BAD_PARAM, and so it does
 * where an address is not in the PAL's memory.
 *
 * Each returns a result of tv_utpm.h. A length behind a pointer is what was written, after the
 * call; before it, it is how many random bytes are wanted, or the room for a quote or a key. The
 * room for what is sealed or unsealed nobody asks for: it has to be enough.
 */
#ifndef SVCAPI_H
#define SVCAPI_H

#include "trustvisor.h"
#include "tv_utpm.h"

/* Reads PCR `idx`, 20 bytes. */
TV_INLINE int svc_utpm_pcr_read(uint32_t idx, uint8_t *val)
{
	return (int)vmcall(TV_HC_UTPM_PCRREAD, idx, (uintptr_t)val, 0, 0);
}

/* Extends PCR `idx`: it becomes SHA-1 of itself and the 20 bytes of `meas`. */
TV_INLINE int svc_utpm_pcr_extend(uint32_t idx, uint8_t *meas)
{
	return (int)vmcall(TV_HC_UTPM_PCREXT, idx, (uintptr_t)meas, 0, 0);
}

/* Random bytes, at most MAX_TPM_RAND_DATA_LEN. */
TV_INLINE int svc_utpm_rand(void *out, size_t *out_len)
{
	return (int)vmcall(TV_HC_UTPM_GENRAND, (uintptr_t)out, (uintptr_t)out_len, 0, 0);
}

/* Seals data to the PCRs of *pcrInfo, or to no PCR: any PAL of this machine can unseal it then. */
TV_INLINE int svc_utpm_seal(TPM_PCR_INFO *pcrInfo, void *in, size_t in_len, void *out,
			    size_t *out_len)
{
	uintptr_t input[2] = { (uintptr_t)in, in_len };
	uintptr_t output[2] = { (uintptr_t)out, (uintptr_t)out_len };

	return (int)vmcall(TV_HC_UTPM_SEAL, (uintptr_t)input, (uintptr_t)pcrInfo,
			   (uintptr_t)output, 0);
}

/* Unseals data, and gives the composite that there was when it was sealed, 20 bytes. */
TV_INLINE int svc_utpm_unseal(void *in, size_t in_len, void *out, size_t *out_len,
			      void *digestAtCreation)
{
	uintptr_t input[2] = { (uintptr_t)in, in_len };
	uintptr_t output[2] = { (uintptr_t)out, (uintptr_t)out_len };

	return (int)vmcall(TV_HC_UTPM_UNSEAL, (uintptr_t)input, (uintptr_t)output,
			   (uintptr_t)digestAtCreation, 0);
}

/* Signs the PCRs of *tpmsel and a nonce; gives the signature, and the composite that is in it. */
TV_INLINE int svc_utpm_quote(TPM_NONCE *nonce, TPM_PCR_SELECTION *tpmsel, uint8_t *sig,
			     size_t *sigLen, uint8_t *pcrComposite, size_t *pcrCompositeLen)
{
	uintptr_t signature[2] = { (uintptr_t)sig, (uintptr_t)sigLen };
	uintptr_t composite[2] = { (uintptr_t)pcrComposite, (uintptr_t)pcrCompositeLen };

	return (int)vmcall(TV_HC_UTPM_QUOTE, (uintptr_t)tpmsel, (uintptr_t)signature,
			   (uintptr_t)nonce, (uintptr_t)composite);
}

/* The public key that checks a quote: PKCS #1, DER. */
TV_INLINE int svc_utpm_id_getpub(uint8_t *N, size_t *out_len)
{
	return (int)vmcall(TV_HC_UTPM_ID_GETPUB, (uintptr_t)N, (uintptr_t)out_len, 0, 0);
}

/* The NV storage: its size in bytes, and all of its contents. */
TV_INLINE int svc_tpmnvram_getsize(size_t *size)
{
	return (int)vmcall(TV_HC_TPMNVRAM_GETSIZE, (uintptr_t)size, 0, 0, 0);
}

TV_INLINE int svc_tpmnvram_readall(uint8_t *out)
{
	return (int)vmcall(TV_HC_TPMNVRAM_READALL, (uintptr_t)out, 0, 0, 0);
}

TV_INLINE int svc_tpmnvram_writeall(uint8_t *in)
{
	return (int)vmcall(TV_HC_TPMNVRAM_WRITEALL, (uintptr_t)in, 0, 0, 0);
}

#endif
