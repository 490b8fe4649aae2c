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

from hwsigner.config.flags import (
    Flag,
    attribute_of,
    check_exclusive,
    default_values,
    profile_values,
)
from hwsigner.errors import UsageError, suggestion

# A command line with one of these names its own key and certificate, and HWSIGNER_PROFILE does not count.
_NAMES_KEY = ("certificate", "private_key", "cert_selector", "key", "name", "names")


class Parser(argparse.ArgumentParser):
    """An argument parser with these rules.

    Attributes:
        flags: the flags, in the order in which the command added them.
        positionals: the other arguments.
        hint: the hint of parsing errors. A command may replace it.
    """

    def __init__(self, command: str, description: str) -> None:
        what = f"{description[:1].upper()}{description[1:]}."
        super().__init__(f"hwsigner {command}".strip(), description=what, allow_abbrev=False, add_help=False)
        self._arguments = self.add_argument_group("Arguments")
        self.positionals: list[argparse.Action] = []
        self.hint = f"See {self.prog} --help"
        self._flags: dict[str, Flag] = {}

    @property
    def flags(self) -> list[Flag]:
        """The flags, in the order in which the command added them."""
        return list(self._flags.values())

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an argument that is not a flag."""
        self.positionals.append(self._arguments.add_argument(*names, **settings))
        return self.positionals[-1]

    def add_flags(self, *groups: Iterable[Flag]) -> None:
        """Add the flags of the groups."""
        self._flags.update((flag.name, flag) for group in groups for flag in group)

    def format_help(self) -> str:
        """Return the help, with the flags in groups."""
        self.describe()
        return super().format_help()

    def describe(self) -> None:
        """Add the flags to argparse, for the help and for completion. They are parsed without it."""
        from hwsigner.cli.flag_groups import add_to_help

        add_to_help(self, self.flags, self.positionals)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments. Flags that were not given are missing from the result.

        HWSIGNER_PROFILE gives --profile, unless the arguments name a profile, a key or a certificate.

        Raises:
            UsageError: an argument is unknown or invalid, or two exclude each other.
        """
        values, others = self._take_flags(arguments)
        parsed, rest = self.parse_known_args(others)
        if rest:
            # Do not quote it: it may be the second half of a password with a space.
            naming = " or ".join(f"--{flag}" for flag in self._naming())
            raise UsageError(
                "unexpected argument" if len(rest) == 1 else f"{len(rest)} unexpected arguments",
                f"To name a profile, use {naming}" if naming else self.hint,
            )
        check_exclusive(values)
        if values.get("output") == "json":
            values["json"] = True
        found = {**vars(parsed), **values}
        attributes = [attribute_of(flag) for flag in self._naming()]
        name = os.environ.get("HWSIGNER_PROFILE")
        if name and attributes and not any(found.get(each) for each in (*attributes, *_NAMES_KEY)):
            found[attributes[0]] = name
        return argparse.Namespace(**found)

    def complete(self, given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """Return the arguments completed from the profile, if one is named, and from the defaults.

        The result also has two attributes: `given`, the flags of the command line with their values, and `exposed`,
        the profile's file if other users can read it.

        Raises:
            UsageError: --profile and --config-profile name two profiles.
            ConfigError: there is no such profile, or it is invalid.
        """
        values = default_values(self._flags.values())
        names = {name for flag in self._naming() if (name := getattr(given, attribute_of(flag), None))}
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

    def _naming(self) -> list[str]:
        """Return the names of the flags whose value is a profile that gives the other flags."""
        return [flag.name for flag in self._flags.values() if flag.names_profile]

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
            elif argument in ("-h", "--help"):
                self.print_help()
                self.exit()
            elif name.startswith("-") and argument != "-":
                # Only the name: it may be a misspelt password flag.
                known = [f"--{flag}" for flag in (*self._flags, "help")]
                raise UsageError(f"unknown flag {name}", suggestion(name, known, self.hint))
            else:
                others.append(argument)
        return values, others


def _next_value(flag: Flag, rest: Iterator[str]) -> str:
    """Return the value of a flag without `=`: the next argument, or `true` for a boolean."""
    if not flag.metavar:
        return "true"
    value = next(rest, None)
    if value is None:
        raise UsageError(f"--{flag.name} has no value", f"Write --{flag.name} {flag.metavar}")
    return value
