"""Mistakes in the files of the AWS SDKs: `~/.aws/config` and `~/.aws/credentials`."""

from __future__ import annotations

import configparser
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from hwsigner.aws.config_file import config_path
from hwsigner.cli.doctor.findings import Finding, finding

_PROCESS, _PLUGIN = "credential_process", "cli_legacy_plugin_path"
_PLAIN = ("default", "plugins", "preview")
_KINDS = ("profile ", "sso-session ", "services ")
_SHIMS = ("/shims/", "/.pyenv/bin/", "/.rbenv/bin/")
_OTHERS = ("aws_access_key_id", "web_identity_token_file", "sso_session", "sso_start_url", "login_session", "role_arn")
_SETTINGS = (_PROCESS, *_OTHERS, "region", "output", "source_profile")
_SECONDS = 20

Sections = Mapping[str, Mapping[str, str]]


def check(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what keeps the SDKs from using the credential_process of a profile."""
    path = config_path(environ)
    keys_path = os.path.expanduser(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    config, keys = _read(path), _read(keys_path)
    for name, sections in ((path, config), (keys_path, keys)):
        if sections is None:
            yield finding("config-unreadable", f"{name} is not a file of sections and settings, or can't be read")
    config, keys = config or {}, keys or {}
    for section, values in config.items():
        yield from _check_section(section, values, path)
        name = _profile(section)
        if _PROCESS in values and "aws_access_key_id" in keys.get(name, {}):
            found = f"[{name}] of {keys_path} has an access key, and [{section}] of {path} a {_PROCESS}"
            yield finding("config-static-keys", found)
        if _recurs(name, config):
            yield finding("config-recursion", f"[{section}] of {path} gets its credentials from itself")
    if _PLUGIN in config.get("plugins", {}) and _is_first_version(environ):
        yield finding("config-plugin", f"[plugins] of {path} has {_PLUGIN}, and the aws of PATH is version 1")


def _read(path: str) -> Sections | None:
    """Return the settings by section; None if the file can't be parsed."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        file = Path(path)
        parser.read_string(file.read_text("utf-8-sig") if file.is_file() else "")
    except (OSError, ValueError, configparser.Error):
        return None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _profile(section: str) -> str:
    """Return the name of a section's profile, or the section's own name."""
    return section.removeprefix("profile ").strip().strip("\"'")


def _check_section(section: str, values: Mapping[str, str], path: str) -> Iterator[Finding]:
    where = f"[{section}] of {path}"
    if section not in _PLAIN and not section.startswith(_KINDS) and any(name in values for name in _SETTINGS):
        yield finding("config-prefix", f"{where} lacks the word profile", f"Write [profile {section}]")
    if _PROCESS not in values:
        return
    if others := [name for name in _OTHERS if name in values]:
        yield finding("config-other-source", f"{where} has {_PROCESS} and {others[0]}")
    yield from _check_process(values[_PROCESS], where)


def _check_process(line: str, where: str) -> Iterator[Finding]:
    if "\\" in line:
        yield finding("process-backslash", f"{_PROCESS} in {where} has a backslash")
        return
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words:
        yield finding("process-missing", f"{_PROCESS} in {where} is empty, or a quote is not closed")
        return
    if any(word.startswith("~") or "=~" in word for word in words):
        yield finding("process-tilde", f"{_PROCESS} in {where} has a word with ~")
    if "$" in line:
        yield finding("process-variable", f"{_PROCESS} in {where} has a $")
    program = words[0]
    if program.startswith(("~", "$")):
        return
    found = shutil.which(program)
    if found is None:
        yield finding("process-missing", f"{program}, which {_PROCESS} in {where} runs, is not there or not executable")
    elif any(part in found for part in _SHIMS):
        yield finding("process-shim", f"{found}, which {_PROCESS} in {where} runs, is a version manager's shim")


def _recurs(name: str, config: Sections) -> bool:
    """Return whether a profile gets its credentials from itself: by a command, or by a chain of source_profile."""
    profiles = {_profile(section): values for section, values in config.items()}
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
    try:
        words = shlex.split(values.get(_PROCESS, ""))
    except ValueError:
        return ""
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
