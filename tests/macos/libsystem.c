/* Functions of macOS's libSystem for the hook, which Python finds by ctypes. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#define PT_DENY_ATTACH 31

char ***_NSGetEnviron(void) {
    return &environ;
}

/* No file has an access control list. */
void *acl_get_fd(int file) {
    (void)file;
    errno = ENOENT;
    return NULL;
}

char *acl_to_text(void *acl, ssize_t *size) {
    (void)acl, (void)size;
    errno = EINVAL;
    return NULL;
}

void *acl_from_text(const char *text) {
    (void)text;
    errno = EINVAL;
    return NULL;
}

int acl_set_fd(int file, void *acl) {
    (void)file, (void)acl;
    errno = ENOTSUP;
    return -1;
}

int getpeereid(int sock, uid_t *uid, gid_t *gid) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return -1;
    *uid = peer.uid;
    *gid = peer.gid;
    return 0;
}

int launch_activate_socket(const char *name, int **sockets, size_t *number) {
    (void)name, (void)sockets, (void)number;
    return ESRCH; /* launchd did not start this process. */
}

size_t malloc_zone_pressure_relief(void *zone, size_t goal) {
    (void)zone, (void)goal;
    return 0;
}

int ptrace(int request, pid_t process, void *address, int data) {
    (void)process, (void)address, (void)data;
    errno = EINVAL;
    return request == PT_DENY_ATTACH ? 0 : -1;
}

int sysctlbyname(const char *name, void *value, size_t *size, void *new_value, size_t new_size) {
    static const char boot[] = "6D8E1D1C-7C0B-4F0E-9B5B-2D4C0E6F1A37";
    (void)new_value, (void)new_size;
    if (strcmp(name, "kern.bootsessionuuid") != 0) {
        errno = ENOENT;
        return -1;
    }
    if (*size < sizeof boot) {
        errno = ENOMEM;
        return -1;
    }
    *size = sizeof boot;
    memcpy(value, boot, sizeof boot);
    return 0;
}
