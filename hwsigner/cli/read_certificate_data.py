"""`hwsigner read-certificate-data`: show what hwsigner reads from a certificate."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Sequence

from hwsigner.cli import options
from hwsigner.cli.parser import Parser
from hwsigner.config import settings
from hwsigner.config.flags import IDENTITY, PROFILE, SESSION
from hwsigner.errors import UsageError, printable
from hwsigner.identity.certificate import Certificate, leaves, load
from hwsigner.identity.selector import Selector, parse_selector, select
from hwsigner.key import ECDSA, MLDSA, RSA, find_certificates

HELP = "show what hwsigner reads from a certificate"

_KEY_TYPES = {
    RSA: ("RSA", ["RSASHA256", "RSASHA384", "RSASHA512"]),
    ECDSA: ("EC", ["ECSHA256", "ECSHA384", "ECSHA512"]),
    MLDSA: ("ML-DSA", ["MLDSA"]),
}


def add_arguments(parser: Parser) -> None:
    """Add the flags of every command, also those without effect here."""
    parser.add_flags(IDENTITY, SESSION, PROFILE)


def run(arguments: argparse.Namespace) -> int:
    """Print the leaf of a file as JSON, or a list of matching certificates on tokens."""
    if arguments.cert_selector is not None:
        uri = settings.key_uri(vars(arguments), "pkcs11:")
        found = select(parse_selector(arguments.cert_selector), uri, options.pin_source(arguments, uri))
        print(_matches(found))
        return 0
    if not arguments.certificate:
        raise UsageError("no certificate given", "Add --certificate or --cert-selector")
    uri = settings.key_uri(vars(arguments), arguments.certificate)
    if uri.backend.shares_store:
        print(_matches(select(Selector(), uri, options.pin_source(arguments, uri))))
    else:
        certificates = load(find_certificates(uri, options.pin_source(arguments, uri), allow_modules=True))
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


def _matches(certificates: Sequence[Certificate]) -> str:
    if not certificates:
        return "No matching identities"
    return "Matching identities\n" + "\n".join(_match(*item) for item in enumerate(certificates, 1))


def _match(number: int, certificate: Certificate) -> str:
    fingerprint = hashlib.sha1(certificate.der, usedforsecurity=False).hexdigest()
    lines = (
        f"{number}) Hex Fingerprint: {fingerprint}",
        f"Subject: {certificate.subject}",
        f"Issuer: {certificate.x509.issuer.rfc4514_string()}",
        f"Serial Number: {certificate.x509.serial_number:X}",
        f"URI: {certificate.source}",
    )
    return "".join(f"{printable(line)}\n" for line in lines)
