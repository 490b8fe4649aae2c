/* What hwsigner-credentials uses of macOS, on Linux. With -D__APPLE__, its tests can run the code for macOS. */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define _CS_DARWIN_USER_DIR 65536
#define SO_NOSIGPIPE 0x1022

static size_t macos_confstr(int name, char *text, size_t size) {
    const char *folder = name == _CS_DARWIN_USER_DIR ? getenv("MACOS_FOLDER") : NULL;
    return folder != NULL ? (size_t)snprintf(text, size, "%s", folder) + 1 : 0;
}

static int macos_setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    if (name == SO_NOSIGPIPE) {
        return signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0;
    }
    return setsockopt(fd, level, name, value, size);
}

/* If MACOS_PAUSE is set, the other end has time to hang up. */
static int getpeereid(int fd, uid_t *user, gid_t *group) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getenv("MACOS_PAUSE") != NULL) {
        sleep(1);
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return -1;
    }
    *user = peer.uid;
    *group = peer.gid;
    return 0;
}

/* The path by which the program was started, which may have links and `.` in it. */
static int _NSGetExecutablePath(char *path, uint32_t *size) {
    const char *started = getenv("MACOS_PROGRAM");
    char found[4096] = "";
    if (started == NULL && readlink("/proc/self/exe", found, sizeof found - 1) > 0) {
        started = found;
    }
    return started != NULL && (uint32_t)snprintf(path, *size, "%s", started) < *size ? 0 : -1;
}

#define confstr macos_confstr
#define setsockopt macos_setsockopt
