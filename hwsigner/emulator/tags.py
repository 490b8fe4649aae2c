"""What a session takes from its certificate: principal tags, subject ARN and default session name."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from cryptography import x509
from cryptography.x509.oid import NameOID

_NAMES = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.EMAIL_ADDRESS: "E",
    NameOID.USER_ID: "UID",
}


def principal_tags(leaf: x509.Certificate) -> dict[str, str]:
    """Return the session's tags x509Subject/…, x509Issuer/… and x509SAN/…, the values of equal names joined by `/`."""
    pairs = [*_name_tags("x509Subject", leaf.subject), *_name_tags("x509Issuer", leaf.issuer), *_alternative_tags(leaf)]
    tags: dict[str, str] = {}
    for name, value in pairs:
        tags[name] = f"{tags[name]}/{value}" if name in tags else value
    return tags


def default_session_name(leaf: x509.Certificate) -> str:
    """Return the serial number in lower-case hexadecimal, two digits per byte."""
    digits = f"{leaf.serial_number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def subject_arn(leaf: x509.Certificate, *, partition: str, region: str, account: str) -> str:
    """Return the ARN of the certificate's subject. Equal subjects have equal ARNs."""
    name = uuid.uuid5(uuid.NAMESPACE_X500, leaf.subject.rfc4514_string())
    return f"arn:{partition}:rolesanywhere:{region}:{account}:subject/{name}"


def _name_tags(prefix: str, name: x509.Name) -> Iterable[tuple[str, str]]:
    for attribute in name:
        label = _NAMES.get(attribute.oid, attribute.oid.dotted_string)
        yield f"{prefix}/{label}", str(attribute.value)


def _alternative_tags(leaf: x509.Certificate) -> Iterable[tuple[str, str]]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for general_name in names:
        if isinstance(general_name, x509.DNSName):
            yield "x509SAN/DNS", general_name.value
        elif isinstance(general_name, x509.UniformResourceIdentifier):
            yield "x509SAN/URI", general_name.value
        elif isinstance(general_name, x509.DirectoryName):
            yield from _name_tags("x509SAN/Name", general_name.value)
