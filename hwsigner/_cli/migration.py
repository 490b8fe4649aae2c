"""Calls of other programs for IAM Roles Anywhere, and access keys, in the SDKs' config files, units and crontabs.

A call becomes a profile of config.toml and a command that uses it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._aws.config_lines import credential_processes, profile_of_section
from hwsigner._aws.region import check_known_arns
from hwsigner._cli import command_parser
from hwsigner._config.flags import ARNS, IN_PROFILES, URIS, check_readable_again, places
from hwsigner._system.files import read_text
from hwsigner._system.users import find_uid
from hwsigner._uri import KeyURI, in_full_if_there
from hwsigner.doctor.machine import NODE_CONFIG
from hwsigner.errors import UsageError

# It begins where a word or quoted text does. Otherwise a long line without blanks takes minutes.
_PROGRAM = re.compile(
    r"""(["']|(?<![^\s'"=;|&()`]))[^\s'"=;|&()`]*(?<![\w.-])(aws[_-]signing[_-]helper|needroleshere)(?:\.exe)?"""
    r"""(?![\w./-])\1"""
)
# What follows the program, up to what ends a shell's command. Without a shell, a word may have ; and & in it.
_ARGUMENTS = re.compile(r"""(?:[^'"\\|&;<>()`\n]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""", re.DOTALL)
_WITHOUT_SHELL = re.compile(_ARGUMENTS.pattern.replace("(?:", r"(?:(?<=\S)[;&](?=[^\s;&])|", 1), re.DOTALL)
_SDK_FILE = re.compile(rb"^(?:\[(?:default\]|profile\s)|credential_process\s*[=:])", re.MULTILINE | re.IGNORECASE)
_ACCESS_KEY = re.compile(r"(?<![A-Za-z0-9/+])AKIA[A-Z0-9]{12,124}(?![A-Za-z0-9/+])")
_LOGICAL_LINE = re.compile(r"(?:[^\n\\]|\\.|\\\n)+", re.DOTALL)
_BEFORE_COMMAND = re.compile(r"^\s*Exec\w+\s*=\s*[-@:+!|]*\s*")
_USER_COLUMN = re.compile(r"\s*(?:@\w+|(?:\S+\s+){4}\S+)\s+(\S+)\s")
_USER_OF_UNIT = re.compile(
    r"^(?:User[ \t]*=[ \t]*(\S+)|DynamicUser[ \t]*=[ \t]*(?:yes|true|on|1)[ \t]*$)", re.MULTILINE
)
_ANOTHER_USER = re.compile(r"\b(?:sudo|su|runuser|setpriv|chroot|docker|podman|ssh)\s")
# The commands, each with the flag that names a profile of config.toml.
_COMMANDS = {"credential-process": "--profile", "serve": "--profile", "update": "--config-profile"}
_SAME_FLAGS = "Write hwsigner in place of the program, and keep its flags"


@dataclass(frozen=True)
class HelperCall:
    """A call of aws_signing_helper, or of a program that runs it, by its file and line.

    `program` has no folder; it is empty if another one runs it or has its flags. `before` and `after` are the command's
    text around program and arguments. `process` is the whole command of a `credential_process`, and `section` then that
    of the SDKs' config file. `user` runs it, if the file says so; empty for one that systemd makes.
    """

    place: str
    program: str
    before: str
    arguments: str
    after: str
    process: str | None = None
    section: str = ""
    user: str | None = None


@dataclass(frozen=True)
class Translation:
    """What a call becomes: a profile's values by flag, as TOML has them, and a name that suits it.

    `command` has the arguments of hwsigner up to the name of the profile, and `flags` those after it.
    """

    name: str
    values: dict[str, Any]
    command: tuple[str, ...]
    flags: tuple[str, ...]


def find_calls(path: str, data: bytes) -> Iterator[HelperCall]:
    """Yield the calls in a file, and those in a script that is a `credential_process`."""
    if _SDK_FILE.search(data):
        for number, section, process in credential_processes(data, path):
            yield from _calls(f"{path}:{number}", process, process=process, section=section)
        return
    text = data.decode("utf-8", "surrogateescape")
    for line in _LOGICAL_LINE.finditer(text):
        joined = re.sub(r"\\\n\s*", " ", line[0])
        if joined.lstrip()[:1] not in ("#", ";"):
            number = text.count("\n", 0, line.start()) + 1
            yield from _calls(f"{path}:{number}", joined, user=_user(path, text, joined))


def _calls(place: str, text: str, **others: Any) -> Iterator[HelperCall]:
    found = list(_PROGRAM.finditer(text))
    has_no_shell = others.get("process") or _BEFORE_COMMAND.match(text)
    for each in found:
        match = (_WITHOUT_SHELL if has_no_shell else _ARGUMENTS).match(text, each.end())
        arguments = match[0] if match else ""
        after = text[each.end() + len(arguments) :]
        if after[:1] in ("<", ">"):  # As in `2>&1`: the number belongs to what follows.
            arguments = re.sub(r"\s\d+$", "", arguments)
        yield HelperCall(place, each[2], text[: each.start()], arguments, after, **others)
    if not found and "hwsigner" not in text and ("--trust-anchor-arn" in text or _is_wrapper(others.get("process"))):
        yield HelperCall(place, "", text, "", "", **others)


def _is_wrapper(process: str | None) -> bool:
    """Return whether a command is a script that calls such a program."""
    try:
        return _PROGRAM.search(read_text(shlex.split(process or "")[0], errors="replace")[0]) is not None
    except (OSError, ValueError, IndexError):
        return False


def _user(path: str, text: str, line: str) -> str | None:
    """Return the user who runs a line of a unit or crontab; None for the one who reads it."""
    if "[Service]" in text:
        found = _USER_OF_UNIT.search(text)
        return (found[1] or "") if found else "root" if "/systemd/system/" in path else None
    column = _USER_COLUMN.match(line) if path == "/etc/crontab" or path.startswith("/etc/cron.d/") else None
    return column[1] if column else None


def translate(call: HelperCall) -> Translation:
    """Return what a call becomes. If it becomes no profile, a UsageError has the reason."""
    _check(call)
    _check_user(call)
    words = _words(call)
    command = words[0] if words else ""
    if command not in _COMMANDS or (command != "credential-process" and call.program == "needroleshere"):
        hint = "Add a profile with hwsigner profile add, then run hwsigner serve NAME"
        raise UsageError(
            f"it runs {command.partition('=')[0][:40] or 'no command'}", hint if command == "serve" else _SAME_FLAGS
        )
    if call.process and command != "credential-process":
        raise UsageError(f"it runs {command}, which prints no credentials", "Write credential-process")
    values, flags = _parsed(command, words[1:])
    role = str(values["role-arn"]).rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9._@-]+", "-", profile_of_section(call.section) or role).strip("-._@")[:60]
    return Translation(name or "migrated", values, (command, _COMMANDS[command]), flags)


def _check(call: HelperCall) -> None:
    """Check the place of a call, and what is around it."""
    if call.place.startswith(f"{NODE_CONFIG}:"):
        raise UsageError("nodeadm writes this file", "See hwsigner help eks-hybrid-nodes")
    if call.process and call.place.startswith(f"{credentials_path(os.environ)}:"):
        raise UsageError("not all SDKs read it in this file", f"Move the line to {config_path(os.environ)}")
    if call.process and not profile_of_section(call.section):
        raise UsageError(f"the SDKs do not read [{call.section}] as a profile", "Write [profile NAME] there")
    if not call.program:
        raise UsageError("its program is not known, and has such flags or runs such a program", _SAME_FLAGS)
    before = _BEFORE_COMMAND.sub("", call.before)
    if before.count("'") % 2 or before.count('"') % 2:
        raise UsageError("it is inside quotes", _SAME_FLAGS)
    if call.process and before.strip():
        raise UsageError("another program runs it", "Name the program itself, with its full path")
    if call.after[:1] in ("'", '"', "\\"):
        raise UsageError("a quote is not closed", "Close it")
    if call.process and call.after.strip():
        raise UsageError("it has a shell's syntax, and the AWS CLI runs no shell", "Remove what follows the flags")


def _check_user(call: HelperCall) -> None:
    if _ANOTHER_USER.search(call.before):
        raise UsageError("another program runs it, for another user or machine", _SAME_FLAGS)
    if call.user is not None and find_uid(call.user) != os.geteuid():
        user = f"user {call.user}" if call.user else "a user that systemd makes (DynamicUser)"
        raise UsageError(f"it runs as {user}, who can't read your config.toml", _SAME_FLAGS)


def _words(call: HelperCall) -> list[str]:
    """Return the command and its flags."""
    for character in "$`" if call.process else "$`%\\":
        if character in call.arguments:
            raise UsageError(f"its flags have a {character}", f"Write the value itself there. Or w{_SAME_FLAGS[1:]}")
    try:
        words = shlex.split(call.arguments.encode().decode())
    except UnicodeEncodeError:  # A profile is text in UTF-8.
        raise UsageError("its flags are not text in UTF-8", _SAME_FLAGS) from None
    if call.program == "needroleshere" and sum(word.startswith("--intermediates") for word in words) > 1:
        raise UsageError("it has several files of intermediates", "Put their certificates into one file")
    # The SDKs of Go and Java run a shell, which replaces `~`.
    return [os.path.expanduser(word) if word.startswith("~/") else word for word in words]


def _parsed(command: str, words: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values for a profile, and the command's other flags."""
    if {"-h", "--help"} & set(words):
        raise UsageError("it only shows its help", "Remove it")
    parser = command_parser(command)[1]
    given = vars(parser.parse(words))
    if any(given.get(each.dest) for each in parser.positionals):
        raise UsageError("it has an argument that is not a flag's", "Quote the value that has a space, or remove it")
    values: dict[str, Any] = {}
    flags: list[str] = []
    for flag in parser.flags:
        value = given.get(flag.attribute)
        if flag.names_profile or value is None:
            continue
        if flag.name in IN_PROFILES:
            values[flag.name] = flag.toml(value)
        elif flag.metavar or value:
            flags += [f"--{flag.name}", str(value)] if flag.metavar else [f"--{flag.name}"]
    if lacking := [name for name in ARNS if not values.get(name)]:
        raise UsageError(f"it has no --{lacking[0]}", "Add it")
    check_readable_again(values)
    check_known_arns(values)
    for name, place in places(values):
        file = KeyURI.of(place).file
        if file and not file.startswith("/"):
            raise UsageError(f"its --{name} is {file}, in a folder that the line does not name", "Write the full path")
    return {name: in_full_if_there(value) if name in URIS else value for name, value in values.items()}, tuple(flags)


def access_keys(path: str, data: bytes) -> Iterator[str]:
    """Yield the place of each long-lived access key in a file, with its ID."""
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        yield from (f"{path}:{number}: access key {found[0]}" for found in _ACCESS_KEY.finditer(line))
