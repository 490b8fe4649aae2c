/* Sign 32 bytes with a P-256 key of a TPM in a loop, as a program in C would: tpm2_sign TCTI MODE AUTH COUNT.
   MODE: `loaded`, the key stays loaded; `shared`, each signature loads its saved context and flushes it.
   If AUTH is not empty, a salted and encrypting HMAC session proves it. It is kept in the mode `loaded`; in the mode
   `shared`, each signature starts and flushes one. Prints the median nanoseconds of one signature. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>

#define NONE ESYS_TR_NONE
#define STORAGE (TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA)

static ESYS_CONTEXT *esys;

static int compare(const void *a, const void *b) {
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
    return (x > y) - (x < y);
}

static unsigned long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (unsigned long)time.tv_sec * 1000000000UL + (unsigned long)time.tv_nsec;
}

static void check(TSS2_RC answer, const char *what) {
    if (!answer) return;
    fprintf(stderr, "%s answers %#x\n", what, answer);
    exit(1);
}

static TPM2B_PUBLIC template(TPMA_OBJECT use, TPM2_ALG_ID cipher) {
    TPM2B_PUBLIC made = {.publicArea = {.type = TPM2_ALG_ECC, .nameAlg = TPM2_ALG_SHA256, .objectAttributes = STORAGE | use}};
    TPMS_ECC_PARMS *ecc = &made.publicArea.parameters.eccDetail;
    ecc->symmetric.algorithm = cipher;
    ecc->symmetric.keyBits.aes = 128;
    ecc->symmetric.mode.aes = TPM2_ALG_CFB;
    ecc->scheme.scheme = ecc->kdf.scheme = TPM2_ALG_NULL;
    ecc->curveID = TPM2_ECC_NIST_P256;
    return made;
}

static ESYS_TR salted_session(ESYS_TR primary) {
    TPMT_SYM_DEF cipher = {.algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB};
    ESYS_TR session;
    check(Esys_StartAuthSession(esys, primary, NONE, NONE, NONE, NONE, NULL, TPM2_SE_HMAC, &cipher, TPM2_ALG_SHA256, &session), "StartAuthSession");
    TPMA_SESSION attributes = TPMA_SESSION_CONTINUESESSION | TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT;
    check(Esys_TRSess_SetAttributes(esys, session, attributes, 0xff), "SetAttributes");
    return session;
}

static ESYS_TR storage_key(void) {
    TPM2B_SENSITIVE_CREATE nothing = {0};
    TPM2B_DATA outside = {0};
    TPML_PCR_SELECTION pcrs = {0};
    TPM2B_PUBLIC storage = template(TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT, TPM2_ALG_AES);
    ESYS_TR primary;
    check(Esys_CreatePrimary(esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, NONE, NONE, &nothing, &storage, &outside, &pcrs, &primary, NULL, NULL, NULL, NULL), "CreatePrimary");
    return primary;
}

static void sign(ESYS_TR key, ESYS_TR session) {
    TPM2B_DIGEST digest = {.size = 32, .buffer = {1}};
    TPMT_SIG_SCHEME scheme = {.scheme = TPM2_ALG_ECDSA, .details.ecdsa.hashAlg = TPM2_ALG_SHA256};
    TPMT_TK_HASHCHECK ticket = {.tag = TPM2_ST_HASHCHECK, .hierarchy = TPM2_RH_NULL};
    TPMT_SIGNATURE *signature;
    check(Esys_Sign(esys, key, session, NONE, NONE, &digest, &scheme, &ticket, &signature), "Sign");
    Esys_Free(signature);
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    int shared = !strcmp(arguments[2], "shared");
    TPM2B_AUTH auth = {.size = (UINT16)strlen(arguments[3])};
    memcpy(auth.buffer, arguments[3], auth.size);
    TSS2_TCTI_CONTEXT *tcti = NULL;
    check(Tss2_TctiLdr_Initialize(arguments[1], &tcti), "TctiLdr");
    check(Esys_Initialize(&esys, tcti, NULL), "Initialize");

    TPM2B_SENSITIVE_CREATE secret = {.sensitive.userAuth = auth};
    TPM2B_DATA outside = {0};
    TPML_PCR_SELECTION pcrs = {0};
    TPM2B_PUBLIC signing = template(TPMA_OBJECT_SIGN_ENCRYPT, TPM2_ALG_NULL);
    TPM2B_PRIVATE *private;
    TPM2B_PUBLIC *public;
    ESYS_TR primary = storage_key(), key, session = ESYS_TR_PASSWORD;
    check(Esys_Create(esys, primary, ESYS_TR_PASSWORD, NONE, NONE, &secret, &signing, &outside, &pcrs, &private, &public, NULL, NULL, NULL), "Create");
    check(Esys_Load(esys, primary, ESYS_TR_PASSWORD, NONE, NONE, private, public, &key), "Load");
    if (auth.size && !shared) session = salted_session(primary);
    check(Esys_FlushContext(esys, primary), "FlushContext");

    TPMS_CONTEXT *saved = NULL;
    if (shared) {
        check(Esys_ContextSave(esys, key, &saved), "ContextSave");
        check(Esys_FlushContext(esys, key), "FlushContext");
    }
    unsigned long turns = strtoul(arguments[4], NULL, 10), *times = calloc(turns, sizeof *times);
    for (unsigned long i = 0; i < turns; i++) {
        unsigned long began = now();
        if (shared) check(Esys_ContextLoad(esys, saved, &key), "ContextLoad");
        if (shared && auth.size) {
            primary = storage_key();
            session = salted_session(primary);
            check(Esys_FlushContext(esys, primary), "FlushContext");
        }
        if (auth.size) check(Esys_TR_SetAuth(esys, key, &auth), "SetAuth");
        sign(key, session);
        if (shared && auth.size) check(Esys_FlushContext(esys, session), "FlushContext");
        if (shared) check(Esys_FlushContext(esys, key), "FlushContext");
        times[i] = now() - began;
    }
    qsort(times, turns, sizeof *times, compare);
    printf("%lu\n", times[turns / 2]);
    if (auth.size && !shared) check(Esys_FlushContext(esys, session), "FlushContext");
    if (!shared) check(Esys_FlushContext(esys, key), "FlushContext");
    Esys_Finalize(&esys);
    Tss2_TctiLdr_Finalize(&tcti);
    return 0;
}
