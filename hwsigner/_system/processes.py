"""Processes: the command line of one of our own, its children, and others, as far as /proc shows them."""

from __future__ import annotations

import os
import select
import shlex
import socket
import sys
from contextlib import suppress
from functools import cache

from hwsigner._system.users import peer_pid, peer_pidfd
from hwsigner.errors import UsageError

# A client chooses its paths: of a longer one, its end.
_MAX_TEXT = 256
# More than a process of ours has open when it starts another program: the kernel gives out the lowest that are free.
_DESCRIPTORS = 256


def python_command(module: str) -> list[str]:
    """Return the command line that runs a module of hwsigner with the Python that runs this program.

    That Python imports nothing from the current folder, which other users may write, and nothing from PYTHONPATH if
    this one does not.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module]


def own_command(*arguments: str) -> str:
    """Return the command line that runs a command of this hwsigner, quoted as for a shell, for a file."""
    program = os.path.abspath(sys.argv[0])
    is_ours = os.path.basename(program) == "hwsigner" and os.access(program, os.X_OK)
    command = shlex.join([*([program] if is_ours else python_command("hwsigner")), *arguments])
    if not command.isprintable():
        raise UsageError(f"the path {program!r} can't be written into a file", "Install hwsigner into another folder")
    return command


def credential_process(profile: str) -> str:
    """Return the `credential_process` of a profile: of `hwsigner-credentials`, if it is beside this program."""
    client = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "hwsigner-credentials")
    if os.access(client, os.X_OK) and client.isprintable():
        return shlex.join([client, "--profile", profile])
    return own_command("credential-process", "--profile", profile)


def inheritable_descriptors() -> set[int]:
    """Return the descriptors that a program would inherit from this process."""
    return {number for number in range(_DESCRIPTORS) if _is_inheritable(number)}


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # It is not open.
        return False


def withhold(inherited: set[int]) -> list[tuple[int, int]]:
    """Keep all other descriptors from the next child: return the file actions of posix_spawn that do so."""
    if sys.platform == "darwin":  # Its posix_spawn fails to close what is not open.
        for number in inheritable_descriptors() - inherited:
            os.set_inheritable(number, False)
        return []
    # Also those that are not open, as other threads may open them meanwhile.
    limit = os.sysconf("SC_OPEN_MAX")  # glibc fails to close a number from here on; -1 means no limit.
    last = _DESCRIPTORS if limit < 0 else min(_DESCRIPTORS, limit)
    return [(os.POSIX_SPAWN_CLOSE, number) for number in range(last) if number not in inherited]


def describe_peer(sock: socket.socket) -> dict[str, str | int]:
    """Return what the kernel shows of the process that connected a Unix socket; see `describe_process`."""
    pidfd = peer_pidfd(sock)
    try:
        return describe_process(peer_pid(sock), pidfd)
    except OSError:  # The kernel can't tell.
        return {}
    finally:
        if pidfd is not None:
            os.close(pidfd)


def describe_process(pid: int, pidfd: int | None = None) -> dict[str, str | int]:
    """Return what the kernel shows of a process, as fields of a line. What this user may not see is empty.

    If the process of `pidfd` has ended, another one may have its number, and no more is returned.
    """
    fields: dict[str, str | int] = {"pid": pid}
    if sys.platform == "darwin":  # Another process may have the number by now, and nothing shows it.
        return fields
    if pidfd is not None:
        fields["pidfd_id"] = _pidfd_id(pidfd)
    cgroup, parent = _cgroup_of(pid), _parent_of(pid)
    found: dict[str, str | int] = {
        "executable": _executable_of(pid),
        "executable_inode": _executable_inode(pid),
        "cgroup": cgroup[-_MAX_TEXT:],
        "unit": _unit_of(cgroup),
        "parent_pid": parent or "",
        "parent_executable": _executable_of(parent) if parent else "",
    }
    return fields if pidfd is not None and _has_ended(pidfd) else fields | found


def _pidfd_id(pidfd: int) -> int | str:
    """Return the number that no other process has until the next boot; empty before Linux 6.9, which has none."""
    status = os.fstat(pidfd)
    return status.st_ino if status.st_dev != _shared_device() else ""


@cache
def _shared_device() -> int:
    """Return the device of all descriptors that have no inode of their own."""
    if sys.platform == "darwin":
        return -1
    descriptor = os.eventfd(0)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _read(path: str) -> bytes:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    return b""


def _parent_of(pid: int) -> int:
    rest = _read(f"/proc/{pid}/stat").rpartition(b") ")[2]  # The name before it may contain anything.
    return int(rest.split(b" ", 2)[1]) if rest else 0


def _cgroup_of(pid: int) -> str:
    """Return the control group in the unified hierarchy (cgroups(7))."""
    text = _read(f"/proc/{pid}/cgroup").decode("utf-8", "replace")
    return f"\n{text}".partition("\n0::")[2].rstrip("\n")  # A user may have named one of an older hierarchy 0::.


def _unit_of(cgroup: str) -> str:
    """Return the system's unit: the first part of the path that is no slice. The user chooses what is below it."""
    first = next((part for part in cgroup.split("/") if part not in ("", "..") and not part.endswith(".slice")), "")
    return first[:_MAX_TEXT] if first.endswith((".service", ".scope")) else ""


def _executable_of(pid: int) -> str:
    with suppress(OSError):
        return os.fsencode(os.readlink(f"/proc/{pid}/exe")).decode("utf-8", "replace")[-_MAX_TEXT:]
    return ""


def _executable_inode(pid: int) -> str:
    with suppress(OSError):
        status = os.stat(f"/proc/{pid}/exe")
        return f"{status.st_dev}:{status.st_ino}"
    return ""
