"""`hwsigner profile add|edit|show|remove|list`: the profiles of config.toml."""

from __future__ import annotations

import argparse
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

from hwsigner.aws.arn import check_known_arns
from hwsigner.cli.parser import Parser, suggestion
from hwsigner.config.flags import AGENT, ENROLMENT, IDENTITY, SESSION
from hwsigner.config.profiles import Profile, add_profile, change_profile, check_name, profile, profiles, remove_profile
from hwsigner.errors import UnsafeKeyWarning, UsageError, printable
from hwsigner.uri import KeyURI

HELP = "add, edit, show, remove and list profiles"

_ACTIONS = ("add", "edit", "show", "remove", "list")
_SECRET = {flag.name for flag in IDENTITY if flag.secret}
_KNOWN = {flag.name for flag in (*IDENTITY, *SESSION, *AGENT, *ENROLMENT)}
_URIS = ("certificate", "private-key", "intermediates")


def add_arguments(parser: Parser) -> None:
    """Add the action, the profile's name, and the flags that a profile can contain."""
    parser.add_argument("action", metavar="|".join(_ACTIONS), help="what to do; add and edit take the flags below")
    parser.add_argument("name", nargs="?", help="name of the profile; list takes none")
    parser.add_argument("--replace", action="store_true", help="add: replace a profile of that name")
    parser.add_argument(
        "--unset", action="append", default=[], metavar="FLAG", help="edit: remove this flag; repeatable"
    )
    parser.add_flags(IDENTITY, SESSION, AGENT, ENROLMENT)


def run(arguments: argparse.Namespace) -> int:
    """Add, change, show or remove a profile, or list all."""
    action, name = arguments.action, arguments.name
    if action not in _ACTIONS:
        hint = suggestion(action, _ACTIONS, f"Use one of {', '.join(_ACTIONS)}")
        raise UsageError(f"profile has no action {action[:40]!r}", hint)
    takes_flags = action in ("add", "edit")
    if (arguments.given and not takes_flags) or (arguments.unset and action != "edit"):
        raise UsageError(f"profile {action} takes no other arguments", f"Write hwsigner profile {action}")
    if action == "list":
        return _list(name)
    if name is None:
        flags = " <flags>" if takes_flags else ""
        raise UsageError("no profile name given", f"Write hwsigner profile {action} NAME{flags}")
    check_name(name)
    if takes_flags:
        return _write(arguments, name)
    return _show(profile(name, os.environ)) if action == "show" else _remove(name)


def _write(arguments: argparse.Namespace, name: str) -> int:
    values = {flag.name: flag.toml(value) for flag, value in arguments.given if value is not None}
    if not (values or arguments.unset):
        raise UsageError(
            f"profile {name!r} would be empty" if arguments.action == "add" else "no change given", "Add flags"
        )
    try:
        file = _edit(name, values, arguments.unset) if arguments.action == "edit" else _add(arguments, name, values)
    except UnicodeEncodeError:
        # Not chained: the exception contains the values, which may be secret.
        raise UsageError("a value is not text, so config.toml can't contain it", "Use UTF-8 text") from None
    if any(flag.secret for flag, value in arguments.given if value) and file.stat().st_mode & 0o044:
        problem = f"{file} contains a password and others can read it"
        warnings.warn(UnsafeKeyWarning(problem, f"Run chmod 600 {file}"), stacklevel=1)
    print(f"{file}: [profile.{name}]")
    return 0


def _add(arguments: argparse.Namespace, name: str, values: dict[str, Any]) -> Path:
    check_known_arns(values)
    return add_profile(name, values, os.environ, replace=arguments.replace)


def _edit(name: str, values: dict[str, Any], unset: list[str]) -> Path:
    found = profile(name, os.environ)
    removed = [flag.removeprefix("--") for flag in unset]
    for flag in removed:
        if flag not in found.values:
            raise UsageError(f"profile {name!r} has no {flag}", f"It has {', '.join(found.values)}")
        if flag in values:
            raise UsageError(f"--{flag} is set and unset", "Leave one out")
    check_known_arns({**found.values, **values})
    return change_profile(name, {**values, **dict.fromkeys(removed)}, os.environ)


def _show(found: Profile) -> int:
    print(f"# {printable(str(found.file))}")
    for key, value in found.values.items():
        print(printable(f"{key} = {_shown(key, value)}"))
    return 0


def _shown(key: str, value: Any) -> str:
    """Return a value as TOML has it, without a secret."""
    if key in _SECRET:
        return '"…" (a secret)'
    if key not in _KNOWN:
        return '"…" (not a flag, so it may be a misspelt secret)'
    if key in _URIS and isinstance(value, str):
        try:
            uri = KeyURI.parse(value)
        except UsageError:
            return '"…" (a malformed key URI)'
        value = value if uri.pin_value is None else f"{uri} (and its PIN)"
    # A URL may have a password.
    return re.sub(r"(?<=://)[^/@\s]*@", "…@", json.dumps(value, ensure_ascii=False))


def _remove(name: str) -> int:
    profile(name, os.environ)  # An error names those that there are.
    file = remove_profile(name, os.environ)
    print(f"{file}: removed [profile.{name}]. Its key and certificate stay: hwsigner retire deletes them too")
    return 0


def _list(name: str | None) -> int:
    if name is not None:
        raise UsageError("profile list takes no other arguments", "Write hwsigner profile list")
    for each, found in sorted(profiles(os.environ).items()):
        print(f"{printable(each)}\t{printable(str(found.file))}")
    return 0
