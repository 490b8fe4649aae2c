/* hwsigner-credentials, a program for credential_process. It prints the agent's answer; docs/how-to/agent.md has the protocol.
 * If anything goes wrong, it becomes `hwsigner credential-process`, which needs no agent. So it does if the agent needs a
 * PIN and there is a terminal to ask for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "system.h"

/* Time limits in milliseconds. A busy agent sends `1 working` from time to time. */
#ifndef LONGEST
#define FIRST_BYTE 1000
#define SILENCE 5000
#define LONGEST 120000
#endif
/* Sizes in bytes, and the highest exit status that an agent may return. */
enum { NAME_SIZE = 64, LINE_SIZE = 96, BODY_SIZE = 65536, NOTE_SIZE = 1000, PATH_SIZE = 4096, MAX_STATUS = 7 };

#define PROGRAM "hwsigner"
#ifndef TERMINAL
#define TERMINAL "/dev/tty"
#endif
#ifndef SYSTEM_FOLDER
#define SYSTEM_FOLDER RUN "/" PROGRAM
#endif
/* `none`: do not ask an agent. `asked`: set for the program in Python, so that it does not ask the same agents again.
 * Any other value is ignored. */
#define VARIABLE "HWSIGNER_AGENT"

/* ANSWERED; ABSENT: there is no agent, or it does not know the profile; USELESS: the agent failed or is not trusted. */
enum outcome { ANSWERED, ABSENT, USELESS };

struct answer {
    int fd;
    int64_t deadline, patience; /* When to give up, and how long to wait for the next byte; milliseconds. */
    bool is_heard, is_refused;  /* Whether a byte came; whether the agent hung up without one. */
    int status;                 /* The exit status that the agent returned. */
    bool needs_pin;             /* Whether a typed PIN may help against its error. */
    size_t body_size;
    size_t size;                          /* How much of `data` is in use: lines, then the body. */
    char data[LINE_SIZE + BODY_SIZE + 1]; /* The last byte is reserved for the final NUL. */
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int fail(const char *problem, const char *detail) {
    dprintf(STDERR_FILENO, PROGRAM ": %s%s\n", problem, detail);
    return 1;
}

static bool is_told(const char *value) {
    const char *told = getenv(VARIABLE);
    return told != NULL && strcmp(told, value) == 0;
}

/* Whether a profile name may be sent to the agent: [A-Za-z0-9][A-Za-z0-9._@-]{0,63}. */
static bool is_name(const char *name) {
    static const char all[] = "._@-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    size_t size = strlen(name);
    return size >= 1 && size <= NAME_SIZE && strchr("._@-", name[0]) == NULL && strspn(name, all) == size;
}

/* Return the profile that the arguments name, or NULL if there are any but `--profile NAME`. */
static const char *profile_of(int count, char **arguments) {
    static const char flag[] = "--profile", joined[] = "--profile=";
    const char *name = NULL;
    if (count <= 1) {
        name = "default";
    } else if (count == 2 && strncmp(arguments[1], joined, sizeof joined - 1) == 0) {
        name = arguments[1] + sizeof joined - 1;
    } else if (count == 3 && strcmp(arguments[1], flag) == 0) {
        name = arguments[2];
    }
    return name != NULL && is_name(name) ? name : NULL;
}

/* Wait for more bytes and read them. */
static bool fill(struct answer *answer) {
    size_t room = sizeof answer->data - 1 - answer->size;
    int64_t time = now();
    int64_t until = time + answer->patience < answer->deadline ? time + answer->patience : answer->deadline;
    for (; room > 0 && time < until; time = now()) {
        struct pollfd wanted = {.fd = answer->fd, .events = POLLIN};
        int ready = poll(&wanted, 1, (int)(until - time));
        ssize_t got = ready > 0 ? recv(answer->fd, answer->data + answer->size, room, MSG_DONTWAIT) : -1;
        if (got > 0) {
            answer->size += (size_t)got;
            answer->patience = SILENCE;
            answer->is_heard = true;
            return true;
        }
        answer->is_refused = got == 0 && !answer->is_heard;
        if (got == 0 || (ready != 0 && errno != EINTR && errno != EAGAIN)) {
            return false;
        }
    }
    return false;
}

/* Remove the next line from the data, and copy it without its newline. */
static bool take_line(struct answer *answer, char line[LINE_SIZE]) {
    for (;;) {
        size_t seen = answer->size < LINE_SIZE ? answer->size : LINE_SIZE;
        const char *end = memchr(answer->data, '\n', seen);
        if (end != NULL) {
            size_t size = (size_t)(end - answer->data);
            memcpy(line, answer->data, size);
            line[size] = '\0';
            answer->size -= size + 1;
            memmove(answer->data, end + 1, answer->size);
            return true;
        }
        if (seen == LINE_SIZE || !fill(answer)) {
            return false;
        }
    }
}

/* Read a number from 1 to a limit, of at most five digits, and the character that must follow it. */
static bool take_number(const char **text, char end, size_t limit, size_t *number) {
    *number = 0;
    for (int digits = 0; digits < 5 && **text >= '0' && **text <= '9'; digits++, (*text)++) {
        *number = *number * 10 + (size_t)(**text - '0');
    }
    return *number >= 1 && *number <= limit && *(*text)++ == end;
}

/* Whether a text begins with some words, which are then skipped. */
static bool skip(const char **text, const char *words) {
    size_t size = strlen(words);
    bool is_there = strncmp(*text, words, size) == 0;
    *text += is_there ? size : 0;
    return is_there;
}

/* Whether a line ends with some words, which are then removed. */
static bool cut(char *line, const char *words) {
    char *end = line + strlen(line);
    bool is_there = (size_t)(end - line) >= strlen(words) && strcmp(end - strlen(words), words) == 0;
    *(end - (is_there ? strlen(words) : 0)) = '\0';
    return is_there;
}

/* Read the body whose size is left of its line. */
static bool read_body(struct answer *answer, const char *size) {
    if (!take_number(&size, '\0', BODY_SIZE, &answer->body_size)) {
        return false;
    }
    while (answer->size < answer->body_size) {
        if (!fill(answer)) {
            return false;
        }
    }
    return true;
}

static void make_printable(char *text, size_t size) {
    for (char *end = text + size; text < end; text++) {
        *text = (unsigned char)*text < ' ' || *text == 0x7F ? '?' : *text;
    }
}

/* Remove a note from the data and show it on the terminal, as SDKs hide stderr. A stopped terminal is not waited for. */
static void show_note(struct answer *answer) {
    int size = answer->body_size < NOTE_SIZE ? (int)answer->body_size : NOTE_SIZE;
    int terminal = open(TERMINAL, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (terminal >= 0) {
        make_printable(answer->data, (size_t)size);
        dprintf(terminal, PROGRAM ": %.*s\n", size, answer->data);
        close(terminal);
    }
    answer->size -= answer->body_size;
    memmove(answer->data, answer->data + answer->body_size, answer->size);
}

/* Read lines up to the last one, `1 ok SIZE` or `1 error STATUS SIZE [locked|pin]`, and then the body. */
static enum outcome read_answer(struct answer *answer) {
    char line[LINE_SIZE];
    while (take_line(answer, line)) {
        const char *rest = line;
        size_t status = 0;
        if (strcmp(line, "1 unknown") == 0) {
            return ABSENT;
        }
        if (strncmp(line, "1 error ", 8) == 0) {
            answer->needs_pin = !cut(line, " locked") && cut(line, " pin");
        }
        if (skip(&rest, "1 ok ") || (skip(&rest, "1 error ") && take_number(&rest, ' ', MAX_STATUS, &status))) {
            answer->status = (int)status;
            return read_body(answer, rest) ? ANSWERED : USELESS;
        }
        if (skip(&rest, "1 note ") && read_body(answer, rest)) {
            show_note(answer);
        } else if (strcmp(line, "1 working") != 0) {
            return USELESS;
        }
    }
    return USELESS;
}

/* Open a socket whose descriptor is above those of the standard streams, even if one of these is closed. */
static int new_socket(void) {
    int fd = open_socket();
    if (fd < 0 || fd > STDERR_FILENO) {
        return fd;
    }
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return moved;
}

/* Connect within a second. The process at the other end must belong to root or to the user `owner`. */
static enum outcome join(int fd, const struct sockaddr_un *address, uid_t owner) {
    const struct timeval limit = {.tv_sec = FIRST_BYTE / 1000, .tv_usec = FIRST_BYTE % 1000 * 1000};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0) {
        return USELESS;
    }
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0) {
        return errno == ENOENT || errno == ECONNREFUSED ? ABSENT : USELESS;
    }
    uid_t peer;
    return find_peer(fd, &peer) && (peer == 0 || peer == owner) ? ANSWERED : USELESS;
}

/* Whether only a folder's owner can write to it. The owner must be this user, unless it is the system's folder. */
static bool is_safe(const char *folder, bool is_systems, uid_t *owner) {
    struct stat status;
    if (lstat(folder, &status) != 0 || !S_ISDIR(status.st_mode) || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return false;
    }
    *owner = status.st_uid;
    return is_systems || status.st_uid == geteuid();
}

/* Connect, send a request and read the answer. */
static enum outcome exchange(const struct sockaddr_un *address, uid_t owner, const char *line, struct answer *answer) {
    int64_t begin = now();
    answer->is_heard = answer->is_refused = false;
    answer->fd = new_socket();
    enum outcome outcome = join(answer->fd, address, owner);
    if (outcome == ANSWERED) {
        size_t size = strlen(line);
        answer->size = 0;
        answer->patience = FIRST_BYTE - (now() - begin);
        answer->deadline = begin + LONGEST;
        bool is_sent = send(answer->fd, line, size, SEND_FLAGS) == (ssize_t)size;
        outcome = is_sent ? read_answer(answer) : USELESS;
    }
    close(answer->fd);
    return outcome;
}

/* Ask the agent whose socket is in a folder. */
static enum outcome ask(const char *folder, bool is_systems, const char *name, struct answer *answer) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/agent.sock", folder);
    uid_t owner;
    if (length < 0 || (size_t)length >= sizeof address.sun_path || !is_safe(folder, is_systems, &owner)) {
        return ABSENT;
    }
    char line[LINE_SIZE];
    snprintf(line, sizeof line, "1 get %s notes\n", name);
    enum outcome outcome = exchange(&address, owner, line, answer);
    if (outcome == USELESS && answer->is_refused) { /* By an agent of an earlier version. */
        snprintf(line, sizeof line, "1 get %s\n", name);
        outcome = exchange(&address, owner, line, answer);
    }
    return outcome;
}

/* Ask the user's agent. If there is none, or it does not know the profile, ask the system's. */
static enum outcome ask_all(const char *name, struct answer *answer) {
    char folder[PATH_SIZE], found[PATH_SIZE];
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (runtime == NULL || runtime[0] != '/') {
        runtime = find_runtime(found, sizeof found) ? found : NULL;
    }
    int length = runtime != NULL ? snprintf(folder, sizeof folder, "%s/" PROGRAM, runtime) : -1;
    bool fits = length > 0 && (size_t)length < sizeof folder;
    enum outcome outcome = fits ? ask(folder, false, name, answer) : ABSENT;
    return outcome == ABSENT ? ask(SYSTEM_FOLDER, true, name, answer) : outcome;
}

/* Print the agent's answer, credentials or an error, and return the exit status. */
static int show(struct answer *answer) {
    const char *data = answer->data, *end = data + answer->body_size;
    if (answer->status == 0) {
        while (data < end) {
            ssize_t written = write(STDOUT_FILENO, data, (size_t)(end - data));
            if (written < 0 && errno != EINTR) {
                return fail("can't write to stdout: ", strerror(errno));
            }
            data += written > 0 ? written : 0;
        }
        return 0;
    }
    make_printable(answer->data, answer->body_size);
    answer->data[answer->body_size] = '\0';
    fail(answer->data, "");
    return answer->status;
}

/* Whether the answer is the error of a profile whose user can unlock it, and this process may read from a terminal. */
static bool can_unlock(const struct answer *answer) {
    if (answer->status == 0 || !answer->needs_pin) {
        return false;
    }
    int terminal = open(TERMINAL, O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    bool is_ours = terminal >= 0 && tcgetpgrp(terminal) == getpgrp();
    if (terminal >= 0) {
        close(terminal);
    }
    return is_ours;
}

/* Execute the program in Python, which is installed beside this one, with the same arguments. */
static int become_python(int count, char **arguments, bool asks_again) {
    static const char hint[] = ". Start the agent, or install " PROGRAM " there";
    char path[PATH_SIZE + sizeof PROGRAM + sizeof hint];
    char *slash = find_program(path, PATH_SIZE) ? strrchr(path, '/') : NULL;
    char **all = calloc((size_t)(count > 0 ? count : 1) + 4, sizeof *all);
    if (slash == NULL || all == NULL) {
        return fail("can't find the program beside this one: ", PROGRAM);
    }
    memcpy(slash + 1, PROGRAM, sizeof PROGRAM);
    char command[] = "credential-process", flag[] = "--profile", name[] = "default";
    all[0] = path;
    all[1] = command;
    if (count <= 1) {
        all[2] = flag;
        all[3] = name;
    } else {
        memcpy(all + 2, arguments + 1, (size_t)(count - 1) * sizeof *all);
    }
    if (!asks_again) {
        setenv(VARIABLE, "asked", !is_told("none"));
    }
    execv(path, all);
    memcpy(path + strlen(path), hint, sizeof hint);
    return fail("no agent gave credentials, and can't run ", path);
}

int main(int count, char **arguments) {
    static struct answer answer;
    const char *name = profile_of(count, arguments);
    bool may_ask = name != NULL && !is_told("none") && !is_told("asked");
    protect_memory();
    if (!may_ask || ask_all(name, &answer) != ANSWERED) {
        return become_python(count, arguments, false);
    }
    return can_unlock(&answer) ? become_python(count, arguments, true) : show(&answer);
}
