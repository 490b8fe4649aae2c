"""Parse a command's flags, and complete them from a profile.

The rules are those of the program that hwsigner replaces: `--name value` or `--name=value`, where the value may begin
with `-`; booleans stand alone or take `=true` and `=false`; the last of a repeated flag wins; no abbreviations.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from hwsigner.config.flags import Flag, check_exclusive, default_values, profile_values
from hwsigner.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser with the rules above."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"hwsigner {command}".strip(), description=description, allow_abbrev=False)
        self._flags: dict[str, Flag] = {}
        # What to do about what can't be parsed; its own help, unless a command says more.
        self.hint = f"See {self.prog} --help"

    def add_flags(self, *groups: Iterable[Flag]) -> None:
        """Add the flags of the groups."""
        for flag in (flag for group in groups for flag in group):
            self._flags[flag.name] = flag
            self.add_argument(
                f"--{flag.name}",
                dest=flag.attribute,
                help=_help(flag),
                metavar=flag.metavar or "BOOL",
                default=argparse.SUPPRESS,
                # For the help only, which shows an optional value in brackets: `_take_flags` reads the values.
                nargs=None if flag.metavar else "?",
            )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments; flags that were not given are absent from the result.

        Raises:
            UsageError: they can't be meant.
        """
        values, others = self._take_flags(arguments)
        parsed, rest = self.parse_known_args(others)
        if rest:
            # Not quoted: it may be what follows a space in a password.
            naming = " or ".join(f"--{flag.name}" for flag in self._flags.values() if flag.names_profile)
            raise UsageError(
                "an argument belongs to no flag" if len(rest) == 1 else f"{len(rest)} arguments belong to no flag",
                f"A profile is named by {naming}" if naming else self.hint,
            )
        check_exclusive(values)
        return argparse.Namespace(**vars(parsed), **values)

    def complete(self, given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """Return what was given with the values of its profile, if it names one, and the defaults below it.

        The attribute `given` has the flags of the command line with their values, and `exposed` the profile's file if
        others can read it.

        Raises:
            UsageError: --profile and --config-profile name two profiles.
            ConfigError: there is no such profile, or it holds what is no flag.
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
        """Raise what argparse found as a UsageError."""
        raise UsageError(message, self.hint)

    def _take_flags(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of the flags by attribute, and the arguments that are none of theirs, for argparse."""
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
                # As in the program that hwsigner replaces, an empty text is as good as none.
                value = None if not text and flag.convert is str else flag.value(text)
                values[flag.attribute] = [*values.get(flag.attribute, []), value] if flag.many else value
            elif name.startswith("-") and name not in self._option_string_actions:
                # Only its name: a value may be that of a mistyped password flag.
                known = [f"--{flag}" for flag in self._flags]
                raise UsageError(f"there is no flag {name}", near(name, known, self.hint))
            else:
                others.append(argument)
        return values, others


def near(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the hint for a word that is none of those known: the nearest of them, if one is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1, 0.8)
    return f"Did you mean {found[0]}?" if found else otherwise


def _next_value(flag: Flag, rest: Iterator[str]) -> str:
    """Return the value of a flag without `=`: the next argument, whatever it begins with; a boolean stands alone."""
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
