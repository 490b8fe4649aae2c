"""`hwsigner status`: which profiles work: role, key, certificate, renewal, and what an agent says of the session."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hwsigner._agent.client import ReportedProfile, ask_agents
from hwsigner._aws.config_file import read_config
from hwsigner._aws.region import EndpointFlags, check_arns, check_known_arns, sessions_endpoint
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report
from hwsigner._config import settings
from hwsigner._config.flags import ARNS, OUTPUT
from hwsigner._config.profiles import SYSTEM_FILE, Profile, is_system_file_hidden, profiles
from hwsigner._identity.certificate import Certificate, broken_rules, late_renewal, latest_expiring, leaves
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.enrolment.pace import is_timer_enabled
from hwsigner.errors import HwsignerError, HwsignerWarning, PinError, UsageError, printable
from hwsigner.key import open_key
from hwsigner.key.management import describe_key

HELP = "show which profiles work: role, key, certificate"

_FOUND = 1  # The exit status if there is a problem, or no profile.
_COLUMNS = ("PROFILE", "KEY", "CERTIFICATE", "SESSION", "STATE", "PROBLEM")
_MAX_BYTES = 1 << 20  # Of a key file.
_DER = b"\x30"  # Its first byte.
_MORE_COLUMNS = ("WORKS", "ACCOUNT", "ROLE", "REGION", "RENEWAL")  # Last, so that those above keep their numbers.
ABOUT_KEYS = ("PROFILE", "KEY", "CERTIFICATE", "RENEWAL")
_TABLES = (("PROFILE", "WORKS", "ACCOUNT", "ROLE", "REGION", "SESSION", "STATE"), ABOUT_KEYS)
_WORKS = {True: "yes", False: "no", None: "likely"}
# By the scheme of a resolved key URI, which is `tpm2` for a TSS2 key file.
_PLACES = {
    "tpm2": "TPM",
    "file": "file that can be copied",
    "env": "variable that can be copied",
    "fd": "open file that can be copied",
}
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class ProfileSummary:
    """What is known of a profile.

    `place` is where the key is, in words. `certificate` is the one that expires last; None if it is missing or behind a
    PIN. `served` is what an agent says of the profile, if it does. `problem` keeps sessions from being created, now or
    soon. `works` is None if nothing is wrong here, and an agent has created no session.
    """

    profile: Profile
    key: KeyURI | None
    place: str
    certificate: Certificate | None
    served: ReportedProfile | None
    problem: str
    works: bool | None

    @property
    def role(self) -> str:
        """The ARN of the role."""
        return str(self.profile.values.get("role-arn") or "")

    @property
    def account(self) -> str:
        """The number of the role's account."""
        return _part_of_arn(self.role, 4)

    @property
    def region(self) -> str:
        """The region that sessions are created in."""
        values = self.profile.values
        return str(values.get("region") or _part_of_arn(str(values.get("trust-anchor-arn") or ""), 3))

    @property
    def renewed_by(self) -> str:
        """Whose timer renews the certificate: `system` or `user`; empty if no timer does."""
        values, is_system = self.profile.values, self.profile.file == SYSTEM_FILE
        if not (values.get("issuer") or values.get("issuer-command")):
            return ""
        return ("system" if is_system else "user") if is_timer_enabled(self.profile.name, system=is_system) else ""


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.hint = "See hwsigner status --help; for one profile, write hwsigner show --profile NAME"
    parser.add_flags(OUTPUT)


def run(arguments: Arguments) -> int:
    """Print JSON, tables on a terminal, or otherwise lines of fields separated by tabs. No PIN is sent."""
    served, problems = ask_agents(os.environ)
    for problem in problems:
        report(f"warning: {problem}")
    rows = [summary_of(found, served.get(name)) for name, found in sorted(profiles(os.environ).items())]
    if arguments.json:
        print(json.dumps({"profiles": [_data(row) for row in rows]}, indent=2))
    else:
        columns = (*_COLUMNS, *_MORE_COLUMNS)
        if rows and not sys.stdout.isatty():
            print("\t".join(columns))
        print_rows(rows, columns, _TABLES)
    return 0 if rows and not problems and not any(row.problem for row in rows) else _FOUND


def summary_of(found: Profile, served: ReportedProfile | None = None, *, tokens: bool = True) -> ProfileSummary:
    """Return what is known of a profile. The key's token or TPM is not asked.

    If `tokens`, a certificate is looked for there, without a PIN.
    """
    key = certificate = None
    place = fault = ""
    values = settings.Settings()
    try:
        values = settings.of_profile(found)
        if named := values.private_key or values.certificate:
            key = settings.key_uri(values, named).resolved()
            place, fault = _place(key, is_served=served is not None)
        if values.certificate:
            uri = settings.key_uri(values, values.certificate)
            certificate = _certificate_at(uri) if tokens or uri.file else None
        elif values.cert_selector is None:
            fault = fault or "the profile names no certificate"
        if values.intermediates and (tokens or KeyURI.of(values.intermediates).file):
            settings.certificates_at(values.intermediates, pipes=False)
        has_file = key and (key.scheme == "file" or (key.scheme == "tpm2" and not served)) and os.path.isfile(key.file)
        if key and certificate and not fault and has_file:
            fault = _mismatch(key, certificate, strict=values.strict and not served)
    except PinError:
        pass  # The certificate or key is behind a PIN, such as in a PKCS #12 file. That is not a problem.
    except HwsignerError as error:
        if not (served and isinstance(error.__cause__, PermissionError)):  # The agent may read what this user may not.
            fault = error.message
    refused, late = _problems_of_certificate(certificate)
    problem = refused or (served.failure if served else "") or fault
    problem = problem or _problem_of_arns(found) or _problem_of_request(values)
    works = False if problem else None
    if served and served.state != "idle":
        works = served.state == "ready"
    return ProfileSummary(found, key, place, certificate, served, problem or late, works)


def _certificate_at(uri: KeyURI) -> Certificate:
    return latest_expiring(leaves(settings.certificates_at(uri, pipes=False)))


def _problems_of_certificate(certificate: Certificate | None) -> tuple[str, str]:
    """Return why the service refuses a certificate now, and why it may soon; empty texts if it does not."""
    if certificate is None:
        return "", ""
    now, name = datetime.now(UTC), f"certificate {certificate.source}"
    refused, late = next(broken_rules(certificate, now), None), late_renewal(certificate, now)
    return (
        f"{name} {refused.problem}" if refused else "",
        f"{name} {late} (alert HwsignerCertificateExpiring)" if late else "",
    )


def _mismatch(key: KeyURI, certificate: Certificate, *, strict: bool) -> str:
    """Return that a file's key is not the certificate's, or that `strict` refuses its mode; or an empty text.

    An encrypted key raises a PinError. The file of a TPM's key has its public key.
    """
    uri, pins = key.without_pin(), PinSource().without_pin()
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore", HwsignerWarning)  # Without it, doctor says it.
        try:
            if key.scheme == "tpm2":
                public_key = describe_key(uri, pins).public_key
            else:
                with open_key(uri, pins) as opened:
                    public_key = opened.public_key()
        except HwsignerWarning as warning:
            return warning.message
    is_same = public_key in (None, certificate.public_key())
    return "" if is_same else f"the key {key.name} is not that of certificate {certificate.source}"


def _part_of_arn(arn: str, index: int) -> str:
    parts = arn.split(":", 5)
    return parts[index] if len(parts) == 6 else ""


def _problem_of_arns(found: Profile) -> str:
    trust_anchor, profile, role, region = (str(found.values.get(name) or "") for name in (*ARNS, "region"))
    try:
        check_arns(trust_anchor, profile, role=role, region=region)
        check_known_arns(found.values)
    except UsageError as error:
        return error.message
    return ""


def _problem_of_request(values: settings.Settings) -> str:
    """Return why no request can be made of a profile with valid ARNs, or an empty text."""
    flags = EndpointFlags(values.endpoint, values.use_fips_endpoint, values.use_dualstack_endpoint)
    region, config = str(values.trust_anchor_arn).split(":")[3], read_config(os.environ)
    try:
        settings.session_request(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HwsignerWarning)  # That a flag is unsafe, the commands say.
            verify = not values.no_verify_ssl
            sessions_endpoint(region, environ=os.environ, flags=flags, verify=verify, config=config)
    except UsageError as error:
        return error.message
    return ""


def _place(key: KeyURI, *, is_served: bool) -> tuple[str, str]:
    """Return where a key is, and what is wrong with its file. The file's content decides; a pipe is not read.

    A file that only an agent can read is no problem if one serves the profile.
    """
    if key.scheme == "pkcs11":
        label = key.path.get("token", b"").decode("utf-8", "replace")
        module = os.fsdecode(key.query.get("module-path", b""))
        is_missing = "/" in module and not is_served and not os.path.exists(module)
        where = "YubiKey" if "ykcs11" in module and not label else f"token {label}".strip()
        return where, f"PKCS #11 module {module} does not exist" if is_missing else ""
    is_pipe = os.path.exists(key.file) and not (os.path.isfile(key.file) or os.path.isdir(key.file))
    if key.scheme not in ("file", "tpm2") or not key.file or is_pipe:
        return _PLACES.get(key.scheme, key.scheme), ""
    try:
        with open(key.file, "rb") as file:
            start = file.read(_MAX_BYTES)
    except OSError as error:
        is_denied = isinstance(error, PermissionError)
        return "unknown", "" if is_served and is_denied else f"can't read {key.file}: {error.strerror}"
    if KeyURI("file", key.path).resolved().scheme == "tpm2":
        return _PLACES["tpm2"], ""
    has_key = b"PRIVATE KEY-----" in start or start[:1] == _DER
    wanted = "TSS2 PRIVATE KEY" if key.scheme == "tpm2" else "" if has_key else "private key"
    return _PLACES["file"] if has_key else "unknown", f"{key.file} has no {wanted}" if wanted else ""


def _end(certificate: Certificate | None) -> str:
    """Return when a certificate expires, and how long it has until then."""
    if certificate is None:
        return ""
    end = certificate.x509.not_valid_after_utc
    left = end - datetime.now(UTC)
    days = "expired" if left < timedelta(0) else f"{left.days} d" if left.days else f"{left.seconds // 3600} h"
    return f"{end:%Y-%m-%d} ({days})"


def _fields(row: ProfileSummary) -> dict[str, str]:
    """Return what is printed of a profile, by column."""
    served, timer = row.served, row.renewed_by
    return {
        "PROFILE": row.profile.name,
        "FILE": row.profile.file,
        "KEY": row.place,
        "CERTIFICATE": _end(row.certificate),
        "SESSION": served.expiration if served else "",
        "STATE": f"{served.state}, {served.agent}'s agent" if served else "no agent",
        "PROBLEM": row.problem,
        "WORKS": _WORKS[row.works],
        "ACCOUNT": row.account,
        "ROLE": _part_of_arn(row.role, 5).removeprefix("role/") or row.role,
        "REGION": row.region,
        "RENEWAL": f"{timer}'s timer" if timer else "no timer",
    }


def data_of(row: ProfileSummary) -> dict[str, Any]:
    """Return what is known of a profile without an agent, for JSON."""
    leaf = row.certificate
    return {
        "name": row.profile.name,
        "file": row.profile.file,
        "role": row.role or None,
        "account": row.account or None,
        "region": row.region or None,
        "key": row.key and {"uri": row.key.name, "place": row.place},
        "certificate": leaf
        and {
            "subject": leaf.subject,
            "serialNumber": str(leaf.x509.serial_number),
            "notAfter": f"{leaf.x509.not_valid_after_utc:{_TIME}}",
        },
        "renewedBy": row.renewed_by or None,
        "problem": row.problem or None,
    }


def _data(row: ProfileSummary) -> dict[str, Any]:
    served = row.served
    agent = served and {
        "name": served.agent,
        "state": served.state,
        "expiration": served.expiration or None,
        "failure": served.failure or None,
    }
    return {**data_of(row), "works": row.works, "agent": agent}


def _no_profiles() -> str:
    """Return what to tell a user who has no profiles."""
    hidden = f" that you can read: {SYSTEM_FILE} may have some" if is_system_file_hidden() else ""
    return f"there are no profiles{hidden}. Make one with hwsigner enroll or hwsigner profile add"


def print_rows(rows: Sequence[ProfileSummary], columns: Sequence[str], tables: Iterable[Sequence[str]]) -> None:
    """Print profiles: as tables and then the problems on a terminal, otherwise as lines of fields split by tabs."""
    if not rows:
        report(_no_profiles())
    elif sys.stdout.isatty():
        _print_tables(rows, tables)
    else:
        for fields in map(_fields, rows):
            print("\t".join(printable(fields[name]) for name in columns))


def _print_tables(rows: Sequence[ProfileSummary], tables: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for number, columns in enumerate(tables):
        table = Table(*(name.capitalize() for name in columns), box=None, padding=(0, 2, 0, 0))
        for row in rows:
            found = _fields(row)
            # Text and not str: square brackets are not markup.
            table.add_row(*(Text(printable(found[name]), _style(row, name), overflow="fold") for name in columns))
        if number:
            console.print()
        console.print(table)
    for row in rows:
        if row.problem:
            console.print(Text(printable(f"{row.profile.name}: {row.problem}"), style="red"), soft_wrap=True)


def _style(row: ProfileSummary, column: str) -> str:
    if column == "WORKS" and row.works is not None:
        return "green" if row.works else "red"
    is_over = row.certificate and row.certificate.x509.not_valid_after_utc < datetime.now(UTC)
    return "red" if column == "CERTIFICATE" and is_over else ""
