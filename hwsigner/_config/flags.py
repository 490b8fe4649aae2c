"""The table of flags, for the command line, the keys of a profile and the help.

A command's arguments and a profile's values both have a flag's value under its attribute: `role_arn` for `--role-arn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hwsigner._http import defaults
from hwsigner.errors import ConfigError, UsageError, suggestion

if TYPE_CHECKING:
    from hwsigner._config.profiles import Profile

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})


def boolean(text: str) -> bool:
    """Convert the value of a boolean flag."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("write true or false")


def seconds(text: str) -> float:
    """Convert a time limit in seconds."""
    with suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise ValueError("write a number of seconds above 0 and up to 86400")


def instance_property(text: str) -> tuple[str, str]:
    """Convert one instance property, `K=V`, each of 1 to 200 characters."""
    name, equals, value = text.partition("=")
    if equals and 1 <= len(name) <= 200 and 1 <= len(value) <= 200:
        return name, value
    raise ValueError("write K=V, each of 1 to 200 characters")


def whole_number(least: int, most: int, unit: str = "") -> Callable[[str], int]:
    """Return a conversion for a whole number within bounds, of a unit such as seconds."""

    def number(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"write a whole number{unit and f' of {unit}'} from {least} to {most}")

    return number


session_duration = whole_number(900, 43200, "seconds")


class one_of:  # noqa: N801  used like the functions above
    """A conversion for one of a few words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __call__(self, text: str) -> str:
        """Return the word."""
        if text in self.choices:
            return text
        raise ValueError(f"write one of {', '.join(self.choices)}")


def secret_place(text: str) -> str:
    """Return the place of a secret, as `pin-source` names it, before it is kept: it may be the secret itself.

    The error does not quote it.
    """
    if text and not text.startswith(("/", "file:", "env:", "credential:", "cmd:")):
        raise UsageError("a secret is given where its place is wanted", "Write file:/path, env:NAME or cmd:PROGRAM")
    return text


class Flag:
    """A flag, by its name without the dashes. `attribute` is the name of the attribute with its value.

    `metavar` stands for the value in help, by default the words to choose from; empty for a boolean. `convert` converts
    it from text: its ValueError says what to write. With `many` all values of a repeated flag are kept. With
    `names_profile` the value is a profile of config.toml, which gives the other flags.
    """

    __slots__ = ("attribute", "convert", "default", "help", "many", "metavar", "name", "names_profile", "secret")

    def __init__(
        self,
        name: str,
        help: str,
        metavar: str = "",
        convert: Callable[[str], Any] = str,
        default: Any = None,
        *,
        many: bool = False,
        secret: bool = False,
        names_profile: bool = False,
    ) -> None:
        words = "|".join(convert.choices) if isinstance(convert, one_of) else ""
        self.name, self.attribute, self.help, self.metavar = name, attribute_of(name), help, metavar or words
        self.convert, self.default, self.many = convert, default, many
        self.secret, self.names_profile = secret, names_profile

    def value(self, text: str) -> Any:
        """Convert a value. The error has the flag, and the value unless that is secret."""
        try:
            return self.convert(text)
        except ValueError as error:
            if self.secret:
                raise UsageError(f"--{self.name} has a value that can't be read") from None
            hint = suggestion(text[:100], getattr(self.convert, "choices", ()), "")
            raise UsageError(f"--{self.name} is {text[:100]!r}: {error}", hint) from error

    def toml(self, value: Any) -> Any:
        """Return a converted value as a profile of config.toml holds it."""
        return [item if isinstance(item, str) else "=".join(item) for item in value] if self.many else value


def switch(name: str, help: str) -> Flag:
    """Return a boolean flag, false by default."""
    return Flag(name, help, convert=boolean, default=False)


def attribute_of(name: str) -> str:
    """Return the attribute for the name of a flag."""
    return name.replace("-", "_")


_FROM_PROFILE = "profile of config.toml to take flags from; flags given here take precedence"
PROFILE = (
    Flag("profile", _FROM_PROFILE, "NAME", names_profile=True),
    Flag("config-profile", "same as --profile", "NAME", names_profile=True),
)
# For commands whose --profile is a section of an AWS file.
CONFIG_PROFILE = (Flag("config-profile", _FROM_PROFILE, "NAME", names_profile=True),)

# For commands with output for people and for programs.
OUTPUT = (
    Flag("output", "text or json", "FORMAT", one_of("text", "json"), "text"),
    switch("json", "the same as --output json"),
)

IDENTITY = (
    Flag(
        "certificate",
        "certificate: a path, pkcs11: URI, tpm2:nv=INDEX, env:NAME, fd:N, or - for standard input",
        "CERT",
    ),
    Flag(
        "private-key", "private key: a path, key URI, env:NAME, fd:N or - (default: the value of --certificate)", "KEY"
    ),
    Flag("intermediates", "file of intermediate certificates", "FILE"),
    Flag("cert-selector", "find the certificate on PKCS #11 tokens: Key=x509Subject,Value=… or file://…", "SELECTOR"),
    switch("use-latest-expiring-certificate", "if several certificates match, use the one that expires last"),
    Flag("system-store-name", "Windows only; ignored here", "NAME"),
    Flag("pkcs11-lib", "PKCS #11 module", "PATH"),
    Flag("tcti", "how to reach the TPM, such as device:/dev/tpmrm0; tcti in the key URI takes precedence", "TCTI"),
    Flag("srk-name", "TPM Name of the storage root key, in hexadecimal (default: the one pinned at first use)", "NAME"),
    switch("accept-new-srk", "accept a changed storage root key, once you know why it changed"),
    switch("reuse-pin", "use the login PIN for keys that require a PIN for each signature"),
    Flag("tpm-key-password", "auth value of the TPM key; pin-source in the key URI is safer", "TEXT", secret=True),
    switch("no-tpm-key-password", "the TPM key has an empty auth value"),
    Flag("pkcs8-password", "passphrase of the key file; pin-source in the key URI is safer", "TEXT", secret=True),
    switch(
        "allow-final-pin-try", "send a PIN even after a failed attempt, or if one more failure would lock the token"
    ),
    Flag("pinentry", "program that asks for a PIN, or none (default: pinentry, if there is a display)", "PROGRAM"),
    switch("no-preflight", "send the certificate even if the service will refuse it"),
    switch("strict", "treat warnings as errors"),
    switch("debug", "show the canonical request, the string to sign and timings, but no secrets"),
)

# Flags of IDENTITY whose value is a path or key URI.
URIS = ("certificate", "private-key", "intermediates")
# Flags of IDENTITY that choose or check a certificate.
_FOR_CERTIFICATES = (*URIS, "cert-selector", "use-latest-expiring-certificate", "system-store-name", "no-preflight")
# For commands on one key, which their argument names: how to reach it, and its PIN.
KEY = tuple(flag for flag in IDENTITY if flag.name not in _FOR_CERTIFICATES)

# What every session needs.
ARNS = ("trust-anchor-arn", "profile-arn", "role-arn")
SESSION = (
    Flag("trust-anchor-arn", "ARN of the trust anchor, which trusts the CA", "ARN"),
    Flag("profile-arn", "ARN of the Roles Anywhere profile, which lists the role", "ARN"),
    Flag("role-arn", "ARN of the role to assume", "ARN"),
    Flag(
        "session-duration",
        "lifetime of the credentials, in seconds, 900 to 43200",
        "SECONDS",
        session_duration,
        defaults.SESSION_DURATION,
    ),
    Flag("role-session-name", "session name, if the Roles Anywhere profile accepts one", "NAME"),
    Flag("region", "AWS region (default: the trust anchor's)", "REGION"),
    Flag("endpoint", "URL of the service (default: the region's)", "URL"),
    Flag("use-fips-endpoint", "use the region's FIPS endpoint (default: as the SDKs)", convert=boolean),
    Flag("use-dualstack-endpoint", "use its endpoint for IPv4 and IPv6 (default: as the SDKs)", convert=boolean),
    switch("no-verify-ssl", "accept any server certificate, and allow http:"),
    switch("with-proxy", "accepted for compatibility; HTTPS_PROXY applies either way"),
    Flag("connect-timeout", "limit for DNS, TCP, proxy and TLS together", "SECONDS", seconds, defaults.CONNECT_TIMEOUT),
    Flag("read-timeout", "limit for the request and its response", "SECONDS", seconds, defaults.READ_TIMEOUT),
    Flag("timeout", "limit for all requests, retries included", "SECONDS", seconds, defaults.TIMEOUT),
    Flag("instance-property", "property to record with the session; repeatable", "K=V", instance_property, many=True),
)

# Of profiles alone: what an agent, or another program that stays, does with them.
AGENT = (
    Flag("agent", "auto: using the profile starts an agent; none: it does not", convert=one_of("auto", "none")),
    Flag(
        "attended",
        "the key needs a touch or typed PIN for each session, so don't refresh ahead of need (default: judged by time)",
        convert=boolean,
    ),
    Flag(
        "desktop-notifications",
        "whether your own agent shows a desktop notification when the key waits for you (default: true)",
        convert=boolean,
    ),
    Flag(
        "allow-users", "user or @group, by name or number, that the system agent serves; repeatable", "USER", many=True
    ),
)

# Of commands that write a profile, or look at one.
SYSTEM = switch("system", "for the system's agent: in /etc/hwsigner/config.toml, with files that the agent can read")

# What a certificate is asked for, and of which issuer. In profiles, for `enroll` and the renewals after it.
NAMES = (
    Flag("subject", "subject, written as in RFC 4514: CN=bamboo-01,OU=devops", "NAME"),
    Flag("dns", "DNS name for the subjectAltName; repeatable", "NAME", many=True),
    Flag("uri", "URI for the subjectAltName; repeatable", "URI", many=True),
)
ISSUER = (
    Flag(
        "issuer",
        "issuer: command, est, private-ca, registrar, vault or one that a package adds (default: command, if "
        "--issuer-command is given)",
        "NAME",
    ),
    Flag("issuer-url", "URL of the issuer", "URL"),
    Flag(
        "issuer-command", "program that reads the request on stdin and prints the certificates, both in PEM", "COMMAND"
    ),
    Flag("issuer-ca-file", "file of the CAs of the issuer's TLS certificate, in PEM (default: the system's)", "FILE"),
    Flag("issuer-user", "user at the issuer, or the role ID of an AppRole", "NAME"),
    Flag(
        "issuer-secret",
        "where the password or token for the issuer is: file:/path, env:NAME, credential:NAME or cmd:PROGRAM",
        "PLACE",
        secret_place,
    ),
    switch(
        "issuer-certificate",
        "est, vault: log in with the certificate in use, once there is one; only for TSS2 key files",
    ),
    Flag("issuer-arn", "private-ca: ARN of the CA", "ARN"),
)
PLACE = (Flag("nv-index", "TPM: put the leaf into this NV index, such as 0x01c20000, and not into a file", "INDEX"),)
PROOF = (
    Flag(
        "vendor-certificates",
        "registrar: certificates of the TPM that it does not hold itself, up to the vendor's root",
        "FILE",
    ),
)
ENROLMENT = NAMES + ISSUER + PLACE + PROOF

EXCLUSIVE = (
    ("certificate", "cert-selector"),
    ("private-key", "cert-selector"),
    ("private-key", "use-latest-expiring-certificate"),
    ("no-tpm-key-password", "tpm-key-password"),
    ("pkcs8-password", "tpm-key-password"),
    ("endpoint", "use-fips-endpoint"),
    ("endpoint", "use-dualstack-endpoint"),
)

IN_PROFILES = {flag.name: flag for flag in IDENTITY + SESSION + AGENT + ENROLMENT}
STARTS_AGENT = IN_PROFILES["agent"]


def profile_values(found: Profile, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a profile of config.toml by attribute, without those that a given flag excludes.

    If no given flag names another key, `profile_name` is the profile's name, for its PIN.
    """
    where = f"{found.file}: [profile.{found.name}]"
    values = table_values(found.values, IN_PROFILES, where, "See hwsigner profile --help")
    check_exclusive(values, ConfigError, f"{where}: ")
    check_readable_again(found.values, ConfigError, f"{where}: ")
    said = _said(given)
    for one, other in EXCLUSIVE:
        if one in said:
            values.pop(attribute_of(other), None)
        if other in said:
            values.pop(attribute_of(one), None)
    if said.isdisjoint(("private-key", "cert-selector", "" if values.get("private_key") else "certificate")):
        values["profile_name"] = found.name
    return values


def table_values(table: Mapping[str, Any], flags: Mapping[str, Flag], where: str, hint: str) -> dict[str, Any]:
    """Return the values of a table of config.toml by attribute.

    `where` is what errors call the table; `hint` says what to do about a key that is like no flag.
    """
    for key in table:
        if key not in flags:
            raise ConfigError(f"{where} has the key {key!r}, which is not a flag", suggestion(key, flags, hint))
    return {flags[key].attribute: _from_toml(flags[key], value, where) for key, value in table.items()}


def converted(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by attribute that a program gives, converted as a profile's are."""
    flags = {flag.attribute: flag for flag in IDENTITY + SESSION + AGENT}
    for name in given.keys() - flags.keys():
        hint = suggestion(name, flags, "Write a flag's name with _ for -, such as role_arn")
        raise UsageError(f"there is no flag for {name!r}", hint)
    values = {name: _from_toml(flags[name], value, "the call") for name, value in given.items()}
    check_exclusive(values)
    return values


def places(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each path or key URI that a profile, its values by flag, names: the flag and the text."""
    return [(name, str(values[name])) for name in URIS if values.get(name)]


def check_readable_again(values: Mapping[str, Any], error: type[UsageError] = UsageError, where: str = "") -> None:
    """Check that a profile, its values by flag, names no open file: those of the next process are others.

    If it does, the error is of the class, and its message begins with `where`.
    """
    for name in URIS:
        place = str(values.get(name) or "").partition("?")[0]
        if place == "-" or place.lower().startswith("fd:"):
            hint = "Use a path, a key URI or env:NAME, or give the flag on the command line"
            raise error(f"{where}--{name} is {place[:20]!r}, which a profile can't name", hint)


def check_exclusive(values: Mapping[str, Any], error: type[UsageError] = UsageError, where: str = "") -> None:
    """Check that no two values, by attribute, exclude each other.

    If two do, the error is of the class, and its message begins with `where`.
    """
    said = _said(values)
    for one, other in EXCLUSIVE:
        if one in said and other in said:
            raise error(f"{where}--{one} and --{other} exclude each other", "Give one of them")


def _said(values: Mapping[str, Any]) -> set[str]:
    """Return the names of the flags whose value says something."""
    return {attribute.replace("_", "-") for attribute, value in values.items() if value not in (None, False)}


def _from_toml(flag: Flag, value: Any, where: str) -> Any:
    try:
        if flag.many and not isinstance(value, str):  # The items of a text would be its characters.
            items = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
            if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
                return [flag.value(item) for item in items]
        if isinstance(value, bool) and not flag.metavar:
            return value
        if isinstance(value, int | float | str) and not (flag.many or isinstance(value, bool)):
            return None if value == "" and flag.convert is str else flag.value(str(value))
    except (UsageError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where} has {flag.name} with an invalid value: {error}") from error
    hint = 'Write ["VALUE"]' if flag.many else 'Write "VALUE"' if flag.metavar else "Write true or false"
    raise ConfigError(f"{where} has {flag.name} with a value of the wrong type", hint)
