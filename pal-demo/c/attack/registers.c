/*
 * What a PAL and its caller find in each other's registers: nothing, but for the result.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <string.h>
#include <sys/mman.h>

#include "attack.h"
#include "pal/attack.h"

/*
 * Calls a PAL without parameters with a pattern in every register that a function keeps; in
 * kept[] what they are then, in scratch[] the others but for the result.
 */
#ifdef __x86_64__
#define KEPT 6
#define SCRATCH 8
void call_with_pattern(void *entry, uintptr_t *kept, uintptr_t *scratch);
__asm__(".text\n"
	".globl call_with_pattern\n"
	"call_with_pattern:\n\t"
	"push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
	"push %rsi\n\tpush %rdx\n\t"
	"sub $8, %rsp\n\t"
	"mov %rdi, %rax\n\t"
	"mov $0x11, %ebx\n\tmov $0x12, %ebp\n\tmov $0x13, %r12d\n\t"
	"mov $0x14, %r13d\n\tmov $0x15, %r14d\n\tmov $0x16, %r15d\n\t"
	"call *%rax\n\t"
	"mov 8(%rsp), %rax\n\t"
	"mov %rcx, (%rax)\n\tmov %rdx, 8(%rax)\n\tmov %rsi, 16(%rax)\n\tmov %rdi, 24(%rax)\n\t"
	"mov %r8, 32(%rax)\n\tmov %r9, 40(%rax)\n\tmov %r10, 48(%rax)\n\tmov %r11, 56(%rax)\n\t"
	"mov 16(%rsp), %rax\n\t"
	"mov %rbx, (%rax)\n\tmov %rbp, 8(%rax)\n\tmov %r12, 16(%rax)\n\t"
	"mov %r13, 24(%rax)\n\tmov %r14, 32(%rax)\n\tmov %r15, 40(%rax)\n\t"
	"add $24, %rsp\n\t"
	"pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
	"ret");
#else
#define KEPT 4
#define SCRATCH 2
void call_with_pattern(void *entry, uintptr_t *kept, uintptr_t *scratch);
__asm__(".text\n"
	".globl call_with_pattern\n"
	"call_with_pattern:\n\t"
	"push %ebx\n\tpush %ebp\n\tpush %esi\n\tpush %edi\n\t"
	"mov 20(%esp), %eax\n\t"
	"mov $0x11, %ebx\n\tmov $0x12, %ebp\n\tmov $0x13, %esi\n\tmov $0x14, %edi\n\t"
	"call *%eax\n\t"
	"mov 28(%esp), %eax\n\t"
	"mov %ecx, (%eax)\n\tmov %edx, 4(%eax)\n\t"
	"mov 24(%esp), %eax\n\t"
	"mov %ebx, (%eax)\n\tmov %ebp, 4(%eax)\n\tmov %esi, 8(%eax)\n\tmov %edi, 12(%eax)\n\t"
	"pop %edi\n\tpop %esi\n\tpop %ebp\n\tpop %ebx\n\t"
	"ret");
#endif

static int general(void)
{
	struct tv_pal_params params = { 0 };
	uintptr_t kept[KEPT], scratch[SCRATCH];
	struct tv_pal pal;
	int good = 1;

	load_function(&pal, &params, (void *)pal_registers);
	call_with_pattern(pal.entry, kept, scratch);
	for (uintptr_t i = 0; i < KEPT; i++)
		good &= kept[i] == 0x11 + i;
	for (uintptr_t i = 0; i < SCRATCH; i++)
		good &= scratch[i] == 0;
	return tv_pal_unload(&pal) == 0 && good;
}

/* AVX, and the system saves its state (Intel SDM vol. 1, "Detection of Intel AVX Instructions"). */
static int has_avx(void)
{
	unsigned int eax, ebx, ecx, edx, xcr0;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE) || !(ecx & bit_AVX))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(edx) : "c"(0));
	return (xcr0 & 6) == 6;
}

/* Vector and x87 state around a call: XMM0, 1, 6 and 7, the upper halves of YMM0 and 7. */
struct state {
	uint8_t xmm[4][16];
	uint8_t upper[2][16];
	uint8_t st0[10];
	uint16_t control;
	uint32_t mxcsr;
} __attribute__((aligned(16)));

/* What the asm statements below have in common. */
#define LOAD                                                                                       \
	"fninit\n\tfldcw 106(%[in])\n\tfldt 96(%[in])\n\tldmxcsr 108(%[in])\n\t"                   \
	"movdqu (%[in]), %%xmm0\n\tmovdqu 16(%[in]), %%xmm1\n\t"                                   \
	"movdqu 32(%[in]), %%xmm6\n\tmovdqu 48(%[in]), %%xmm7\n\t"
#define STORE                                                                                      \
	"movdqu %%xmm0, (%[out])\n\tmovdqu %%xmm1, 16(%[out])\n\t"                                 \
	"movdqu %%xmm6, 32(%[out])\n\tmovdqu %%xmm7, 48(%[out])\n\t"                               \
	"stmxcsr 108(%[out])\n\tfnstcw 106(%[out])\n\tfstpt 96(%[out])\n\t"

/* Loads the upper halves, and stores them; what is below them stays. */
static void upper(struct state *state, int store)
{
	if (store)
		__asm__ volatile("vextractf128 $1, %%ymm0, 64(%0)\n\tvextractf128 $1, %%ymm7, 80(%0)"
				 :
				 : "r"(state)
				 : "memory");
	else
		__asm__ volatile("vinsertf128 $1, 64(%0), %%ymm0, %%ymm0\n\t"
				 "vinsertf128 $1, 80(%0), %%ymm7, %%ymm7"
				 :
				 : "r"(state));
}

/* Calls the PAL between loading one state and storing another; returns what the PAL saw. */
static uintptr_t call_with_state(struct tv_pal *pal, uint8_t *area, int avx, struct state *in,
				 struct state *out)
{
	uintptr_t (*entry)(uint8_t *, uintptr_t) = (__typeof__(pal_vectors) *)pal->entry;
	uintptr_t seen;

	/*
	 * Between these statements the compiler has integers and addresses to move, nothing for
	 * which it needs a vector register.
	 */
	__asm__ volatile(LOAD : : [in] "r"(in) : "memory");
	if (avx)
		upper(in, 0);
	seen = entry(area, (uintptr_t)avx);
	if (avx)
		upper(out, 1);
	__asm__ volatile(STORE : : [out] "r"(out) : "memory");
	return seen;
}

static int vectors(void)
{
	struct tv_pal_params params = {
		.num_params = 2,
		.params = { { .type = TV_PAL_PM_INTEGER }, { .type = TV_PAL_PM_INTEGER } },
	};
	struct state in, out;
	struct tv_pal pal;
	uintptr_t seen;
	int avx = has_avx();

	for (size_t i = 0; i < sizeof(in); i++)
		((uint8_t *)&in)[i] = (uint8_t)(i + 1);
	if (!avx)
		memset(in.upper, 0, sizeof(in.upper));
	/* A normal number, rounding down, exceptions masked. */
	in.st0[7] = 0x81;
	in.st0[8] = 0xff;
	in.st0[9] = 0x3f;
	in.control = 0x077f;
	in.mxcsr = 0x3f80;
	memset(&out, 0, sizeof(out));
	load_function(&pal, &params, (void *)pal_vectors);
	seen = call_with_state(&pal, (uint8_t *)section(&pal, TV_PAL_SECTION_DATA), avx, &in, &out);
	return tv_pal_unload(&pal) == 0 && seen == PAL_WELL && memcmp(&in, &out, sizeof(in)) == 0;
}

const struct attempt registers[] = {
	{ "finding a PAL's values in registers", general },
	{ "finding the caller's vectors in a PAL, or a PAL's outside", vectors },
	{ NULL, NULL },
};
