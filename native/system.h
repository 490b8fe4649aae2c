/* Where Linux and macOS differ, for hwsigner-credentials. hwsigner/_system has the same in Python. */
#ifndef HWSIGNER_SYSTEM_H
#define HWSIGNER_SYSTEM_H

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#include <sys/resource.h>
#include <sys/types.h>
/* Of <sys/ptrace.h>, which Zig does not have. */
#define PT_DENY_ATTACH 31
int ptrace(int request, pid_t process, char *address, int data);
#define RUN "/var/run"
#define SEND_FLAGS 0
#else
#include <sys/prctl.h>
#define RUN "/run"
#define SEND_FLAGS MSG_NOSIGNAL
#endif

/* Open a Unix socket that a program which is executed does not inherit. With SEND_FLAGS, it raises no signal. */
static int open_socket(void) {
#ifdef __APPLE__
    const int on = 1;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 &&
                   setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on) == 0)) {
        return fd;
    }
    close(fd);
    return -1;
#else
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
#endif
}

/* Find the user who listens at the other end of a connected socket. */
static bool find_peer(int fd, uid_t *user) {
#ifdef __APPLE__
    gid_t group;
    return getpeereid(fd, user, &group) == 0;
#else
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || size != sizeof peer) {
        return false;
    }
    *user = peer.uid;
    return true;
#endif
}

/* Write the user's runtime folder if XDG_RUNTIME_DIR does not name it. */
static bool find_runtime(char *folder, size_t size) {
#ifdef __APPLE__
    size_t length = confstr(_CS_DARWIN_USER_DIR, folder, size);
    return length > 1 && length <= size;
#else
    int length = snprintf(folder, size, RUN "/user/%u", (unsigned)geteuid());
    return length > 0 && (size_t)length < size;
#endif
}

/* Write the path of this program's file, without links. There must be room for PATH_MAX bytes. */
static bool find_program(char *path, size_t size) {
#ifdef __APPLE__
    char found[PATH_MAX];
    uint32_t room = sizeof found;
    return size >= PATH_MAX && _NSGetExecutablePath(found, &room) == 0 && realpath(found, path) != NULL;
#else
    ssize_t length = readlink("/proc/self/exe", path, size);
    bool fits = length > 0 && (size_t)length < size;
    path[fits ? length : 0] = '\0';
    return fits;
#endif
}

/* Keep credentials out of core dumps, and from the user's other processes. */
static void protect_memory(void) {
#ifdef __APPLE__
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    ptrace(PT_DENY_ATTACH, 0, NULL, 0);
#else
    prctl(PR_SET_DUMPABLE, 0);
#endif
}

#endif
