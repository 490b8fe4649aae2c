"""Certificate requests: PKCS #10 (RFC 2986), signed by a key that can't be read, and the names in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hwsigner.errors import KeyMismatchError, UsageError, check_text
from hwsigner.key import ECDSA, RSA, Algorithm, Key
from hwsigner.key.public_key import verify

# By attribute type, its names in lower case: those of RFC 4514, section 3, and those that OpenSSL prints.
_TYPES = {
    NameOID.COMMON_NAME: ("cn", "commonname"),
    NameOID.LOCALITY_NAME: ("l", "localityname"),
    NameOID.STATE_OR_PROVINCE_NAME: ("st", "stateorprovincename"),
    NameOID.ORGANIZATION_NAME: ("o", "organizationname"),
    NameOID.ORGANIZATIONAL_UNIT_NAME: ("ou", "organizationalunitname"),
    NameOID.COUNTRY_NAME: ("c", "countryname"),
    NameOID.STREET_ADDRESS: ("street", "streetaddress"),
    NameOID.DOMAIN_COMPONENT: ("dc", "domaincomponent"),
    NameOID.USER_ID: ("uid", "userid"),
    NameOID.EMAIL_ADDRESS: ("e", "emailaddress"),
    NameOID.SERIAL_NUMBER: ("serialnumber",),
    NameOID.SURNAME: ("sn", "surname"),
    NameOID.GIVEN_NAME: ("gn", "givenname"),
}
_TYPES_BY_NAME = {name: oid for oid, names in _TYPES.items() for name in names}
# RFC 5280, appendix A.1. The other types are DirectoryStrings, in UTF-8 here.
_PRINTABLE = frozenset({NameOID.COUNTRY_NAME, NameOID.SERIAL_NUMBER})
_IA5 = frozenset({NameOID.EMAIL_ADDRESS, NameOID.DOMAIN_COMPONENT})
_MAX_COMMON_NAME = 64
_NOT_PRINTABLE = re.compile(r"[^A-Za-z0-9 '()+,./:=?-]")

# RFC 4514, section 3, with spaces around what separates. An escape is a special character or a byte in hexadecimal.
_PAIR = re.compile(
    r" *(?P<type>[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+) *="
    r'(?P<value>(?:[^\\"+,;<>\0]|\\[ "#+,;<=>\\]|\\[0-9A-Fa-f]{2})*)(?P<end>[+,]|\Z)'
)
_CHARACTER = re.compile(r"\\[0-9A-Fa-f]{2}|\\.|.", re.DOTALL)

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")  # RFC 3986, section 3; ASCII without spaces.
_OTHER_USAGES = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
    *("encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class CertificateRequest:
    """A signed certificate request.

    Attributes:
        der: the DER CertificationRequest (RFC 2986, 4.2).
    """

    der: bytes

    @property
    def x509(self) -> x509.CertificateSigningRequest:
        """The parsed request."""
        return x509.load_der_x509_csr(self.der)

    @property
    def pem(self) -> bytes:
        """The request as PEM (RFC 7468, 7)."""
        return self.x509.public_bytes(Encoding.PEM)

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo."""
        return self.x509.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_certificate_request(
    key: Key, subject: str, *, dns_names: Sequence[str] = (), uris: Sequence[str] = ()
) -> CertificateRequest:
    """Return a certificate request that a key signs itself.

    It asks for keyUsage digitalSignature and basicConstraints CA:FALSE, as the service demands, and for
    extendedKeyUsage clientAuth.

    Args:
        key: the key.
        subject: the subject, as `parse_name` takes it.
        dns_names: DNS names for the subjectAltName.
        uris: URIs for the subjectAltName.

    Raises:
        UsageError: the subject, a DNS name or a URI is invalid.
        KeyMismatchError: the key does not have its public key, or its signature is wrong.
        SigningKeyError: the key can't sign.
    """
    from asn1crypto.csr import CertificationRequest

    name, extensions = check_names(subject, dns_names=dns_names, uris=uris)
    public_key = key.public_key()
    if public_key is None:
        raise KeyMismatchError("the token has no public key for this key", "Make another key with hwsigner keygen")
    info = request_info(name, public_key, extensions)
    signed = info.dump()
    signature = key.sign(signed)
    if not verify(public_key, signed, signature=signature):
        raise KeyMismatchError("the signature does not match the key's public key", "Check if the key is damaged")
    algorithm = signature_algorithm(key.algorithm, public_key)
    request = CertificationRequest(
        {"certification_request_info": info, "signature_algorithm": algorithm, "signature": signature}
    )
    return CertificateRequest(request.dump())


def request_info(
    subject: x509.Name, public_key: bytes, extensions: Sequence[x509.Extension[x509.ExtensionType]]
) -> Any:
    """Return asn1crypto's CertificationRequestInfo, which has one encoding: what a request's key signs.

    If there are no extensions, there is no attribute.
    """
    from asn1crypto.csr import CertificationRequestInfo
    from asn1crypto.keys import PublicKeyInfo
    from asn1crypto.x509 import Name

    asked = [{"type": "extension_request", "values": [_as_asn1(extensions)]}] if extensions else []
    return CertificationRequestInfo(
        {
            "version": "v1",
            "subject": Name.load(subject.public_bytes()),
            "subject_pk_info": PublicKeyInfo.load(public_key),
            "attributes": asked,
        }
    )


def parse_name(text: str) -> x509.Name:
    r"""Parse a distinguished name as RFC 4514 writes it, such as `CN=bamboo-01,OU=devops,C=DE`.

    As RFC 4514 has it, the name's DER has the parts in the opposite order: C, OU, CN. Types are names in any case, or
    dotted OIDs. `\,` and `\2C` both are a comma, and `+` joins the values of one part. Spaces around types and values
    do not count, unless escaped. A value in DER (`#0C0161`) is refused.
    """
    try:
        return x509.Name(reversed([x509.RelativeDistinguishedName(pairs) for pairs in _parts(text)]))
    except ValueError as error:
        if text.startswith("/"):
            problem = f"the subject {text[:100]!r} is in openssl's form, which is not read"
            raise UsageError(problem, f"Write {_from_openssl(text)[:100]}") from error
        raise UsageError(f"the subject {text[:100]!r} is invalid: {error}", "Write CN=bamboo-01,OU=devops") from error


def _from_openssl(text: str) -> str:
    """Return a name in the form of openssl, such as `/C=DE/CN=web`, in that of RFC 4514: with CN before C."""
    parts = [re.sub(r'([,+"\\<>;])', r"\\\1", part) for part in re.split(r"/(?=[\w.]+=)", text)[1:]]
    return ",".join(parts if parts[:1] and parts[0].upper().startswith("CN=") else reversed(parts)) or "CN=bamboo-01"


def _parts(text: str) -> Iterator[list[x509.NameAttribute[str]]]:
    """Yield the attributes of each part of a name; raise a ValueError if it is malformed."""
    pairs: list[x509.NameAttribute[str]] = []
    position, end = 0, ","
    while end:
        found = _PAIR.match(text, position)
        if found is None:
            place = f"{text[position : position + 40]!r} is not TYPE=value"
            raise ValueError(f'{place}; write \\ before each of "+,;<>\\ in a value')
        pairs.append(_attribute(found["type"], found["value"]))
        position, end = found.end(), found["end"]
        if end != "+":
            yield pairs
            pairs = []


def _attribute(name: str, text: str) -> x509.NameAttribute[str]:
    oid = x509.ObjectIdentifier(name) if name[0].isdigit() else _TYPES_BY_NAME.get(name.lower())
    if oid is None:
        raise ValueError(f"the type {name} is unknown; write its OID")
    if text.lstrip(" ").startswith("#"):
        raise ValueError(f"{name} has a value that starts with #; write \\# for it")
    value = _unescaped(name, text)
    if not value:
        raise ValueError(f"{name} has an empty value")
    if oid == NameOID.COUNTRY_NAME and not re.fullmatch("[A-Za-z]{2}", value):
        raise ValueError(f"{name} is not a country code of two letters")
    if oid == NameOID.COMMON_NAME and len(value) > _MAX_COMMON_NAME:
        raise ValueError(f"{name} has {len(value)} characters, more than {_MAX_COMMON_NAME}")
    if oid in _PRINTABLE and (bad := _NOT_PRINTABLE.search(value)):
        raise ValueError(f"{name} can't have the character {bad[0]!r}")
    if oid in _IA5 and not value.isascii():
        raise ValueError(f"{name} has a character that is not ASCII")
    return x509.NameAttribute(oid, value)


def _unescaped(name: str, text: str) -> str:
    """Return a value without its escapes, and without the spaces around it that are not escaped."""
    characters = _CHARACTER.findall(text)
    while characters and characters[0] == " ":
        del characters[0]
    while characters and characters[-1] == " ":
        del characters[-1]
    pieces = [bytes.fromhex(c[1:]) if len(c) == 3 else c[-1].encode("utf-8", "surrogateescape") for c in characters]
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} has a value that is not UTF-8") from None


def check_names(
    subject: str, *, dns_names: Sequence[str] = (), uris: Sequence[str] = ()
) -> tuple[x509.Name, list[x509.Extension[x509.ExtensionType]]]:
    """Check the names of a request, also before its key is opened; return the subject and the extensions to ask for."""
    check_text(subject, "the subject")
    _check_list(dns_names, "dns_names")
    _check_list(uris, "uris")
    for name in dns_names:
        if not _DNS_NAME.fullmatch(name):
            raise UsageError(f"{name[:100]!r} is not a DNS name", "Write it as bamboo-01.example.com, in ASCII")
    for uri in uris:
        if not _URI.fullmatch(uri):
            raise UsageError(f"{uri[:100]!r} is not a URI", "Write it as spiffe://example.com/bamboo-01, in ASCII")
    usages = {"digital_signature": True, **dict.fromkeys(_OTHER_USAGES, False)}
    wanted: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(**usages), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    ]
    alternatives = [*map(x509.DNSName, dns_names), *map(x509.UniformResourceIdentifier, uris)]
    if alternatives:
        wanted.append((x509.SubjectAlternativeName(alternatives), False))
    return parse_name(subject), [x509.Extension(value.oid, critical, value) for value, critical in wanted]


def _check_list(names: object, what: str) -> None:
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):  # A text would be a list of its letters.
        raise UsageError(f"{what} is of type {type(names).__name__}, not a list of str", "Pass a list")
    for name in names:
        check_text(name, f"a name in {what}")


def _as_asn1(extensions: Sequence[x509.Extension[x509.ExtensionType]]) -> list[dict[str, object]]:
    from asn1crypto.core import ParsableOctetString

    return [
        {
            "extn_id": extension.oid.dotted_string,
            "critical": extension.critical,
            "extn_value": ParsableOctetString(extension.value.public_bytes()),
        }
        for extension in extensions
    ]


def signature_algorithm(algorithm: Algorithm, public_key: bytes) -> Any:
    """Return the AlgorithmIdentifier of a key's signatures, for asn1crypto: for ML-DSA, the key's (RFC 9881, 3)."""
    from asn1crypto.algos import SignedDigestAlgorithm
    from asn1crypto.core import Sequence as Elements

    if algorithm in (RSA, ECDSA):
        return SignedDigestAlgorithm({"algorithm": "sha256_rsa" if algorithm == RSA else "sha256_ecdsa"})
    return SignedDigestAlgorithm.load(Elements.load(public_key)[0].dump())
