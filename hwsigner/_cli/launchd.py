"""`hwsigner launchd install`, `uninstall` and `show`: the property lists of this user's launchd agents, on macOS."""

from __future__ import annotations

import os
import plistlib
import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from hwsigner._cli.own_files import mark_of, own_program, print_step, remove_file, text_of_ours, write_file
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._config.flags import Flag, whole_number
from hwsigner._system import launchd
from hwsigner.errors import HwsignerError, UsageError, suggestion

HELP = "write, show or remove launchd agents, on macOS"

SERVICES = ("agent", "renew", "serve", "update")
_ACTIONS = ("install", "uninstall", "show")
_WRITER = "hwsigner launchd install"
_MARK = f"<!-- {mark_of(_WRITER)} The next install overwrites this file. -->"
_FLAGS = (
    Flag("every", "seconds between two runs of renew (default: 900)", "SECONDS", whole_number(10, 86400)),
    Flag("port", "port of serve on 127.0.0.1 and ::1 (default: 9911)", "PORT", whole_number(1, 65535)),
)
# launchd gives its agents a PATH without these folders of Homebrew.
_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_VARIABLES = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
_LONGEST_SOCKET = 103  # Bytes of its path, which macOS has room for.
_QUARTERS = (0, 15, 30, 45)
# After a failure, such as one of the network at login, serve and update start again so many seconds later.
_PAUSE = 60


def add_arguments(parser: Parser) -> None:
    """Add the action, the service, its profile, and the flags of services."""
    parser.usage = "hwsigner launchd install|uninstall|show [SERVICE [NAME]] [flags]"
    parser.hint = "Write hwsigner launchd install|uninstall|show [agent|renew|serve|update] [NAME]"
    parser.add_argument("action", metavar="install|uninstall|show", help="write the file, remove it, or print its text")
    parser.add_argument(
        "service",
        nargs="?",
        metavar="agent|renew|serve|update",
        help="the command that launchd runs (default: agent; for uninstall, all)",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="profile, of every service but agent")
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Install, uninstall or show, and print each step and what to do next."""
    if not launchd.is_here():
        raise UsageError("hwsigner launchd needs macOS", "On Linux, use hwsigner systemd install --user")
    service, name = _checked(arguments)
    if os.geteuid() == 0:
        raise UsageError("launchd's agents are a user's, and this is root", "Run it as that user, without sudo")
    if arguments.action == "uninstall":
        _uninstall(_label(service, name) if service else None)
        return 0
    service = service or "agent"
    job = _job(service, name, every=arguments.every, port=arguments.port)
    text = _text(job)
    if arguments.action == "show":
        print(text, end="")
        return 0
    if service == "agent":
        _make_folder(Path(job["Sockets"][launchd.SOCKETS]["SockPathName"]))
    _install(job, text)
    return 0


def _checked(arguments: Arguments) -> tuple[str | None, str]:
    """Return the service and its profile, empty for the agent; raises a UsageError if the arguments are wrong."""
    from hwsigner._config.profiles import check_name, profile

    action, service, name = arguments.action, arguments.service, arguments.name or ""
    if action not in _ACTIONS:
        hint = suggestion(action, _ACTIONS, "Write hwsigner launchd install|uninstall|show")
        raise UsageError(f"launchd has no action {action[:40]!r}", hint)
    if service is not None and service not in SERVICES:
        hint = suggestion(service, SERVICES, f"Use {', '.join(SERVICES)}")
        raise UsageError(f"{service[:40]!r} is not a service that launchd can run", hint)
    if bool(name) != (service not in (None, "agent")):
        problem = f"{service} needs the name of a profile" if service not in (None, "agent") else "agent has no profile"
        raise UsageError(problem, f"Write hwsigner launchd {action} {service or 'agent'}{' NAME' if not name else ''}")
    for flag, of in (("every", "renew"), ("port", "serve")):
        if getattr(arguments, flag) is not None and (service != of or action == "uninstall"):
            raise UsageError(f"--{flag} is for {of}", f"Write hwsigner launchd install {of} NAME --{flag} …")
    if name:
        check_name(name)
        if action != "uninstall":
            profile(name, os.environ)
    return service, name


def _label(service: str, name: str) -> str:
    return ".".join(filter(None, ("hwsigner", service, name)))


def _job(service: str, name: str, *, every: int | None, port: int | None) -> dict[str, Any]:
    """Return the property list of a service: launchd.plist(5)."""
    from hwsigner._system.environment import home_folder

    label, program = _label(service, name), str(own_program())
    port = port or 9911
    commands = {
        "agent": ["agent"],
        "renew": ["renew", "--if-due", name],
        "serve": ["serve", name, "--port", str(port)],
        "update": ["update", "--config-profile", name, "--profile", name],
    }
    given = {key: os.environ[key] for key in _VARIABLES if os.path.isabs(os.environ.get(key, ""))}
    job: dict[str, Any] = {
        "Label": label,
        "ProgramArguments": [program, *commands[service]],
        "EnvironmentVariables": {"PATH": _PATH, **given},
        "StandardErrorPath": os.path.join(home_folder(os.environ), "Library", "Logs", f"{label}.log"),
        # Secrets are never dumped.
        "SoftResourceLimits": {"Core": 0},
        "HardResourceLimits": {"Core": 0},
        "Umask": 0o077,
    }
    for value in (program, job["StandardErrorPath"], *given.values()):
        if not value.isprintable():
            problem = f"the path {value!r} can't be written into a property list"
            raise UsageError(problem, "Use folders whose names have no control characters")
    return job | _when(service, label, every=every, port=port)


def _when(service: str, label: str, *, every: int | None, port: int) -> dict[str, Any]:
    """Return the keys that say when launchd runs a service: for the agent, when the first client connects."""
    if service == "agent":
        return {"Sockets": {launchd.SOCKETS: _unix_socket()}}
    if service == "renew" and every:
        return {"RunAtLoad": True, "StartInterval": every}
    if service == "renew":  # Each Mac has minutes of its own, so that not all ask the issuer at once.
        minute = sha256(f"{socket.gethostname()} {label}".encode()).digest()[0] % 15
        return {"RunAtLoad": True, "StartCalendarInterval": [{"Minute": minute + quarter} for quarter in _QUARTERS]}
    when: dict[str, Any] = {"RunAtLoad": True, "KeepAlive": {"SuccessfulExit": False}, "ThrottleInterval": _PAUSE}
    if service == "serve":  # While launchd holds the port, no other user's program can pose as the server.
        addresses = {"127.0.0.1": "IPv4", "::1": "IPv6"}
        when["Sockets"] = {
            launchd.SOCKETS: [
                {"SockNodeName": address, "SockServiceName": str(port), "SockFamily": family, "SockType": "stream"}
                for address, family in addresses.items()
            ]
        }
    return when


def _unix_socket() -> dict[str, Any]:
    from hwsigner._agent.client import user_address

    path = user_address(os.environ).socket
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        problem = f"the socket's path {path} is longer than {_LONGEST_SOCKET} bytes"
        raise UsageError(problem, "Let XDG_RUNTIME_DIR name a folder with a shorter path, or unset it")
    return {"SockPathName": path, "SockPathMode": 0o600, "SockFamily": "Unix", "SockType": "stream"}


def _text(job: dict[str, Any]) -> str:
    head, rest = plistlib.dumps(job, sort_keys=False).decode().split("\n", 1)
    return f"{head}\n{_MARK}\n{rest}"


def _make_folder(path: Path) -> None:
    """Make the folder of the agent's socket, as launchd does not."""
    from hwsigner._system.environment import is_usable

    if not is_usable(str(path.parent)):
        problem = f"{path.parent} must be a folder that you own and only you can use"
        raise HwsignerError(problem, "Remove it, then run this command again")


def _install(job: dict[str, Any], text: str) -> None:
    label = job["Label"]
    path = Path(launchd.file_of(label))
    with suppress(FileNotFoundError, NotADirectoryError):
        names = [each for each in os.listdir(path.parent) if each.casefold() == path.name.casefold()]
        if names and path.name not in names:  # macOS takes the two names for one.
            raise UsageError(f"{path.parent} has {names[0]}, of another profile", "Rename one of the two profiles")
    write_file(path, text, _WRITER)
    target = shlex.quote(_target(label))
    following = [
        f"If it was loaded before, first: launchctl bootout {target}",
        f"Load it, now and at each login: {shlex.join(['launchctl', 'bootstrap', _domain(), str(path)])}",
        f"Start it again: launchctl kickstart -k {target}",
        f"Its state: launchctl print {target}; its log: {shlex.quote(job['StandardErrorPath'])}",
    ]
    print_outcome("the property list is written", "\n".join(following))


def _uninstall(label: str | None) -> None:
    """Remove the file of one label, or all that an install wrote."""
    folder = Path(launchd.file_of("")).parent
    paths = [Path(launchd.file_of(label))] if label else sorted(folder.glob("hwsigner.*.plist"))
    removed = [path for path in paths if _is_ours(path, strict=label is not None)]
    for path in removed:
        remove_file(path)
    if not removed:
        print_step(f"nothing to remove in {folder}")
    targets: Sequence[str] = [shlex.quote(_target(path.stem)) for path in removed]
    if targets:
        text = "\n".join(f"Stop it, unless it is not loaded: launchctl bootout {target}" for target in targets)
        print_outcome("the property lists are removed", text)


def _is_ours(path: Path, *, strict: bool) -> bool:
    """Return whether an install wrote a file. If another program did, that is an error if `strict`."""
    try:
        return text_of_ours(path, _WRITER) is not None
    except UsageError:
        if strict:
            raise
        return False


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _target(label: str) -> str:
    return f"{_domain()}/{label}"
