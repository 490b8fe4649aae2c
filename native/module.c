/* hwsigner._native: the canonical forms as Python functions, with the signatures of hwsigner/sigv4/reference.py.
 * libcrypto does the hashing; its algorithm is fetched once, and its context is reused. */
#include <Python.h>

#include "canonical.h"
#include "libcrypto.h"

/* Payloads of LARGE bytes and more are hashed without the interpreter's lock. */
enum { LARGE = 65536, BLOCK_SIZE = 64, DIGEST_SIZE = 32, HEX_SIZE = 2 * DIGEST_SIZE };

struct state {
    struct libcrypto libcrypto;
    struct evp_md_st *sha256;
    struct evp_md_ctx_st *context;
};

/* An iterable of pairs. `owner`, a tuple of tuples, keeps alive what the pairs point to. */
struct pairs {
    PyObject *owner;
    struct pair *items;
    size_t count;
    struct pair few[16];
};

static int refuse(const char *problem) {
    PyErr_SetString(PyExc_ValueError, problem);
    return -1;
}

/* Read a str or bytes. Here and below, the exact type is checked first: that takes no call. */
static int read_text(PyObject *object, struct text *text) {
    Py_ssize_t size;
    const char *data;
    if (PyUnicode_CheckExact(object) || PyUnicode_Check(object)) {
        data = PyUnicode_AsUTF8AndSize(object, &size);
        if (data == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        if (data == NULL || size != PyUnicode_GetLength(object)) {
            PyErr_Clear();
            return refuse("a str with non-ASCII characters");
        }
    } else if (PyBytes_Check(object)) {
        data = PyBytes_AsString(object);
        size = PyBytes_Size(object);
    } else {
        PyObject *name = PyType_GetName(Py_TYPE(object));
        if (name != NULL) {
            PyErr_Format(PyExc_TypeError, "bytes or str expected, not %U", name);
            Py_DECREF(name);
        }
        return -1;
    }
    *text = (struct text){(const unsigned char *)data, (size_t)size};
    return 0;
}

static int read_tuple(PyObject *object, struct text *texts, Py_ssize_t size) {
    if (!(PyTuple_CheckExact(object) || PyTuple_Check(object)) || PyTuple_Size(object) != size) {
        PyErr_Format(PyExc_TypeError, "a tuple of %zd expected", size);
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (read_text(PyTuple_GetItem(object, i), &texts[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static void close_pairs(struct pairs *pairs) {
    if (pairs->items != pairs->few) {
        PyMem_Free(pairs->items);
    }
    Py_XDECREF(pairs->owner);
}

static int read_pairs(PyObject *object, struct pairs *pairs) {
    pairs->owner = PySequence_Tuple(object);
    if (pairs->owner == NULL) {
        return -1;
    }
    Py_ssize_t count = PyTuple_Size(pairs->owner);
    if ((size_t)count > sizeof pairs->few / sizeof *pairs->few) {
        pairs->items = PyMem_Calloc((size_t)count, sizeof *pairs->items);
        if (pairs->items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct text texts[2];
        if (read_tuple(PyTuple_GetItem(pairs->owner, i), texts, 2) < 0) {
            return -1;
        }
        pairs->items[i] = (struct pair){texts[0], texts[1]};
    }
    pairs->count = (size_t)count;
    return 0;
}

static PyObject *to_bytes(struct text text) {
    return PyBytes_FromStringAndSize((const char *)text.data, (Py_ssize_t)text.size);
}

/* Py_BuildValue can't be used: Python 3.11 refuses its lengths if the module was compiled with 3.13. */
static PyObject *to_pair(PyObject *one, PyObject *other) {
    PyObject *pair = one != NULL && other != NULL ? PyTuple_Pack(2, one, other) : NULL;
    Py_XDECREF(one);
    Py_XDECREF(other);
    return pair;
}

/* Raise an exception if the input was refused or memory ran out. */
static int check(const struct buffer *buffer, const char *problem) {
    if (problem != NULL) {
        return refuse(problem);
    }
    if (buffer->failed) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Write the SHA-256 of two concatenated texts. */
static bool hash_in(const struct state *state, struct evp_md_ctx_st *context, const struct text texts[2],
                    unsigned char digest[DIGEST_SIZE]) {
    const struct libcrypto *libcrypto = &state->libcrypto;
    return libcrypto->EVP_DigestInit_ex2(context, state->sha256, NULL) == 1 &&
           libcrypto->EVP_DigestUpdate(context, texts[0].data, texts[0].size) == 1 &&
           (texts[1].size == 0 || libcrypto->EVP_DigestUpdate(context, texts[1].data, texts[1].size) == 1) &&
           libcrypto->EVP_DigestFinal_ex(context, digest, NULL) == 1;
}

static int write_hex(bool done, const unsigned char digest[DIGEST_SIZE], unsigned char hex[HEX_SIZE]) {
    static const unsigned char digits[] = "0123456789abcdef";
    if (!done) {
        PyErr_SetString(PyExc_RuntimeError, "libcrypto's SHA-256 failed");
        return -1;
    }
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    return 0;
}

/* Write the SHA-256 of a text in lower-case hex. A large one is hashed without the lock, with a context of its own. */
static int hash(PyObject *module, struct text text, unsigned char hex[HEX_SIZE]) {
    const struct state *state = PyModule_GetState(module);
    const struct text texts[2] = {text, {NULL, 0}};
    unsigned char digest[DIGEST_SIZE];
    bool done;
    if (text.size < LARGE) {
        done = hash_in(state, state->context, texts, digest);
    } else {
        Py_BEGIN_ALLOW_THREADS
        struct evp_md_ctx_st *context = state->libcrypto.EVP_MD_CTX_new();
        done = context != NULL && hash_in(state, context, texts, digest);
        state->libcrypto.EVP_MD_CTX_free(context);
        Py_END_ALLOW_THREADS
    }
    return write_hex(done, digest, hex);
}

/* Write the HMAC-SHA256 of a text in lower-case hex (RFC 2104, 2). */
static int authenticate(PyObject *module, struct text key, struct text text, unsigned char hex[HEX_SIZE]) {
    const struct state *state = PyModule_GetState(module);
    unsigned char inner[BLOCK_SIZE], outer[BLOCK_SIZE], digest[DIGEST_SIZE];
    for (size_t i = 0; i < BLOCK_SIZE; i++) {
        unsigned char byte = i < key.size ? key.data[i] : 0;
        inner[i] = byte ^ 0x36;
        outer[i] = byte ^ 0x5C;
    }
    bool done = hash_in(state, state->context, (struct text[2]){{inner, BLOCK_SIZE}, text}, digest) &&
                hash_in(state, state->context, (struct text[2]){{outer, BLOCK_SIZE}, {digest, DIGEST_SIZE}}, digest);
    state->libcrypto.OPENSSL_cleanse(inner, sizeof inner);
    state->libcrypto.OPENSSL_cleanse(outer, sizeof outer);
    return write_hex(done, digest, hex);
}

/* Hash a payload of bytes; a str is the hash itself, or a word such as UNSIGNED-PAYLOAD. */
static int read_payload(PyObject *module, PyObject *payload, struct text *text, unsigned char hex[HEX_SIZE]) {
    if (read_text(payload, text) < 0) {
        return -1;
    }
    if (PyUnicode_Check(payload)) {
        return 0;
    }
    struct text body = *text;
    *text = (struct text){hex, HEX_SIZE};
    return hash(module, body, hex);
}

static int read_key(PyObject *key, struct text *text) {
    if (read_text(key, text) < 0) {
        return -1;
    }
    return text->size == DIGEST_SIZE ? 0 : refuse("a signing key that is not 32 bytes long");
}

/* Return a request's string to sign or, with a key, its signature; and its signed headers. */
static PyObject *sign(PyObject *module, PyObject *const *arguments, int s3, PyObject *key) {
    unsigned char little[4096], less[512], payload[HEX_SIZE], hex[HEX_SIZE];
    struct buffer out = buffer_open(little, sizeof little), to_sign = buffer_open(less, sizeof less);
    struct pairs headers;
    headers.owner = NULL;
    headers.items = headers.few;
    struct request request = {.s3 = s3 != 0};
    struct text context[3], names, secret = {NULL, 0};
    PyObject *result = NULL;
    if (read_text(arguments[0], &request.method) == 0 && read_text(arguments[1], &request.target) == 0 &&
        read_pairs(arguments[2], &headers) == 0 &&
        read_payload(module, arguments[3], &request.payload_hash, payload) == 0 &&
        read_tuple(arguments[4], context, 3) == 0 && (key == NULL || read_key(key, &secret) == 0)) {
        request.headers = headers.items;
        request.header_count = headers.count;
        if (check(&out, canonical_request(&out, &request, &names)) == 0 &&
            hash(module, (struct text){out.data, out.size}, hex) == 0 &&
            check(&to_sign, string_to_sign(&to_sign, context, (struct text){hex, sizeof hex})) == 0) {
            struct text made = {to_sign.data, to_sign.size};
            if (key == NULL || authenticate(module, secret, made, hex) == 0) {
                made = key == NULL ? made : (struct text){hex, sizeof hex};
                result = to_pair(to_bytes(made), to_bytes(names));
            }
        }
    }
    close_pairs(&headers);
    buffer_close(&out);
    buffer_close(&to_sign);
    return result;
}

static PyObject *request_to_sign(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 5 && count != 6) {
        PyErr_Format(PyExc_TypeError, "request_to_sign takes 5 or 6 arguments, not %zd", count);
        return NULL;
    }
    int s3 = count == 6 ? PyObject_IsTrue(arguments[5]) : 0;
    return s3 < 0 ? NULL : sign(module, arguments, s3, NULL);
}

static PyObject *sign_hmac(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 7) {
        PyErr_Format(PyExc_TypeError, "sign_hmac takes 7 arguments, not %zd", count);
        return NULL;
    }
    int s3 = PyObject_IsTrue(arguments[5]);
    return s3 < 0 ? NULL : sign(module, arguments, s3, arguments[6]);
}

/* Python's interface does not allow these tables to be constant. They are never written to. */
static PyMethodDef FUNCTIONS[] = {
    {"request_to_sign", (PyCFunction)(void (*)(void))request_to_sign, METH_FASTCALL,
     "request_to_sign($module, method, target, headers, payload, context, s3=False, /)\n--\n\n"
     "See hwsigner.sigv4.reference.request_to_sign."},
    {"sign_hmac", (PyCFunction)(void (*)(void))sign_hmac, METH_FASTCALL,
     "sign_hmac($module, method, target, headers, payload, context, s3, key, /)\n--\n\n"
     "See hwsigner.sigv4.reference.sign_hmac."},
    {NULL, NULL, 0, NULL},
};

static int add_path(PyObject *module, const char *path) {
    PyObject *text = PyUnicode_DecodeFSDefault(path != NULL ? path : "");
    int added = text != NULL ? PyModule_AddObjectRef(module, "LIBCRYPTO", text) : -1;
    Py_XDECREF(text);
    return added;
}

static int open_module(PyObject *module) {
    struct state *state = PyModule_GetState(module);
    const char *problem = libcrypto_open(&state->libcrypto);
    if (problem == NULL) {
        state->sha256 = state->libcrypto.EVP_MD_fetch(NULL, "SHA256", NULL);
        state->context = state->libcrypto.EVP_MD_CTX_new();
        problem = state->sha256 == NULL || state->context == NULL ? "libcrypto has no SHA-256" : NULL;
    }
    if (problem != NULL) {
        PyErr_SetString(PyExc_ImportError, problem);
        return -1;
    }
    const char *version = state->libcrypto.OpenSSL_version(VERSION_TEXT);
    return PyModule_AddStringConstant(module, "OPENSSL_VERSION", version) < 0
               ? -1
               : add_path(module, libcrypto_path(&state->libcrypto));
}

static void free_module(void *module) {
    const struct state *state = PyModule_GetState(module);
    if (state->context != NULL) {
        state->libcrypto.EVP_MD_CTX_free(state->context);
    }
    if (state->sha256 != NULL) {
        state->libcrypto.EVP_MD_free(state->sha256);
    }
}

/* Python 3.11's headers lack this slot, and 3.11 refuses a module that has it. So there are two definitions. */
enum { MULTIPLE_INTERPRETERS = 3, PYTHON_3_12 = 0x030C0000 };
#define PER_INTERPRETER_GIL ((void *)2)

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, (void *)open_module},
    {MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL},
    {0, NULL},
};
static PyModuleDef_Slot SLOTS_3_11[] = {
    {Py_mod_exec, (void *)open_module},
    {0, NULL},
};

#define DEFINITION(slots)                                                                      \
    {                                                                                          \
        PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = sizeof(struct state),           \
        .m_doc = "The C twin of hwsigner.sigv4.reference.", .m_methods = FUNCTIONS, .m_slots = slots, \
        .m_free = free_module                                                                  \
    }
static struct PyModuleDef MODULE = DEFINITION(SLOTS);
static struct PyModuleDef MODULE_3_11 = DEFINITION(SLOTS_3_11);

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(Py_Version >= PYTHON_3_12 ? &MODULE : &MODULE_3_11);
}
