"""Certificate selectors: pick certificates of PKCS #11 tokens by subject, issuer and serial number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from hwsigner.certificate import Certificate, load
from hwsigner.errors import CertificateError, UsageError
from hwsigner.key import find_certificates
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

_KEYS = ("x509Subject", "x509Issuer", "x509Serial")
_ENTRY = re.compile(r"\s*Key=([^,\s]+),Value=(.*?)(?=\s+Key=|\s*$)", re.DOTALL)
_MAX_FILE_BYTES = 65536


@dataclass(frozen=True)
class Selector:
    """What a certificate must be like.

    Attributes:
        subject: the subject as RFC 2253 writes it, or None for any.
        issuer: the issuer, likewise.
        serial: the serial number, or None for any.
    """

    subject: str | None = None
    issuer: str | None = None
    serial: int | None = None

    def matches(self, certificate: x509.Certificate) -> bool:
        """Tell whether a certificate is like this."""
        return (
            (self.subject is None or _same_name(self.subject, certificate.subject))
            and (self.issuer is None or _same_name(self.issuer, certificate.issuer))
            and (self.serial is None or self.serial == certificate.serial_number)
        )


def parse_selector(text: str) -> Selector:
    """Read `Key=x509Subject,Value=CN=a Key=x509Issuer,Value=CN=b Key=x509Serial,Value=15D1`, or `file://` and a path.

    The file holds the same as JSON: `[{"Key": "x509Subject", "Value": "CN=a"}, …]`. A key stands once at most, and the
    serial number is hexadecimal.

    Raises:
        UsageError: something else.
    """
    pairs = _from_file(text.removeprefix("file://")) if text.startswith("file://") else _from_text(text)
    values: dict[str, str] = {}
    for key, value in pairs:
        if key not in _KEYS:
            raise UsageError(f"--cert-selector has the key {key!r}", f"The keys are {', '.join(_KEYS)}")
        if key in values:
            raise UsageError(f"--cert-selector has {key} twice", "Give each key once")
        values[key] = value
    if not values:
        raise UsageError(f"--cert-selector is {text!r}", "Write Key=x509Subject,Value=CN=… or file:///selector.json")
    return Selector(values.get("x509Subject"), values.get("x509Issuer"), _serial(values))


def select(selector: Selector, uri: KeyURI, pins: PinSource) -> list[Certificate]:
    """Return the certificates under a URI that are like the selector; there may be none.

    Raises:
        SigningKeyError: the tokens can't be searched.
    """
    try:
        found = load(find_certificates(uri, pins))
    except CertificateError:
        return []
    return [certificate for certificate in found if selector.matches(certificate.x509)]


def _from_text(text: str) -> list[tuple[str, str]]:
    pairs, end = [], 0
    while match := _ENTRY.match(text, end):
        pairs.append((match[1], match[2]))
        end = match.end()
    if text[end:].strip():
        raise UsageError(f"--cert-selector has {text[end:].strip()!r}", "Write Key=x509Subject,Value=CN=…")
    return pairs


def _from_file(path: str) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.loads(file.read(_MAX_FILE_BYTES))
    except OSError as error:
        raise UsageError(f"can't read the --cert-selector file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the --cert-selector file {path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise UsageError(
            f"the --cert-selector file {path} is no list of keys and values", 'Write [{"Key": …, "Value": …}, …]'
        )
    return [(entry["Key"], entry["Value"]) for entry in entries]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("Key"), str) and isinstance(entry.get("Value"), str)


def _serial(values: Mapping[str, str]) -> int | None:
    text = values.get("x509Serial")
    try:
        return None if text is None else int(text.replace(":", ""), 16)
    except ValueError as error:
        raise UsageError(f"--cert-selector has the serial number {text!r}", "Write it in hexadecimal") from error


def _same_name(text: str, name: x509.Name) -> bool:
    try:
        return x509.Name.from_rfc4514_string(text).rfc4514_string() == name.rfc4514_string()
    except ValueError:
        return text == name.rfc4514_string()
