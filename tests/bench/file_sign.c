/* Sign a message with a key in a file in a loop, as a program in C would: file_sign KEY MESSAGE COUNT.
   Prints the median nanoseconds of EVP_DigestSignInit_ex and EVP_DigestSign together. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

typedef unsigned long ulong;

static int compare(const void *a, const void *b) {
    ulong x = *(const ulong *)a, y = *(const ulong *)b;
    return (x > y) - (x < y);
}

static ulong now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (ulong)time.tv_sec * 1000000000UL + (ulong)time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    FILE *file = fopen(arguments[1], "r");
    EVP_PKEY *key = file ? PEM_read_PrivateKey(file, NULL, NULL, NULL) : NULL;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!key || !context) return 3;

    const unsigned char *message = (const unsigned char *)arguments[2];
    unsigned char signature[512];
    ulong turns = strtoul(arguments[3], NULL, 10), *times = calloc(turns, sizeof *times);
    for (ulong i = 0; i < turns; i++) {
        size_t size = sizeof signature;
        ulong began = now();
        if (EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, key, NULL) != 1) return 4;
        if (EVP_DigestSign(context, signature, &size, message, strlen(arguments[2])) != 1) return 4;
        times[i] = now() - began;
    }
    qsort(times, turns, sizeof *times, compare);
    printf("%lu\n", times[turns / 2]);
    return 0;
}
