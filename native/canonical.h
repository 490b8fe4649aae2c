/* The canonical forms of AWS Signature Version 4, in plain C11: what hwsigner/_reference.py defines, byte for byte.
 *
 * Nothing here is static but constants, and nothing is kept between calls. A function that can refuse its input returns
 * NULL, or what is wrong with it as a text that is never freed. Running out of memory shows in `failed` of the buffer
 * that was written to, and in nothing else: look at it once, at the end. */
#ifndef HWSIGNER_CANONICAL_H
#define HWSIGNER_CANONICAL_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that the caller owns. */
struct text {
    const unsigned char *data;
    size_t size;
};

/* A header or a parameter of a query. */
struct pair {
    struct text name;
    struct text value;
};

/* Bytes that grow. They begin in memory of the caller's, most often on the stack, and move to the heap when they
 * outgrow it. After a failed allocation every append does nothing. */
struct buffer {
    unsigned char *data;
    size_t size;
    size_t capacity;
    void *initial;
    bool failed;
};

/* A request as it goes on the wire, with the headers to sign. By S3's rule a path is not normalised, nor encoded again. */
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

/* Append the canonical request. The signed headers are a part of it, and go with it. */
const char *canonical_request(struct buffer *out, const struct request *request, struct text *signed_headers);
/* Append the string to sign: algorithm, timestamp, scope, and a canonical request's digest in hex. */
const char *string_to_sign(struct buffer *out, const struct text context[3], struct text digest);

#endif
