"""`hwsigner systemd install` and `uninstall`: write the units of hwsigner's services and timers, or remove them."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from hwsigner._cli.own_files import mark_of, own_program, print_step, remove_file, text_of_ours, write_file
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._config.flags import Flag, switch
from hwsigner._system.support import require_linux
from hwsigner._system.systemd import HOMES
from hwsigner.enrolment.pace import DROP_IN, unit_folder
from hwsigner.errors import HwsignerError, UsageError, suggestion

HELP = "write or remove systemd units that run this program"

_TPM = Path("/dev/tpmrm0")
_WRITER = "hwsigner systemd install"
_MARK = f"{mark_of(_WRITER)} Change it with `systemctl edit`: the next install overwrites this file."
# Where a distribution's package has its units.
_PACKAGED = Path("/usr/lib/systemd")
_REMOVE = (
    "userdel hwsigner; userdel hwsigner-registrar; rm -rf /var/lib/hwsigner /var/lib/hwsigner-registrar "
    "/var/lib/hwsigner-renew /var/lib/hwsigner-serve /var/lib/hwsigner-update"
)
_FLAGS = (
    switch("system", "the system's units; needs root"),
    switch("user", "your own units"),
    Flag(
        "allow-user",
        "user, or @group, that the system's agent is to serve: install also starts the agent and tries the profile; "
        "repeatable",
        "USER",
        many=True,
    ),
    Flag("profile", "profile of /etc/hwsigner/config.toml for --allow-user (default: the only one)", "NAME"),
)


def add_arguments(parser: Parser) -> None:
    """Add the action, and the flags that say whose units to write."""
    parser.add_argument("action", metavar="install|uninstall", help="write the units, or stop and remove them")
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Install or uninstall, and print each step."""
    require_linux("hwsigner systemd", "Use hwsigner launchd install")
    actions = {"install": _install, "uninstall": _uninstall}
    if arguments.action not in actions:
        hint = suggestion(arguments.action, actions, "Write hwsigner systemd install|uninstall")
        raise UsageError(f"systemd has no action {arguments.action[:40]!r}", hint)
    if arguments.system == arguments.user:
        problem = "systemd needs one of --system and --user"
        raise UsageError(problem, f"Write hwsigner systemd {arguments.action} --user")
    if arguments.system and os.geteuid() != 0:
        raise UsageError("the system's units are root's to write", "Run it as root, or use --user")
    serves = bool(arguments.allow_user or arguments.profile)
    if serves and not (arguments.allow_user and arguments.system and arguments.action == "install"):
        problem = "--allow-user and --profile are for the system's agent"
        raise UsageError(problem, "Write hwsigner systemd install --system --allow-user USER")
    for program in ("systemctl", "systemd-sysusers") if arguments.system else ("systemctl",):
        if not shutil.which(program):
            raise HwsignerError(f"{program} is not installed", "Run this where systemd runs")
    if serves:
        _serve(arguments.profile, arguments.allow_user)
    else:
        actions[arguments.action](system=arguments.system)
    return 0


def _serve(name: str | None, users: Sequence[str]) -> None:
    """Install the units, unless a package has, and start the agent for users."""
    from hwsigner._cli.system_agent import check_users, find_profile, serve_users

    check_users(users)
    found = find_profile(name)
    if not _is_packaged(system=True):
        _write_units(system=True)
    _call("systemctl", "enable", "--now", "hwsigner-agent.socket")
    print_outcome("the agent serves the profile", "\n".join(serve_users(found, users)))


def _install(*, system: bool) -> None:
    if _is_packaged(system=system):  # Units written here would hide the package's, and miss their upgrades.
        enable = "systemctl enable --now" if system else "systemctl --user enable --now"
        problem = f"a package has put the units into {_PACKAGED / ('system' if system else 'user')}"
        raise UsageError(problem, f"Start the agent with: {enable} hwsigner-agent.socket")
    _write_units(system=system)
    enable = shlex.join(["systemctl", *([] if system else ["--user"]), "enable", "--now"])
    following = [
        f"Start the agent with: {enable} hwsigner-agent.socket",
        f"Have a profile's certificate renewed with: {enable} hwsigner-renew@PROFILE.timer",
    ]
    print_outcome("the units are installed", "\n".join(following))


def _write_units(*, system: bool) -> None:
    program = _program(system=system)
    for source, path in _installed(system=system):
        write_file(path, _filled(source, program), _WRITER)
    if system:
        _call("systemd-sysusers", "/etc/sysusers.d/hwsigner.conf")
    scope = [] if system else ["--user"]
    _call("systemctl", *scope, "daemon-reload")


def _is_packaged(*, system: bool) -> bool:
    """Return whether a package has brought the units."""
    return (_PACKAGED / ("system" if system else "user") / "hwsigner-agent.socket").exists()


def _uninstall(*, system: bool) -> None:
    scope = [] if system else ["--user"]
    paths = [path for _, path in _installed(system=system) if text_of_ours(path, _WRITER) is not None]
    folder_of_units = Path(unit_folder(system=system))
    paths += folder_of_units.glob(f"hwsigner-renew@*.timer.d/{DROP_IN}")
    units = [path.name for path in paths if path.suffix in (".service", ".socket", ".path", ".timer")]
    if units:
        _call("systemctl", *scope, "disable", "--quiet", *units)
        _call("systemctl", *scope, "stop", *(unit.replace("@.", "@*.") for unit in units))
    for path in paths:
        remove_file(path)
    for folder in folder_of_units.glob("hwsigner-renew@*.timer.d"):
        with suppress(OSError):
            folder.rmdir()  # Unless an administrator's drop-in is there.
    _call("systemctl", *scope, "daemon-reload")
    if system:
        text = f"The users and folders of the services stay. Remove them with: {_REMOVE}"
        print_outcome("the units are removed", text)


def _installed(*, system: bool) -> Iterator[tuple[Traversable, Path]]:
    """Yield each file of the package with the path it is installed at."""
    templates = files("hwsigner") / "_units"
    if system:
        yield templates / "hwsigner.sysusers", Path("/etc/sysusers.d/hwsigner.conf")
        yield templates / "hwsigner.rules", Path("/etc/polkit-1/rules.d/50-hwsigner.rules")
    folder = Path(unit_folder(system=system))
    for unit in sorted((templates / ("system" if system else "user")).iterdir(), key=lambda unit: unit.name):
        yield unit, folder / unit.name


def _filled(source: Traversable, program: Path) -> str:
    """Return a file's text, with the program's path, and the TPM's group where there is a TPM."""
    comment = "//" if source.name.endswith(".rules") else "#"
    text = source.read_text("utf-8").replace("@program@", str(program))
    return f"{comment} {_MARK}\n{text.replace('@groups@', _groups())}"


def _groups() -> str:
    if not _TPM.exists():
        return "# No TPM was found. For one added later, run `hwsigner systemd install --system` again."
    try:
        return f"SupplementaryGroups={_TPM.group()}"
    except KeyError:  # A group without a name.
        return f"SupplementaryGroups={_TPM.stat().st_gid}"


def _program(*, system: bool) -> Path:
    """Return the path of this program, which the units run, once it is known that the system's units can run it."""
    program = own_program()
    if set(str(program)) & set(" \t'\"\\;%$"):  # See "Command lines" in systemd.service(5).
        raise UsageError(f"{program} has characters that units can't name", "Install hwsigner into /opt/hwsigner")
    if system:
        for file in (program, Path(sys.executable)):
            _check_reachable(file)
        for file in (program, Path(sys.executable), Path(__file__)):
            _check_owner(file)
    return program


def _check_reachable(file: Path) -> None:
    """Check that every user can run a file, and that it is not in a folder that the units hide."""
    real = file.resolve()
    hint = "Install hwsigner into /opt/hwsigner (hwsigner help install) and run /opt/hwsigner/bin/hwsigner"
    for path in {file, real}:
        if str(path).startswith(HOMES):
            raise UsageError(f"{path} is in a home folder, which the system's units can't read", hint)
    for path in (real, *real.parents):
        if not path.stat().st_mode & 0o001:
            raise UsageError(f"the system's units can't reach {real}: {path} is closed to other users", hint)


def _check_owner(file: Path) -> None:
    """Check that only root can change what a path leads to: the file, its folders, and the links on the way."""
    for place in filter(os.path.lexists, _places(file)):  # A module in a zip file does not exist by itself.
        status = place.lstat()
        mode = stat.S_IMODE(status.st_mode)
        # In a folder with the sticky bit, such as /tmp, other users can't replace root's files.
        is_shared = stat.S_ISLNK(status.st_mode) or (stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX)
        if status.st_uid != 0 or (mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_shared):
            owner = f"it belongs to user {status.st_uid} and has mode {mode:04o}"
            problem = f"root's units would run {file}, and other users can change {place}: {owner}"
            change = f"chown -h root {place} && chmod go-w {place}"
            raise UsageError(problem, f"Run {change}, or install hwsigner into /opt/hwsigner as root")


def _places(file: Path) -> Iterator[Path]:
    """Yield a path, the folders above it, and the same for each link among them."""
    waiting, seen = [file], set[Path]()
    while waiting:
        path = waiting.pop()
        for place in (path, *path.parents):
            if place not in seen:
                seen.add(place)
                yield place
                if place.is_symlink():
                    waiting.append(place.parent / place.readlink())


def _call(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split())[:300] or f"status {done.returncode}"
        raise HwsignerError(f"{shlex.join(command)} failed: {reason}", "Fix the cause, then run this command again")
    print_step(f"ran {shlex.join(command)}")
