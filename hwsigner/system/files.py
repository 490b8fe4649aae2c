"""Files that others read at any time: replaced whole, by one writer at a time, so that nobody sees half of one.

Beside a file `NAME` lie `.NAME.hwsigner-lock`, which stays, and while it is written `.NAME.hwsigner-new`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hwsigner.errors import HwsignerError, LockError


def check_only_mine(path: str, status: os.stat_result, error: type[HwsignerError]) -> None:
    """Check that nobody but this user and root can write a regular file.

    Args:
        path: its path, for the message.
        status: its status, of the opened file.
        error: the class to raise.

    Raises:
        HwsignerError: as the class `error`.
    """
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise error(f"{path} has mode {mode:04o}: others can write it", f"Run chmod go-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise error(f"{path} belongs to user {status.st_uid}, who can write it", "Let it belong to you or root")


_PAUSE_SECONDS = 0.002


def lock_within(file: int, seconds: float) -> bool:
    """Lock an open file for this process alone, and wait for others as long as that takes.

    Args:
        file: its descriptor. Closing it, and all that were inherited of it, lets the others have their turn.
        seconds: how long to wait at most.

    Returns:
        False if others held it all the time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


# Seconds. A writer takes milliseconds.
LOCK_TIMEOUT = 10.0
_ACL = "system.posix_acl_access"
_NO_ACL = frozenset({errno.ENODATA, errno.ENOTSUP})


def edit_file(path: str, edit: Callable[[bytes], bytes]) -> None:
    """Replace what a file holds; writers wait for each other, and readers see the old bytes or the new ones.

    Whatever fails, or kills the process, leaves the file as it was; what a killed process leaves beside it, the next
    one removes. Mode, group and access control list are kept, and other extended attributes are not. A new file gets
    mode 0600, in a new folder 0700. Of a symbolic link, the target is replaced.

    Args:
        path: the file's path.
        edit: makes the new bytes of the old ones, which are empty for a file that does not exist.

    Raises:
        HwsignerError: the file can't be read or replaced.
        LockError: another process has been writing it for too long.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    try:
        if not os.path.exists(folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as directory:
            file = _File(target, name, directory)
            file.check_owner()
            with file.locked():
                old = file.read()
                file.replace(edit(old.data if old else b""), old)
    except OSError as error:
        raise _told(error, target) from error


@dataclass(frozen=True)
class _Content:
    data: bytes
    status: os.stat_result
    acl: bytes | None


@dataclass(frozen=True)
class _File:
    """A file by its name in an open folder, which may be renamed meanwhile."""

    path: str
    name: str
    directory: int

    def check_owner(self) -> None:
        """Refuse another user's file, before there is a lock beside it that its owner could not open."""
        with suppress(FileNotFoundError):
            self._check_owner(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False))

    @contextmanager
    def locked(self) -> Iterator[None]:
        with _opened(_lock_of(self.name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, self.directory) as lock:
            if not lock_within(lock, LOCK_TIMEOUT):
                raise LockError(f"another process has been writing {self.path} for {LOCK_TIMEOUT:g} s", "End it")
            yield

    def read(self) -> _Content | None:
        """Return what there is, or None."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with _opened(self.name, flags, self.directory) as handle:
                status = os.fstat(handle)
                self._check(status)
                with open(handle, "rb", closefd=False) as stream:
                    return _Content(stream.read(), status, _read_acl(handle))
        except FileNotFoundError:
            return None

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise HwsignerError(f"{self.path} is not a regular file", "Give the path of one, or of none yet")
        self._check_owner(status)

    def _check_owner(self, status: os.stat_result) -> None:
        if status.st_uid != os.geteuid():
            raise HwsignerError(
                f"{self.path} belongs to user {status.st_uid}, and a new file in its place would not",
                f"Run this as user {status.st_uid}",
            )

    def replace(self, data: bytes, old: _Content | None) -> None:
        """Write the file anew. It is locked."""
        temporary = f".{self.name}.hwsigner-new"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.directory)  # Of a process that was killed.
        try:
            with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, self.directory) as handle:
                _write(handle, data)
                if old:
                    _make_alike(handle, old)
                os.fsync(handle)
            os.rename(temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self.directory)
            raise
        with suppress(OSError):  # Some file systems can't, and what was written is there all the same.
            os.fsync(self.directory)


def _lock_of(name: str) -> str:
    # A file of its own: whoever locked the one that is replaced would lock what nobody else finds any more.
    return f".{name}.hwsigner-lock"


@contextmanager
def _opened(path: str, flags: int, directory: int | None = None) -> Iterator[int]:
    """Open a file, a new one for its owner alone."""
    handle = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _read_acl(handle: int) -> bytes | None:
    try:
        return os.getxattr(handle, _ACL)
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def _make_alike(handle: int, old: _Content) -> None:
    if os.fstat(handle).st_gid != old.status.st_gid:
        os.fchown(handle, -1, old.status.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.status.st_mode))
    if old.acl:
        # The mode's group bits are its mask: without it, they would let the group in.
        os.setxattr(handle, _ACL, old.acl)


def _told(error: OSError, path: str) -> HwsignerError:
    if error.errno == errno.EBUSY:
        return HwsignerError(
            f"{path} is a mount point (a file mounted by itself), so it can't be replaced",
            "Mount the folder that holds it, in its place",
        )
    folder, name = os.path.split(path)
    if error.errno == errno.EACCES and error.filename == _lock_of(name):
        problem = f"can't lock {path} by {os.path.join(folder, error.filename)}: {error.strerror}"
        return HwsignerError(problem, "Remove that file if another user has made it")
    return HwsignerError(f"can't write {path}: {error.strerror}", "Nothing in it is lost")
