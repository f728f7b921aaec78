/*
 * `utpm`: a tour of the micro-TPM. A PAL asks for each of its commands, and the program looks at
 * the answers. Prints `ok: WHAT` or `FAILED: WHAT` for each thing that is looked at, the values
 * that somebody else can check (PCR 0, the quote, the key), and at the end `utpm: all ok`, exit
 * status 0, or `utpm: N failed`, 1. Where no TrustVisor answers, it says so and exits 1.
 */
#include <stdio.h>
#include <string.h>

#include "pal/utpm.h"
#include "trustvisor.h"

/* What PCR 1 is extended with; it was all zero before. */
static const uint8_t MEASUREMENT[TPM_HASH_SIZE] = { 1,	2,  3,	4,  5,	6,  7,	8,  9,	10,
						    11, 12, 13, 14, 15, 16, 17, 18, 19, 20 };
/* PCR 1 then: SHA-1 of zeroes and the measurement. */
static const uint8_t EXTENDED[TPM_PCR_SIZE] = { 0x5f, 0x42, 0x0e, 0x04, 0x95, 0x8b, 0x2e,
						0x3f, 0x18, 0x07, 0x39, 0x1e, 0x99, 0xd9,
						0x49, 0x2c, 0x67, 0xaa, 0xef, 0xfd };
/* SHA-1 of the composite of that PCR alone. */
static const TPM_DIGEST COMPOSITE = { { 0x1d, 0x26, 0x34, 0x30, 0xc5, 0x46, 0x7b,
					0xca, 0xd5, 0x7f, 0x98, 0xee, 0xeb, 0x8b,
					0xcb, 0x77, 0x45, 0x18, 0x16, 0x77 } };
/* What stands before the PCRs in that composite: the selection, and 20 in 32 bits. */
static const uint8_t COMPOSITE_HEAD[7] = { 1, 0, 2, 0, 0, 0, 20 };

static const char SECRET[] = "what the system is not to read";
static const char NVRAM[32] = "thirty-two bytes of NV storage.";

static struct tv_pal pal;
static struct utpm_exchange x;
static int failed;

/* Prepares a command: all of the room, nothing in it. */
static void clear(void)
{
	memset(&x, 0, sizeof(x));
	x.out_len = sizeof(x.out);
	x.extra_len = sizeof(x.extra);
}

/* Has the PAL do a command. */
static uintptr_t ask(enum HCcmd command)
{
	return ((__typeof__(pal_utpm) *)pal.entry)(command, &x);
}

static void look(const char *what, int good)
{
	printf("%s: %s\n", good ? "ok" : "FAILED", what);
	fflush(stdout);
	failed += !good;
}

static void print_hex(const char *name, const void *bytes, size_t len)
{
	printf("%s: ", name);
	for (size_t i = 0; i < len; i++)
		printf("%02x", ((const uint8_t *)bytes)[i]);
	printf("\n");
}

static uintptr_t read_pcr(uint32_t index)
{
	clear();
	x.index = index;
	return ask(TV_HC_UTPM_PCRREAD);
}

static uintptr_t extend_pcr(uint32_t index)
{
	clear();
	x.index = index;
	memcpy(x.in, MEASUREMENT, sizeof(MEASUREMENT));
	return ask(TV_HC_UTPM_PCREXT);
}

static void pcrs(void)
{
	static const uint8_t zero[TPM_PCR_SIZE];
	int all_zero = 1;

	look("PCR 0 holds a measurement", read_pcr(0) == 0 && memcmp(x.out, zero, sizeof(zero)) != 0);
	print_hex("pcr0", x.out, TPM_PCR_SIZE);
	for (uint32_t i = 1; i < TPM_PCR_NUM; i++)
		all_zero &= read_pcr(i) == 0 && memcmp(x.out, zero, sizeof(zero)) == 0;
	look("PCRs 1 to 7 are zero", all_zero);
	look("there is no PCR 8", read_pcr(TPM_PCR_NUM) == UTPM_ERR_PCR_OUT_OF_RANGE &&
					  extend_pcr(TPM_PCR_NUM) == UTPM_ERR_PCR_OUT_OF_RANGE);
	look("PCR 1 is extended", extend_pcr(1) == 0 && read_pcr(1) == 0 &&
					  memcmp(x.out, EXTENDED, sizeof(EXTENDED)) == 0);
}

static void random_numbers(void)
{
	uint8_t first[32];
	int good;

	clear();
	x.out_len = sizeof(first);
	good = ask(TV_HC_UTPM_GENRAND) == 0 && x.out_len == sizeof(first);
	memcpy(first, x.out, sizeof(first));
	x.out_len = sizeof(first);
	good &= ask(TV_HC_UTPM_GENRAND) == 0 && memcmp(first, x.out, sizeof(first)) != 0;
	look("random numbers are two", good);
	clear();
	x.out_len = MAX_TPM_RAND_DATA_LEN + 1;
	look("too many random bytes are refused", ask(TV_HC_UTPM_GENRAND) == UTPM_ERR_BAD_PARAM);
}

/* Seals SECRET; the blob goes to *blob. Its length is checked. */
static size_t seal(int to_pcr_1, uint8_t *blob)
{
	size_t expected = utpm_seal_output_size(sizeof(SECRET), to_pcr_1);

	clear();
	if (to_pcr_1) {
		x.info.pcrSelection.sizeOfSelect = 1;
		x.info.pcrSelection.pcrSelect[0] = 1 << 1;
		x.info.digestAtRelease = COMPOSITE;
	}
	x.in_len = sizeof(SECRET);
	memcpy(x.in, SECRET, sizeof(SECRET));
	if (ask(TV_HC_UTPM_SEAL) != 0 || x.out_len != expected)
		return 0;
	memcpy(blob, x.out, expected);
	return expected;
}

/* Unseals: 1 where SECRET came back, -1 where it was refused, 0 where anything else came. */
static int unseal(const uint8_t *blob, size_t len)
{
	uintptr_t result;

	clear();
	x.in_len = (uint32_t)len;
	memcpy(x.in, blob, len);
	result = ask(TV_HC_UTPM_UNSEAL);
	if (result == UTPM_ERR_BAD_PARAM)
		return -1;
	return result == 0 && x.out_len == sizeof(SECRET) &&
	       memcmp(x.out, SECRET, sizeof(SECRET)) == 0;
}

static void quote(void)
{
	int good;

	clear();
	x.info.pcrSelection.sizeOfSelect = 1;
	x.info.pcrSelection.pcrSelect[0] = 1 << 1;
	for (size_t i = 0; i < TPM_NONCE_SIZE; i++)
		x.nonce.nonce[i] = (uint8_t)(0xa0 + i);
	good = ask(TV_HC_UTPM_QUOTE) == 0 && x.out_len == TPM_RSA_KEY_LEN &&
	       x.extra_len == sizeof(COMPOSITE_HEAD) + TPM_PCR_SIZE &&
	       memcmp(x.extra, COMPOSITE_HEAD, sizeof(COMPOSITE_HEAD)) == 0 &&
	       memcmp(x.extra + sizeof(COMPOSITE_HEAD), EXTENDED, TPM_PCR_SIZE) == 0;
	look("PCR 1 is quoted", good);
	print_hex("nonce", x.nonce.nonce, TPM_NONCE_SIZE);
	print_hex("composite", x.extra, good ? x.extra_len : 0);
	print_hex("signature", x.out, good ? x.out_len : 0);
	clear();
	good = ask(TV_HC_UTPM_ID_GETPUB) == 0 && x.out_len > TPM_RSA_KEY_LEN &&
	       x.out_len <= sizeof(x.out);
	look("the key is there", good);
	print_hex("key", x.out, good ? x.out_len : 0);
}

static void sealing(void)
{
	uint8_t bound[256], unbound[256], changed[256];
	size_t bound_len = seal(1, bound), unbound_len = seal(0, unbound);

	look("data is sealed", bound_len != 0 && unbound_len != 0);
	look("it comes back", unseal(bound, bound_len) == 1);
	look("with the digest at creation", memcmp(x.extra, &COMPOSITE, sizeof(COMPOSITE)) == 0);
	memcpy(changed, bound, sizeof(changed));
	changed[bound_len / 2] ^= 1;
	look("not from a changed blob", unseal(changed, bound_len) == -1);
	look("not from half a blob", unseal(bound, bound_len / 2) == -1);
	quote();
	look("PCR 1 is extended again", extend_pcr(1) == 0);
	look("data sealed to it stays sealed", unseal(bound, bound_len) == -1);
	look("data sealed to nothing does not", unseal(unbound, unbound_len) == 1);
}

static void nvram(void)
{
	clear();
	look("NV storage has a size", ask(TV_HC_TPMNVRAM_GETSIZE) == 0 && x.out_len == sizeof(NVRAM));
	clear();
	memcpy(x.in, NVRAM, sizeof(NVRAM));
	look("it is written", ask(TV_HC_TPMNVRAM_WRITEALL) == 0);
	clear();
	look("and read", ask(TV_HC_TPMNVRAM_READALL) == 0 && memcmp(x.out, NVRAM, sizeof(NVRAM)) == 0);
}

int main(void)
{
	struct tv_pal_params params = {
		.num_params = 2,
		.params = { { .type = TV_PAL_PM_INTEGER },
			    { .type = TV_PAL_PM_POINTER, .size = sizeof(x) / sizeof(uintptr_t) } },
	};

	if (!check_cpuid()) {
		printf("TrustVisor not present according to CPUID\n");
		return 1;
	}
	if (tv_pal_load(&pal, &params, (void *)pal_utpm) != 0) {
		printf("utpm: the PAL was refused\n");
		return 1;
	}
	pcrs();
	random_numbers();
	sealing();
	nvram();
	look("it answers nobody outside a PAL",
	     vmcall(TV_HC_UTPM_PCRREAD, 1, (uintptr_t)x.out, 0, 0) == UTPM_ERR_BAD_PARAM);
	look("the PAL goes", tv_pal_unload(&pal) == 0);
	if (failed)
		printf("utpm: %d failed\n", failed);
	else
		printf("utpm: all ok\n");
	return failed != 0;
}
