"""The flags: one table, used for the command line, for the keys of a profile, and for help.

The rules are those of the program that hwsigner replaces: `--name value` or `--name=value`, where the value may begin
with `-`; booleans stand alone or take `=true` and `=false`; the last of a repeated flag wins; no abbreviations.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from hwsigner.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from hwsigner.config import Profile

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})


def boolean(text: str) -> bool:
    """Convert the value of a boolean flag."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("it is true or false")


def session_duration(text: str) -> int:
    """Convert a session's duration in seconds."""
    if text.isascii() and text.isdigit() and len(text) < 10 and 900 <= int(text) <= 43200:
        return int(text)
    raise ValueError("it is a whole number of seconds from 900 to 43200")


def seconds(text: str) -> float:
    """Convert a time limit in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value <= 86400:
        return value
    raise ValueError("it is a number of seconds above 0 and up to 86400")


def instance_property(text: str) -> tuple[str, str]:
    """Convert one instance property, `K=V`, each of 1 to 200 characters."""
    name, equals, value = text.partition("=")
    if equals and 1 <= len(name) <= 200 and 1 <= len(value) <= 200:
        return name, value
    raise ValueError("it is K=V, each of 1 to 200 characters")


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a conversion that takes one of a few words."""

    def choice(text: str) -> str:
        if text in choices:
            return text
        raise ValueError(f"it is one of {', '.join(choices)}")

    return choice


@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
        name: its name, without the dashes.
        help: what it is for.
        metavar: what stands for its value in help; empty for a boolean.
        convert: takes the value as text; a ValueError says what it should be.
        default: its value when it is not given.
        many: whether it may be given several times, each counting.
        secret: whether its value is secret.
    """

    name: str
    help: str
    metavar: str = ""
    convert: Callable[[str], Any] = str
    default: Any = None
    many: bool = False
    secret: bool = False

    @property
    def attribute(self) -> str:
        """The name of the attribute that holds its value."""
        return self.name.replace("-", "_")

    def value(self, text: str) -> Any:
        """Convert a value.

        Raises:
            UsageError: naming the flag, and what it holds unless that is secret.
        """
        try:
            return self.convert(text)
        except ValueError as error:
            if self.secret:
                raise UsageError(f"--{self.name} has a value that can't be read") from None
            raise UsageError(f"--{self.name} is {text[:100]!r}: {error}") from error

    def toml(self, value: Any) -> Any:
        """Return a converted value as a profile of config.toml holds it."""
        return ["=".join(item) for item in value] if self.many else value


def switch(name: str, help: str) -> Flag:
    """Return a boolean flag, false by default."""
    return Flag(name, help, convert=boolean, default=False)


PROFILE = (
    Flag("profile", "take the flags of this profile of config.toml; those given here go before", "NAME"),
    Flag("config-profile", "the same as --profile", "NAME"),
)

IDENTITY = (
    Flag("certificate", "the certificate: a path (PEM, DER, PKCS #12) or a pkcs11: URI", "CERT"),
    Flag("private-key", "the key: a path or a key URI; by default where the certificate is", "KEY"),
    Flag("intermediates", "a file with the intermediate certificates", "FILE"),
    Flag("cert-selector", "a certificate of a PKCS #11 token: Key=x509Subject,Value=… or file://…", "SELECTOR"),
    switch("use-latest-expiring-certificate", "of several certificates take the one that expires last"),
    Flag("system-store-name", "for Windows; accepted and ignored elsewhere", "NAME"),
    Flag("pkcs11-lib", "the PKCS #11 module", "PATH"),
    switch("reuse-pin", "answer a key that wants a PIN at each signature with the PIN of the login"),
    Flag("tpm-key-password", "the TPM key's auth value; pin-source in the key URI is safer", "TEXT", secret=True),
    switch("no-tpm-key-password", "the TPM key's auth value is empty"),
    Flag("pkcs8-password", "the passphrase of the key file; pin-source in the key URI is safer", "TEXT", secret=True),
    switch("allow-final-pin-try", "send a PIN even when one more wrong one locks the token"),
    switch("no-preflight", "send a certificate that the service will refuse"),
    switch("strict", "make every warning an error"),
    switch("debug", "show the canonical request, the string to sign and timings; never secrets"),
)

SESSION = (
    Flag("trust-anchor-arn", "the trust anchor", "ARN"),
    Flag("profile-arn", "the Roles Anywhere profile", "ARN"),
    Flag("role-arn", "the role to assume", "ARN"),
    Flag("session-duration", "how long the credentials live, in seconds", "SECONDS", session_duration, 3600),
    Flag("role-session-name", "the session's name, where the profile accepts one", "NAME"),
    Flag("region", "the region; by default the trust anchor's", "REGION"),
    Flag("endpoint", "the service's URL; by default the region's", "URL"),
    switch("no-verify-ssl", "trust any server, and allow http:"),
    switch("with-proxy", "accepted for compatibility: HTTPS_PROXY is honoured with and without it"),
    Flag("connect-timeout", "for the name look-up, the connection and TLS", "SECONDS", seconds, 5.0),
    Flag("read-timeout", "for the whole answer", "SECONDS", seconds, 15.0),
    Flag("timeout", "for the whole command, retries included", "SECONDS", seconds, 60.0),
    Flag("instance-property", "a property to record; may be repeated", "K=V", instance_property, many=True),
)

EXCLUSIVE = (
    ("certificate", "cert-selector"),
    ("private-key", "cert-selector"),
    ("private-key", "use-latest-expiring-certificate"),
    ("no-tpm-key-password", "tpm-key-password"),
    ("pkcs8-password", "tpm-key-password"),
)

_IN_PROFILES = {flag.name: flag for flag in IDENTITY + SESSION}


class Parser(argparse.ArgumentParser):
    """An argument parser with the rules above."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"hwsigner {command}".strip(), description=description, allow_abbrev=False)
        self._flags: dict[str, Flag] = {}

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
            self.error(f"{len(rest)} of the arguments belong to no flag")
        _check_exclusive(values, UsageError)
        return argparse.Namespace(**vars(parsed), **values)

    def complete(self, given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """Return what was given with the values of its profile, if it names one, and the defaults below it.

        The attribute `given` has the flags of the command line with their values, and `exposed` the profile's file if
        others can read it.

        Raises:
            UsageError: --profile and --config-profile name two profiles.
            ConfigError: there is no such profile, or it holds what is no flag.
        """
        values = {flag.attribute: [] if flag.many else flag.default for flag in self._flags.values()}
        names = {getattr(given, flag.attribute) for flag in PROFILE if hasattr(given, flag.attribute)}
        if len(names) > 1:
            raise UsageError("--profile and --config-profile name two profiles", "Give one of them")
        exposed = None
        if names:
            from hwsigner.config import profile

            found = profile(names.pop(), environ)
            values |= _profile_values(found, given)
            exposed = found.file if found.exposed else None
        named = [flag for flag in self._flags.values() if hasattr(given, flag.attribute)]
        flags = [(flag, getattr(given, flag.attribute)) for flag in named]
        return argparse.Namespace(**{**values, **vars(given)}, given=flags, exposed=exposed)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as a UsageError."""
        raise UsageError(message, f"See {self.prog} --help")

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
                value = flag.value(text if equals else _next_value(flag, rest))
                values[flag.attribute] = [*values.get(flag.attribute, []), value] if flag.many else value
            elif name.startswith("-") and name not in self._option_string_actions:
                # Only its name: a value may be that of a mistyped password flag.
                self.error(f"there is no flag {name}")
            else:
                others.append(argument)
        return values, others


def _next_value(flag: Flag, rest: Iterator[str]) -> str:
    """Return the value of a flag that has no `=`: the next argument, whatever it begins with; a boolean stands alone."""
    if not flag.metavar:
        return "true"
    value = next(rest, None)
    if value is None:
        raise UsageError(f"--{flag.name} has no value", f"Write --{flag.name} {flag.metavar}")
    return value


def _help(flag: Flag) -> str:
    default = f" (default {flag.default:g})" if isinstance(flag.default, int | float) and flag.metavar else ""
    return (flag.help + default).replace("%", "%%")


def _check_exclusive(values: Mapping[str, Any], error: type[UsageError], where: str = "") -> None:
    for one, other in EXCLUSIVE:
        if _is_set(values, one) and _is_set(values, other):
            raise error(f"{where}--{one} and --{other} exclude each other", "Give one of them")


def _is_set(values: Mapping[str, Any], name: str) -> bool:
    return values.get(name.replace("-", "_")) not in (None, False)


def _profile_values(found: Profile, given: argparse.Namespace) -> dict[str, Any]:
    """Return a profile's values by attribute, less those that a given flag excludes."""
    where = f"{found.file}: [profile.{found.name}]"
    values = {}
    for key, value in found.values.items():
        flag = _IN_PROFILES.get(key)
        if flag is None:
            raise ConfigError(f"{where} has the key {key!r}, which is no flag", "See credential-process --help")
        values[flag.attribute] = _from_toml(flag, value, where)
    _check_exclusive(values, ConfigError, f"{where}: ")
    for pair in EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if _is_set(vars(given), one):
                values.pop(other.replace("-", "_"), None)
    return values


def _from_toml(flag: Flag, value: Any, where: str) -> Any:
    try:
        if flag.many:
            items = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
            return [flag.value(item) for item in items]
        if isinstance(value, bool) and not flag.metavar:
            return value
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return flag.value(str(value))
    except (UsageError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where} has {flag.name} with a value that can't be meant: {error}") from error
    raise ConfigError(f"{where} has {flag.name} with a value of another type than it takes")
