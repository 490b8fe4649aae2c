/* Compare canonical.c with the answers of hwsigner/sigv4/reference.py: `check FILE`, a file written by cases.py. Each
 * case runs with several buffers, and again with each of its allocations failing. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../canonical.h"
#include "memory.h"

enum { S3 = 1, REQUEST_REFUSED = 2, CONTEXT_REFUSED = 4, STACK = 4096 };

struct answer {
    struct text canonical, signed_headers, to_sign;
};

struct testcase {
    unsigned flags;
    struct request request;
    struct pair *headers;
    struct text context[3], digest;
    struct answer answer;
};

static size_t number; /* of the current case, for messages */

static void expect(bool true_there, const char *what) {
    if (!true_there) {
        fprintf(stderr, "case %zu: %s\n", number, what);
        exit(1);
    }
}

static size_t read_size(FILE *file) {
    unsigned char bytes[4];
    expect(fread(bytes, 1, sizeof bytes, file) == sizeof bytes, "the file ends too early");
    return bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
}

/* Read a text into memory of its own. In every other case an empty text is NULL, like the query if there is no `?`. */
static struct text read_text(FILE *file) {
    size_t size = read_size(file);
    unsigned char *data = size > 0 || number % 2 ? malloc(size) : NULL;
    expect(size == 0 || (data != NULL && fread(data, 1, size, file) == size), "the file ends too early");
    return (struct text){data, size};
}

static bool read_case(FILE *file, struct testcase *testcase) {
    int flags = getc(file);
    if (flags == EOF) {
        return false;
    }
    size_t count = read_size(file);
    testcase->flags = (unsigned)flags;
    testcase->headers = malloc(count * sizeof *testcase->headers);
    testcase->request.s3 = flags & S3;
    testcase->request.headers = testcase->headers;
    testcase->request.header_count = count;
    testcase->request.method = read_text(file);
    testcase->request.target = read_text(file);
    testcase->request.payload_hash = read_text(file);
    for (size_t i = 0; i < 3; i++) {
        testcase->context[i] = read_text(file);
    }
    testcase->digest = read_text(file);
    for (size_t i = 0; i < count; i++) {
        testcase->headers[i].name = read_text(file);
        testcase->headers[i].value = read_text(file);
    }
    testcase->answer.canonical = read_text(file);
    testcase->answer.signed_headers = read_text(file);
    testcase->answer.to_sign = read_text(file);
    return true;
}

static void free_text(struct text text) {
    free((void *)(uintptr_t)text.data);
}

static void free_case(struct testcase *testcase) {
    free_text(testcase->request.method);
    free_text(testcase->request.target);
    free_text(testcase->request.payload_hash);
    for (size_t i = 0; i < testcase->request.header_count; i++) {
        free_text(testcase->headers[i].name);
        free_text(testcase->headers[i].value);
    }
    free(testcase->headers);
    for (size_t i = 0; i < 3; i++) {
        free_text(testcase->context[i]);
    }
    free_text(testcase->digest);
    free_text(testcase->answer.canonical);
    free_text(testcase->answer.signed_headers);
    free_text(testcase->answer.to_sign);
}

/* Check that a buffer stays as it is after a failed allocation. */
static void check_failed(struct buffer *out) {
    static const struct text context[3];
    size_t size = out->size, calls = memory_calls;
    unsigned char more[STACK] = "";
    expect(string_to_sign(out, context, (struct text){more, sizeof more}) == NULL, "an empty context is refused");
    expect(out->failed && out->size == size && memory_calls == calls, "something is appended after a failure");
}

/* Check the outcome: a refusal, a reported failure, or the right answer. */
static void check_end(struct buffer *out, const char *problem, bool refused, struct text expected) {
    if (memory_fails != 0 && memory_calls >= memory_fails) {
        expect(refused || problem == NULL, "refused, when only memory was short");
        expect(problem != NULL || out->failed, "a failed allocation does not show");
        if (out->failed) {
            check_failed(out);
        }
        return;
    }
    expect(!out->failed, "failed, but no allocation did");
    expect((problem != NULL) == refused, refused ? "not refused" : "refused");
    expect(refused || same((struct text){out->data, out->size}, expected), "another text");
}

static void run_request(const struct testcase *testcase, size_t capacity) {
    bool refused = testcase->flags & REQUEST_REFUSED;
    unsigned char *initial = malloc(capacity);
    struct buffer out = buffer_open(initial, capacity);
    struct text names = {NULL, 0};
    memory_calls = 0;
    const char *problem = canonical_request(&out, &testcase->request, &names);
    check_end(&out, problem, refused, testcase->answer.canonical);
    if (problem == NULL && !out.failed) {
        expect(same(names, testcase->answer.signed_headers), "other signed headers");
    }
    buffer_close(&out);
    expect(memory_live == 0, "memory that is not freed");
    free(initial);
}

static void run_context(const struct testcase *testcase, size_t capacity) {
    unsigned char *initial = malloc(capacity);
    struct buffer out = buffer_open(initial, capacity);
    memory_calls = 0;
    const char *problem = string_to_sign(&out, testcase->context, testcase->digest);
    check_end(&out, problem, testcase->flags & CONTEXT_REFUSED, testcase->answer.to_sign);
    buffer_close(&out);
    expect(memory_live == 0, "memory that is not freed");
    free(initial);
}

/* Run a case with a buffer of one byte, of one byte too few, of the answer's size, and of more than enough. */
static void run(void (*stage)(const struct testcase *, size_t), const struct testcase *testcase, size_t size) {
    const size_t capacities[] = {1, size > 1 ? size - 1 : 1, size > 0 ? size : 1, STACK};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
        memory_fails = 0;
        stage(testcase, capacities[i]);
        for (size_t calls = memory_calls; memory_fails < calls;) {
            memory_fails++;
            stage(testcase, capacities[i]);
        }
    }
    memory_fails = 0;
}

/* Check sizes that no memory has: their sum or product must not overflow, and nothing may be read. */
static void check_sizes(void) {
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2 + 1, SIZE_MAX / 2, SIZE_MAX / 4 + 1, SIZE_MAX / 4};
    unsigned char text[IMMENSE_IS_THERE] = "/";
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t rest = 0; rest < 4; rest++) {
            struct pair headers[] = {{{text, sizes[i]}, {text, 1}}, {{text, SIZE_MAX - sizes[i] + rest}, {text, 1}}};
            unsigned char get[] = "G", initial[64];
            struct request request = {{get, 1}, {text, 1}, headers, 2, {text, 1}, false};
            struct buffer out = buffer_open(initial, sizeof initial);
            struct text names;
            const char *problem = canonical_request(&out, &request, &names);
            expect(problem == NULL && out.failed, "header names of immense size");
            buffer_close(&out);
        }
        const struct text context[3] = {{text, 1}, {text, 1}, {text, 1}};
        unsigned char initial[64];
        struct buffer out = buffer_open(initial, sizeof initial);
        memory_calls = 0;
        expect(string_to_sign(&out, context, (struct text){text, sizes[i]}) == NULL && out.failed, "an immense digest");
        expect(memory_calls == (sizes[i] <= SIZE_MAX / 4), "memory was asked for, or was not");
        buffer_close(&out);
    }
    /* Three times these overflow to 2, 5 and 8. */
    for (size_t i = 1; i < 4; i++) {
        unsigned char target[IMMENSE_IS_THERE] = "/?%", get[] = "G", initial[64];
        struct request request = {{get, 1}, {target, SIZE_MAX / 3 + 2 + i}, NULL, 0, {get, 1}, false};
        struct buffer out = buffer_open(initial, sizeof initial);
        struct text names;
        expect(canonical_request(&out, &request, &names) == NULL && out.failed, "a query of immense size");
        buffer_close(&out);
    }
}

static void check_long_target(const unsigned char *target, size_t size) {
    unsigned char get[] = "G", initial[64];
    struct request request = {{get, 1}, {target, size}, NULL, 0, {get, 1}, false};
    struct buffer out = buffer_open(initial, sizeof initial);
    struct text names;
    memory_calls = 0;
    expect(canonical_request(&out, &request, &names) == NULL && !out.failed, "a long target");
    expect(memory_calls < 40, "too many allocations");
    buffer_close(&out);
}

/* Check that the number of allocations grows with the logarithm of the size; otherwise copying would be quadratic. So
 * would insertion sort, which would take minutes here: the parameters are in reverse order. */
static void check_growth(void) {
    enum { COUNT = 100000, EACH = 6 };
    unsigned char *target = malloc(COUNT * EACH + 2);
    expect(target != NULL, "out of memory");
    memset(target, '/', COUNT);
    check_long_target(target, COUNT);
    target[1] = '?';
    for (size_t i = 0; i < COUNT; i++) {
        unsigned char *place = target + 2 + i * EACH;
        size_t rest = COUNT - 1 - i;
        for (size_t j = EACH - 1; j-- > 0; rest /= 10) {
            place[j] = (unsigned char)('0' + rest % 10);
        }
        place[EACH - 1] = '&';
    }
    check_long_target(target, COUNT * EACH + 2);
    free(target);
}

int main(int count, char **arguments) {
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    expect(file != NULL, "usage: check FILE");
    struct testcase testcase;
    for (; read_case(file, &testcase); number++) {
        run(run_request, &testcase, testcase.answer.canonical.size);
        run(run_context, &testcase, testcase.answer.to_sign.size);
        free_case(&testcase);
    }
    fclose(file);
    check_sizes();
    check_growth();
    printf("%zu cases\n", number);
    return number > 1000 ? 0 : 1;
}
