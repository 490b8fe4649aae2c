"""Parse a command's flags and complete them from a profile.

The rules are those of `aws_signing_helper`. Write `--name value` or `--name=value`; the value may start with `-`. A
boolean flag stands alone or takes `=true` or `=false`. If a flag is repeated, the last value applies. Flags can't be
abbreviated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from hwsigner._config.flags import IN_PROFILES, Flag, check_exclusive, profile_values
from hwsigner.errors import NoProfileError, UsageError

if TYPE_CHECKING:
    import argparse

    from hwsigner._config.profiles import Profile
    from hwsigner._config.settings import Settings

# If a command line has one of these, it names its own key or certificate, and HWSIGNER_PROFILE is ignored.
_NAMES_KEY = ("certificate", "private_key", "cert_selector", "key", "name", "names", "pods")


class Arguments(SimpleNamespace):
    """A command's arguments: an attribute for each, as in `argparse.Namespace`, which takes 2 ms to import.

    `exposed` is the profile's file, if other users can read it. `hidden` is why there is no profile of the name that
    was given, if the system's agent has its credentials.
    """

    settings: Settings
    given: Sequence[tuple[Flag, Any]]
    exposed: str | None
    found: Profile | None
    hidden: NoProfileError | None


class CommandModule(Protocol):
    """The module of a command, which is imported by its name."""

    HELP: str

    def add_arguments(self, parser: Parser) -> None:
        """Add the arguments and flags."""

    def run(self, arguments: Arguments) -> int:
        """Run the command and return its exit status; raises a HwsignerError if it fails."""
        ...


class Parser:
    """Parses a command's arguments by these rules. Only arguments that are not flags, and help, need argparse.

    Attributes:
        prog: the program's name with the command's.
        description: what the command is for.
        usage: the line of the help that shows the arguments; None for one that is made from them.
        epilog: the end of the help, or None.
        hint: the hint of parsing errors. A command may replace it.
        run_before_profile: does the command's work before config.toml is read, and returns whether it did; or None.
        run_without_profile: does it if there is no such profile, and returns whether it did; or None.
        takes_hidden: whether a profile may be one that only the system's agent can read.
    """

    def __init__(self, command: str, description: str) -> None:
        self.prog = f"hwsigner {command}".strip()
        self.usage: str | None = None
        self.epilog: str | None = None
        self.hint = f"See {self.prog} --help"
        self.run_before_profile: Callable[[Arguments], bool] | None = None
        self.run_without_profile: Callable[[Arguments], bool] | None = None
        self.takes_hidden = False
        self.description = f"{description[:1].upper()}{description[1:]}."
        self._positionals: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self._flags: dict[str, Flag] = {}

    @property
    def flags(self) -> list[Flag]:
        """The flags, in the order in which the command added them."""
        return list(self._flags.values())

    @property
    def positionals(self) -> list[argparse.Action]:
        """The other arguments, as argparse has them."""
        return self._argparse()[1]

    def add_argument(self, *names: str, **settings: Any) -> None:
        """Add an argument that is not a flag, as argparse's parsers do."""
        self._positionals.append((names, settings))

    def add_flags(self, *groups: Iterable[Flag]) -> None:
        """Add the flags of the groups."""
        self._flags.update((flag.name, flag) for group in groups for flag in group)

    def describe(self) -> argparse.ArgumentParser:
        """Return argparse's parser with the flags in groups, for the help."""
        from hwsigner._cli.flag_groups import add_to_help

        parser, positionals = self._argparse()
        parser.description, parser.usage, parser.epilog = self.description, self.usage, self.epilog
        add_to_help(parser, self.flags, positionals)
        return parser

    def parse(self, arguments: Sequence[str]) -> Arguments:
        """Parse a command's arguments. Flags that were not given are missing from the result.

        HWSIGNER_PROFILE gives --profile, unless the arguments name a profile, a key or a certificate.
        """
        values, others = self._take_flags(arguments)
        found, rest = self._take_positionals(others)
        if rest:
            from hwsigner._cli.hints import unexpected

            named = [flag.name for flag in self._naming()] or [name for name in ("profile",) if name in self._flags]
            error = unexpected(rest, [*self._flags], named, hint=self.hint)
            if values.get("cert_selector"):
                error.hint = "Put the whole value of --cert-selector in quotes, if it has a space"
            raise error
        check_exclusive(values)
        if values.get("output") == "json":
            values["json"] = True
        found |= values
        attributes = [flag.attribute for flag in self._naming()]
        name = os.environ.get("HWSIGNER_PROFILE")
        if name and attributes and not any(found.get(each) for each in (*attributes, *_NAMES_KEY)):
            found[attributes[0]] = name
        return Arguments(**found)

    def complete(self, given: Arguments, environ: Mapping[str, str] = os.environ) -> Arguments:
        """Return the arguments completed from the profile, if one is named, and from the defaults."""
        from hwsigner._config.settings import Settings

        names = {name for flag in self._naming() if (name := getattr(given, flag.attribute, None))}
        if len(names) > 1:
            raise UsageError("--profile and --config-profile name two profiles", "Give one of them")
        own, exposed, found, hidden = {}, None, None, None
        if names:
            from hwsigner._config.profiles import profile

            name = names.pop()
            try:
                found = profile(name, environ)
                own = profile_values(found, vars(given))
                exposed = found.file if found.exposed else None
            except NoProfileError as error:
                if not (self.takes_hidden and is_of_system_agent(name)):
                    raise
                hidden = error
        others, flags = vars(given).copy(), []
        for flag in self._flags.values():
            attribute = flag.attribute
            if attribute in others:
                flags.append((flag, others[attribute]))
            if flag.name not in IN_PROFILES:
                others.setdefault(attribute, [] if flag.many else flag.default)
            elif attribute in others:
                own[attribute] = others.pop(attribute)
        return Arguments(**others, settings=Settings(own), given=flags, exposed=exposed, found=found, hidden=hidden)

    def _naming(self) -> list[Flag]:
        """Return the flags whose value is a profile that gives the other flags."""
        return [flag for flag in self._flags.values() if flag.names_profile]

    def _take_positionals(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of the arguments that are not flags, and those that are too many."""
        if not (self._positionals or arguments):
            return {}, []
        parsed, rest = self._argparse()[0].parse_known_args(arguments)
        return vars(parsed), rest

    def _usage(self) -> str:
        return " ".join([self.prog, *(str(settings.get("metavar", "")) for _, settings in self._positionals)])

    def _argparse(self) -> tuple[argparse.ArgumentParser, list[argparse.Action]]:
        """Return argparse's parser of the arguments that are not flags, and what it has of each."""
        import argparse

        refused = self._refused

        class Positionals(argparse.ArgumentParser):
            def error(self, message: str) -> NoReturn:
                raise refused(message)

        parser = Positionals(self.prog, allow_abbrev=False, add_help=False)
        group = parser.add_argument_group("Arguments")
        return parser, [group.add_argument(*names, **settings) for names, settings in self._positionals]

    def _refused(self, message: str) -> UsageError:
        """Return argparse's message as an error."""
        _, is_missing, names = message.partition("the following arguments are required: ")
        if is_missing:
            return UsageError(f"{names} {'are' if ', ' in names else 'is'} missing", f"Write {self._usage()}")
        return UsageError(message, self.hint)

    def _take_flags(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the flags' values by attribute, and all other arguments."""
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
                value = flag.default if not text and flag.convert is str else flag.value(text)
                if flag.many:
                    value = [*values.get(flag.attribute, []), *([] if value is None else [value])]
                values[flag.attribute] = value
            elif argument.startswith("Key=") and values.get("cert_selector"):
                values["cert_selector"] += f" {argument}"  # As the page of aws_signing_helper writes it.
            elif argument in ("-h", "--help"):
                print(self.describe().format_help(), end="")  # argparse's print_help hides errors of stdout.
                raise SystemExit(0)
            elif name.startswith("-") and argument != "-":
                from hwsigner._cli.hints import unknown_flag

                raise unknown_flag(name, [*self._flags], usage=self._usage(), hint=self.hint)
            else:
                others.append(argument)
        return values, others


def is_of_system_agent(name: str) -> bool:
    """Return whether the system's agent, which may be starting, gives this user the credentials of a profile.

    It is an AgentError if the agent refuses or does not answer, or nothing listens and only it can read the system's
    file.
    """
    from hwsigner._agent.client import wait_for_system_agent

    return wait_for_system_agent(name) is not None


def _next_value(flag: Flag, rest: Iterator[str]) -> str:
    """Return the value of a flag without `=`: the next argument, or `true` for a boolean."""
    if not flag.metavar:
        return "true"
    value = next(rest, None)
    if value is None:
        raise UsageError(f"--{flag.name} has no value", f"Write --{flag.name} {flag.metavar}")
    return value
