"""`hwsigner status`: each profile with its key, its certificate, and what a running agent says of its session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hwsigner.agent.client import ReportedProfile, ask_agents
from hwsigner.aws.region import check_arns
from hwsigner.cli.parser import Arguments, CommandModule, Parser
from hwsigner.cli.process import report
from hwsigner.config import settings
from hwsigner.config.flags import ARNS, OUTPUT
from hwsigner.config.profiles import Profile, no_profiles, profiles
from hwsigner.errors import HwsignerError, PinError, UsageError, printable
from hwsigner.identity.certificate import Certificate, broken_rules, late_renewal, latest_expiring, leaves
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    import hwsigner.cli.status

    _: CommandModule = hwsigner.cli.status

HELP = "show all profiles: key, certificate, session, agent"

_FOUND = 1  # The exit status if a profile has a problem, or there is none.
_COLUMNS = ("PROFILE", "KEY", "CERTIFICATE", "SESSION", "STATE", "PROBLEM")
_MAX_BYTES = 1 << 20  # Of a key file.
_DER = b"\x30"  # Its first byte.
# By the scheme of a resolved key URI, which is `tpm2` for a TSS2 key file.
_PLACES = {
    "tpm2": "TPM",
    "file": "file that can be copied",
    "env": "variable that can be copied",
    "fd": "open file that can be copied",
}
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class _Row:
    """What is known of a profile. `problem` is what keeps sessions from being created, now or soon."""

    profile: Profile
    key: KeyURI | None
    place: str
    certificate: Certificate | None
    served: ReportedProfile | None
    problem: str


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(OUTPUT)


def run(arguments: Arguments) -> int:
    """Print JSON, a table on a terminal, or otherwise lines of fields separated by tabs. No PIN is sent."""
    served, problems = ask_agents(os.environ)
    for problem in problems:
        report(f"warning: {problem}")
    rows = [_row(found, served.get(name)) for name, found in sorted(profiles(os.environ).items())]
    if arguments.json:
        print(json.dumps({"profiles": [_data(row) for row in rows]}, indent=2))
    elif not rows:
        report(no_profiles())
    elif sys.stdout.isatty():
        _print_table(rows)
    else:
        for fields in (_COLUMNS, *map(_fields, rows)):
            print("\t".join(map(printable, fields)))
    return 0 if rows and not any(row.problem for row in rows) else _FOUND


def _row(found: Profile, served: ReportedProfile | None) -> _Row:
    key = certificate = None
    place = late = ""
    problem = served.failure if served else ""
    try:
        values = settings.of_profile(found)
        if named := values.private_key or values.certificate:
            key = settings.key_uri(values, named).resolved()
            place, problem_of_file = _place(key, is_served=served is not None)
            problem = problem or problem_of_file
        if values.certificate:
            uri = settings.key_uri(values, values.certificate)
            certificate = latest_expiring(leaves(settings.certificates_at(uri, pipes=False)))
            now = datetime.now(UTC)
            if text := late_renewal(certificate, now):
                late = f"certificate {certificate.source} {text} (alert HwsignerCertificateExpiring)"
            refused = next(broken_rules(certificate, now), None)
            problem = f"certificate {certificate.source} {refused.problem}" if refused else problem
        elif values.cert_selector is None:
            problem = problem or "the profile names no certificate"
    except PinError:
        pass  # The certificate is behind a PIN, such as in a PKCS #12 file. That is not a problem.
    except HwsignerError as error:
        problem = problem if served and isinstance(error.__cause__, PermissionError) else error.message
    return _Row(found, key, place, certificate, served, problem or _problem_of_arns(found) or late)


def _problem_of_arns(found: Profile) -> str:
    trust_anchor, profile, role, region = (str(found.values.get(name) or "") for name in (*ARNS, "region"))
    try:
        check_arns(trust_anchor, profile, role=role, region=region)
    except UsageError as error:
        return error.message
    return ""


def _place(key: KeyURI, *, is_served: bool) -> tuple[str, str]:
    """Return where a key is, and what is wrong with its file. The file's content decides; a pipe is not read.

    A file that only an agent can read is no problem if one serves the profile.
    """
    if key.scheme == "pkcs11":
        return f"token {key.path.get('token', b'').decode('utf-8', 'replace')}".strip(), ""
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


def _fields(row: _Row) -> tuple[str, ...]:
    served = row.served
    return (
        row.profile.name,
        row.place,
        _end(row.certificate),
        served.expiration if served else "",
        f"{served.state}, {served.agent}'s agent" if served else "no agent",
        row.problem,
    )


def _data(row: _Row) -> dict[str, Any]:
    leaf, served = row.certificate, row.served
    return {
        "name": row.profile.name,
        "file": row.profile.file,
        "key": row.key and {"uri": row.key.name, "place": row.place},
        "certificate": leaf
        and {
            "subject": leaf.subject,
            "serialNumber": str(leaf.x509.serial_number),
            "notAfter": f"{leaf.x509.not_valid_after_utc:{_TIME}}",
        },
        "agent": served
        and {
            "name": served.agent,
            "state": served.state,
            "expiration": served.expiration or None,
            "failure": served.failure or None,
        },
        "problem": row.problem or None,
    }


def _print_table(rows: Sequence[_Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(name.capitalize() for name in _COLUMNS[:-1]), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        # Text and not str: square brackets are not markup.
        fields = [Text(printable(field), overflow="fold") for field in _fields(row)[:-1]]
        if row.certificate and row.certificate.x509.not_valid_after_utc < datetime.now(UTC):
            fields[_COLUMNS.index("CERTIFICATE")].stylize("red")
        table.add_row(*fields)
    console = Console(highlight=False)
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(Text(printable(f"{row.profile.name}: {row.problem}"), style="red"), soft_wrap=True)
