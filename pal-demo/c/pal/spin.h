/*
 * PAL code of `spin`.
 */
#ifndef PAL_SPIN_H
#define PAL_SPIN_H

/* Does not return. */
void pal_spin(void);

#endif
