#define _GNU_SOURCE
#include "libcrypto.h"

#include <dlfcn.h>
#include <string.h>
#ifdef __APPLE__
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

/* OpenSSL 3 of Homebrew on ARM64 and x86-64, and of MacPorts: macOS has none that programs may load. dyld would look for
 * a name without a folder in the current folder too. */
#ifndef LIBCRYPTO_PATHS
#define LIBCRYPTO_PATHS                                                                                              \
    "/opt/homebrew/opt/openssl@3/lib/libcrypto.3.dylib", "/usr/local/opt/openssl@3/lib/libcrypto.3.dylib",          \
        "/opt/local/lib/libcrypto.3.dylib"
#endif
static const char *const PATHS[] = {LIBCRYPTO_PATHS};

/* Whether only root or this user can write a library: Homebrew's belong to the user who installed it. */
static bool is_trusted(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && (status.st_uid == 0 || status.st_uid == geteuid()) &&
           (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static void *open_library(const char **problem) {
    *problem = "no libcrypto.3.dylib of Homebrew's openssl@3 or MacPorts' openssl3 that is root's or this user's";
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        if (is_trusted(PATHS[i])) {
            void *library = dlopen(PATHS[i], RTLD_NOW | RTLD_LOCAL);
            if (library != NULL) {
                return library;
            }
            *problem = dlerror();
        }
    }
    return NULL;
}
#else
/* OpenSSL 3's name on every Linux. If the process has a library of this name, such as Python's own, dlopen returns it. */
static const char NAME[] = "libcrypto.so.3";

static void *open_library(const char **problem) {
    void *library = dlopen(NAME, RTLD_NOW | RTLD_LOCAL);
    *problem = library == NULL ? dlerror() : NULL;
    return library;
}
#endif

/* POSIX lets an object pointer hold a function's address; C lets it be copied only as bytes. */
#define ASSIGN(result, name, parameters)                                                                             \
    symbol = dlsym(library, #name);                                                                                  \
    if (symbol == NULL) {                                                                                            \
        return dlerror();                                                                                            \
    }                                                                                                                \
    memcpy(&libcrypto->name, &symbol, sizeof symbol);

const char *libcrypto_open(struct libcrypto *libcrypto) {
    const char *problem;
    void *symbol, *library = open_library(&problem);
    if (library == NULL) {
        return problem;
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
