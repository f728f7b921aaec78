/*
 * What the micro-TPM's commands take and answer, for PALs and for programs that look at what a
 * PAL brings back. Names and layouts are TrustVisor's.
 */
#ifndef TV_UTPM_H
#define TV_UTPM_H

#include <stddef.h>
#include <stdint.h>

/* Results of the commands. */
#define UTPM_SUCCESS 0
#define UTPM_ERR_BAD_PARAM 1
#define UTPM_ERR_PCR_OUT_OF_RANGE 2
#define UTPM_ERR_INSUFFICIENT_ENTROPY 3
#define UTPM_ERR 4

/* A PAL's PCRs: how many, and bytes of each. */
#define TPM_PCR_NUM 8
#define TPM_PCR_SIZE 20

#define TPM_HASH_SIZE 20
#define TPM_NONCE_SIZE 20
/* Bytes of a quote's signature. */
#define TPM_RSA_KEY_LEN 256
/* The most that GENRAND gives at once. */
#define MAX_TPM_RAND_DATA_LEN 4096

/* Some of a PAL's PCRs: bit i of pcrSelect for PCR i; sizeOfSelect is 1. */
typedef struct tdTPM_PCR_SELECTION {
	uint16_t sizeOfSelect;
	uint8_t pcrSelect[TPM_PCR_NUM / 8];
} __attribute__((packed)) TPM_PCR_SELECTION;

typedef struct tdTPM_DIGEST {
	uint8_t value[TPM_HASH_SIZE];
} TPM_DIGEST;

/* SHA-1 of a composite: selection, length of the PCRs as 32 bits big-endian, PCRs. */
typedef TPM_DIGEST TPM_COMPOSITE_HASH;

/* What data is sealed to. */
typedef struct tdTPM_PCR_INFO {
	TPM_PCR_SELECTION pcrSelection;
	/* The composite that there must be for the data to be unsealed. */
	TPM_COMPOSITE_HASH digestAtRelease;
	/* The composite that there was when it was sealed; SEAL writes it. */
	TPM_COMPOSITE_HASH digestAtCreation;
} __attribute__((packed)) TPM_PCR_INFO;

typedef struct tdTPM_NONCE {
	uint8_t nonce[TPM_NONCE_SIZE];
} TPM_NONCE;

/* Bytes of what `len` bytes become when they are sealed, to PCRs or to none. */
static inline size_t utpm_seal_output_size(size_t len, int using_pcrs)
{
	size_t plain = (using_pcrs ? sizeof(TPM_PCR_INFO) : sizeof(uint16_t)) + sizeof(uint32_t) + len;

	/* IV, whole blocks of AES, HMAC. */
	return 16 + (plain + 15) / 16 * 16 + TPM_HASH_SIZE;
}

#endif
