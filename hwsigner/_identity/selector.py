"""Certificate selectors: find certificates on PKCS #11 tokens by subject, issuer and serial number."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from hwsigner._identity.certificate import Certificate, load_readable
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, CertificateWarning, UsageError, suggestion
from hwsigner.key import find_certificates

_KEYS = ("x509Subject", "x509Issuer", "x509Serial")
_ENTRY = re.compile(r"\s*Key=([^,\s]+),Value=(.*?)(?=\s+Key=|\s*$)", re.DOTALL)
_SERIAL = re.compile(r"[0-9A-Fa-f:]*[0-9A-Fa-f][0-9A-Fa-f:]*")
_MAX_FILE_BYTES = 65536

# The names of OpenSSL and aws_signing_helper for attributes that have none in RFC 4514.
_ATTRIBUTES = {
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "initials": NameOID.INITIALS,
    "title": NameOID.TITLE,
    "generationQualifier": NameOID.GENERATION_QUALIFIER,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "pseudonym": NameOID.PSEUDONYM,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "POSTALCODE": NameOID.POSTAL_CODE,
}
# A value as `#` and hexadecimal DER, for a string under 128 bytes. Its tag and length are not part of the text.
_DER_STRING = re.compile(r"((?:^|[,+])[\w.-]+=#)(?:0c|13|14|16)[0-7][0-9a-f]", re.IGNORECASE)


@dataclass(frozen=True)
class Selector:
    """What a certificate must match; None for anything.

    Subject and issuer are as in RFC 2253 and RFC 4514, most specific name first.
    """

    subject: str | None = None
    issuer: str | None = None
    serial: int | None = None

    def matches(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate matches."""
        return (
            (self.subject is None or _same_name(self.subject, certificate.subject))
            and (self.issuer is None or _same_name(self.issuer, certificate.issuer))
            and (self.serial is None or self.serial == certificate.serial_number)
        )


def parse_selector(text: str) -> Selector:
    """Parse `Key=x509Subject,Value=CN=a Key=x509Issuer,Value=CN=b Key=x509Serial,Value=15D1`, or `file://` and a path.

    The file has the same as JSON: `[{"Key": "x509Subject", "Value": "CN=a"}, …]`. Each key may be given once. The
    serial number is hexadecimal.
    """
    pairs = _from_file(text.removeprefix("file://")) if text.startswith("file://") else _from_text(text)
    values: dict[str, str] = {}
    for key, value in pairs:
        if key not in _KEYS:
            hint = suggestion(key, _KEYS, f"The keys are {', '.join(_KEYS)}")
            raise UsageError(f"--cert-selector has the unknown key {key!r}", hint)
        if key in values:
            raise UsageError(f"--cert-selector has {key} twice", "Give each key once")
        values[key] = value
    if not values:
        problem = "--cert-selector names no key and value"
        raise UsageError(problem, "Write Key=x509Subject,Value=CN=… or file:///selector.json")
    return Selector(values.get("x509Subject"), values.get("x509Issuer"), _serial(values))


def select(selector: Selector, uri: KeyURI, pins: PinSource) -> list[Certificate]:
    """Return the certificates under a URI that match the selector, maybe none.

    A certificate that can't be read is skipped with a warning, as it may not be the user's.
    """
    try:
        found, errors = load_readable(find_certificates(uri, pins, allow_modules=True))
    except CertificateError:
        return []
    for error in errors:
        warnings.warn(CertificateWarning(error.message), stacklevel=2)
    return [certificate for certificate in found if selector.matches(certificate.x509)]


def _from_text(text: str) -> list[tuple[str, str]]:
    pairs, end = [], 0
    while match := _ENTRY.match(text, end):
        pairs.append((match[1], match[2]))
        end = match.end()
    if text[end:].strip():
        held = text[end:].strip()
        shown = "a key URI" if "pin-" in held else repr(held[:100])
        problem = f"--cert-selector has {shown}, which is not a key with its value"
        raise UsageError(problem, "Write Key=x509Subject,Value=CN=… or file:///selector.json")
    return pairs


def _from_file(path: str) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.loads(file.read(_MAX_FILE_BYTES))
    except OSError as error:
        raise UsageError(f"can't read the --cert-selector file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the --cert-selector file {path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        problem = f"the --cert-selector file {path} is not a list of keys and values"
        raise UsageError(problem, 'Write [{"Key": …, "Value": …}, …]')
    return [(entry["Key"], entry["Value"]) for entry in entries]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("Key"), str) and isinstance(entry.get("Value"), str)


def _serial(values: Mapping[str, str]) -> int | None:
    text = values.get("x509Serial")
    if text is None:
        return None
    if not _SERIAL.fullmatch(text):
        raise UsageError(f"--cert-selector has the serial number {text!r}", "Write it in hexadecimal")
    return int(text.replace(":", ""), 16)


def _same_name(text: str, name: x509.Name) -> bool:
    try:
        return x509.Name.from_rfc4514_string(_DER_STRING.sub(r"\1", text), _ATTRIBUTES) == name
    except ValueError:
        return text == name.rfc4514_string()
