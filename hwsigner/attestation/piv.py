"""Verify attestations of PIV keys in YubiKeys.

The slot's certificate is signed by the card's attestation key, in slot f9. Yubico issued the certificate of that key:
from a root directly, or from firmware 5.7.4 through two intermediates. Many cards share one attestation key, so only
the serial number in the slot's certificate tells them apart.

The slot's certificate says that the key was generated on the card, which exports no private keys. Anybody may have a
copy of it, so the key signs the challenge too.

https://docs.yubico.com/hardware/oid/oid-piv-arc.html has the formats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwsigner.attestation.chain import UNREADABLE, Trust, VendorCertificate
from hwsigner.attestation.documents import Document, Value
from hwsigner.attestation.findings import PROOF_OF_POSSESSION, Findings, verify_proof_of_possession
from hwsigner.attestation.search import Search
from hwsigner.attestation.weaknesses import is_roca_of_yubikey, weaknesses_of_yubikey
from hwsigner.errors import AttestationError

_ARC = "1.3.6.1.4.1.41482.3"
_FIRMWARE, _SERIAL, _POLICIES, _FORM_FACTOR, _FIPS, _CSPN = (f"{_ARC}.{number}" for number in (3, 7, 8, 9, 10, 11))
_SUBJECT = re.compile(r"Common Name: YubiKey PIV Attestation (9[acde]|8[2-9a-f]|9[0-5])")
_OLD_F9 = "Common Name: Yubico PIV Attestation"
_MAX_SERIAL = 0xFFFFFFFF
# The first and the second byte of the policies. The fingerprints are of the YubiKey Bio.
_PIN_POLICIES = {
    1: "A signature needs no PIN",
    2: "A signature needs the PIN, once for each session with the card",
    3: "Each signature needs the PIN",
    4: "A signature needs a fingerprint or the PIN, once for each session with the card",
    5: "Each signature needs a fingerprint or the PIN",
}
_TOUCH_POLICIES = {
    1: "A signature needs no touch",
    2: "Each signature needs a touch",
    3: "A signature needs a touch, unless there was one in the last 15 seconds",
}
# The bit of the FIPS series in the form factor, and the number of the form.
_FIPS_FORM, _FORM, _BIO_FORMS = 0x80, 0x0F, (6, 7)


@dataclass(frozen=True)
class _Attestation:
    """What the certificates of the slot and of slot f9 say."""

    public_key: bytes  # DER SubjectPublicKeyInfo.
    slot: str  # In hexadecimal, such as `9a`.
    serial: int
    firmware: tuple[int, ...]
    pin_policy: int
    touch_policy: int
    form: int  # The form factor; 0 if it is unknown.
    series: str  # `FIPS` or `CSPN`, otherwise empty.
    authority: str  # Who certified the attestation key.
    roots: tuple[str, ...]  # The SHA-256 of each root that alone is enough for this.


def examine(statement: Document, trust: Trust) -> Findings:
    """Return what a statement claims.

    Certificates that lead to no root, are not valid, or are not those of a slot and of slot f9 are an AttestationError.
    """
    attestation = _read(statement, trust)
    return _findings(attestation, claimed=_sentences(attestation))


def challenge(statement: Document) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return nothing for the challenge and its state: the nonce is enough."""
    return {}, {}


def verify(statement: Document, state: Document, answer: Document, trust: Trust) -> Findings:
    """Return what an answer proves. If the key did not sign the challenge, that is an AttestationError."""
    attestation = _read(statement, trust)
    verify_proof_of_possession(attestation.public_key, state, answer)
    return _findings(attestation, proven=(*_sentences(attestation), PROOF_OF_POSSESSION))


def _read(statement: Document, trust: Trust) -> _Attestation:
    search = Search(trust)
    slot = search.read(statement.blob("slotCertificate"), "the slot's certificate")
    f9 = search.read(statement.blob("attestationCertificate"), "the certificate of slot f9")
    others = [search.read(one, "an intermediate certificate") for one in statement.blobs("intermediates")]
    _verify_chain(slot, f9, others, search)
    trust.check(slot)
    subject = _SUBJECT.fullmatch(slot.subject)
    if subject is None:
        raise _refusal(f"has the subject {slot.subject!r}, which is not that of a slot")
    pin_policy, touch_policy = _bytes(slot, _POLICIES, 2)
    if pin_policy not in _PIN_POLICIES or touch_policy not in _TOUCH_POLICIES:
        raise _refusal(f"has the unknown policies {pin_policy} and {touch_policy}")
    form_factor = _bytes(slot, _FORM_FACTOR, 1)[0] if _FORM_FACTOR in slot.extensions else 0
    extensions = slot.extensions.keys() | f9.extensions.keys()
    is_fips = _FIPS in extensions or form_factor & _FIPS_FORM
    return _Attestation(
        slot.public_key,
        slot=subject[1],
        serial=_serial(slot),
        firmware=tuple(_bytes(slot, _FIRMWARE, 3)),
        pin_policy=pin_policy,
        touch_policy=touch_policy,
        form=form_factor & _FORM,
        series="FIPS" if is_fips else "CSPN" if _CSPN in extensions else "",
        authority=f9.issuer,
        roots=tuple(_roots(slot, f9, others, search=search, trust=trust)),
    )


def _verify_chain(
    slot: VendorCertificate, f9: VendorCertificate, others: Sequence[VendorCertificate], search: Search
) -> None:
    """Verify the chain from the slot's certificate to a root.

    Some certificates of f9 have no basicConstraints, and the root of others has a path length of 0, so that f9 is taken
    as the end of the chain. f9 signs the certificates of slots too, which are not CAs: without the last check, the key
    of a slot, which signs anything, could pretend to be f9.
    """
    if not search.issued(f9, slot):
        raise AttestationError("the certificate of slot f9 did not issue the slot's certificate", "Make both again")
    chain = search.verify(f9, others, leaf_counts=True)
    is_old = len(chain) == 2 and f9.subject == _OLD_F9 and "basic_constraints" not in f9.extensions
    if not (f9.is_ca or is_old):
        raise AttestationError(f"the certificate of {f9.subject} is not one of slot f9", "Make the statement again")


def _roots(
    slot: VendorCertificate,
    f9: VendorCertificate,
    others: Sequence[VendorCertificate],
    *,
    search: Search,
    trust: Trust,
) -> Iterator[str]:
    for root in trust.roots:
        if not any(root.is_issuer(one) for one in (f9, *others)):
            continue
        with suppress(AttestationError):
            _verify_chain(slot, f9, others, search.under(root))
            yield hashlib.sha256(root.der).hexdigest()


def _findings(attestation: _Attestation, *, proven: tuple[str, ...] = (), claimed: tuple[str, ...] = ()) -> Findings:
    public_key, firmware = attestation.public_key, attestation.firmware
    try:
        warnings = weaknesses_of_yubikey(public_key, firmware, is_bio=attestation.form in _BIO_FORMS)
        in_hardware = bool(proven) and not is_roca_of_yubikey(public_key, firmware)
    except UNREADABLE as error:
        raise AttestationError("the attested key is of an unknown kind", "Make another key") from error
    found = Findings(public_key, str(attestation.serial), proven=proven, claimed=claimed, roots=attestation.roots)
    return replace(found, warnings=warnings, in_hardware=in_hardware)


def _sentences(attestation: _Attestation) -> tuple[str, ...]:
    version = ".".join(map(str, attestation.firmware))
    return (
        f"The key was generated on the YubiKey with the serial number {attestation.serial} and firmware {version}, "
        f"which lets no key out, and was in slot {attestation.slot} when the card certified it",
        _PIN_POLICIES[attestation.pin_policy],
        _TOUCH_POLICIES[attestation.touch_policy],
        *([f"The YubiKey is of the {attestation.series} series"] if attestation.series else []),
        f"{attestation.authority} certified the attestation key of the YubiKey",
    )


def _bytes(certificate: VendorCertificate, oid: str, length: int) -> bytes:
    """Return the value of an extension, which is bytes without a tag."""
    value: bytes = certificate.extensions[oid].contents if oid in certificate.extensions else b""
    if len(value) != length:
        raise _refusal(f"has no extension {oid} of {length} bytes")
    return value


def _serial(certificate: VendorCertificate) -> int:
    """Return the serial number: an INTEGER in DER, which no YubiKey that was seen made negative or too long."""
    if _SERIAL not in certificate.extensions:
        version = ".".join(map(str, _bytes(certificate, _FIRMWARE, 3)))
        problem = f"the slot's certificate, of firmware {version}, has no serial number"
        raise AttestationError(problem, "Use a YubiKey that writes one: without it, nothing tells this one from others")
    value: bytes = certificate.extensions[_SERIAL].contents
    number = int.from_bytes(value[2:], signed=True)
    content = number.to_bytes(number.bit_length() // 8 + 1, signed=True)
    if value != bytes([2, len(content)]) + content or not 0 <= number <= _MAX_SERIAL:
        raise _refusal("has an invalid serial number")
    return number


def _refusal(problem: str) -> AttestationError:
    return AttestationError(f"the slot's certificate {problem}", "Make the statement again, with a YubiKey")


if TYPE_CHECKING:
    from hwsigner.attestation import _VerifiesStatements, piv

    _: _VerifiesStatements = piv
