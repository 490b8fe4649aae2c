"""Files that are read again when they change. If the new content is bad, the old one stays in use."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hwsigner._system.files import change_stamp, open_trusted
from hwsigner._system.mounts import is_read_only_mount
from hwsigner._system.systemd import is_systemd_credential
from hwsigner.errors import ConfigError, HwsignerError

_T = TypeVar("_T")


def read_file(path: str, *, private: bool = False, hint: str = "Check the path and who may read it") -> bytes:
    """Read a file that only this user and root can write.

    If `private`, other users must not be able to read it either. A Secret of Kubernetes and a credential of systemd are
    private, whatever their modes.
    """
    try:
        with open_trusted(path, ConfigError) as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            is_given = is_systemd_credential(path, status) or _is_mounted_secret(path, status)
            if private and mode & 0o077 and not is_given:
                raise ConfigError(f"{path} has mode {mode:04o}: other users can read it", f"Run chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint) from error


def _is_mounted_secret(path: str, status: os.stat_result) -> bool:
    """Return whether a file is as the kubelet mounts a Secret for a user that is not root.

    It is root's, its folder is mounted read-only, and `fsGroup` lets a group of this user read it.
    """
    is_for_group = stat.S_IMODE(status.st_mode) & 0o077 == stat.S_IRGRP and status.st_uid == 0
    is_ours = status.st_gid in {os.getegid(), *os.getgroups()}
    return is_for_group and is_ours and is_read_only_mount(os.path.dirname(path) or ".")


class ReloadedFile(Generic[_T]):
    """A file's content, as `load` reads it. Thread-safe.

    A HwsignerError of `load` is raised at first. Later it goes to `report`, once for each change, and the old content
    stays in use. `others` are the paths of other files that `load` reads: it is called when one of them changes too.
    """

    def __init__(
        self,
        path: str,
        load: Callable[[str], _T],
        report: Callable[[HwsignerError], None],
        *,
        others: Sequence[str] = (),
    ) -> None:
        self._path = path
        self._paths = [path, *others]
        self._load = load
        self._report = report
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._content = load(path)

    def content(self) -> _T:
        """Return the content, after reading the file again if it has changed."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp  # Taken before it is read: a change meanwhile is seen the next time.
                try:
                    self._content = self._load(self._path)
                except HwsignerError as error:
                    if self._look() == stamp:  # Else files were replaced between two reads. The next time reads them.
                        self._report(error)
            return self._content

    def _look(self) -> list[str]:
        return list(map(_stamp, self._paths))


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{change_stamp(path, status)} {status.st_ctime_ns}"
