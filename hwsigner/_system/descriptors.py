"""Open files: the path of one, the same in another mode, pipes without a name, macOS's access control lists."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_MAX_PATH = 1024  # Of macOS.


def path_of(file: int) -> str:
    """Return a path on Linux that leads to an open file, in this process and in a child that inherits it."""
    return f"/proc/self/fd/{file}"


def reopen(file: int, path: str, flags: int) -> int:
    """Open a file again, in another mode.

    macOS needs its path. If that leads to another file by now, this is an error.
    """
    if sys.platform != "darwin":
        return os.open(path_of(file), flags)
    again = os.open(path, flags | os.O_NOFOLLOW)
    if os.path.sameopenfile(file, again):
        return again
    os.close(again)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def is_nameless(pipe: int) -> bool:
    """Return whether a pipe has no name: the process that started this one made it, as a shell does for `<(…)`."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(pipe, fcntl.F_GETPATH, bytes(_MAX_PATH))
        except OSError as error:
            return error.errno == errno.EBADF  # Only files of a file system have a path.
        return False
    with suppress(OSError):
        return os.readlink(path_of(pipe)).startswith("pipe:")
    return False


def read_macos_acl(file: int) -> bytes | None:
    """Return a file's access control list as text; None if it has none (acl(3) of macOS)."""
    import ctypes

    library = _acl_library()
    acl = library.acl_get_fd(file)
    return ctypes.string_at(library.acl_to_text(acl, None)) if acl else None


def write_macos_acl(file: int, acl: bytes) -> None:
    """Give a file what `read_macos_acl` returned. Raises OSError."""
    import ctypes

    library = _acl_library()
    if library.acl_set_fd(file, library.acl_from_text(acl)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _acl_library() -> ctypes.CDLL:
    """Return the C library of macOS. Linux has the like in libacl."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    for function in (library.acl_get_fd, library.acl_to_text, library.acl_from_text):
        function.restype = ctypes.c_void_p
    library.acl_to_text.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.acl_set_fd.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return library
