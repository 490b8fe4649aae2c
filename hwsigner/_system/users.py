"""Users of this machine: by name or number, where their logins keep files, and at the other end of a Unix socket."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from hwsigner._system.systemd import is_systemd_credential
from hwsigner.errors import UnsafeKeyWarning

# The folder for what ends with the machine's run.
RUN: Final = "/var/run" if sys.platform == "darwin" else "/run"
_LOGINS = f"{RUN}/user"

_CREDENTIALS = struct.Struct("iII")
# Of macOS: version, uid, number of groups, groups (struct xucred of <sys/ucred.h>); options of <sys/un.h>; and of
# confstr(3), which Python can't name either.
_XUCRED = struct.Struct("=IIhxx16I")
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
_CS_DARWIN_USER_DIR = 65536
# Python has no names for these socket options (SO_PEERGROUPS and SO_PEERPIDFD of <asm/socket.h>).
_SO_PEERGROUPS, _SO_PEERPIDFD = {"sparc": (0x3D, 0x56), "paris": (0x4034, 0x404B)}.get(os.uname().machine[:5], (59, 77))
# What Python passes to the kernel at most, in bytes.
_MAX_GROUPS = 1024
# Linux's number for every user that a user namespace does not map (user_namespaces(7)), and of the first namespace's
# map, which has all users.
_OVERFLOW = 65534
_ALL_USERS = ["0", "0", "4294967295"]


def find_uid(user: str) -> int | None:
    """Return the uid of a user, or None if this machine has no such user. A number is returned as it is."""
    try:
        return int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: a zero byte in the name, or a number of thousands of digits.
        return None


def agent_group() -> int | None:
    """Return the group of the system's agent, or None if there is none, as before `hwsigner systemd install`."""
    try:
        return grp.getgrnam("hwsigner").gr_gid
    except KeyError:
        return None


def login_folder() -> str:
    """Return the folder for what ends with this user's login, which may be missing.

    On macOS, it outlasts the login. In the folder for temporary files, a socket that clients connect to counts as
    unused, and macOS removes it after three days, and its folder at a boot, before launchd makes the socket.
    """
    if sys.platform == "darwin":
        with suppress(OSError):
            if folder := os.confstr(_CS_DARWIN_USER_DIR):
                return folder.rstrip("/")
    return f"{_LOGINS}/{os.geteuid()}"


def key_exposures(path: str, status: os.stat_result) -> Iterator[UnsafeKeyWarning]:
    """Yield each way in which other users except root can access a private key file; none of a pipe or device."""
    if not stat.S_ISREG(status.st_mode):
        return
    mode = stat.S_IMODE(status.st_mode)
    others = mode & (stat.S_IRWXG | stat.S_IRWXO)
    if others and not (others == stat.S_IRGRP and status.st_uid == 0 and _is_given(path, status)):
        yield UnsafeKeyWarning(
            f"private key file {path} has mode {mode:04o}: other users can read or change it", f"Run chmod 600 {path}"
        )
    if status.st_uid not in (0, os.geteuid()):
        yield UnsafeKeyWarning(
            f"private key file {path} belongs to user {status.st_uid}, who can read or change it",
            f"Change its owner to you or root: chown USER {path}",
        )


def _is_given(path: str, status: os.stat_result) -> bool:
    """Return whether root lets this file's group read it for a service.

    It is a Secret of Kubernetes, for the system's agent, or a credential of systemd.
    """
    groups = {agent_group()} if os.geteuid() == 0 else {os.getegid(), *os.getgroups()}
    return status.st_gid in groups or is_systemd_credential(path, status)


def reading_group(path: str) -> str | None:
    """Return the group whose members may read a file, folder or device that this user may not read.

    If a folder above it can't be entered, the group is that of the folder. Returns None if this user may read it, it
    does not exist, or no group but root may read it.
    """
    from pathlib import Path

    for place in (path, *map(str, Path(path).absolute().parents)):
        try:
            status = os.stat(place)
        except PermissionError:
            continue
        except OSError:
            return None
        wanted = os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)
        if os.access(place, wanted) or not status.st_mode & stat.S_IRGRP or not status.st_gid:
            return None
        try:
            return grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            return None
    return None


def denied(path: str) -> str:
    """Return, as a hint, why this user can't read a key file, and what root can do about it."""
    from pathlib import Path

    user, file = _name(os.geteuid()), Path(path).absolute()
    why, share = "", f"run chown {user} {path}"
    for place in (*reversed(file.parents), file):
        try:
            status = os.stat(place)
        except OSError:
            break
        if not os.access(place, os.R_OK if place == file else os.X_OK):
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid == os.geteuid():
                return f"Its mode shuts you out: run chmod u+r{'' if place == file else 'x'} {place}"
            why = f"{place} is {_name(status.st_uid)}'s with mode {mode:04o}, and you are {user}. "
            share = share if place == file else f"move it to a folder that {user} can enter"
            break
    return f"{why}Let the system's agent use the key for you (hwsigner help agent), or have root {share}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def find_gid(group: str) -> int | None:
    """Return the gid of a group, or None if this machine has no such group. A number is returned as it is."""
    try:
        return int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        return None


def peer_pid(sock: socket.socket) -> int:
    """Return the process that connected a Unix socket; 0 if it is in a PID namespace that this one can't see.

    If the kernel can't tell, this is an OSError.
    """
    if sys.platform == "darwin":
        return sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
    return _peer(sock)[0]


def peer_uid(sock: socket.socket) -> int:
    """Return the uid at the other end of a Unix socket; of a listener's, that of the process that called `listen`.

    If the kernel can't tell, this is an OSError.
    """
    return _peer(sock)[1]


def peer_groups(sock: socket.socket) -> set[int]:
    """Return the groups of the process that connected a Unix socket, as they were then.

    Of a process in more than 256 groups, only its main one is known; macOS tells 16 of them. Left out is what a user
    namespace calls each group that it does not map.
    """
    groups, data = _peer(sock)[2], b""
    if sys.platform != "darwin":
        with suppress(OSError):
            data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS)
    return {*groups, *struct.unpack(f"{len(data) // 4}I", data)} - {_OVERFLOW}


def peer_pidfd(sock: socket.socket) -> int | None:
    """Return a pidfd of the process that connected a Unix socket, for the caller to close (pidfd_open(2)).

    None before Linux 6.5, on macOS, or if the process has ended.
    """
    if sys.platform == "darwin":
        return None
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return None


def known_uid(uid: int) -> int:
    """Return a uid that the kernel gave, or -1 if it may be any user's, as 65534 is in a user namespace."""
    if sys.platform == "darwin" or uid != _OVERFLOW:
        return uid
    try:
        with open("/proc/self/uid_map") as file:
            return uid if file.read().split() == _ALL_USERS else -1
    except OSError:
        return -1


def _peer(sock: socket.socket) -> tuple[int, int, list[int]]:
    """Return pid, uid and groups, the main one first: Linux's struct ucred (unix(7)), or macOS's, which has no pid."""
    if sys.platform == "darwin":
        _, uid, count, *groups = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
        return 0, uid, groups[:count]
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, [gid]
