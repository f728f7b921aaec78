/* See spin.h. */
#include "pal/spin.h"
#include "trustvisor.h"

TV_PAL_CODE void pal_spin(void)
{
	for (;;)
		__asm__ volatile("pause");
}
