/* libcrypto, opened when the extension is imported: docs/how-it-works/decisions/0010-libcrypto-is-opened-at-run-time.md.
 *
 * Nothing here comes from OpenSSL's headers, so that building needs none. The declarations are those of OpenSSL 3.0;
 * native/tests/prototypes.c compares them with the headers. */
#ifndef HWSIGNER_LIBCRYPTO_H
#define HWSIGNER_LIBCRYPTO_H

#include <stddef.h>

struct evp_md_st;
struct evp_md_ctx_st;
struct ossl_lib_ctx_st;
struct ossl_param_st;

/* What OpenSSL_version is asked for: OPENSSL_VERSION. */
enum { VERSION_TEXT = 0 };

/* Each function that is used: result, name, parameters. */
#define LIBCRYPTO_FUNCTIONS(FUNCTION)                                                                                \
    FUNCTION(const char *, OpenSSL_version, (int))                                                                   \
    FUNCTION(void, OPENSSL_cleanse, (void *, size_t))                                                                \
    FUNCTION(struct evp_md_st *, EVP_MD_fetch, (struct ossl_lib_ctx_st *, const char *, const char *))                \
    FUNCTION(void, EVP_MD_free, (struct evp_md_st *))                                                                \
    FUNCTION(struct evp_md_ctx_st *, EVP_MD_CTX_new, (void))                                                         \
    FUNCTION(void, EVP_MD_CTX_free, (struct evp_md_ctx_st *))                                                        \
    FUNCTION(int, EVP_DigestInit_ex2,                                                                                \
             (struct evp_md_ctx_st *, const struct evp_md_st *, const struct ossl_param_st *))                        \
    FUNCTION(int, EVP_DigestUpdate, (struct evp_md_ctx_st *, const void *, size_t))                                   \
    FUNCTION(int, EVP_DigestFinal_ex, (struct evp_md_ctx_st *, unsigned char *, unsigned int *))

#define LIBCRYPTO_FIELD(result, name, parameters) result(*name) parameters;
struct libcrypto {
    LIBCRYPTO_FUNCTIONS(LIBCRYPTO_FIELD)
};
#undef LIBCRYPTO_FIELD

/* Fill in the functions. Return NULL, or a message that says what is missing; it is valid until the next call. The
 * library stays open: OpenSSL's can't be unloaded. */
const char *libcrypto_open(struct libcrypto *libcrypto);
/* Return the path of the library's file, or NULL. */
const char *libcrypto_path(const struct libcrypto *libcrypto);

#endif
