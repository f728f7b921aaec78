/*
 * What the parts of `attack` share. Each part has a table of attempts; attack.c makes them one
 * after the other.
 */
#ifndef ATTACK_H
#define ATTACK_H

#include <stddef.h>
#include <stdint.h>

#include "trustvisor.h"

#define PAGE_SIZE ((size_t)4096)

/* One attempt: `refused` makes it, and returns 1 where it was refused, 0 where it got through. */
struct attempt {
	const char *what;
	int (*refused)(void);
};

/* Requests that are wrong in one point each. */
extern const struct attempt requests[];
/* The system, and other programs, at a PAL's pages. */
extern const struct attempt outside[];
/* A PAL at what is not its own. */
extern const struct attempt inside[];
/* Both at the other's registers. */
extern const struct attempt registers[];

/* A PAL of pal_attack(), and one of another of the PAL functions; the program ends where it cannot. */
void load(struct tv_pal *pal);
void load_function(struct tv_pal *pal, const struct tv_pal_params *params, void *function);

/* Has the PAL do a deed (enum pal_deed); returns what it returns. */
uintptr_t deed(struct tv_pal *pal, uintptr_t what, uintptr_t address, uintptr_t value);

/* The PAL still does what it is told, and goes when it is unregistered. */
int well(struct tv_pal *pal);

/* The address of a section of the PAL. */
char *section(struct tv_pal *pal, enum tv_pal_section_type type);

/* Whether a page holds one byte only. */
int page_is(const volatile char *page, unsigned char byte);

/* Calls a function: the signal that it got, or 0. A program of one thread at a time only. */
int signal_of(void (*function)(void *), void *argument);

/* signal_of() for one read, one write, one call without arguments. */
int signal_of_read(void *address);
int signal_of_write(void *address);
int signal_of_call(void *address);

/* Whether a child process, which runs `function`, ends with exit status 0. */
int child_succeeds(int (*function)(void *), void *argument);

#endif
