/* Compiles only if libcrypto.h declares each function as OpenSSL's own headers do. */
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "../libcrypto.h"

#define COMPARE(result, name, parameters)                                                                            \
    _Static_assert(__builtin_types_compatible_p(__typeof__(((struct libcrypto *)0)->name), __typeof__(&name)), #name);
LIBCRYPTO_FUNCTIONS(COMPARE)
_Static_assert(VERSION_TEXT == OPENSSL_VERSION, "OPENSSL_VERSION");
