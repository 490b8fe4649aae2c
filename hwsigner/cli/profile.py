"""`hwsigner profile add NAME <flags>` and `hwsigner profile list`: the profiles of config.toml."""

from __future__ import annotations

import argparse
import os
import warnings

from hwsigner.aws.arn import check_known_arns
from hwsigner.cli.parser import Parser
from hwsigner.config.flags import AGENT, ENROLMENT, IDENTITY, SESSION
from hwsigner.config.profiles import add_profile, check_name, profiles
from hwsigner.errors import UnsafeKeyWarning, UsageError, printable

HELP = "add and list profiles of config.toml"


def add_arguments(parser: Parser) -> None:
    """Add the action, the profile's name, and the flags that a profile can contain."""
    parser.add_argument("action", metavar="add|list", help="add NAME with these flags, or list all profiles")
    parser.add_argument("name", nargs="?", help="name of the profile")
    parser.add_argument("--replace", action="store_true", help="replace a profile of that name")
    parser.add_flags(IDENTITY, SESSION, AGENT, ENROLMENT)


def run(arguments: argparse.Namespace) -> int:
    """Add a profile, or list all."""
    if arguments.action == "list":
        return _list(arguments)
    if arguments.action != "add":
        hint = "Write hwsigner profile add NAME <flags>, or hwsigner profile list"
        raise UsageError(f"profile has no action {arguments.action[:40]!r}", hint)
    name = arguments.name
    if name is None:
        raise UsageError("no profile name given", "Write hwsigner profile add NAME <flags>")
    check_name(name)
    values = {flag.name: flag.toml(value) for flag, value in arguments.given if value is not None}
    if not values:
        raise UsageError(f"profile {name!r} would be empty", "Add its flags")
    check_known_arns(values)
    try:
        file = add_profile(name, values, os.environ, replace=arguments.replace)
    except UnicodeEncodeError:
        # Not chained: the exception contains the values, which may be secret.
        raise UsageError("a value is not text, so config.toml can't contain it", "Use UTF-8 text") from None
    if any(flag.secret for flag, value in arguments.given if value) and file.stat().st_mode & 0o044:
        problem = f"{file} contains a password and others can read it"
        warnings.warn(UnsafeKeyWarning(problem, f"Run chmod 600 {file}"), stacklevel=1)
    print(f"{file}: [profile.{name}]")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.name is not None or arguments.given:
        raise UsageError("profile list takes no other arguments", "Write hwsigner profile list")
    for name, found in sorted(profiles(os.environ).items()):
        print(f"{printable(name)}\t{printable(str(found.file))}")
    return 0
