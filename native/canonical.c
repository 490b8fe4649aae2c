#include "canonical.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { UNRESERVED = 1, TOKEN = 2, DIGIT = 4, FEW = 16 };

static const char NOT_A_TOKEN[] = "a method or header name that is empty or holds a character not allowed there";
static const char NOT_A_LINE[] = "CR, LF or NUL in a value that must stay on one line";
static const char NOT_ENCODED[] = "a percent sign without two hex digits after it";
static const char NO_SLASH[] = "a path that does not begin with /";
static const char FRAGMENT[] = "a target that holds #";

/* Unreserved characters (RFC 3986, 2.3), token characters (RFC 9110, 5.6.2), and hex digits with their value in the
 * upper four bits. */
static const unsigned char CLASSES[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* 0x00 */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* 0x10 */
    0, 2, 0, 2, 2, 2, 2, 2, 0, 0, 2, 2, 0, 3, 3, 0, /*  !"#$%&'()*+,-./ */
    0x07, 0x17, 0x27, 0x37, 0x47, 0x57, 0x67, 0x77, 0x87, 0x97, 0, 0, 0, 0, 0, 0, /* 0123456789:;<=>? */
    0, 0xA7, 0xB7, 0xC7, 0xD7, 0xE7, 0xF7, 3, 3, 3, 3, 3, 3, 3, 3, 3, /* @ABCDEFGHIJKLMNO */
    3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0, 2, 3, /* PQRSTUVWXYZ[\]^_ */
    2, 0xA7, 0xB7, 0xC7, 0xD7, 0xE7, 0xF7, 3, 3, 3, 3, 3, 3, 3, 3, 3, /* `abcdefghijklmno */
    3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 2, 0, 3, 0, /* pqrstuvwxyz{|}~ */
};

/* An entry to sort: a header, its name in lower case, or an encoded parameter. */
struct entry {
    struct text name, value;
    size_t index;
    bool plain;
};

struct buffer buffer_open(void *initial, size_t capacity) {
    return (struct buffer){.data = initial, .capacity = capacity, .initial = initial};
}

void buffer_close(struct buffer *buffer) {
    if (buffer->data != buffer->initial) {
        free(buffer->data);
    }
}

/* Make room for `size` bytes. Return where they start, or NULL if memory runs out. */
static void *reserve(struct buffer *buffer, size_t size) {
    if (buffer->failed) {
        return NULL;
    }
    if (size > buffer->capacity - buffer->size) {
        bool moves = buffer->data == buffer->initial;
        bool immense = size > SIZE_MAX / 4;
        size_t capacity = buffer->capacity + (size > buffer->capacity && !immense ? size : buffer->capacity);
        unsigned char *data = immense ? NULL : realloc(moves ? NULL : buffer->data, capacity);
        if (data == NULL) {
            buffer->failed = true;
            return NULL;
        }
        if (moves) {
            memcpy(data, buffer->initial, buffer->size);
        }
        buffer->data = data;
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->size;
}

static void append(struct buffer *buffer, struct text text) {
    void *place = reserve(buffer, text.size);
    if (place != NULL && text.size > 0) {
        memcpy(place, text.data, text.size);
        buffer->size += text.size;
    }
}

static void append_byte(struct buffer *buffer, char byte) {
    char *place = reserve(buffer, 1);
    if (place != NULL) {
        *place = byte;
        buffer->size++;
    }
}

/* Return what was appended since the buffer had the size `start`. It is valid until the buffer grows. */
static struct text appended_since(const struct buffer *buffer, size_t start) {
    return (struct text){buffer->data + start, buffer->size - start};
}

static size_t saturating_add(size_t a, size_t b) {
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

static size_t saturating_multiply(size_t a, size_t b) {
    return a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

static bool equals(struct text text, const char *other) {
    return text.size == strlen(other) && memcmp(text.data, other, text.size) == 0;
}

static bool contains(struct text text, char byte) {
    return text.size > 0 && memchr(text.data, byte, text.size) != NULL;
}

/* Split `rest` at the first `end`: return the part before it, and leave the part after it. If `end` is missing, return
 * all, and leave NULL. */
static struct text take_until(struct text *rest, char end) {
    const unsigned char *found = rest->size > 0 ? memchr(rest->data, end, rest->size) : NULL;
    struct text taken = *rest;
    if (found == NULL) {
        *rest = (struct text){NULL, 0};
        return taken;
    }
    taken.size = (size_t)(found - taken.data);
    *rest = (struct text){found + 1, rest->size - taken.size - 1};
    return taken;
}

/* Write one byte, percent-encoded unless it is unreserved. Return the place after it. */
static inline unsigned char *put(unsigned char *place, unsigned char byte) {
    static const char digits[] = "0123456789ABCDEF";
    if (CLASSES[byte] & UNRESERVED) {
        *place = byte;
        return place + 1;
    }
    place[0] = '%';
    place[1] = (unsigned char)digits[byte >> 4];
    place[2] = (unsigned char)digits[byte & 15];
    return place + 3;
}

/* Read the byte at `i`, decoded if it is a `%` and two hex digits. Leave `i` at its last character. */
static inline bool read_byte(struct text in, size_t *i, unsigned char *byte) {
    *byte = in.data[*i];
    if (*byte != '%') {
        return true;
    }
    if (in.size - *i < 3) {
        return false;
    }
    unsigned char high = CLASSES[in.data[*i + 1]], low = CLASSES[in.data[*i + 2]];
    *byte = (unsigned char)((high & 0xF0) | low >> 4);
    *i += 2;
    return high & low & DIGIT;
}

static void append_encoded(struct buffer *out, struct text in) {
    unsigned char *place = reserve(out, saturating_multiply(in.size, 3));
    if (place == NULL) {
        return;
    }
    for (size_t i = 0; i < in.size; i++) {
        place = put(place, in.data[i]);
    }
    out->size = (size_t)(place - out->data);
}

static const char *check_line(struct text text) {
    return contains(text, '\n') || contains(text, '\r') || contains(text, '\0') ? NOT_A_LINE : NULL;
}

static const char *canonical_path(struct buffer *out, struct text path, bool s3) {
    if (path.size > 0 && path.data[0] != '/') {
        return NO_SLASH;
    }
    if (s3 && path.size > 0) {
        append(out, path);
        return check_line(path);
    }
    size_t start = out->size;
    bool ends_with_slash = path.size > 0 && path.data[path.size - 1] == '/';
    while (path.data != NULL) {
        struct text segment = take_until(&path, '/');
        if (equals(segment, "..")) {
            while (out->size > start && out->data[--out->size] != '/') {
            }
        } else if (segment.size > 0 && !equals(segment, ".")) {
            append_byte(out, '/');
            append_encoded(out, segment);
        }
    }
    if (out->size == start || ends_with_slash) {
        append_byte(out, '/');
    }
    return NULL;
}

static int compare_texts(struct text a, struct text b) {
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common > 0 ? memcmp(a.data, b.data, common) : 0;
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

/* Compare by name. Equal names: headers by index, in the order given; parameters, which all have index 0, by value. */
static int compare(const void *a, const void *b) {
    const struct entry *one = a, *other = b;
    int order = compare_texts(one->name, other->name);
    if (order == 0) {
        order = (one->index > other->index) - (one->index < other->index);
    }
    return order != 0 ? order : compare_texts(one->value, other->value);
}

/* Insertion sort for short input, which is usually sorted: qsort takes three times as long there. */
static void sort(struct entry *entries, size_t count) {
    if (count > FEW) {
        qsort(entries, count, sizeof *entries, compare);
        return;
    }
    for (size_t i = 1; i < count; i++) {
        struct entry moved = entries[i];
        size_t j = i;
        for (; j > 0 && compare(&entries[j - 1], &moved) > 0; j--) {
            entries[j] = entries[j - 1];
        }
        entries[j] = moved;
    }
}

/* Whether part of a query stays the same when it is decoded and encoded. Most do, so this loop is fast. */
static bool is_canonical(struct text in) {
    unsigned char byte;
    for (size_t i = 0; i < in.size; i++) {
        if (CLASSES[in.data[i]] & UNRESERVED) {
            continue;
        }
        if (in.data[i] != '%' || !read_byte(in, &i, &byte) || CLASSES[byte] & UNRESERVED) {
            return false;
        }
        if (in.data[i - 1] > 'F' || in.data[i] > 'F') {
            return false;
        }
    }
    return true;
}

/* Decode and encode part of a query, if that changes it. The result is in `encoded`, which must have room for it. */
static const char *encode_anew(struct buffer *encoded, struct text *text) {
    if (is_canonical(*text)) {
        return NULL;
    }
    const struct text in = *text;
    unsigned char *begin = encoded->data + encoded->size, *place = begin, byte;
    for (size_t i = 0; i < in.size; i++) {
        if (CLASSES[in.data[i]] & UNRESERVED) {
            *place++ = in.data[i];
            continue;
        }
        if (!read_byte(in, &i, &byte)) {
            return NOT_ENCODED;
        }
        place = put(place, byte);
    }
    *text = (struct text){begin, (size_t)(place - begin)};
    encoded->size += text->size;
    return NULL;
}

/* Read the parameters of a query, decoded and encoded again. */
static const char *read_query(struct buffer *parameters, struct buffer *encoded, struct text query) {
    const char *problem = NULL;
    while (query.data != NULL && problem == NULL) {
        struct entry *parameter = reserve(parameters, sizeof *parameter);
        if (parameter == NULL) {
            break;
        }
        parameters->size += sizeof *parameter;
        parameter->index = 0;
        parameter->value = take_until(&query, '&');
        parameter->name = take_until(&parameter->value, '=');
        problem = encode_anew(encoded, &parameter->name);
        problem = problem != NULL ? problem : encode_anew(encoded, &parameter->value);
    }
    return problem;
}

/* Append the canonical query of a query as it is sent. */
static const char *canonical_query(struct buffer *out, struct text query) {
    struct entry few[FEW];
    unsigned char little[2048];
    struct buffer room = buffer_open(few, sizeof few), encoded = buffer_open(little, sizeof little);
    const char *problem = NULL;
    if (query.size > 0 && reserve(&encoded, saturating_multiply(query.size, 3)) != NULL) {
        problem = read_query(&room, &encoded, query);
    }
    struct entry *parameters = (void *)room.data;
    size_t count = problem == NULL ? room.size / sizeof *parameters : 0;
    sort(parameters, count);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            append_byte(out, '&');
        }
        append(out, parameters[i].name);
        append_byte(out, '=');
        append(out, parameters[i].value);
    }
    out->failed |= room.failed || encoded.failed;
    buffer_close(&room);
    buffer_close(&encoded);
    return problem;
}

/* Whether a text has no white space and no control character. Most have none, so this loop is fast. */
static bool is_plain(struct text text) {
    unsigned char lowest = 0xFF;
    for (size_t i = 0; i < text.size; i++) {
        lowest = text.data[i] < lowest ? text.data[i] : lowest;
    }
    return lowest > ' ';
}

static const char *check_token(struct text text) {
    for (size_t i = 0; i < text.size; i++) {
        if (!(CLASSES[text.data[i]] & TOKEN)) {
            return NOT_A_TOKEN;
        }
    }
    return text.size > 0 ? NULL : NOT_A_TOKEN;
}

/* Append a name in lower case. The caller has made room for it. */
static void append_lower(struct buffer *names, struct text name) {
    for (size_t i = 0; i < name.size; i++) {
        unsigned char byte = name.data[i];
        names->data[names->size++] = byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte;
    }
}

/* Append a value without white space at its ends, and with each other run of white space as one space. */
static void append_folded(struct buffer *out, struct text value) {
    unsigned char *begin = reserve(out, value.size), *place = begin;
    if (begin == NULL) {
        return;
    }
    bool pending = false;
    for (size_t i = 0; i < value.size; i++) {
        unsigned char byte = value.data[i];
        if (byte == ' ' || byte == '\t' || byte == '\v' || byte == '\f') {
            pending = place > begin;
            continue;
        }
        if (pending) {
            *place++ = ' ';
        }
        pending = false;
        *place++ = byte;
    }
    out->size = (size_t)(place - out->data);
}

/* Whether an entry has the same name as the one before it. */
static bool is_repeated(const struct entry *entries, size_t i) {
    return i > 0 && compare_texts(entries[i].name, entries[i - 1].name) == 0;
}

static const char *read_headers(struct buffer *lower, const struct pair *headers, struct entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool plain = is_plain(headers[i].value);
        const char *problem = check_token(headers[i].name);
        if (problem == NULL && !plain) {
            problem = check_line(headers[i].value);
        }
        if (problem != NULL) {
            return problem;
        }
        size_t start = lower->size;
        append_lower(lower, headers[i].name);
        entries[i] = (struct entry){appended_since(lower, start), headers[i].value, i, plain};
    }
    return NULL;
}

static void append_block(struct buffer *out, const struct entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (is_repeated(entries, i)) {
            append_byte(out, ',');
        } else {
            if (i > 0) {
                append_byte(out, '\n');
            }
            append(out, entries[i].name);
            append_byte(out, ':');
        }
        if (entries[i].plain) {
            append(out, entries[i].value);
        } else {
            append_folded(out, entries[i].value);
        }
    }
    if (count > 0) {
        append_byte(out, '\n');
    }
}

static void append_names(struct buffer *out, const struct entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (!is_repeated(entries, i)) {
            if (i > 0) {
                append_byte(out, ';');
            }
            append(out, entries[i].name);
        }
    }
}

/* Append the canonical headers, an empty line and the signed headers, which start at `names_start`. */
static const char *canonical_headers(struct buffer *out, const struct request *request, size_t *names_start) {
    struct entry few[FEW];
    unsigned char little[512];
    struct buffer room = buffer_open(few, sizeof few), lower = buffer_open(little, sizeof little);
    size_t count = request->header_count, total = 0;
    for (size_t i = 0; i < count; i++) {
        total = saturating_add(total, request->headers[i].name.size);
    }
    const char *problem = NULL;
    struct entry *entries = reserve(&room, saturating_multiply(count, sizeof *entries));
    if (entries != NULL && reserve(&lower, total) != NULL) {
        problem = read_headers(&lower, request->headers, entries, count);
    }
    out->failed |= room.failed || lower.failed;
    if (problem == NULL && !out->failed) {
        sort(entries, count);
        append_block(out, entries, count);
        append_byte(out, '\n');
        *names_start = out->size;
        append_names(out, entries, count);
    }
    buffer_close(&room);
    buffer_close(&lower);
    return problem;
}

const char *canonical_request(struct buffer *out, const struct request *request, struct text *signed_headers) {
    size_t names_start = 0;
    struct text query = request->target;
    struct text path = take_until(&query, '?');
    const char *problem = check_token(request->method);
    problem = problem != NULL ? problem : check_line(request->payload_hash);
    if (contains(request->target, '#')) {
        problem = FRAGMENT;
    }
    append(out, request->method);
    append_byte(out, '\n');
    problem = problem != NULL ? problem : canonical_path(out, path, request->s3);
    append_byte(out, '\n');
    problem = problem != NULL ? problem : canonical_query(out, query);
    append_byte(out, '\n');
    problem = problem != NULL ? problem : canonical_headers(out, request, &names_start);
    size_t names_end = out->size;
    append_byte(out, '\n');
    append(out, request->payload_hash);
    *signed_headers = (struct text){out->data + names_start, names_end - names_start};
    return problem;
}

const char *string_to_sign(struct buffer *out, const struct text context[3], struct text digest) {
    for (size_t i = 0; i < 3; i++) {
        if (check_line(context[i]) != NULL) {
            return NOT_A_LINE;
        }
        append(out, context[i]);
        append_byte(out, '\n');
    }
    append(out, digest);
    return NULL;
}
