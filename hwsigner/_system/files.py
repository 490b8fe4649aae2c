"""Files that several processes share: locked, replaced whole, and not writable by other users.

`edit_file` writes a new file and renames it over the old one, so that a reader sees the old bytes or the new ones.
Beside a file `NAME` it leaves `.NAME.hwsigner-lock`; `.NAME.hwsigner-new` is there only during a write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from hwsigner.errors import HwsignerError, LockError

# Seconds. A write takes milliseconds.
LOCK_TIMEOUT = 10.0
_PAUSE_SECONDS = 0.002
_MOST_TURNS = 15
# Of a file with settings. The longest, config.toml, has less than a kilobyte for each profile.
MAX_BYTES = 16 * 2**20
# As in Linux.
_MAX_LINKS = 40
_ACL = "system.posix_acl_access"
_NO_ACL = frozenset({errno.ENODATA, errno.ENOTSUP})


def open_trusted(path: str, error: type[HwsignerError], *, pipe: bool = False) -> BinaryIO:
    """Open a file for reading that only this user and root can write. Opening does not wait.

    If `pipe`, a pipe or device is accepted too, and hwsigner waits until something is written to a pipe. Another kind
    of file, one longer than 16 MiB, and one that another user can write, raise an instance of `error`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        is_pipe = stat.S_ISFIFO(status.st_mode)
        if not stat.S_ISREG(status.st_mode) and not (pipe and (is_pipe or stat.S_ISCHR(status.st_mode))):
            raise error(f"{path} is not a regular file", "Put a regular file there")
        if stat.S_ISREG(status.st_mode) or (is_pipe and not _is_inherited(descriptor)):
            check_not_writable_by_others(path, status, error)
        if status.st_size > MAX_BYTES:
            raise error(f"{path} is {status.st_size} bytes long", "Put a file of at most 16 MiB there")
        if is_pipe:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            waiting.poll()
        os.set_blocking(descriptor, True)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: str, encoding: str = "utf-8", errors: str = "strict") -> tuple[str, os.stat_result]:
    """Return a file's text, and its status. Of anything but a regular file of at most 16 MiB, the text is empty."""
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):  # Else it is not even opened: that would break the pipe of a waiting writer.
        with opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as handle:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
                with open(handle, encoding=encoding, errors=errors, closefd=False) as file:
                    return file.read(), status
    return "", status


def check_no_pipe(path: str, error: type[HwsignerError]) -> None:
    """Raise `error` if a path leads to a pipe or device: a command that only looks must not wait for one, or empty it.

    A path that leads nowhere, or to a folder, is left to the reader.
    """
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f"{path} is not a regular file", "Name a regular file")


def _is_inherited(pipe: int) -> bool:
    from hwsigner._system.descriptors import is_nameless

    return is_nameless(pipe)


def check_not_writable_by_others(path: str, status: os.stat_result, error: type[HwsignerError]) -> None:
    """Raise `error` if other users than this one and root can write a file with this status."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise error(f"{path} has mode {mode:04o}: other users can write it", f"Run chmod go-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise error(f"{path} belongs to user {status.st_uid}, who can write it", "Make yourself or root its owner")


def check_not_replaceable_by_others(path: str, error: type[HwsignerError]) -> None:
    """Raise `error` if other users than this one and root can replace a file, because they can write its folder.

    A folder that this user's own group can write is accepted: with a umask of 002, no one else is in it. So are sticky
    folders, and one that is a read-only mount, such as a ConfigMap of Kubernetes.
    """
    folder = os.path.dirname(path) or "."
    status = os.stat(folder)
    mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
    writers = stat.S_IWOTH if status.st_gid in (0, os.getegid()) else stat.S_IWGRP | stat.S_IWOTH
    is_open = bool(mode & writers and not mode & stat.S_ISVTX)
    is_foreign = owner not in (0, os.geteuid())
    if not (is_open or is_foreign):
        return
    from hwsigner._system.mounts import is_read_only_mount

    if is_read_only_mount(folder):
        return
    if is_foreign:
        raise error(f"{folder} belongs to user {owner}, who can replace {path}", "Make yourself or root its owner")
    raise error(f"{folder} has mode {mode:04o}: other users can replace {path}", f"Run chmod go-w {folder}")


def lock_within(file: int, seconds: float) -> bool:
    """Lock an open file, waiting for other processes if needed; return whether the lock was taken.

    A queue would be slower: on a busy machine, each process in it must be woken before the next one can go on. So
    processes take the lock in any order, and the time begins again when another one has taken it. One that takes it
    again at once, for hours, leaves no gap for this one: so this ends after fifteen times the seconds. Closing every
    copy of the descriptor releases the lock.
    """
    taken, end, last = -1, 0.0, time.monotonic() + _MOST_TURNS * seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if (latest := os.fstat(file).st_mtime_ns) != taken:
                taken, end = latest, min(time.monotonic() + seconds, last)
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            now = time.time_ns()  # The file system's own time is a little behind.
            with suppress(OSError):
                os.utime(file, ns=(now, now))
            return True


def edit_file(path: str, edit: Callable[[bytes], bytes], *, mode: int = 0o600) -> None:
    """Replace a file's content. Concurrent writers wait for each other.

    A failure, or a killed process, leaves the old file or the new one; the next write removes what else is left. Mode,
    group and access control list are kept, other extended attributes are not. A new folder gets mode 0700, or 0755 if
    all users may read the file. If the path is a symbolic link, its target is replaced. `edit` takes the old content,
    empty if there is no file. `mode` is that of a new file. A link that may be another user's trap is an error. So is a
    lock that another process held for ten seconds (LockError).
    """
    target = path
    try:
        target = _resolved(path)
        with suppress(FileNotFoundError):
            _check_regular(path, os.stat(path))  # /dev/stdout may lead to a pipe, which has no other path.
        folder, name = os.path.split(target)
        if not os.path.exists(folder):
            os.makedirs(folder, mode=0o755 if mode & 0o004 else 0o700, exist_ok=True)
        with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as directory:
            file = _File(target, name, directory)
            file.check()
            with file.locked():
                old = file.read()
                file.replace(edit(old.data if old else b""), old, mode)
    except OSError as error:
        raise _explained(error, target) from error


def _resolved(path: str) -> str:
    """Return a path without links. As Linux may do (proc_sys_fs(5), protected_symlinks), refuse others' in /tmp.

    As root, refuse those of all other users.
    """
    from pathlib import Path

    place = Path(os.getcwd(), path)
    for _ in range(_MAX_LINKS):
        link = next((part for part in reversed((place, *place.parents)) if part.is_symlink()), None)
        if link is None:
            return os.path.normpath(place)
        owner, folder = link.lstat().st_uid, link.parent.stat()
        is_shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_shared and owner not in (os.geteuid(), folder.st_uid):
            problem = f"{link} is a link of user {owner} in a folder that all users can write"
            raise HwsignerError(problem, "Remove it, or give a path in a folder of your own")
        if owner != 0 and os.geteuid() == 0:  # The user could let root write anywhere.
            raise HwsignerError(f"{link} is a link of user {owner}", "Give the path that it leads to")
        place = link.parent / link.readlink() / place.relative_to(link)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        hint = "Give a regular file, or a path that does not exist yet"
        raise HwsignerError(f"{path} is not a regular file", hint)


class _Content:
    def __init__(self, data: bytes, status: os.stat_result, acl: bytes | None) -> None:
        self.data: Final = data
        self.status: Final = status
        self.acl: Final = acl


class _File:
    """A file, by its name in an open folder: the folder may be renamed meanwhile."""

    def __init__(self, path: str, name: str, directory: int) -> None:
        self.path: Final = path
        self.name: Final = name
        self.directory: Final = directory

    def check(self) -> None:
        """Refuse another user's file before a lock is made that its owner could not open."""
        with suppress(FileNotFoundError):
            self._check(os.stat(self.name, dir_fd=self.directory))

    def _check(self, status: os.stat_result) -> None:
        _check_regular(self.path, status)
        if status.st_uid != os.geteuid():
            problem = f"{self.path} belongs to user {status.st_uid}, and replacing it would change its owner"
            raise HwsignerError(problem, f"Run this as user {status.st_uid}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        with opened(_lock_name(self.name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, self.directory) as lock:
            if not lock_within(lock, LOCK_TIMEOUT):
                problem = f"another process has been writing {self.path} for {LOCK_TIMEOUT:g} s"
                raise LockError(problem, "Stop that process, then retry")
            yield

    def read(self) -> _Content | None:
        """Return the file's content, or None if there is no file."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with opened(self.name, flags, self.directory) as handle:
                status = os.fstat(handle)
                self._check(status)
                with open(handle, "rb", closefd=False) as stream:
                    return _Content(stream.read(), status, _read_acl(handle))
        except FileNotFoundError:
            return None

    def replace(self, data: bytes, old: _Content | None, mode: int) -> None:
        """Write the new file and rename it over the old one. The lock is held."""
        temporary = f".{self.name}.hwsigner-new"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.directory)  # Left by a killed process.
        try:
            with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, self.directory) as handle:
                write_all(handle, data)
                if old:
                    _copy_permissions(handle, old)
                else:
                    os.fchmod(handle, mode)
                os.fsync(handle)
            os.rename(temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self.directory)
            raise
        sync_folder(self.directory)


def sync_folder(folder: str | int) -> None:
    """Write a folder's entries, such as a renamed file, to disk. Some network file systems can't; that is no error."""
    with suppress(OSError):
        if isinstance(folder, int):
            os.fsync(folder)
        else:
            with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as directory:
                os.fsync(directory)


def _lock_name(name: str) -> str:
    # A file of its own: a lock on the file itself would stay with the old file when it is replaced.
    return f".{name}.hwsigner-lock"


@contextmanager
def opened(path: str, flags: int, directory: int | None = None) -> Iterator[int]:
    """Open a file; a new one gets mode 0600."""
    handle = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield handle
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write data to an open file."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _read_acl(handle: int) -> bytes | None:
    """Return a file's access control list, in the form of this system; None if it has none."""
    if sys.platform == "darwin":
        from hwsigner._system.descriptors import read_macos_acl

        return read_macos_acl(handle)
    try:
        return os.getxattr(handle, _ACL)
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def _write_acl(handle: int, acl: bytes) -> None:
    if sys.platform == "darwin":
        from hwsigner._system.descriptors import write_macos_acl

        write_macos_acl(handle, acl)
    else:
        os.setxattr(handle, _ACL, acl)


def _copy_permissions(handle: int, old: _Content) -> None:
    if os.fstat(handle).st_gid != old.status.st_gid:
        try:
            os.fchown(handle, -1, old.status.st_gid)
        except PermissionError as error:
            raise _ForeignGroupError(old.status.st_gid) from error
    os.fchmod(handle, stat.S_IMODE(old.status.st_mode))
    if old.acl:
        # With an ACL, the mode's group bits are the ACL's mask. Without it, they would be the group's permissions.
        _write_acl(handle, old.acl)


class _ForeignGroupError(OSError):
    """A file's group, which the new file in its place can't get. The argument is the gid."""


def _explained(error: OSError, path: str) -> HwsignerError:
    if isinstance(error, _ForeignGroupError):
        problem = f"can't write {path}, as its group is {error.args[0]} and you are not in it"
        return HwsignerError(problem, f"Give it your group: chgrp {os.getegid()} {path}")
    if error.errno == errno.EBUSY:
        problem = f"{path} is a mount point (a file mounted by itself), so it can't be replaced"
        return HwsignerError(problem, "Mount its folder instead")
    folder, name = os.path.split(path)
    if error.errno == errno.EACCES and error.filename == _lock_name(name):
        lock = os.path.join(folder, error.filename)
        if not os.access(folder, os.W_OK):
            hint = f"If it should be yours, have root run chown {os.geteuid()} {folder}"
            return HwsignerError(f"can't write {path}: you may not write into its folder {folder}", hint)
        problem = f"can't lock {path} with {lock}: {error.strerror}"
        return HwsignerError(problem, "Remove that file if another user created it")
    return HwsignerError(f"can't write {path}: {error.strerror}", "The file was not changed")


def file_id(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, or of a link itself; None if there is no file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def change_stamp(path: str, status: os.stat_result) -> str:
    """Return a file's path and what changes when its content does, as text."""
    return f"{os.path.realpath(path)} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
