"""The AWS SDKs' config file: a section gets a `credential_process` or a role, and every other byte stays."""

from __future__ import annotations

import codecs
import configparser
import os
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._system.files import edit_file
from hwsigner.errors import ConfigError

_OPTION = "credential_process"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_HEADER = re.compile(r"\[(?P<name>.+)\]")
_VALUE = re.compile(rf"(?P<name>{_OPTION}[ \t]*[=:][ \t]*)(?P<value>[^\r\n]*)", re.IGNORECASE)
# With one of these, the SDKs don't come to the credential_process, or ask the user.
_OTHERS = frozenset(
    {*("aws_access_key_id", "role_arn", "web_identity_token_file", "login_session"), *("sso_session", "sso_start_url")}
)
_BY_HAND = "Edit it by hand, or name another profile"


def edit_config_file(
    profile: str,
    command: str,
    *,
    region: str = "",
    roles: Mapping[str, str] = MappingProxyType({}),
    write: bool = True,
) -> str:
    """Check that the SDKs' config file can get a profile, or write it; return the file's path.

    `roles` has the ARNs of the roles that the profile leads on to, by the name of the profile that assumes each. Only
    new sections get the region.
    """
    path, keys = config_path(os.environ), credentials_path(os.environ)

    def edit(data: bytes) -> bytes:
        data = with_credential_process(data, profile, command, path=path, region=region)
        for name, role_arn in roles.items():
            data = with_role(data, name, role_arn, source=profile, path=path, region=region)
        return data

    check_no_keys(_content(keys), profile, path=keys)
    data = _content(path)
    if edit(data) != data and write:
        edit_file(path, edit)
    return path


def credential_processes(data: bytes, path: str) -> list[tuple[int, str, str]]:
    """Return each `credential_process` of a config file: its line's number, its section's name and the command."""
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    commands = {name: values.get(_OPTION) for name, values in _read(text, path).items()}
    found, section = [], ""
    for number, line in enumerate(_LINE.findall(text), 1):
        if header := _HEADER.match(line):
            section = header["name"]
        elif _VALUE.match(line) and (command := commands.get(section)):
            found.append((number, section, command))
    return found


def with_credential_process(
    data: bytes, profile: str, command: str, *, path: str, region: str = "", replaced: str | None = None
) -> bytes:
    """Return the content of a config file in which a profile gets its credentials from a command.

    If there is no section `[profile NAME]` (`[default]` for that name), one is appended, with the region. In a section
    without the setting, it becomes the first line. A setting that runs `credential-process --profile NAME` or
    `hwsigner-credentials --profile NAME` already, of this program or of another installation, gets the new command. A
    file that has the command does not change. The command is one line, quoted as for a shell. `replaced` is another
    program's command, which gets the new one too. Another source of credentials in the section is a ConfigError.
    """
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    text = data[len(mark) :].decode("utf-8", "surrogateescape")
    before = _read(text, path)
    lines = _LINE.findall(text)
    headers = [number for number, line in enumerate(lines) if _is_header_of(line, profile)]
    sections = [name for name in before if profile_of_section(name) == profile]
    if len(sections) > 1:
        raise ConfigError(f"{path} has two sections for the profile {profile}", _BY_HAND)
    section = next(iter(sections), "default" if profile == "default" else f"profile {profile}")
    if section != "default" and shlex.split(section)[0] != "profile":
        problem = f"{path} has [{section}], which only some AWS SDKs read as the profile {profile}"
        raise ConfigError(problem, f"Write [profile {profile}] there")
    settings = {_OPTION: command}
    if headers:
        _check(before.get(section, {}), profile, section, path, replaced=replaced)
        edited = _changed(lines, headers[0], command)
    else:
        settings |= {"region": region} if region else {}
        edited = _with_section(text, section, settings)
    wanted = {**before, section: {**before.get(section, {}), **settings}}
    if len(headers) < len(sections) or _read(edited, path) != wanted:
        problem = f"[{section}] of {path} can't get a {_OPTION} without changing other settings"
        raise ConfigError(problem, "Remove the spaces at the start of its lines")
    return mark + edited.encode("utf-8", "surrogateescape")


def with_role(data: bytes, profile: str, role_arn: str, *, source: str, path: str, region: str = "") -> bytes:
    """Return the content of a config file in which a profile assumes a role with the credentials of another one.

    If there is no section `[profile NAME]`, one is appended. One that says the same stays, with its other settings. One
    that gets its credentials from elsewhere is a ConfigError.
    """
    text = data.decode("utf-8", "surrogateescape")
    settings = {"role_arn": role_arn, "source_profile": source}
    before = _read(text.removeprefix("\ufeff"), path)
    sections = [(name, values) for name, values in before.items() if profile_of_section(name) == profile]
    if not sections:
        settings |= {"region": region} if region else {}
        return _with_section(text, f"profile {profile}", settings).encode("utf-8", "surrogateescape")
    name, found = sections[0]
    others = (_OTHERS | {_OPTION, "credential_source"}) - settings.keys()
    if len(sections) > 1 or not settings.items() <= found.items() or others & found.keys():
        raise ConfigError(f"[{name}] of {path} does not assume {role_arn} with the profile {source} alone", _BY_HAND)
    return data


def _content(path: str) -> bytes:
    """Return a file's content, empty if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "Fix that file") from error


def _with_section(text: str, section: str, settings: dict[str, str]) -> str:
    """Return a file's text with a new section at its end."""
    lines = _LINE.findall(text)
    newline = _end(lines[0]) if lines else "\n"
    gap = ("" if _end(lines[-1]) else newline) + newline if lines else ""
    added = "".join(f"{name} = {value}{newline}" for name, value in settings.items())
    return f"{text}{gap}[{section}]{newline}{added}"


def check_no_keys(data: bytes, profile: str, *, path: str) -> None:
    """Check that a credentials file has no access key of a profile: the SDKs prefer it to a `credential_process`."""
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    if "aws_access_key_id" in _read(text, path).get(profile, {}):
        problem = f"[{profile}] of {path} has an access key, which the AWS SDKs prefer to a {_OPTION}"
        raise ConfigError(problem, "Remove it there, or name another profile")


def unreadable_reason(text: str) -> str:
    """Return why botocore can't read a file with this text, without quoting it; an empty text if it can."""
    if text.startswith("\ufeff"):
        return "begins with a byte order mark"
    try:
        configparser.RawConfigParser().read_string(text)
    except configparser.Error as error:
        return parse_problem(error)
    return ""


def parse_problem(error: configparser.Error) -> str:
    """Return why a file of the AWS SDKs can't be parsed: what it has, and where. No value is quoted."""
    match error:
        case configparser.DuplicateSectionError():
            return f"has a second [{error.section}] in line {error.lineno}"
        case configparser.DuplicateOptionError():
            return f"has a second {error.option} in [{error.section}], in line {error.lineno}"
        case configparser.MissingSectionHeaderError():
            return f"has a setting before the first section, in line {error.lineno}"
        case configparser.ParsingError():
            return f"has neither a section nor a setting in line {error.errors[0][0]}"
    return "is not a file of sections and settings"


def _read(text: str, path: str) -> dict[str, dict[str, str]]:
    """Return the settings by section, as botocore reads them."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:  # Not chained: it quotes the file.
        problem = f"{path} {parse_problem(error)}, so the AWS SDKs can't read it"
        raise ConfigError(problem, "Fix it, then run the command again") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _is_header_of(line: str, profile: str) -> bool:
    header = _HEADER.match(line)
    return header is not None and profile_of_section(header["name"]) == profile


def profile_of_section(section: str) -> str:
    """Return the name of the profile of a config file's section, as botocore finds it; empty if it is not a profile's.

    A blank before the word `profile` hides it from botocore.
    """
    if section == "default":
        return section
    try:
        words = shlex.split(section) if section.startswith("profile") else []
    except ValueError:
        return ""
    return words[1] if len(words) == 2 else ""


def _check(settings: dict[str, str], profile: str, section: str, path: str, *, replaced: str | None) -> None:
    """Check that a section has no other source of credentials."""
    if others := sorted(_OTHERS & settings.keys()):
        raise ConfigError(f"[{section}] of {path} has {others[0]}, another source of credentials", _BY_HAND)
    value = settings.get(_OPTION)
    if value not in (None, replaced) and not _is_ours(value, profile):
        raise ConfigError(f"[{section}] of {path} has another {_OPTION}", _BY_HAND)


def _is_ours(command: str, profile: str) -> bool:
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    if len(words) == 3 and os.path.basename(words[0]) == "hwsigner-credentials":
        return words[1:] == ["--profile", profile]
    return words[-3:] == ["credential-process", "--profile", profile] and "hwsigner" in command


def _changed(lines: list[str], header: int, command: str) -> str:
    """Return the text with the command in the section that starts at a line."""
    for number in range(header + 1, len(lines)):
        if _HEADER.match(lines[number]):
            break
        if found := _VALUE.match(lines[number]):
            lines[number] = f"{found['name']}{command}{_end(lines[number])}"
            return "".join(lines)
    newline = _end(lines[header]) or "\n"
    if not _end(lines[header]):
        lines[header] += newline
    return "".join([*lines[: header + 1], f"{_OPTION} = {command}{newline}", *lines[header + 1 :]])


def _end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
