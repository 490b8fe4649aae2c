/* What canonical.c is compiled with here in place of the C library's functions (-Drealloc=test_realloc and so on): an
 * allocator that counts, and fails when it is told to; and a memchr for texts of a size that no memory has. */
#ifndef HWSIGNER_TESTS_MEMORY_H
#define HWSIGNER_TESTS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "../canonical.h"

extern size_t memory_calls; /* of test_realloc, since it was last set */
extern size_t memory_fails; /* the number of the call that fails; 0 for none */
extern size_t memory_live;  /* blocks that are not freed yet */

void *test_realloc(void *block, size_t size);
void test_free(void *block);

/* Of a text larger than all that the allocator gives, so many bytes are there. */
enum { IMMENSE_IS_THERE = 8 };

void *test_memchr(const void *data, int byte, size_t size);

/* Memory of exactly that size, so that a sanitizer sees the first byte read or written beyond it. */
unsigned char *exact(const void *data, size_t size);

bool same(struct text a, struct text b);

#endif
