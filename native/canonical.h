/* The canonical forms of AWS Signature Version 4, in plain C11. hwsigner/sigv4/reference.py defines them; the bytes are
 * the same.
 *
 * Only constants are static, and no state is kept between calls. A function that can refuse its input returns NULL on
 * success, or a static message that says what is wrong. If memory runs out, the buffer that was written to has `failed`
 * set; nothing else shows it. Check it once, at the end. */
#ifndef HWSIGNER_CANONICAL_H
#define HWSIGNER_CANONICAL_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes owned by the caller. */
struct text {
    const unsigned char *data;
    size_t size;
};

/* A header or a query parameter. */
struct pair {
    struct text name;
    struct text value;
};

/* A growing buffer. It starts in the caller's memory, usually on the stack, and moves to the heap when that is full.
 * After a failed allocation, every append does nothing. */
struct buffer {
    unsigned char *data;
    size_t size;
    size_t capacity;
    void *initial;
    bool failed;
};

/* A request as it is sent, with the headers to sign. With `s3`, the path is neither normalised nor encoded again. */
struct request {
    struct text method;
    struct text target;
    const struct pair *headers;
    size_t header_count;
    struct text payload_hash;
    bool s3;
};

struct buffer buffer_open(void *initial, size_t capacity);
void buffer_close(struct buffer *buffer);

/* Append the canonical request. `signed_headers` points into the buffer, and is valid until the buffer changes. */
const char *canonical_request(struct buffer *out, const struct request *request, struct text *signed_headers);
/* Append the string to sign: algorithm, timestamp, scope and the canonical request's digest in hex. */
const char *string_to_sign(struct buffer *out, const struct text context[3], struct text digest);

#endif
