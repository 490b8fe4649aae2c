"""Which session tags the service takes from a certificate, by the default attribute mapping of a profile.

AWS's pages say that it maps the names of subject and issuer, and the first DNS name, URI and directory name of the
subjectAltName, and that it joins several values of one name by slashes, in the certificate's order. They also say that
it ignores values with other characters; that these fail the request was seen, a second DNS name ("DNS/2") among them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cryptography import x509
from cryptography.x509.oid import NameOID

from hwsigner._identity.certificate import Certificate, extension_of
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.errors import CertificateError

MAX_LENGTH = 256
_LATER_DNS = "x509SAN/DNS/"  # And a number: DNS names that become no tag, as errors of the service name them.
_PUNCTUATION = frozenset("_.:/=+-@")
_TYPES = {
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
# Every tag that the default mapping can give.
TAGS = (
    *(f"{field}/{name}" for field in ("x509Subject", "x509Issuer", "x509SAN/Name") for name in _TYPES.values()),
    *("x509SAN/DNS", "x509SAN/URI"),
)


def session_tags(certificate: Certificate | CertificateRequest) -> dict[str, str]:
    """Return the session tags of a certificate, or of one issued as requested: `{"x509Subject/CN": "bamboo-01"}`.

    Names that can't become a tag are left out; `untaggable` has them.
    """
    values = _values(certificate).items()
    return {tag: value for tag, value in values if not tag.startswith(_LATER_DNS) and _problem(tag, value) is None}


def untaggable(certificate: Certificate | CertificateRequest) -> list[str]:
    """Return a sentence for each name that can't become a session tag, so that the service may refuse the session."""
    problems = (_problem(tag, value) for tag, value in _values(certificate).items())
    return [problem for problem in problems if problem is not None]


def comparable_value(certificate: Certificate, tag: str) -> str:
    """Return the value of a tag that a trust policy can compare: the only value of that name."""
    values = [value for name, value in _pairs(certificate.x509) if name == tag]
    problem = None
    if not values:
        problem = f"{certificate.source} has no {tag}, so a trust policy can't compare it"
    elif len(values) > 1:
        problem = f"{certificate.source} has several values of {tag}, which AWS joins in one tag: {_listed(values)}"
    elif not values[0]:
        problem = f"{certificate.source} has an empty {tag}, which says nothing about the certificate"
    elif bad := _problem(tag, values[0]):
        problem = f"{certificate.source} can't be matched: {bad}"
    if problem:
        raise CertificateError(problem, f"Compare another name, or reissue the certificate with one plain {tag}")
    return values[0]


def alternative_names(certificate: Certificate) -> dict[str, list[str]]:
    """Return all DNS names and URIs of the subjectAltName, by the tag that the first one of each kind becomes."""
    found = extension_of(certificate.x509.extensions, x509.SubjectAlternativeName)
    if found is None:
        return {}
    uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    return {"x509SAN/DNS": found.get_values_for_type(x509.DNSName), "x509SAN/URI": uris}


def other_names(certificate: Certificate) -> set[str]:
    """Return the texts of the otherNames of the subjectAltName, none of which becomes a tag."""
    from asn1crypto.core import load

    found: set[str] = set()
    alternatives = extension_of(certificate.x509.extensions, x509.SubjectAlternativeName)
    for name in alternatives.get_values_for_type(x509.OtherName) if alternatives else ():
        # The value may be of any form (RFC 5280, 4.2.1.6), also of those that asn1crypto fails on.
        with suppress(ValueError, TypeError, AttributeError, LookupError, RecursionError):
            found.add(str(load(name.value).native))
    return found


def bad_characters(text: str) -> list[str]:
    """Return the characters of a text that a session tag can't have, each once."""
    return list(dict.fromkeys(c for c in text if c not in _PUNCTUATION and unicodedata.category(c)[0] not in "LZN"))


def _values(certificate: Certificate | CertificateRequest) -> dict[str, str]:
    """Return the value for each tag."""
    found: dict[str, str] = {}
    for tag, value in _pairs(certificate.x509):
        found[tag] = f"{found[tag]}/{value}" if tag in found else value
    return found


def _pairs(parsed: x509.Certificate | x509.CertificateSigningRequest) -> Iterator[tuple[str, str]]:
    yield from _of_name("x509Subject", parsed.subject)
    if isinstance(parsed, x509.Certificate):
        yield from _of_name("x509Issuer", parsed.issuer)
    alternatives = extension_of(parsed.extensions, x509.SubjectAlternativeName)
    if alternatives is None:
        return
    for number, value in enumerate(alternatives.get_values_for_type(x509.DNSName), start=1):
        yield "x509SAN/DNS" if number == 1 else f"{_LATER_DNS}{number}", value
    for value in alternatives.get_values_for_type(x509.UniformResourceIdentifier)[:1]:
        yield "x509SAN/URI", value
    for name in alternatives.get_values_for_type(x509.DirectoryName)[:1]:
        yield from _of_name("x509SAN/Name", name)


def _of_name(prefix: str, name: x509.Name) -> Iterator[tuple[str, str]]:
    for attribute in name:
        if attribute.oid in _TYPES:
            yield f"{prefix}/{_TYPES[attribute.oid]}", str(attribute.value)


def _problem(tag: str, value: str) -> str | None:
    """Return why a value can't become a tag, or None."""
    if len(value) > MAX_LENGTH:
        return f"{tag} has {len(value)} characters, and a session tag has {MAX_LENGTH} at most"
    if bad := bad_characters(value):
        return f"{tag} is {value!r}, and a session tag can't have {_listed(bad)}"
    return None


def _listed(values: Sequence[str]) -> str:
    return " ".join(map(repr, values))
