/* The floor of signing: libcrypto's SHA-256, its algorithm fetched once and its context kept, and nothing around it. */
#include <stddef.h>
#include <time.h>

#include <openssl/evp.h>

/* Hash each message by itself, all of them `repeats` times. Return the seconds of one time, or -1. */
double sha256_floor(const unsigned char *const *messages, const size_t *sizes, size_t count, size_t repeats) {
    EVP_MD *sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct timespec begin, end;
    int done = sha256 != NULL && context != NULL;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    for (size_t repeat = 0; repeat < repeats; repeat++) {
        for (size_t i = 0; i < count && done; i++) {
            done = EVP_DigestInit_ex2(context, sha256, NULL) == 1 &&
                   EVP_DigestUpdate(context, messages[i], sizes[i]) == 1 &&
                   EVP_DigestFinal_ex(context, digest, NULL) == 1;
        }
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    EVP_MD_CTX_free(context);
    EVP_MD_free(sha256);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    return done ? seconds / (double)repeats : -1;
}
