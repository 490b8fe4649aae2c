/* A libFuzzer target. Any bytes make a request, and the result of canonical.c must have the properties of a canonical
 * request. They are written here a second time, from the specification and independently of canonical.c.
 *
 * The first byte chooses S3's rule and the size of the buffer, the second the allocation that fails, if any. Then come
 * texts with SEPARATOR between them: method, target, payload hash, the three of the context, each header's name and
 * value. */
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../canonical.h"
#include "memory.h"

enum { SEPARATOR = 0xFF, MOST_TEXTS = 256, FIXED = 6, MOST_FAILING = 32 };

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void require(bool true_there, const char *what) {
    if (!true_there) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static size_t count_byte(struct text text, unsigned char byte) {
    size_t count = 0;
    for (size_t i = 0; i < text.size; i++) {
        count += text.data[i] == byte;
    }
    return count;
}

static bool is_unreserved(unsigned char byte) {
    return isalnum(byte) || byte == '-' || byte == '.' || byte == '_' || byte == '~';
}

static bool is_token(struct text text) {
    for (size_t i = 0; i < text.size; i++) {
        if (!is_unreserved(text.data[i]) && (text.data[i] == 0 || strchr("!#$%&'*+^`|", text.data[i]) == NULL)) {
            return false;
        }
    }
    return text.size > 0;
}

static bool is_line(struct text text) {
    return count_byte(text, '\r') + count_byte(text, '\n') + count_byte(text, 0) == 0;
}

static bool has_triplets_only(struct text text) {
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '%' && (text.size - i < 3 || !isxdigit(text.data[i + 1]) || !isxdigit(text.data[i + 2]))) {
            return false;
        }
    }
    return true;
}

/* Split `rest` at the first `end`: return the part before it, and leave the part after it. Without it, return all. */
static struct text take(struct text *rest, unsigned char end) {
    struct text taken = {rest->data, 0};
    while (taken.size < rest->size && rest->data[taken.size] != end) {
        taken.size++;
    }
    size_t passed = taken.size + (taken.size < rest->size);
    *rest = (struct text){rest->data + passed, rest->size - passed};
    return taken;
}

static struct text path_of(struct text target) {
    return take(&target, '?');
}

static struct text query_of(struct text target) {
    take(&target, '?');
    return target;
}

static bool is_valid(const struct request *request) {
    struct text path = path_of(request->target);
    bool valid = is_token(request->method) && is_line(request->payload_hash) && count_byte(request->target, '#') == 0 &&
                 (path.size == 0 || path.data[0] == '/') && has_triplets_only(query_of(request->target)) &&
                 (!request->s3 || is_line(path));
    for (size_t i = 0; i < request->header_count; i++) {
        valid = valid && is_token(request->headers[i].name) && is_line(request->headers[i].value);
    }
    return valid;
}

/* Return the size of the first unit of an encoded text: an unreserved character, or a triplet for another byte. */
static size_t encoded_size(struct text text) {
    if (is_unreserved(text.data[0])) {
        return 1;
    }
    require(text.size >= 3 && text.data[0] == '%', "what is not unreserved is encoded");
    char digits[] = {(char)text.data[1], (char)text.data[2], 0};
    require(strspn(digits, "0123456789ABCDEF") == 2, "hex digits are in upper case");
    require(!is_unreserved((unsigned char)strtoul(digits, NULL, 16)), "what is unreserved is not encoded");
    return 3;
}

static void check_encoded(struct text text) {
    for (size_t i = 0; i < text.size;) {
        i += encoded_size((struct text){text.data + i, text.size - i});
    }
}

static void check_path(struct text canonical) {
    require(canonical.size > 0 && canonical.data[0] == '/', "a path begins with a slash");
    take(&canonical, '/');
    while (canonical.size > 0) {
        struct text segment = take(&canonical, '/');
        check_encoded(segment);
        require(segment.size > 0, "no segment is empty");
        require(segment.size > 2 || memcmp(segment.data, "..", segment.size) != 0, "no segment is made of dots");
    }
}

static int compare(struct text a, struct text b) {
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static void check_query(struct text canonical, struct text query) {
    require((canonical.size == 0) == (query.size == 0), "no parameters in, none out");
    require(count_byte(canonical, '&') == count_byte(query, '&'), "as many parameters as there were");
    struct text last_name = {canonical.data, 0}, last_value = last_name;
    while (canonical.size > 0) {
        struct text value = take(&canonical, '&');
        require(count_byte(value, '=') == 1, "one = in each parameter");
        struct text name = take(&value, '=');
        check_encoded(name);
        check_encoded(value);
        int order = compare(last_name, name);
        require(order < 0 || (order == 0 && compare(last_value, value) <= 0), "parameters are sorted by name and value");
        last_name = name;
        last_value = value;
    }
}

/* Check the canonical headers at the start of a text, and skip them and the empty line after them. */
static void check_headers(struct text *rest, const struct request *request, struct text names) {
    size_t lines = 0, commas = 0, commas_before = 0;
    struct text last = {rest->data, 0};
    for (struct text line = take(rest, '\n'); line.size > 0; line = take(rest, '\n')) {
        require(count_byte(line, ':') > 0, "a colon after each name");
        struct text name = take(&line, ':');
        require(is_token(name) && compare(last, name) < 0, "names are tokens, sorted, each there once");
        for (size_t i = 0; i < name.size; i++) {
            require(name.data[i] < 'A' || name.data[i] > 'Z', "names are in lower case");
        }
        require(same(take(&names, ';'), name), "the signed headers are those of the canonical headers");
        for (size_t i = 0; i < line.size; i++) {
            unsigned char byte = line.data[i];
            require(byte != '\t' && byte != '\v' && byte != '\f', "white space is a space");
            require(byte != ' ' || (i > 0 && i + 1 < line.size && line.data[i + 1] != ' '), "spaces are single, within");
        }
        commas += count_byte(line, ',');
        last = name;
        lines++;
    }
    for (size_t i = 0; i < request->header_count; i++) {
        commas_before += count_byte(request->headers[i].value, ',');
    }
    require(names.size == 0, "no signed header is without a canonical one");
    require(lines <= request->header_count && (lines > 0) == (request->header_count > 0), "all headers are there");
    require(commas == commas_before + request->header_count - lines, "a comma between the values of one name");
}

static void take_exactly(struct text *rest, struct text expected) {
    require(rest->size >= expected.size && same((struct text){rest->data, expected.size}, expected), "a part is as it was");
    *rest = (struct text){rest->data + expected.size, rest->size - expected.size};
}

/* Check a canonical request, and return its query. */
static struct text check_request(const struct request *request, struct text canonical, struct text names) {
    const unsigned char slash[] = "/";
    struct text rest = canonical, path = path_of(request->target);
    require(same(take(&rest, '\n'), request->method), "the method comes first");
    if (request->s3) {
        take_exactly(&rest, path.size > 0 ? path : (struct text){slash, 1});
        require(take(&rest, '\n').size == 0, "a line feed after the path");
    } else {
        check_path(take(&rest, '\n'));
    }
    struct text query = take(&rest, '\n');
    check_query(query, query_of(request->target));
    check_headers(&rest, request, names);
    require(same(take(&rest, '\n'), names), "the signed headers are a part of the canonical request");
    require(same(rest, request->payload_hash), "the payload's hash comes last");
    return query;
}

/* Return a request with the same canonical form: with the canonical query, and header names in upper case. */
static struct request another_form(const struct request *request, struct text query, struct pair *headers) {
    struct request other = *request;
    struct text path = path_of(request->target);
    unsigned char *target = malloc(path.size + 1 + query.size);
    require(target != NULL, "memory");
    memcpy(target, path.data, path.size);
    target[path.size] = '?';
    memcpy(target + path.size + 1, query.data, query.size);
    other.target = (struct text){target, path.size + 1 + query.size};
    for (size_t i = 0; i < request->header_count; i++) {
        struct text name = request->headers[i].name;
        unsigned char *upper = exact(name.data, name.size);
        for (size_t j = 0; j < name.size; j++) {
            upper[j] = upper[j] >= 'a' && upper[j] <= 'z' ? upper[j] - 0x20 : upper[j];
        }
        headers[i] = (struct pair){{upper, name.size}, request->headers[i].value};
    }
    other.headers = headers;
    return other;
}

static void check_another_form(const struct request *request, struct text canonical, struct text query) {
    struct pair headers[MOST_TEXTS / 2];
    struct request other = another_form(request, query, headers);
    unsigned char initial[64];
    struct buffer out = buffer_open(initial, sizeof initial);
    struct text names;
    require(canonical_request(&out, &other, &names) == NULL && !out.failed, "the canonical query is accepted");
    require(same((struct text){out.data, out.size}, canonical), "the canonical query, upper case: the same request");
    buffer_close(&out);
    free((void *)(uintptr_t)other.target.data);
    for (size_t i = 0; i < other.header_count; i++) {
        free((void *)(uintptr_t)headers[i].name.data);
    }
}

static void try_request(const struct request *request, size_t capacity, size_t fails) {
    unsigned char *initial = malloc(capacity);
    struct buffer out = buffer_open(initial, capacity);
    struct text names;
    bool valid = is_valid(request);
    memory_calls = 0;
    memory_fails = fails;
    const char *problem = canonical_request(&out, request, &names);
    memory_fails = 0;
    if (fails != 0 && memory_calls >= fails) {
        require(problem != NULL || out.failed, "a failed allocation shows");
        require(problem == NULL || !valid, "it does not pass for a refusal");
    } else {
        require(!out.failed, "no failure without a failed allocation");
        require((problem == NULL) == valid, "what is refused, and nothing else, cannot be on the wire");
    }
    if (problem == NULL && !out.failed) {
        struct text canonical = {out.data, out.size};
        check_another_form(request, canonical, check_request(request, canonical, names));
    }
    buffer_close(&out);
    free(initial);
    require(memory_live == 0, "all memory is freed");
}

static void try_context(const struct text context[3], size_t capacity) {
    unsigned char *initial = malloc(capacity);
    struct buffer out = buffer_open(initial, capacity);
    const struct text digest = {(const unsigned char *)"e3b0c442", 8};
    const char *problem = string_to_sign(&out, context, digest);
    bool valid = is_line(context[0]) && is_line(context[1]) && is_line(context[2]);
    require((problem == NULL) == valid, "a context of lines is accepted, and no other");
    if (problem == NULL) {
        struct text rest = {out.data, out.size};
        for (size_t i = 0; i < 3; i++) {
            require(same(take(&rest, '\n'), context[i]), "the context comes first");
        }
        require(same(rest, digest), "the digest comes last");
    }
    buffer_close(&out);
    free(initial);
    require(memory_live == 0, "all memory is freed");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const size_t capacities[] = {1, 2, 16, 64, 256, 1024, 4096, 8192};
    struct text texts[MOST_TEXTS];
    struct pair headers[MOST_TEXTS / 2];
    size_t count = 0;
    if (size < 2) {
        return 0;
    }
    for (struct text rest = {data + 2, size - 2}; count < MOST_TEXTS && (rest.size > 0 || count < FIXED); count++) {
        struct text text = take(&rest, SEPARATOR);
        texts[count] = (struct text){exact(text.data, text.size), text.size};
    }
    size_t header_count = (count - FIXED) / 2, capacity = capacities[data[0] >> 1 & 7];
    for (size_t i = 0; i < header_count; i++) {
        headers[i] = (struct pair){texts[FIXED + 2 * i], texts[FIXED + 2 * i + 1]};
    }
    struct request request = {texts[0], texts[1], headers, header_count, texts[2], data[0] & 1};
    try_request(&request, capacity, data[1] % MOST_FAILING);
    try_context(&texts[3], capacity);
    for (size_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)texts[i].data);
    }
    return 0;
}
