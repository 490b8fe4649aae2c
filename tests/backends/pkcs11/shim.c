/* A PKCS #11 module for tests: SoftHSM whose tokens can be removed, wait and fail, with counted calls. SHIM_MODULE is the
   file of SoftHSM, SHIM_CONF its configuration, and SHIM_SECONDS, if set, a delay for each signature. With
   SHIM_KEYPAD_SECONDS, each token has a keypad, at which a login takes as long. With SHIM_CRASHES, C_Sign crashes.

   Tests in the same process control it by the shim_* functions. A token is named by the number that shim_token returns.
   When a token is removed, its sessions end. Signatures of a held token wait until it is released. */

#include <dlfcn.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef struct { unsigned char version[2]; void *call[68]; } function_list;
typedef struct { void *mutexes[4]; ulong flags; void *reserved; } initialize_args;
typedef struct { ulong mechanism; void *parameter; ulong length; } mechanism;
typedef struct { ulong type; void *value; ulong length; } attribute;
typedef struct { char names[96]; ulong flags; char versions[4]; } slot_info;
typedef struct { char label[32], manufacturer[32], model[16], serial[16]; ulong flags; char rest[104]; } token_info;

enum { INITIALIZE, FINALIZE, SLOT_LIST = 4, SLOT_INFO, TOKEN_INFO, MECHANISM_INFO = 8, OPEN_SESSION = 12, CLOSE_SESSION,
       SESSION_INFO = 15, LOGIN = 18, LOGOUT, CREATE, COPY, DESTROY, GET_ATTRIBUTES = 24, FIND_INIT = 26, FIND, FIND_FINAL,
       SIGN_INIT = 42, SIGN, GENERATE = 59 };
enum { DEVICE_REMOVED = 0x32, MECHANISM_INVALID = 0x70, SESSION_HANDLE_INVALID = 0xB3, TOKEN_NOT_PRESENT = 0xE0,
       CANT_LOCK = 0xA, FUNCTION_FAILED = 6, CONTEXT_SPECIFIC = 2, ATTRIBUTE_TYPE_INVALID = 0x12,
       USER_NOT_LOGGED_IN = 0x101, OPERATION_NOT_INITIALIZED = 0x91, TOKEN_WRITE_PROTECTED = 0xE2, FOR_WRITING = 2 };
enum { TEMPLATE_INCOMPLETE = 0xD0, TEMPLATE_INCONSISTENT = 0xD1, PARAMETER_SET_NOT_SUPPORTED = 0x209 };
enum { KEYPAD = 0x100, COUNT_LOW = 0x10000, PIN_INCORRECT = 0xA0 };
enum { SLOTS = 16, SESSIONS = 4096, CALLS = 68, MECHANISMS = 16 };
enum { CKM_ML_DSA_KEY_PAIR_GEN = 0x1C, CKM_ML_DSA = 0x1D, CKM_EC_KEY_PAIR_GEN = 0x1040, CKM_ECDSA = 0x1041, CKM_ECDSA_SHA256 = 0x1044, CKM_ECDSA_SHA512 = 0x1046 };
enum { CKK_ML_DSA = 0x4A, CKA_CLASS = 0, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_EC_PARAMS = 0x180, CKA_EC_POINT = 0x181,
       CKA_PARAMETER_SET = 0x61D, CKA_ALWAYS_AUTHENTICATE = 0x202, CKO_PUBLIC_KEY = 2 };

static function_list *real, shown;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static ulong slots[SLOTS], slot_count;
static struct { int removed, held, waiting; ulong raised, cleared; char serial[16]; } tokens[SLOTS];
static struct { ulong handle; int slot, dead, signing, trusted; const EVP_MD *hash; int mldsa; } sessions[SESSIONS];
static ulong session_count, counts[CALLS], context_logins, failing[CALLS], failing_after[CALLS], failing_until[CALLS], hidden[MECHANISMS], offered[MECHANISMS];
static int refuses_locks, inside, overlaps, one_thread;
static int careful, read_only, keeps;
static ulong unknown, longest, disputed, claimed;
static EVP_PKEY *mldsa_key;

/* Functions for tests. */

void shim_reset(void) {
    pthread_mutex_lock(&lock);
    memset(tokens, 0, sizeof tokens);
    memset(counts, 0, sizeof counts);
    memset(failing, 0, sizeof failing);
    memset(failing_after, 0, sizeof failing_after);
    memset(hidden, 0, sizeof hidden);
    memset(offered, 0, sizeof offered);
    context_logins = 0;
    refuses_locks = overlaps = careful = read_only = keeps = 0;
    unknown = longest = disputed = 0;
    mldsa_key = NULL;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

void shim_remove(int slot) {
    pthread_mutex_lock(&lock);
    tokens[slot].removed = 1;
    for (ulong i = 0; i < session_count; i++) sessions[i].dead |= sessions[i].slot == slot;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

void shim_insert(int slot) { tokens[slot].removed = 0; }
void shim_hold(int slot, int held) {
    pthread_mutex_lock(&lock);
    tokens[slot].held = held;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}
int shim_waiting(int slot) { return tokens[slot].waiting; }
void shim_flags(int slot, ulong raised, ulong cleared) { tokens[slot].raised = raised; tokens[slot].cleared = cleared; }
void shim_serial(int slot, const char *serial) { strncpy(tokens[slot].serial, serial, 16); }
/* Make a function fail from now on, after some more calls; for good, or for a number of times. */
void shim_fail(int call, ulong answer, ulong spared, ulong times) {
    failing[call] = answer;
    failing_after[call] = counts[call] + spared;
    failing_until[call] = times ? failing_after[call] + times : (ulong)-1;
}
void shim_refuse_locks(int refuse) { refuses_locks = refuse; }
ulong shim_count(int call) { return counts[call]; }
ulong shim_context_logins(void) { return context_logins; }
int shim_overlaps(void) { return overlaps; }

/* Make each private key need a PIN for each signature. */
void shim_careful(int is_careful) { careful = is_careful; }
/* Refuse sessions that can change the tokens. */
void shim_read_only(int is_read_only) { read_only = is_read_only; }
/* Keep the objects of a class that are deleted, and report success. */
void shim_keep(int class) { keeps = class; }
/* Return another value of an attribute, a CK_BBOOL. */
void shim_claim(ulong attribute, int value) { disputed = attribute; claimed = (ulong)value; }
/* Make an attribute unknown to the module. */
void shim_unknown(ulong attribute) { unknown = attribute; }
/* Return the length of the longest data that C_Sign got. */
ulong shim_longest(void) { return longest; }

static void add(ulong *list, ulong mechanism) {
    while (*list) list++;
    *list = mechanism;
}
void shim_hide(ulong mechanism) { add(hidden, mechanism); }
void shim_offer(ulong mechanism) { add(offered, mechanism); }

/* Make every EC key appear and sign as the ML-DSA key of a seed of 32 bytes, and new ML-DSA keys of its parameter set. */
int shim_mldsa(const char *name, const unsigned char *seed) {
    OSSL_PARAM parameters[] = {{"seed", 5, (void *)seed, 32, 0}, {0}};
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, name, NULL);
    mldsa_key = NULL;
    int done = EVP_PKEY_fromdata_init(context) == 1 && EVP_PKEY_fromdata(context, &mldsa_key, 3 | 0x84 | 0x87, parameters) == 1;
    EVP_PKEY_CTX_free(context);
    shim_offer(CKM_ML_DSA);
    shim_offer(CKM_ML_DSA_KEY_PAIR_GEN);
    return done;
}

/* The module. */

#define CALL(number, types) ((ulong(*) types)real->call[number])

static int listed(const ulong *list, ulong mechanism) {
    for (int i = 0; i < MECHANISMS; i++) if (list[i] == mechanism) return 1;
    return 0;
}

static int slot_index(ulong slot) {
    for (ulong i = 0; i < slot_count; i++) if (slots[i] == slot) return (int)i;
    if (slot_count == SLOTS) abort();
    slots[slot_count] = slot;
    return (int)slot_count++;
}

static int session_index(ulong handle) {
    for (ulong i = session_count; i-- > 0;) if (sessions[i].handle == handle) return (int)i;
    return -1;
}

/* Return the number of the token with a label, padded to 32 characters, or -1 if it was not listed yet. */
int shim_token(const char *label) {
    token_info info;
    for (ulong i = 0; i < slot_count; i++)
        if (!CALL(TOKEN_INFO, (ulong, token_info *))(slots[i], &info) && !memcmp(info.label, label, 32)) return (int)i;
    return -1;
}

/* Finalise the module without its user, as when a service that it needs restarts. */
void shim_finalise(void) { CALL(FINALIZE, (void *))(NULL); }

/* Begin a call: count it, and return its error, or 0. */
static ulong begin(int call, int session) {
    pthread_mutex_lock(&lock);
    counts[call]++;
    if (inside++ && one_thread) overlaps++;
    ulong answer = counts[call] > failing_after[call] && counts[call] <= failing_until[call] ? failing[call] : 0;
    if (!answer && session >= 0 && sessions[session].dead)
        answer = tokens[sessions[session].slot].removed ? DEVICE_REMOVED : SESSION_HANDLE_INVALID;
    pthread_mutex_unlock(&lock);
    return answer;
}

static ulong end(ulong answer) {
    pthread_mutex_lock(&lock);
    inside--;
    pthread_mutex_unlock(&lock);
    return answer;
}


static ulong Initialize(initialize_args *args) {
    counts[INITIALIZE]++;
    if (args && refuses_locks) return CANT_LOCK;
    one_thread = refuses_locks;
    session_count = 0;
    const char *conf = getenv("SOFTHSM2_CONF");
    char *kept = conf ? strdup(conf) : NULL;
    setenv("SOFTHSM2_CONF", getenv("SHIM_CONF"), 1);
    ulong answer = CALL(INITIALIZE, (void *))(args);
    if (kept) setenv("SOFTHSM2_CONF", kept, 1);
    else unsetenv("SOFTHSM2_CONF");
    free(kept);
    return answer;
}

static ulong Finalize(void *reserved) {
    counts[FINALIZE]++;
    return CALL(FINALIZE, (void *))(reserved);
}

static ulong GetSlotList(unsigned char present, ulong *list, ulong *count) {
    ulong all[SLOTS], found = SLOTS, kept = 0, answer = begin(SLOT_LIST, -1);
    if (!answer) answer = CALL(SLOT_LIST, (unsigned char, ulong *, ulong *))(present, all, &found);
    for (ulong i = 0; !answer && i < found; i++)
        if (!present || !tokens[slot_index(all[i])].removed) all[kept++] = all[i];
    if (!answer && list) memcpy(list, all, kept * sizeof *list);
    if (!answer) *count = kept;
    return end(answer);
}

static ulong GetSlotInfo(ulong slot, slot_info *info) {
    ulong answer = begin(SLOT_INFO, -1);
    if (!answer) answer = CALL(SLOT_INFO, (ulong, slot_info *))(slot, info);
    if (!answer && tokens[slot_index(slot)].removed) info->flags &= ~1UL;
    return end(answer);
}

static ulong GetTokenInfo(ulong slot, token_info *info) {
    int index = slot_index(slot);
    ulong answer = begin(TOKEN_INFO, -1);
    if (!answer && tokens[index].removed) answer = TOKEN_NOT_PRESENT;
    if (!answer) answer = CALL(TOKEN_INFO, (ulong, token_info *))(slot, info);
    if (!answer) info->flags = (info->flags | tokens[index].raised) & ~tokens[index].cleared;
    if (!answer && getenv("SHIM_KEYPAD_SECONDS")) info->flags |= KEYPAD;
    if (!answer && *tokens[index].serial) memcpy(info->serial, tokens[index].serial, 16);
    return end(answer);
}

static ulong GetMechanismInfo(ulong slot, ulong mechanism, ulong *info) {
    ulong answer = begin(MECHANISM_INFO, -1);
    if (!answer && listed(hidden, mechanism)) answer = MECHANISM_INVALID;
    if (!answer && listed(offered, mechanism)) { info[0] = 256; info[1] = 521; info[2] = 0x800; }
    if (!answer && listed(offered, mechanism) && mechanism == CKM_ML_DSA_KEY_PAIR_GEN) {
        info[0] = 1312; info[1] = 2592; info[2] = 0x8000; /* As NSS has it: CKF_GENERATE, not _KEY_PAIR. */
        return end(0);
    }
    if (!answer && !listed(offered, mechanism)) answer = CALL(MECHANISM_INFO, (ulong, ulong, ulong *))(slot, mechanism, info);
    return end(answer);
}

static ulong OpenSession(ulong slot, ulong flags, void *data, void *notify, ulong *handle) {
    int index = slot_index(slot);
    ulong answer = begin(OPEN_SESSION, -1);
    if (!answer && tokens[index].removed) answer = TOKEN_NOT_PRESENT;
    if (!answer && read_only && flags & FOR_WRITING) answer = TOKEN_WRITE_PROTECTED;
    if (!answer) answer = CALL(OPEN_SESSION, (ulong, ulong, void *, void *, ulong *))(slot, flags, data, notify, handle);
    pthread_mutex_lock(&lock);
    if (!answer && session_count < SESSIONS) {
        memset(&sessions[session_count], 0, sizeof *sessions);
        sessions[session_count].handle = *handle;
        sessions[session_count++].slot = index;
    }
    pthread_mutex_unlock(&lock);
    return end(answer);
}

/* The sessions of a removed token are gone; the real ones are closed together with the shim's. */
static ulong CloseSession(ulong session) {
    ulong answer = begin(CLOSE_SESSION, session_index(session));
    ulong closed = CALL(CLOSE_SESSION, (ulong))(session);
    return end(answer ? answer : closed);
}

static ulong Logout(ulong session) {
    ulong answer = begin(LOGOUT, session_index(session));
    ulong done = CALL(LOGOUT, (ulong))(session);
    return end(answer ? answer : done);
}

static ulong GetSessionInfo(ulong session, void *info) {
    ulong answer = begin(SESSION_INFO, session_index(session));
    return end(answer ? answer : CALL(SESSION_INFO, (ulong, void *))(session, info));
}

/* Wait as long as an environment variable says. A signal does not end that. */
static void wait_for(const char *variable) {
    const char *seconds = getenv(variable);
    for (unsigned left = seconds ? (unsigned)atoi(seconds) : 0; left; left = sleep(left)) {}
}

static ulong Login(ulong session, ulong user, const char *pin, ulong length) {
    ulong answer = begin(LOGIN, session_index(session));
    if (user == CONTEXT_SPECIFIC) context_logins++;
    if (!pin) { /* Typed at the keypad. */
        wait_for("SHIM_KEYPAD_SECONDS");
        pin = "1234";
        length = 4;
    }
    if (!answer && careful && user == CONTEXT_SPECIFIC) {
        int index = session_index(session);
        if (!sessions[index].signing) return end(OPERATION_NOT_INITIALIZED);
        sessions[index].trusted = length == 4 && !memcmp(pin, "1234", 4);
        tokens[sessions[index].slot].raised |= sessions[index].trusted ? 0 : COUNT_LOW;
        return end(sessions[index].trusted ? 0 : PIN_INCORRECT);
    }
    if (!answer) tokens[sessions[session_index(session)].slot].raised &= ~(ulong)COUNT_LOW;
    return end(answer ? answer : CALL(LOGIN, (ulong, ulong, const char *, ulong))(session, user, pin, length));
}

static void set(attribute *one, const void *value, ulong length) {
    if (one->value) memcpy(one->value, value, length);
    one->length = length;
}

static ulong CreateObject(ulong session, attribute *list, ulong count, ulong *object) {
    ulong answer = begin(CREATE, session_index(session));
    return end(answer ? answer : CALL(CREATE, (ulong, attribute *, ulong, ulong *))(session, list, count, object));
}

static ulong CopyObject(ulong session, ulong object, attribute *list, ulong count, ulong *copy) {
    ulong answer = begin(COPY, session_index(session));
    return end(answer ? answer : CALL(COPY, (ulong, ulong, attribute *, ulong, ulong *))(session, object, list, count, copy));
}

static ulong DestroyObject(ulong session, ulong object) {
    ulong answer = begin(DESTROY, session_index(session)), class = 0;
    attribute one = {CKA_CLASS, &class, sizeof class};
    CALL(GET_ATTRIBUTES, (ulong, ulong, attribute *, ulong))(session, object, &one, 1);
    if (!answer && keeps && class == (ulong)keeps) return end(0);
    return end(answer ? answer : CALL(DESTROY, (ulong, ulong))(session, object));
}

/* Return the CKA_PARAMETER_SET of the ML-DSA key. */
static ulong mldsa_set(void) {
    size_t size = 0;
    if (!mldsa_key) return 0;
    EVP_PKEY_get_raw_public_key(mldsa_key, NULL, &size);
    return size == 1312 ? 1 : size == 1952 ? 2 : 3;
}

static ulong GenerateKeyPair(ulong session, mechanism *asked, attribute *public, ulong public_count, attribute *private,
                             ulong private_count, ulong *public_key, ulong *private_key) {
    ulong answer = begin(GENERATE, session_index(session)), ec = 3, chosen = 0;
    attribute publics[32], privates[32];
    unsigned char p256[] = {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7};
    mechanism plain = *asked;
    if (public_count > 32 || private_count > 32) abort();
    memcpy(publics, public, public_count * sizeof *publics);
    memcpy(privates, private, private_count * sizeof *privates);
    if (!answer && asked->mechanism == CKM_ML_DSA_KEY_PAIR_GEN) {
        /* An EC key, which appears as the ML-DSA key. */
        attribute parameters = {CKA_EC_PARAMS, p256, sizeof p256};
        for (ulong i = 0; i < public_count; i++) {
            if (publics[i].type == CKA_KEY_TYPE) publics[i].value = &ec;
            if (publics[i].type == CKA_PARAMETER_SET) { chosen = *(ulong *)publics[i].value; publics[i] = parameters; }
        }
        for (ulong i = 0; i < private_count; i++) {
            if (privates[i].type == CKA_KEY_TYPE) privates[i].value = &ec;
            if (privates[i].type == CKA_PARAMETER_SET) answer = TEMPLATE_INCONSISTENT;
        }
        plain.mechanism = CKM_EC_KEY_PAIR_GEN;
        if (!chosen) answer = TEMPLATE_INCOMPLETE;
        else if (chosen != mldsa_set()) answer = PARAMETER_SET_NOT_SUPPORTED;
    }
    if (!answer) answer = CALL(GENERATE, (ulong, mechanism *, attribute *, ulong, attribute *, ulong, ulong *, ulong *))(
        session, &plain, publics, public_count, privates, private_count, public_key, private_key);
    return end(answer);
}

static ulong GetAttributeValue(ulong session, ulong object, attribute *list, ulong count) {
    ulong answer = begin(GET_ATTRIBUTES, session_index(session)), kind = CKK_ML_DSA, class = 0, set_number = mldsa_set();
    if (answer) return end(answer);
    answer = CALL(GET_ATTRIBUTES, (ulong, ulong, attribute *, ulong))(session, object, list, count);
    for (ulong i = 0; i < count; i++) {
        unsigned char yes = 1;
        if (careful && list[i].type == CKA_ALWAYS_AUTHENTICATE) set(&list[i], &yes, 1);
        if (disputed && list[i].type == disputed) set(&list[i], &claimed, 1);
        if (list[i].type == unknown && unknown) {
            list[i].length = (ulong)-1;
            answer = ATTRIBUTE_TYPE_INVALID;
        }
    }
    if (mldsa_key) {
        unsigned char public[4096];
        size_t size = 0;
        attribute one = {CKA_CLASS, &class, sizeof class};
        CALL(GET_ATTRIBUTES, (ulong, ulong, attribute *, ulong))(session, object, &one, 1);
        EVP_PKEY_get_raw_public_key(mldsa_key, NULL, &size);
        EVP_PKEY_get_raw_public_key(mldsa_key, public, &size);
        for (ulong i = 0; i < count; i++) {
            if (list[i].type == CKA_KEY_TYPE) set(&list[i], &kind, sizeof kind);
            if (list[i].type == CKA_PARAMETER_SET) set(&list[i], &set_number, sizeof set_number);
            if (list[i].type == CKA_VALUE && class == CKO_PUBLIC_KEY) set(&list[i], public, size);
            if (list[i].type == CKA_EC_PARAMS || list[i].type == CKA_EC_POINT) list[i].length = (ulong)-1;
        }
        answer = 0;
        for (ulong i = 0; i < count; i++) if (list[i].length == (ulong)-1) answer = ATTRIBUTE_TYPE_INVALID;
    }
    return end(answer);
}

static ulong FindObjectsInit(ulong session, attribute *list, ulong count) {
    ulong answer = begin(FIND_INIT, session_index(session)), ec = 3;
    attribute copy[8];
    if (count > 8) abort();
    memcpy(copy, list, count * sizeof *copy);
    for (ulong i = 0; mldsa_key && i < count; i++) if (copy[i].type == CKA_KEY_TYPE) copy[i].value = &ec;
    return end(answer ? answer : CALL(FIND_INIT, (ulong, attribute *, ulong))(session, copy, count));
}

static ulong FindObjects(ulong session, ulong *list, ulong limit, ulong *count) {
    ulong answer = begin(FIND, session_index(session));
    return end(answer ? answer : CALL(FIND, (ulong, ulong *, ulong, ulong *))(session, list, limit, count));
}

static ulong FindObjectsFinal(ulong session) {
    ulong answer = begin(FIND_FINAL, session_index(session));
    return end(answer ? answer : CALL(FIND_FINAL, (ulong))(session));
}

static ulong SignInit(ulong session, mechanism *asked, ulong key) {
    int index = session_index(session);
    ulong answer = begin(SIGN_INIT, index), hash = asked->mechanism - CKM_ECDSA_SHA256;
    mechanism plain = *asked;
    const EVP_MD *hashes[] = {EVP_sha256(), EVP_sha384(), EVP_sha512()};
    sessions[index].hash = NULL;
    sessions[index].mldsa = asked->mechanism == CKM_ML_DSA;
    if (!answer && listed(hidden, asked->mechanism)) answer = MECHANISM_INVALID;
    if (hash <= CKM_ECDSA_SHA512 - CKM_ECDSA_SHA256) sessions[index].hash = hashes[hash];
    if (sessions[index].hash || sessions[index].mldsa) plain.mechanism = CKM_ECDSA;
    if (!answer) answer = CALL(SIGN_INIT, (ulong, mechanism *, ulong))(session, &plain, key);
    if (index >= 0 && !answer) { sessions[index].signing = 1; sessions[index].trusted = !careful; }
    return end(answer);
}

static ulong mldsa_sign(const unsigned char *data, ulong size, unsigned char *signature, ulong *length) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t room = *length;
    int done = EVP_DigestSignInit(context, NULL, NULL, NULL, mldsa_key) == 1 &&
               EVP_DigestSign(context, signature, &room, data, size) == 1;
    EVP_MD_CTX_free(context);
    *length = room;
    return done ? 0 : FUNCTION_FAILED;
}

static ulong Sign(ulong session, const unsigned char *data, ulong size, unsigned char *signature, ulong *length) {
    int index = session_index(session), slot = sessions[index].slot;
    unsigned char digest[EVP_MAX_MD_SIZE], unused[256];
    unsigned digest_size;
    ulong answer = begin(SIGN, index), unused_size = sizeof unused;
    wait_for("SHIM_SECONDS");
    if (getenv("SHIM_CRASHES")) abort();
    pthread_mutex_lock(&lock);
    tokens[slot].waiting++;
    while (tokens[slot].held && !sessions[index].dead) pthread_cond_wait(&released, &lock);
    tokens[slot].waiting--;
    if (!answer && sessions[index].dead) answer = DEVICE_REMOVED;
    pthread_mutex_unlock(&lock);
    if (size > longest) longest = size;
    if (!answer && !sessions[index].trusted) answer = USER_NOT_LOGGED_IN;
    if (!answer) sessions[index].signing = 0;
    if (!answer && sessions[index].hash) {
        EVP_Digest(data, size, digest, &digest_size, sessions[index].hash, NULL);
        data = digest;
        size = digest_size < 32 ? digest_size : 32; /* The order of P-256, which the tests use. */
    }
    if (!answer && sessions[index].mldsa) {
        CALL(SIGN, (ulong, const void *, ulong, void *, ulong *))(session, digest, 32, unused, &unused_size);
        return end(mldsa_sign(data, size, signature, length));
    }
    return end(answer ? answer
                      : CALL(SIGN, (ulong, const void *, ulong, void *, ulong *))(session, data, size, signature, length));
}

ulong C_GetFunctionList(function_list **list) {
    if (!real) {
        void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
        ulong (*get)(function_list **) = module ? (ulong(*)(function_list **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real)) return FUNCTION_FAILED;
        shown = *real;
        void *ours[CALLS] = {[INITIALIZE] = Initialize, [FINALIZE] = Finalize, [SLOT_LIST] = GetSlotList,
            [SLOT_INFO] = GetSlotInfo, [TOKEN_INFO] = GetTokenInfo, [MECHANISM_INFO] = GetMechanismInfo, [OPEN_SESSION] = OpenSession,
            [CLOSE_SESSION] = CloseSession, [SESSION_INFO] = GetSessionInfo, [LOGIN] = Login, [LOGOUT] = Logout,
            [CREATE] = CreateObject, [COPY] = CopyObject, [DESTROY] = DestroyObject, [GENERATE] = GenerateKeyPair,
            [GET_ATTRIBUTES] = GetAttributeValue, [FIND_INIT] = FindObjectsInit, [FIND] = FindObjects,
            [FIND_FINAL] = FindObjectsFinal, [SIGN_INIT] = SignInit, [SIGN] = Sign};
        for (int i = 0; i < CALLS; i++) if (ours[i]) shown.call[i] = ours[i];
    }
    *list = &shown;
    return 0;
}
