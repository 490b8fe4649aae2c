"""New files: written whole under their name, or without any."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from hwsigner._system.files import opened, sync_folder, write_all

if TYPE_CHECKING:
    import subprocess
    from io import FileIO


def create_file(path: str, data: bytes) -> None:
    """Write a new file of mode 0600. A failure leaves no file of that name, and a killed process all of it or none.

    On macOS, and on a file system without nameless files, such as NFS, a killed process may leave
    `.NAME.RANDOM.hwsigner-new`, which the next `create_file` removes. If there is a file already, it is left alone
    (FileExistsError).
    """
    remove_unfinished(path)
    folder, name = os.path.split(path)
    with opened(folder or ".", os.O_RDONLY | os.O_DIRECTORY) as directory:
        try:
            _create_nameless(name, data, directory)
        except FileExistsError:
            raise
        except OSError:
            _create_linked(name, data, directory)
        sync_folder(directory)


def _create_nameless(name: str, data: bytes, directory: int) -> None:
    """Write a file, and name it afterwards. Raises an OSError if the system can't, or /proc is missing."""
    if sys.platform == "darwin":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    with opened(".", os.O_WRONLY | os.O_TMPFILE, directory) as handle:
        write_all(handle, data)
        os.fsync(handle)
        # Unlike a rename, this overwrites nothing.
        os.link(f"/proc/self/fd/{handle}", name, dst_dir_fd=directory, follow_symlinks=True)


def _create_linked(name: str, data: bytes, directory: int) -> None:
    """Write a file under another name, and give it a second one."""
    temporary = f".{name}.{os.urandom(4).hex()}.hwsigner-new"
    try:
        with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, directory) as handle:
            write_all(handle, data)
            os.fsync(handle)
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)


def anonymous_file(name: str) -> BinaryIO:
    """Open an empty file that has no path, to be written and read. Linux shows its name to debuggers."""
    if sys.platform == "darwin":
        import tempfile

        return tempfile.TemporaryFile()
    return open(os.memfd_create(name), "w+b")


def open_end(process: subprocess.Popen[bytes]) -> FileIO:
    """Open what has no path and can be read once a child process has ended."""
    if sys.platform != "darwin":
        return open(os.pidfd_open(process.pid), "rb", buffering=0)
    import threading

    reader, writer = os.pipe()
    try:
        threading.Thread(target=_close_at_end, args=[process, writer], name="hwsigner-end", daemon=True).start()
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    return open(reader, "rb", buffering=0)


def _close_at_end(process: subprocess.Popen[bytes], writer: int) -> None:
    process.wait()
    os.close(writer)


def remove_unfinished(path: str) -> None:
    """Remove what killed processes left of a new file: a copy of it, or of a part. Raises OSError."""
    folder, name = os.path.split(path)
    unfinished = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.hwsigner-new")
    with opened(folder or ".", os.O_RDONLY | os.O_DIRECTORY) as directory:
        for entry in filter(unfinished.fullmatch, os.listdir(directory)):
            with suppress(OSError):
                os.unlink(entry, dir_fd=directory)
