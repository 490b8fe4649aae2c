"""`hwsigner read-certificate-data`: show what hwsigner reads from a certificate."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY, OUTPUT, PROFILE, SESSION
from hwsigner._identity.certificate import Certificate, leaves, load
from hwsigner._identity.selector import Selector, parse_selector, select
from hwsigner.errors import UsageError, printable
from hwsigner.key import ECDSA, MLDSA, RSA, find_certificates

HELP = "show what hwsigner reads from a certificate"

_KEY_TYPES = {
    RSA: ("RSA", ["RSASHA256", "RSASHA384", "RSASHA512"]),
    ECDSA: ("EC", ["ECSHA256", "ECSHA384", "ECSHA512"]),
    MLDSA: ("ML-DSA", ["MLDSA"]),
}


def add_arguments(parser: Parser) -> None:
    """Add the flags of every command, also those without effect here."""
    parser.add_flags(IDENTITY, SESSION, PROFILE, OUTPUT)


def run(arguments: Arguments) -> int:
    """Print the leaf of a file as JSON, or a list of matching certificates on tokens."""
    if arguments.settings.cert_selector is not None:
        uri = settings.key_uri(arguments.settings, "pkcs11:")
        found = select(
            parse_selector(arguments.settings.cert_selector), uri, settings.pin_source(arguments.settings, uri)
        )
        _print_matches(found, as_json=arguments.json)
        return 0
    if not arguments.settings.certificate:
        raise UsageError("no certificate was given", "Add --certificate or --cert-selector")
    uri = settings.key_uri(arguments.settings, arguments.settings.certificate)
    if uri.backend.shares_store:
        _print_matches(select(Selector(), uri, settings.pin_source(arguments.settings, uri)), as_json=arguments.json)
    else:
        certificates = load(find_certificates(uri, settings.pin_source(arguments.settings, uri), allow_modules=True))
        print(json.dumps(_data(leaves(certificates)[0]), separators=(",", ":")))
    return 0


def _data(leaf: Certificate) -> dict[str, object]:
    key_type, algorithms = _KEY_TYPES[leaf.algorithm]
    return {
        "keyType": key_type,
        "certificateData": base64.b64encode(leaf.der).decode("ascii"),
        "serialNumber": str(leaf.x509.serial_number),
        "supportedAlgorithms": algorithms,
    }


def _print_matches(certificates: Sequence[Certificate], *, as_json: bool) -> None:
    matches = [_match(each) for each in certificates]
    if as_json:
        print(json.dumps({"certificates": matches}, indent=2))
        return
    print("Matching identities" if matches else "No matching identities")
    for number, match in enumerate(matches, 1):
        print(printable(f"{number}) Hex Fingerprint: {match['fingerprint']}"))
        print(printable(f"Subject: {match['subject']}"))
        print(printable(f"Issuer: {match['issuer']}"))
        print(printable(f"Serial Number: {int(match['serialNumber']):X}"))
        print(printable(f"URI: {match['uri']}"))
        print()


def _match(certificate: Certificate) -> dict[str, str]:
    return {
        "fingerprint": hashlib.sha1(certificate.der, usedforsecurity=False).hexdigest(),
        "subject": certificate.subject,
        "issuer": certificate.x509.issuer.rfc4514_string(),
        "serialNumber": str(certificate.x509.serial_number),
        "uri": certificate.source,
    }
