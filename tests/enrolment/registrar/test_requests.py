"""Certificate requests that say what the policy allows, in other bytes: a channel into the certificate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asn1crypto.csr import CertificationRequest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certs
from enrolment.registrar.sites import DNS, SUBJECT, request, tpm
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.registrar import requests
from hwsigner.enrolment.registrar.requests import problem_with

MACHINE = tpm("1" * 64, dns=(DNS,))
KEY = ec.generate_private_key(ec.SECP256R1())
HARMLESS = (
    x509.SubjectAlternativeName([x509.DNSName(DNS)]),
    x509.BasicConstraints(False, None),
    certs._usage(certs.LEAF),
    x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH]),
)
INFO: bytes = CertificationRequest.load(request(KEY, SUBJECT, *HARMLESS))["certification_request_info"].dump()
USUAL = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
COMPRESSED = Encoding.X962, PublicFormat.CompressedPoint
OTHER_FORM = "the request has its key or an extension in another form than the usual one"


def _problem(info: bytes) -> str:
    """Return the problem with a request of these signed bytes."""
    size = len(info)
    assert size < 2**16
    signature = KEY.sign(info, ec.ECDSA(SHA256()))
    rest = bytes.fromhex("300a06082a8648ce3d040302") + _tlv(0x03, b"\0" + signature)
    return problem_with(CertificateRequest(_tlv(0x30, info + rest)), MACHINE)


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = (length.bit_length() + 7) // 8
    return bytes([tag, length] if length < 128 else [tag, 0x80 | size, *length.to_bytes(size)]) + content


def _split(data: bytes) -> list[bytes]:
    """Return the elements in a content; an IndexError if it has none."""
    found = []
    while data:
        size = data[1] & 0x7F if data[1] & 0x80 else 0
        length = int.from_bytes(data[2 : 2 + size]) if size else data[1]
        end = 2 + size + length
        if end > len(data) or data[1] == 0x80:
            raise IndexError
        found.append(data[:end])
        data = data[end:]
    return found


def _content(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] & 0x80 else 0) :]


def _forms(element: bytes) -> Iterator[bytes]:
    """Yield an element in other forms: BER, bits that are not used, something after it; and with those inside it."""
    tag, content = element[0], _content(element)
    size = (len(content).bit_length() + 7) // 8 + 1
    yield bytes([tag, 0x80 | size, *len(content).to_bytes(size)]) + content
    for more in (b"\0", b"\5\0", b"\x30\0", bytes(900)):
        yield _tlv(tag, content + more)
    yield _tlv(tag ^ 0x20, content)
    yield bytes([tag | 0x20, 0x80]) + content + bytes(2)
    if tag in (0x01, 0x03):  # BOOLEAN: any but 0 is true. BIT STRING: the count of unused bits, which may be set.
        yield from (_tlv(tag, bytes([byte]) + content[1:]) for byte in range(256) if byte != content[0])
        yield _tlv(tag, b"\0" + content[1:] + b"\0" + b"x" * 900)
        yield from (_tlv(tag, content[:-1] + bytes([byte])) for byte in range(256) if byte != content[-1])
    if tag == 0x02:
        yield _tlv(tag, b"\0" + content)
    try:
        parts = _split(content) if tag & 0x20 or tag == 0x04 else []
    except IndexError:
        parts = []
    for place, part in enumerate(parts):
        for other in _forms(part):
            yield _tlv(tag, b"".join([*parts[:place], other, *parts[place + 1 :]]))
        yield _tlv(tag, b"".join([*parts, part]))
        yield _tlv(tag, b"".join([*parts[: place + 1], b"\1\1\0", *parts[place + 1 :]]))


def test_request_is_allowed_in_its_usual_form() -> None:
    assert _problem(INFO) == ""
    assert problem_with(CertificateRequest(request(KEY, SUBJECT, HARMLESS[0])), MACHINE) == ""
    plain = CertificateRequest(request(KEY, SUBJECT, x509.BasicConstraints(False, None)))
    assert problem_with(plain, tpm("1" * 64)) == ""
    key = rsa.generate_private_key(65537, 2048)
    assert problem_with(CertificateRequest(request(key, SUBJECT, *HARMLESS)), MACHINE) == ""


def test_request_with_many_extensions_is_refused_before_they_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "request_info", lambda *_: pytest.fail("they were written"))
    more = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{number}"), b"\5\0") for number in range(5)]
    asked = CertificateRequest(request(KEY, SUBJECT, *more))
    assert problem_with(asked, MACHINE) == "the request has more than 4 extensions"


@pytest.mark.filterwarnings("ignore:Attribute.s length")
def test_request_in_any_other_form_is_refused() -> None:
    forms = list(_forms(INFO))
    assert len(forms) > 1000
    assert [form.hex() for form in forms if not _problem(form)] == []


@pytest.mark.slow
def test_request_is_refused_when_any_byte_changes() -> None:
    for place in range(len(INFO)):
        for flip in (1, 2, 0x20, 0x80, 0xFF):
            assert _problem(INFO[:place] + bytes([INFO[place] ^ flip]) + INFO[place + 1 :])


@pytest.mark.parametrize("more", [b"x", b"x" * 900])
def test_key_usage_with_more_than_nine_bits_is_refused(more: bytes) -> None:
    usage = x509.UnrecognizedExtension(x509.KeyUsage.oid, _tlv(0x03, b"\0\x80\0" + more))
    asked = CertificateRequest(request(KEY, SUBJECT, HARMLESS[0], usage))
    assert asked.x509.extensions.get_extension_for_class(x509.KeyUsage).value == HARMLESS[2]
    assert problem_with(asked, MACHINE) == OTHER_FORM


def test_key_in_another_form_is_refused_when_its_usual_form_is_elsewhere_in_the_request() -> None:
    """The usual form must be where the key belongs, and not in a key usage."""
    usual, point = (KEY.public_key().public_bytes(*form) for form in (USUAL, COMPRESSED))
    usage = x509.UnrecognizedExtension(x509.KeyUsage.oid, _tlv(0x03, b"\0\x80\0" + usual))
    parsed = CertificationRequest.load(request(KEY, SUBJECT, HARMLESS[0], usage))
    info: bytes = parsed["certification_request_info"].dump()
    other = _tlv(0x30, usual[2:23] + _tlv(0x03, b"\0" + point))
    assert _problem(_tlv(0x30, _content(info).replace(usual, other, 1))) == OTHER_FORM
