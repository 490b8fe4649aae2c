"""Files that the system's agent must be able to read: config.toml, and the keys and certificates that it names."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hwsigner._config import profiles
from hwsigner._config.flags import places
from hwsigner._system import users
from hwsigner._system.systemd import HOMES
from hwsigner._uri import KeyURI
from hwsigner.errors import ConfigError, HwsignerError, UsageError

_USER = "hwsigner"
_FIRST_PERSON = 1000  # Debian and Fedora give services lower numbers.


def check_writable() -> None:
    """Check that this user can write the system's config.toml, before anything else is changed."""
    from hwsigner._system.support import require_system_agent

    require_system_agent()
    folder = os.path.dirname(profiles.SYSTEM_FILE)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{profiles.SYSTEM_FILE} is root's to write", "Run the command as root, such as with sudo")


def share(values: Mapping[str, Any]) -> None:
    """Let the system's agent read config.toml and the files of a profile; see `share_file`."""
    for path in (profiles.SYSTEM_FILE, *_files(values)):
        share_file(path)


def share_file(path: str) -> None:
    """Let the system's agent read a file that is this user's alone: its group gets the file, of mode 0640.

    In /etc/hwsigner, a file that was copied with a person as its owner becomes this user's. What another user or group
    was given stays as it is, and so does a link, and a file below a folder of another user, who chooses where the path
    leads. Without the agent's group, as before `hwsigner systemd install`, nothing changes.
    """
    group, user = users.agent_group(), os.geteuid()
    if group is None or not _owners_on_way(path) <= {0, user}:
        return
    folder = os.path.dirname(profiles.SYSTEM_FILE)
    is_in_folder = os.path.dirname(os.path.abspath(path)) == folder
    try:
        if is_in_folder:
            _let_enter(folder, group)
        # Not by its path afterwards: it may be replaced.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(file)
            mode = stat.S_IMODE(status.st_mode)
            is_readable = mode & 0o004 or (status.st_gid == group and mode & 0o040)
            is_alone = (status.st_uid, status.st_gid) == (user, os.getegid())
            is_copied = is_in_folder and status.st_uid >= _FIRST_PERSON
            if stat.S_ISREG(status.st_mode) and ((is_alone and not is_readable) or (is_copied and user == 0)):
                os.fchown(file, user, group)
                os.fchmod(file, 0o640 | mode & 0o004)
        finally:
            os.close(file)
    except OSError as error:
        if os.path.islink(path) or isinstance(error, FileNotFoundError):
            return
        problem = f"the system's agent was not allowed to read {path}: {error.strerror}"
        raise HwsignerError(problem, f"Run {_command(path)}") from error


def _owners_on_way(path: str) -> set[int]:
    """Return the owners of the folders, and of the links to folders, that lead to a file."""
    from pathlib import Path

    places = {*Path(os.path.abspath(path)).parents, *Path(os.path.realpath(path)).parents}
    return {place.lstat().st_uid for place in places if os.path.lexists(place)}


def _let_enter(folder: str, group: int) -> None:
    """Let the agent enter the folder of config.toml, which `mkdir` may have closed because of a umask."""
    status = os.stat(folder)
    if status.st_mode & 0o001 or (status.st_gid == group and status.st_mode & 0o010):
        return
    os.chown(folder, -1, group)
    os.chmod(folder, stat.S_IMODE(status.st_mode) | 0o050)  # noqa: S103  for one group


def hidden_files(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each file that the system's agent can't read, with the instruction that changes it.

    Looks at config.toml, and at the files of a profile. Only root can look, and only once there is the agent's user:
    otherwise nothing is yielded. Without values, it looks at config.toml alone.
    """
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        return
    if os.geteuid() != 0:
        return
    for path in dict.fromkeys((profiles.SYSTEM_FILE, *_files(values))):
        real = os.path.realpath(path)
        if not os.path.exists(real):
            continue
        is_at_home = real.startswith(HOMES)
        if not is_at_home and _can_read(user, real):
            continue
        if is_at_home or not _closed_folders(real) <= _closed_folders(profiles.SYSTEM_FILE):
            yield path, f"Move it to {os.path.dirname(profiles.SYSTEM_FILE)}, and name it there in the profile"
        else:
            yield path, f"Run {_command(real)}"


def _can_read(user: pwd.struct_passwd, path: str) -> bool:
    """Return whether a user can read a file, whatever grants that: its mode, a group or an access control list."""
    import subprocess

    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    command = ("/usr/bin/test", "-r", path)
    done = subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=groups, cwd="/", env={})
    return done.returncode == 0


def _closed_folders(path: str) -> set[str]:
    """Return the folders above a file that others can't enter. Whoever closed one may have other files in it."""
    from pathlib import Path

    with suppress(OSError):
        return {str(folder) for folder in Path(path).parents if not folder.stat().st_mode & 0o001}
    return set()


def _command(path: str) -> str:
    """Return the command that lets the agent read a file: for one in closed folders, also what opens them."""
    closed, file = sorted(_closed_folders(path)), shlex.quote(path)
    opening = f"chmod o+x {shlex.join(closed)} && " if closed else ""
    return f"{opening}chown root:{_USER} {file} && chmod 640 {file}"


def _files(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of each file that a profile names."""
    for _, place in places(values):
        with suppress(UsageError):
            uri = KeyURI.of(place)
            if "path" in uri.path and uri.scheme in ("file", "tpm2"):
                yield uri.file
