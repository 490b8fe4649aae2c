"""`hwsigner show`: a key, what guards it, and its certificate, up to the root. The key signs nothing."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY, OUTPUT, PROFILE
from hwsigner._identity.certificate import (
    Certificate,
    build_chain,
    late_renewal,
    latest_expiring,
    leaves,
    load,
    preflight,
)
from hwsigner._identity.key_certificates import certificates_of_key
from hwsigner._identity.session_tags import session_tags, untaggable
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, UsageError, printable
from hwsigner.key import find_certificates
from hwsigner.key.management import KeyDescription, describe_key
from hwsigner.key.public_key import kind_of, to_pem

HELP = "show a key, what guards it, and its certificate"

_WIDTH = 80
_NAME_WIDTH = 13


@dataclass(frozen=True)
class _Certified:
    """A key's certificate, and the path down to it. `matches` is None if the public key is not shown."""

    leaf: Certificate
    path: tuple[Certificate, ...]
    matches: bool | None
    warnings: tuple[str, ...]


def add_arguments(parser: Parser) -> None:
    """Add the key URI and the flags."""
    parser.add_argument(
        "key", metavar="KEY-URI", nargs="?", help="key URI of the key (default: from --profile or --private-key)"
    )
    parser.add_flags(OUTPUT, IDENTITY, PROFILE)


def run(arguments: Arguments) -> int:
    """Print JSON, or lines for people."""
    uri, certificate = _named(arguments)
    pins = settings.pin_source(arguments.settings, uri)
    key = describe_key(uri, pins, allow_modules=True)
    if certificate is None:
        found = certificates_of_key(uri, key.public_key, allow_modules=True)
    else:
        is_same_file = certificate.place == uri.place and not certificate.backend.shares_store
        certificate_pins = pins if is_same_file else PinSource().without_pin()
        found = load(find_certificates(certificate, certificate_pins, allow_modules=True))
    if arguments.settings.intermediates:
        found += settings.certificates_at(arguments.settings.intermediates)
    certified = _certified(key, found) if found else None
    if arguments.json:
        print(json.dumps(_data(key, certified), indent=2))
    else:
        for name, value in _rows(key, certified):
            print(_wrapped(name, value))
    return 0


def _named(arguments: Arguments) -> tuple[KeyURI, KeyURI | None]:
    """Return the URI of the key, and that of its certificate if there is one."""
    values = arguments.settings
    certificate = None
    if values.cert_selector is not None:
        certificate = KeyURI.of(settings.identity_source(arguments.settings, check=False).certificate)
    elif values.certificate:
        certificate = settings.key_uri(values, values.certificate)
    if arguments.key:
        settings.check_no_profile(arguments.key, f"Write hwsigner show --profile {arguments.key}")
        values.profile_name = None  # The profile's PIN is for the profile's key.
        return settings.argument_uri(arguments.settings, arguments.key), certificate
    private_key = settings.key_uri(values, values.private_key) if values.private_key else None
    settings.check_not_moved(values, certificate, private_key)
    if private_key:
        return private_key, certificate
    if certificate is None:
        if name := values.profile_name:
            hint = f"Run hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}"
            raise UsageError(f"profile {name!r} names no key and no certificate", hint)
        raise UsageError("no key is named", "Give its key URI, or --profile NAME")
    return certificate, certificate


def _certified(key: KeyDescription, found: Sequence[Certificate]) -> _Certified:
    matching = [one for one in found if one.public_key() == key.public_key]
    candidates = leaves(matching or found)
    leaf = latest_expiring(candidates)
    notes = []
    if len(candidates) > 1:
        notes.append(f"{len(candidates)} certificates may be the key's; this one expires last")
    try:
        chain, _ = build_chain(leaf, found)
        highest = chain.intermediates[-1] if chain.intermediates else leaf
        roots = [one for one in found if one.is_root() and one is not leaf and one.issued(highest)]
        path = (*roots[:1], *reversed(chain.intermediates), leaf)
    except CertificateError as error:
        notes.append(str(error))
        path = (leaf,)
    now = datetime.now(UTC)
    try:
        preflight(leaf, now)
    except CertificateError as error:
        notes.append(f"The service would refuse it: {error.message}")
    if late := late_renewal(leaf, now):
        notes.append(f"It {late}")
    notes += untaggable(leaf)
    return _Certified(leaf, path, None if key.public_key is None else bool(matching), tuple(notes))


def key_data(key: KeyDescription) -> dict[str, Any]:
    """Return what is known of a key, for JSON."""
    return {
        "uri": key.uri,
        "place": key.place,
        "algorithm": key.public_key and kind_of(key.public_key),
        "publicKey": key.public_key and to_pem(key.public_key),
        "guards": list(key.guards),
        "properties": dict(key.properties),
        "notes": list(key.notes),
    }


def _data(key: KeyDescription, certified: _Certified | None) -> dict[str, Any]:
    data: dict[str, Any] = {**key_data(key), "certificate": None}
    if certified:
        data["certificate"] = {
            **_certificate_data(certified.leaf),
            "matches": certified.matches,
            "sessionTags": session_tags(certified.leaf),
            "warnings": list(certified.warnings),
            "path": [_certificate_data(one) for one in certified.path],
        }
    return data


def _certificate_data(certificate: Certificate) -> dict[str, Any]:
    x509 = certificate.x509
    return {
        "uri": certificate.source,
        "subject": certificate.subject,
        "issuer": x509.issuer.rfc4514_string(),
        "serialNumber": str(x509.serial_number),
        "notBefore": f"{x509.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "notAfter": f"{x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }


def key_rows(key: KeyDescription) -> Iterator[tuple[str, str]]:
    """Yield what is known of a key, a row each: its name and its text."""
    yield "URI", key.uri
    yield "Algorithm", (key.public_key and kind_of(key.public_key)) or "unknown"
    yield "Place", key.whereabouts
    yield from (("Guard", guard) for guard in key.guards)
    yield from (("Note", note) for note in key.notes)


def _rows(key: KeyDescription, certified: _Certified | None) -> Iterator[tuple[str, str]]:
    yield from key_rows(key)
    if certified is None:
        yield "Certificate", "none found beside the key; name one with --certificate"
        return
    leaf = certified.leaf
    end = leaf.x509.not_valid_after_utc
    left = (end - datetime.now(UTC)).days
    yield "Certificate", leaf.source
    yield "Subject", leaf.subject
    yield "Expires", f"{end:%Y-%m-%d} ({'expired' if left < 0 else '1 day left' if left == 1 else f'{left} days left'})"
    matches = {True: "yes, it is for this key", False: "no: it is for another key", None: "unknown: the key is hidden"}
    yield "Matches", matches[certified.matches]
    yield from (("Tag", f"{name} = {value}") for name, value in session_tags(leaf).items())
    yield from (("Warning", warning) for warning in certified.warnings)
    yield from (("Path" if number == 0 else "", line) for number, line in enumerate(_tree(certified.path)))


def _tree(path: Sequence[Certificate]) -> Iterator[str]:
    """Yield a line for each certificate from the root to the leaf, that fits beside the rows' names."""
    rows = [
        (one.subject, "root" if one.is_root() else f"expires {one.x509.not_valid_after_utc:%Y-%m-%d}") for one in path
    ]
    if not path[0].is_root():
        rows.insert(0, (path[0].x509.issuer.rfc4514_string(), "not here"))
    for depth, (subject, note) in enumerate(rows):
        branch = "  " * (depth - 1) + "└ " if depth else ""
        room = _WIDTH - _NAME_WIDTH - len(branch) - len(note) - 2
        name = printable(subject)
        yield f"{branch}{name if len(name) <= room else name[: room - 1] + '…'}  {note}"


def _wrapped(name: str, value: str) -> str:
    """Return a row of lines of 80 columns, unless a word is longer."""
    if name in ("Path", ""):
        return f"{name:<{_NAME_WIDTH}}{value}"
    blank = " " * _NAME_WIDTH
    lines = textwrap.wrap(printable(value), _WIDTH - _NAME_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{blank if number else name:<{_NAME_WIDTH}}{line}" for number, line in enumerate(lines))
