/* Replacements for C library functions that canonical.c is compiled with (-Drealloc=test_realloc and so on): an
 * allocator that counts its calls and can be told to fail, and a memchr for texts of sizes that no memory has. */
#ifndef HWSIGNER_TESTS_MEMORY_H
#define HWSIGNER_TESTS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "../canonical.h"

extern size_t memory_calls; /* calls of test_realloc since this was set to 0 */
extern size_t memory_fails; /* the number of the call that fails; 0: none */
extern size_t memory_live;  /* blocks not yet freed */

void *test_realloc(void *block, size_t size);
void test_free(void *block);

/* A text too large for the allocator has only this many bytes that may be read. */
enum { IMMENSE_IS_THERE = 8 };

void *test_memchr(const void *data, int byte, size_t size);

/* Copy a text into memory of exactly its size: a sanitizer then sees any access beyond it. */
unsigned char *exact(const void *data, size_t size);

bool same(struct text a, struct text b);

#endif
