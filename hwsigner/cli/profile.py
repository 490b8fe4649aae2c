"""`hwsigner profile add NAME <flags>` and `hwsigner profile list`: the tables of config.toml."""

from __future__ import annotations

import argparse
import os
import re
import warnings

from hwsigner.cli.parser import Parser
from hwsigner.config.flags import AGENT, IDENTITY, SESSION
from hwsigner.config.profiles import add_profile, profiles
from hwsigner.errors import UnsafeKeyWarning, UsageError, printable

HELP = "add and list profiles of config.toml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def add_arguments(parser: Parser) -> None:
    """Add what to do, the profile's name, and the flags that it may hold."""
    parser.add_argument("action", metavar="add|list", help="add NAME with the flags given, or list all")
    parser.add_argument("name", nargs="?", help="the profile's name")
    parser.add_argument("--replace", action="store_true", help="let add replace another profile of that name")
    parser.add_flags(IDENTITY, SESSION, AGENT)


def run(arguments: argparse.Namespace) -> int:
    """Add or list."""
    if arguments.action == "list":
        return _list(arguments)
    if arguments.action != "add":
        hint = "Write hwsigner profile add NAME <flags>, or hwsigner profile list"
        raise UsageError(f"profile has no action {arguments.action[:40]!r}", hint)
    name = arguments.name
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(
            "no profile is named" if name is None else f"a profile can't have the name {name[:100]!r}",
            "Write hwsigner profile add NAME <flags>; names are letters, digits and ._@-, 64 at most",
        )
    values = {flag.name: flag.toml(value) for flag, value in arguments.given if value is not None}
    if not values:
        raise UsageError(f"profile {name!r} would be empty", "Give the flags that it shall hold")
    try:
        file = add_profile(name, values, os.environ, replace=arguments.replace)
    except UnicodeEncodeError:
        # Not chained: the exception carries the values, which may be secret.
        raise UsageError("a value is not text, so config.toml can't hold it", "Give one in UTF-8") from None
    if any(flag.secret for flag, value in arguments.given if value) and file.stat().st_mode & 0o044:
        warnings.warn(
            UnsafeKeyWarning(f"{file} keeps a password and others can read it", f"Run chmod 600 {file}"), stacklevel=1
        )
    print(f"{file}: [profile.{name}]")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.name is not None or arguments.given:
        raise UsageError("profile list takes nothing else", "Write hwsigner profile list")
    for name, found in sorted(profiles(os.environ).items()):
        print(f"{printable(name)}\t{printable(str(found.file))}")
    return 0
