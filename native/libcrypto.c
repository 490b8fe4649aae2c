#define _GNU_SOURCE
#include "libcrypto.h"

#include <dlfcn.h>
#include <string.h>

/* OpenSSL 3's name on every Linux. If the process has a library of this name, such as Python's own, dlopen returns it. */
static const char NAME[] = "libcrypto.so.3";

/* POSIX lets an object pointer hold a function's address; C lets it be copied only as bytes. */
#define ASSIGN(result, name, parameters)                                                                             \
    symbol = dlsym(library, #name);                                                                                  \
    if (symbol == NULL) {                                                                                            \
        return dlerror();                                                                                            \
    }                                                                                                                \
    memcpy(&libcrypto->name, &symbol, sizeof symbol);

const char *libcrypto_open(struct libcrypto *libcrypto) {
    void *symbol, *library = dlopen(NAME, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return dlerror();
    }
    LIBCRYPTO_FUNCTIONS(ASSIGN)
    return NULL;
}

const char *libcrypto_path(const struct libcrypto *libcrypto) {
    Dl_info info;
    void *address;
    memcpy(&address, &libcrypto->OpenSSL_version, sizeof address);
    return dladdr(address, &info) != 0 ? info.dli_fname : NULL;
}
