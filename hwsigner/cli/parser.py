"""Parse a command's flags and complete them from a profile.

The rules are those of `aws_signing_helper`. Write `--name value` or `--name=value`; the value may start with `-`. A
boolean flag stands alone or takes `=true` or `=false`. If a flag is repeated, the last value applies. Flags can't be
abbreviated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from hwsigner.config.flags import Flag, check_exclusive, default_values, profile_values
from hwsigner.errors import UsageError

# First in the help, in this order or that of the groups: what a session needs.
_COMMON = ("certificate", "private-key", "trust-anchor-arn", "profile-arn", "role-arn")


class Parser(argparse.ArgumentParser):
    """An argument parser with these rules."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"hwsigner {command}".strip(), description=description, allow_abbrev=False)
        self._flags: dict[str, Flag] = {}
        # The hint of parsing errors. A command may replace it.
        self.hint = f"See {self.prog} --help"

    def add_flags(self, *groups: Iterable[Flag]) -> None:
        """Add the flags of the groups. Common ones come first in the help."""
        flags = (flag for group in groups for flag in group)
        for flag in sorted(flags, key=lambda flag: flag.name not in _COMMON):
            self._flags[flag.name] = flag
            self.add_argument(
                f"--{flag.name}",
                dest=flag.attribute,
                help=_help(flag),
                metavar=flag.metavar or "BOOL",
                default=argparse.SUPPRESS,
                # Only for the help, which shows an optional value in brackets. `_take_flags` reads the values.
                nargs=None if flag.metavar else "?",
            )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments. Flags that were not given are missing from the result.

        Raises:
            UsageError: an argument is unknown or invalid, or two exclude each other.
        """
        values, others = self._take_flags(arguments)
        parsed, rest = self.parse_known_args(others)
        if rest:
            # Do not quote it: it may be the second half of a password with a space.
            naming = " or ".join(f"--{flag.name}" for flag in self._flags.values() if flag.names_profile)
            raise UsageError(
                "unexpected argument" if len(rest) == 1 else f"{len(rest)} unexpected arguments",
                f"To name a profile, use {naming}" if naming else self.hint,
            )
        check_exclusive(values)
        return argparse.Namespace(**vars(parsed), **values)

    def complete(self, given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """Return the arguments completed from the profile, if one is named, and from the defaults.

        The result also has two attributes: `given`, the flags of the command line with their values, and `exposed`,
        the profile's file if other users can read it.

        Raises:
            UsageError: --profile and --config-profile name two profiles.
            ConfigError: there is no such profile, or it is invalid.
        """
        values = default_values(self._flags.values())
        naming = [flag.attribute for flag in self._flags.values() if flag.names_profile]
        names = {name for attribute in naming if (name := getattr(given, attribute, None))}
        if len(names) > 1:
            raise UsageError("--profile and --config-profile name two profiles", "Give one of them")
        exposed = None
        if names:
            from hwsigner.config.profiles import profile

            found = profile(names.pop(), environ)
            values |= profile_values(found, vars(given))
            exposed = found.file if found.exposed else None
        named = [flag for flag in self._flags.values() if hasattr(given, flag.attribute)]
        flags = [(flag, getattr(given, flag.attribute)) for flag in named]
        return argparse.Namespace(**{**values, **vars(given)}, given=flags, exposed=exposed)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a UsageError."""
        raise UsageError(message, self.hint)

    def _take_flags(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the flags' values by attribute, and all other arguments, which argparse parses."""
        values: dict[str, Any] = {}
        others: list[str] = []
        rest = iter(arguments)
        for argument in rest:
            name, equals, text = argument.partition("=")
            flag = self._flags.get(name.removeprefix("--")) if name.startswith("--") else None
            if argument == "--":
                others += [argument, *rest]
            elif flag is not None:
                text = text if equals else _next_value(flag, rest)
                # As in aws_signing_helper, an empty text is like no flag.
                value = None if not text and flag.convert is str else flag.value(text)
                if flag.many:
                    value = [*values.get(flag.attribute, []), *([] if value is None else [value])]
                values[flag.attribute] = value
            elif name.startswith("-") and argument != "-" and name not in self._option_string_actions:
                # Only the name: it may be a misspelt password flag.
                known = [f"--{flag}" for flag in self._flags]
                raise UsageError(f"unknown flag {name}", suggestion(name, known, self.hint))
            else:
                others.append(argument)
        return values, others


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint for an unknown word: the most similar known one, or else the text `otherwise`."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1, 0.8)
    return f"Did you mean {found[0]}?" if found else otherwise


def _next_value(flag: Flag, rest: Iterator[str]) -> str:
    """Return the value of a flag without `=`: the next argument, or `true` for a boolean."""
    if not flag.metavar:
        return "true"
    value = next(rest, None)
    if value is None:
        raise UsageError(f"--{flag.name} has no value", f"Write --{flag.name} {flag.metavar}")
    return value


def _help(flag: Flag) -> str:
    shown = f"{flag.default:g}" if isinstance(flag.default, int | float) else flag.default
    default = f" (default {shown})" if shown and flag.metavar else ""
    return (flag.help + default).replace("%", "%%")
