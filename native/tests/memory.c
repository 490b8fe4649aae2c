#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No test needs more. For more, a sanitizer's allocator would end the program instead of returning NULL. */
enum { MOST = 1 << 30 };

size_t memory_calls, memory_fails, memory_live;

void *test_realloc(void *block, size_t size) {
    memory_calls++;
    void *moved = memory_calls == memory_fails || size > MOST ? NULL : realloc(block, size);
    if (block == NULL && moved != NULL) {
        memory_live++;
    }
    return moved;
}

void test_free(void *block) {
    if (block != NULL) {
        memory_live--;
    }
    free(block);
}

void *test_memchr(const void *data, int byte, size_t size) {
    return memchr(data, byte, size > MOST ? IMMENSE_IS_THERE : size);
}

unsigned char *exact(const void *data, size_t size) {
    unsigned char *copy = malloc(size);
    if (copy == NULL && size > 0) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

bool same(struct text a, struct text b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}
