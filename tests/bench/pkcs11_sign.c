/* Sign 32 bytes with CKM_ECDSA in a loop, as a program in C would: pkcs11_sign MODULE TOKEN PIN LABEL COUNT.
   Prints the median nanoseconds of C_SignInit and C_Sign together. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong;
typedef struct { unsigned char version[2]; void *call[68]; } function_list;
typedef struct { void *mutexes[4]; ulong flags; void *reserved; } initialize_args;
typedef struct { ulong type; void *value; ulong length; } attribute;
typedef struct { char label[32], rest[256]; } token_info;

#define CALL(number, ...) ((ulong(*) __VA_ARGS__)list->call[number])

static int compare(const void *a, const void *b) {
    ulong x = *(const ulong *)a, y = *(const ulong *)b;
    return (x > y) - (x < y);
}

static ulong now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (ulong)time.tv_sec * 1000000000UL + (ulong)time.tv_nsec;
}

static void check(ulong answer, const char *what) {
    if (!answer) return;
    fprintf(stderr, "%s answers %#lx\n", what, answer);
    exit(1);
}

int main(int count, char **arguments) {
    if (count != 6) return 2;
    function_list *list = NULL;
    void *module = dlopen(arguments[1], RTLD_NOW);
    ulong (*get)(function_list **) = module ? (ulong(*)(function_list **))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get) return 2;
    check(get(&list), "C_GetFunctionList");
    initialize_args locking = {.flags = 2};
    check(CALL(0, (void *))(&locking), "C_Initialize");

    ulong slots[64], slot_count = 64, slot = 0;
    check(CALL(4, (unsigned char, ulong *, ulong *))(1, slots, &slot_count), "C_GetSlotList");
    for (ulong i = 0; i < slot_count; i++) {
        token_info info;
        size_t length = strlen(arguments[2]);
        if (!CALL(6, (ulong, token_info *))(slots[i], &info) && !memcmp(info.label, arguments[2], length)) slot = slots[i];
    }
    ulong session, key, found, class = 3;
    check(CALL(12, (ulong, ulong, void *, void *, ulong *))(slot, 4, NULL, NULL, &session), "C_OpenSession");
    check(CALL(18, (ulong, ulong, char *, ulong))(session, 1, arguments[3], strlen(arguments[3])), "C_Login");
    attribute wanted[] = {{0, &class, sizeof class}, {3, arguments[4], strlen(arguments[4])}};
    check(CALL(26, (ulong, attribute *, ulong))(session, wanted, 2), "C_FindObjectsInit");
    check(CALL(27, (ulong, ulong *, ulong, ulong *))(session, &key, 1, &found), "C_FindObjects");
    check(CALL(28, (ulong))(session), "C_FindObjectsFinal");
    if (found != 1) return 3;

    ulong turns = strtoul(arguments[5], NULL, 10), *times = calloc(turns, sizeof *times);
    unsigned char digest[32] = {1}, signature[128];
    struct { ulong mechanism; void *parameter; ulong length; } ecdsa = {0x1041, NULL, 0};
    for (ulong i = 0; i < turns; i++) {
        ulong size = sizeof signature, began = now();
        check(CALL(42, (ulong, void *, ulong))(session, &ecdsa, key), "C_SignInit");
        check(CALL(43, (ulong, void *, ulong, void *, ulong *))(session, digest, 32, signature, &size), "C_Sign");
        times[i] = now() - began;
    }
    qsort(times, turns, sizeof *times, compare);
    printf("%lu\n", times[turns / 2]);
    return 0;
}
