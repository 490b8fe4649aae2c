"""Mistakes of the AWS SDKs: their files, the lines of a `credential_process`, which no shell reads, and variables."""

from __future__ import annotations

import configparser
import itertools
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._aws.config_lines import profile_of_section, unreadable_reason
from hwsigner._config.profiles import is_system_file_hidden
from hwsigner._system.files import MAX_BYTES, read_text
from hwsigner.errors import ConfigError, NoProfileError, UsageError
from hwsigner.findings import Finding, local

_PROCESS, _PLUGIN = "credential_process", "cli_legacy_plugin_path"
_PLAIN = ("default", "plugins", "preview")
_KINDS = ("profile", "sso-session", "services")
_OTHERS = ("aws_access_key_id", "web_identity_token_file", "sso_session", "sso_start_url", "login_session", "role_arn")
_SETTINGS = (_PROCESS, *_OTHERS, "region", "output", "source_profile")
_SECONDS = 20
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WEB_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME")
_SHIMS = ("/shims/", "/.pyenv/bin/", "/.rbenv/bin/")
_COMMAND = "credential-process"

CheckCommand = Callable[[Sequence[str]], None]
Sections = Mapping[str, Mapping[str, str]]


def check_variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the variables whose credentials the SDKs prefer to those of a profile."""
    for variables in (_KEYS, _WEB_IDENTITY):
        named = [name for name in variables if environ.get(name)]
        if variables[0] in named:
            yield local.ENVIRONMENT_KEYS.found(f"{named[0]} is set", f"Run unset {' '.join(named)}")


def check_files(environ: Mapping[str, str], check_command: CheckCommand | None) -> Iterator[Finding]:
    """Yield what keeps the SDKs from using the credential_process of a profile."""
    path, keys_path = config_path(environ), credentials_path(environ)
    config, problem = _read(path, is_named=bool(environ.get("AWS_CONFIG_FILE")))
    keys, keys_problem = _read(keys_path, is_named=False)
    yield from filter(None, (problem, keys_problem))
    names = Counter(filter(None, map(profile_of_section, config)))
    known = {*names, *keys}
    for section, values in config.items():
        yield from _check_section(section, values, path)
        yield from _check_sources(section, values, config, keys, (path, keys_path))
    yield from _check_keys_file(keys, keys_path)
    for name, number in names.items():
        if number > 1:
            yield local.CONFIG_TWICE.found(f"{path} has {number} sections for the profile {name}")
    for file, sections in ((path, config), (keys_path, keys)):
        for section, values in sections.items():
            if _PROCESS in values:
                yield from _check_line(values[_PROCESS], f"[{section}] of {file}", check_command)
    if not problem and not keys_problem:
        yield from _check_variables(environ, known, path)
    if _PLUGIN in config.get("plugins", {}) and _is_first_version(environ):
        yield local.CONFIG_PLUGIN.found(f"[plugins] of {path} has {_PLUGIN}, and the aws of PATH is version 1")


def _read(path: str, *, is_named: bool) -> tuple[Sections, Finding | None]:
    """Return the settings by section, and the finding about the file. That it is missing is one only if it is named."""
    try:
        text, status = read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        is_mistake = is_named or os.path.islink(path)
        return {}, local.CONFIG_MISSING.found(f"{path} is not there") if is_mistake else None
    except OSError as error:
        return {}, local.CONFIG_MISSING.found(f"{path} can't be read: {error.strerror}")
    except UnicodeDecodeError:
        return {}, local.CONFIG_UNREADABLE.found(f"{path} is not text in UTF-8")
    if status.st_size > MAX_BYTES:
        return {}, local.CONFIG_TOO_LONG.found(f"{path} is {status.st_size} bytes long")
    problem = unreadable_reason(text)
    found = local.CONFIG_UNREADABLE.found(f"{path} {problem}") if problem else None
    parser = configparser.RawConfigParser(strict=False, default_section="")
    try:
        parser.read_string(text.removeprefix("\ufeff"))
    except configparser.Error:
        return {}, found
    return {name: dict(parser.items(name)) for name in parser.sections()}, found


def _words(section: str) -> list[str]:
    try:
        return shlex.split(section)
    except ValueError:
        return []


def _check_section(section: str, values: Mapping[str, str], path: str) -> Iterator[Finding]:
    where, words = f"[{section}] of {path}", _words(section)
    is_known = section in _PLAIN or (len(words) == 2 and section.startswith(_KINDS) and words[0] in _KINDS)
    if not is_known and any(name in values for name in _SETTINGS):
        yield local.CONFIG_PREFIX.found(f"{where} does not have the form [profile NAME]", f"Write {_meant(section)}")
    if hidden := next((name for name, value in values.items() if re.search(rf"\n{_PROCESS}\s*[=:]", value)), ""):
        yield local.CONFIG_INDENTED.found(f"{_PROCESS} in {where} is indented, so it is a part of {hidden}")
    if _PROCESS in values and (others := [name for name in _OTHERS if name in values]):
        yield local.CONFIG_OTHER_SOURCE.found(f"{where} has {_PROCESS} and {others[0]}")


def _meant(section: str) -> str:
    """Return the header that was probably meant by one that is not a profile's."""
    name = re.sub(r"^profile\b[\s.:/]*", "", section.strip(), flags=re.IGNORECASE).strip("\"' ") or "NAME"
    if name.lower() == "default":
        return "[default]"
    return f'[profile "{name}"]' if " " in name else f"[profile {name}]"


def _check_sources(
    section: str, values: Mapping[str, str], config: Sections, keys: Sections, paths: tuple[str, str]
) -> Iterator[Finding]:
    """Yield what keeps the credentials of a section from coming from where it says."""
    name, where = profile_of_section(section), f"[{section}] of {paths[0]}"
    if name and _PROCESS in values and "aws_access_key_id" in keys.get(name, {}):
        yield local.CONFIG_STATIC_KEYS.found(f"[{name}] of {paths[1]} has an access key, and {where} a {_PROCESS}")
    source = values.get("source_profile", "")
    if source and source not in {*map(profile_of_section, config), *keys}:
        yield local.CONFIG_SOURCE_MISSING.found(f"{where} has source_profile {source}, and there is no such profile")
    if name and _recurs(name, config):
        yield local.CONFIG_RECURSION.found(f"{where} gets its credentials from itself")


def _check_keys_file(keys: Sections, path: str) -> Iterator[Finding]:
    for section, values in keys.items():
        if section.startswith("profile ") and any(name in values for name in _SETTINGS):
            name = section.removeprefix("profile ").strip()
            yield local.CONFIG_PREFIX.found(f"[{section}] of {path} has the word profile", f"Write [{name}] there")


def _check_variables(environ: Mapping[str, str], names: set[str], path: str) -> Iterator[Finding]:
    for variable in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        name = environ.get(variable)
        if name and name not in names:
            fix = f"Run unset {variable}, or write [profile {name}]"
            yield local.ENVIRONMENT_PROFILE.found(f"{variable} is {name}, and {path} has no such profile", fix)


def _recurs(name: str, config: Sections) -> bool:
    """Return whether a profile gets its credentials from itself: by a command, or by a chain of source_profile."""
    profiles = {profile_of_section(section): values for section, values in config.items()}
    seen, current = {name}, name
    while following := _source(profiles.get(current, {})):
        if following == name and not (current == name and "aws_access_key_id" in profiles[name]):
            return True
        if following in seen:
            return False
        seen.add(following)
        current = following
    return False


def _source(values: Mapping[str, str]) -> str:
    """Return the profile of the SDKs' files that another one gets its credentials from; empty if there is none."""
    if values.get("source_profile"):
        return values["source_profile"]
    words = _words(values.get(_PROCESS, ""))
    # hwsigner's own --profile names one of config.toml, so only the aws after `hwsigner exec … --` counts.
    start = next((number for number, word in enumerate(words) if os.path.basename(word) == "aws"), len(words))
    rest = [part for word in words[start:] for part in word.split("=", 1)]
    return next((name for flag, name in itertools.pairwise(rest) if flag == "--profile"), "")


def _is_first_version(environ: Mapping[str, str]) -> bool:
    """Return whether the `aws` of PATH is version 1. The config file is hidden from it, as that version ends there."""
    program = shutil.which("aws", path=environ.get("PATH"))
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "--version"],
            env={**environ, "AWS_CONFIG_FILE": os.devnull},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return b"aws-cli/1." in done.stdout + done.stderr


def _check_line(line: str, where: str, check_command: CheckCommand | None) -> Iterator[Finding]:
    """Yield what is wrong with the line of a credential_process in a section of a file."""
    if "\\" in line:
        yield local.PROCESS_BACKSLASH.found(f"credential_process in {where} has a backslash")
        return
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words:
        yield local.PROCESS_MISSING.found(f"credential_process in {where} is empty, or a quote is not closed")
        return
    if any(word.startswith("~") or "=~" in word for word in words):
        yield local.PROCESS_TILDE.found(f"credential_process in {where} has a word with ~")
    if "$" in line:
        yield local.PROCESS_VARIABLE.found(f"credential_process in {where} has a $")
    program = words[0]
    if not program.startswith(("~", "$")):
        yield from _check_program(program, where)
    yield from _check_words(words, where, check_command)


def _check_program(program: str, where: str) -> Iterator[Finding]:
    found = shutil.which(program)
    if "/" in program and not os.path.isabs(program):
        yield local.PROCESS_MISSING.found(f"{program}, which credential_process in {where} runs, is a relative path")
    elif found is None:
        text = f"{program}, which credential_process in {where} runs, is not there or not executable"
        yield local.PROCESS_MISSING.found(text)
    elif any(part in found for part in _SHIMS):
        text = f"{found}, which credential_process in {where} runs, is a version manager's shim"
        yield local.PROCESS_SHIM.found(text)


def _check_words(words: Sequence[str], where: str, check_command: CheckCommand | None) -> Iterator[Finding]:
    """Yield whether a command line of hwsigner itself is wrong. Others are not known here."""
    name, *rest = words
    if os.path.basename(name) == "hwsigner-credentials":
        rest = [_COMMAND, *(rest or ["--profile", "default"])]
    elif os.path.basename(name) != "hwsigner" or rest[:1] == ["exec"]:
        return
    if rest[:1] != [_COMMAND]:
        text = f"credential_process in {where} runs hwsigner without the command {_COMMAND}"
        yield local.PROCESS_COMMAND.found(text, f"Write {name} {_COMMAND} --profile NAME")
    elif check_command and not {"-h", "--help"} & {*rest}:
        try:
            check_command(rest[1:])
        except NoProfileError as error:
            if not is_system_file_hidden():
                yield local.PROCESS_COMMAND.found(f"credential_process in {where}: {error.message}", error.hint)
        except ConfigError:
            pass  # It is a finding about that profile.
        except UsageError as error:
            yield local.PROCESS_COMMAND.found(f"credential_process in {where}: {error.message}", error.hint)
