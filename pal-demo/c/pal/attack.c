/* See attack.h. */
#include "pal/attack.h"
#include "trustvisor.h"

/* Far more than any stack of a PAL holds: a PAL that gets so far got through. */
#define PUSHES 100000

TV_PAL_CODE uintptr_t pal_attack(uintptr_t deed, uintptr_t address, uintptr_t value)
{
	uint32_t low = 0, high = 0;

	switch (deed) {
	case PAL_NOTHING:
		break;
	case PAL_READ:
		return *(volatile uintptr_t *)address;
	case PAL_WRITE:
		*(volatile uintptr_t *)address = value;
		break;
	case PAL_CALL:
		((void (*)(void))address)();
		break;
	case PAL_RETURN:
		__asm__ volatile("push %0\n\tret" : : "r"(address));
		break;
	case PAL_PUSH:
		__asm__ volatile("1: push $0\n\tdec %0\n\tjnz 1b" : : "r"((uintptr_t)PUSHES));
		break;
	case PAL_DIVIDE_BY_ZERO:
		__asm__ volatile("div %2" : "+a"(low), "+d"(high) : "r"(0));
		break;
	case PAL_UD2:
		__asm__ volatile("ud2");
		break;
	case PAL_INT3:
		__asm__ volatile("int3");
		break;
	case PAL_INT80:
		/* getpid */
		__asm__ volatile("int $0x80" : "+a"(low) : : "memory");
		break;
	case PAL_SYSTEM_CALL:
#ifdef __x86_64__
		__asm__ volatile("syscall" : "+a"(low) : : "rcx", "r11", "memory");
#else
		__asm__ volatile("sysenter" : "+a"(low) : : "ecx", "edx", "memory");
#endif
		break;
	case PAL_CLI:
		__asm__ volatile("cli");
		break;
	case PAL_HLT:
		__asm__ volatile("hlt");
		break;
	case PAL_IN:
		__asm__ volatile("inb $0x80, %%al" : "+a"(low));
		break;
	case PAL_OUT:
		__asm__ volatile("outb %%al, $0x80" : : "a"(low));
		break;
	case PAL_RDMSR:
		/* IA32_APIC_BASE */
		__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x1b));
		break;
	case PAL_READ_CR3:
		__asm__ volatile("mov %%cr3, %0" : "=r"(value));
		break;
	case PAL_LOAD_SELECTOR:
		/* A descriptor is in the system's memory. */
		__asm__ volatile("mov %0, %%es" : : "r"(0x2b));
		break;
	case PAL_REGISTER:
		return vmcall(TV_HC_REG, address, 0, address, value);
	case PAL_UNREGISTER:
		return vmcall(TV_HC_UNREG, value, 0, 0, 0);
	case PAL_SHARE:
		return vmcall(TV_HC_SHARE, value, address, address, 1);
	case PAL_PCRREAD:
		return vmcall(TV_HC_UTPM_PCRREAD, 0, address, 0, 0);
	}
	return PAL_WELL;
}

/* What FXSAVE stores, and where the upper halves go after it. */
#define X87_AREA 32
#define X87_END 160
#define XMM_AREA 160
#define UPPER_AREA 512
#ifdef __x86_64__
#define REGISTERS 16
#else
#define REGISTERS 8
#endif

TV_PAL_CODE uintptr_t pal_vectors(uint8_t *area, uintptr_t has_avx)
{
	uint32_t secret = PAL_SECRET;

	__asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
	if (has_avx)
		__asm__ volatile("vextractf128 $1, %%ymm0, 512(%0)\n\t"
				 "vextractf128 $1, %%ymm1, 528(%0)\n\t"
				 "vextractf128 $1, %%ymm6, 544(%0)\n\t"
				 "vextractf128 $1, %%ymm7, 560(%0)"
				 :
				 : "r"(area)
				 : "memory");
	/* All that is left behind is a secret. */
	__asm__ volatile("fildl %0\n\t"
			 "movd %0, %%xmm0\n\t"
			 "pshufd $0, %%xmm0, %%xmm0\n\t"
			 "movdqa %%xmm0, %%xmm1\n\t"
			 "movdqa %%xmm0, %%xmm7"
			 :
			 : "m"(secret));
	if (has_avx)
		__asm__ volatile("vinsertf128 $1, %xmm0, %ymm0, %ymm7");
	for (uintptr_t i = X87_AREA; i < X87_END; i++)
		if (area[i])
			return i;
	for (uintptr_t i = XMM_AREA; i < XMM_AREA + 16 * REGISTERS; i++)
		if (area[i])
			return i;
	for (uintptr_t i = UPPER_AREA; has_avx && i < UPPER_AREA + 4 * 16; i++)
		if (area[i])
			return i;
	return PAL_WELL;
}

#ifdef __x86_64__
__asm__(".pushsection tv_pal, \"ax\", @progbits\n"
	".globl pal_registers\n"
	"pal_registers:\n\t"
	"mov $0x5ec2e75e, %ecx\n\t"
	"mov %rcx, %rdx\n\tmov %rcx, %rsi\n\tmov %rcx, %rdi\n\tmov %rcx, %r8\n\tmov %rcx, %r9\n\t"
	"mov %rcx, %r10\n\tmov %rcx, %r11\n\t"
	"mov %rcx, %rbx\n\tmov %rcx, %rbp\n\tmov %rcx, %r12\n\tmov %rcx, %r13\n\t"
	"mov %rcx, %r14\n\tmov %rcx, %r15\n\t"
	"ret\n"
	".popsection");
#else
__asm__(".pushsection tv_pal, \"ax\", @progbits\n"
	".globl pal_registers\n"
	"pal_registers:\n\t"
	"mov $0x5ec2e75e, %ecx\n\t"
	"mov %ecx, %edx\n\t"
	"mov %ecx, %ebx\n\tmov %ecx, %ebp\n\tmov %ecx, %esi\n\tmov %ecx, %edi\n\t"
	"ret\n"
	".popsection");
#endif
