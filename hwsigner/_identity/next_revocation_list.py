"""The next CRL (RFC 5280, 5) of a CA, signed by its key. It has all entries of the one before, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from hwsigner._identity.certificate import Certificate, extension_of, is_ca, key_usage
from hwsigner._identity.certificate_request import signature_algorithm
from hwsigner._identity.revocation_list import RevocationList
from hwsigner.errors import CertificateError, KeyMismatchError
from hwsigner.key import Key
from hwsigner.key.public_key import plain_public_key

# Reasons by their names in RFC 5280, 5.3.1. A hold is not among them: it would have to be lifted.
REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "keyCompromise": x509.ReasonFlags.key_compromise,
    "cACompromise": x509.ReasonFlags.ca_compromise,
    "affiliationChanged": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessationOfOperation": x509.ReasonFlags.cessation_of_operation,
    "privilegeWithdrawn": x509.ReasonFlags.privilege_withdrawn,
    "aACompromise": x509.ReasonFlags.aa_compromise,
}
DEFAULT_DAYS = 365
_NUMBER = ExtensionOID.CRL_NUMBER.dotted_string
_LONGEST_NUMBER = 1 << 159  # 20 octets (RFC 5280, 5.2.3), the first bit for the sign.
_CLOCK_TOLERANCE = timedelta(minutes=5)
_LONGEST_MLDSA = 4627  # FIPS 204, table 2.
_GENERALIZED_TIME = 2050  # RFC 5280, 5.1.2.4: from this year on.


@dataclass(frozen=True)
class Draft:
    """A CRL that is not signed yet: the CA to sign it, the DER TBSCertList (RFC 5280, 5.1), and the DER
    AlgorithmIdentifier.
    """

    ca: Certificate
    body: bytes
    algorithm: bytes

    @cached_property
    def preview(self) -> RevocationList:
        """The CRL as it will be, with zeros for a signature of the greatest length."""
        return _signed(self.body, self.algorithm, bytes(_longest_signature(self.ca)))

    def sign(self, key: Key) -> RevocationList:
        """Return the CRL, signed by the CA's key. Another key is a KeyMismatchError."""
        public_key = key.public_key()
        if public_key is not None and plain_public_key(public_key) != plain_public_key(self.ca.public_key()):
            raise _mismatch(self.ca)
        signature = key.sign(self.body)
        if not self.ca.verify(self.body, signature=signature):
            raise _mismatch(self.ca)
        return _signed(self.body, self.algorithm, signature)


def check_signer(ca: Certificate) -> None:
    """Check that a CA may sign CRLs (RFC 5280, 4.2.1.3 and 4.2.1.9)."""
    if not is_ca(ca.x509):
        raise CertificateError(f"certificate {ca.source} is not a CA's", "Give the CA that issued the certificate")
    usage = key_usage(ca.x509)
    if usage is not None and not usage.crl_sign:
        hint = "Reissue the CA's certificate with that key usage, for the same key"
        raise CertificateError(f"the CA of {ca.source} may not sign CRLs: it lacks keyUsage cRLSign", hint)


def draft_list(
    ca: Certificate,
    old: RevocationList | None,
    serials: Sequence[int],
    *,
    now: datetime,
    reason: str = "unspecified",
    days: int | None = None,
) -> Draft:
    """Return the next CRL of a CA: what the old one has, and more revocations.

    Serial numbers of the old list keep their entries. If `days` is None, the list is good for `DEFAULT_DAYS`, or as
    long as the old list if that is longer.
    """
    from asn1crypto.crl import TbsCertList

    new = [_entry(serial, now, reason) for serial in serials if old is None or serial not in old.revoked]
    begin, end = _times(old, now, days)
    values: dict[str, Any] = {
        "version": "v2",
        "signature": signature_algorithm(ca.algorithm, ca.public_key()),
        "issuer": _subject(ca) if old is None else old.body["issuer"],
        "this_update": _time(begin),
        "next_update": _time(end),
        "crl_extensions": _extensions(ca, old),
    }
    entries = [*new, *(() if old is None else old.body["revoked_certificates"] or ())]
    if entries:  # RFC 5280, 5.1.2.6: an empty list is left out.
        values["revoked_certificates"] = entries
    body = TbsCertList(values)
    return Draft(ca, body.dump(), body["signature"].dump())


def _times(old: RevocationList | None, now: datetime, days: int | None) -> tuple[datetime, datetime]:
    """Return thisUpdate, which does not go back, and nextUpdate."""
    begin = now.astimezone(UTC).replace(microsecond=0)
    end = begin + timedelta(days=days or DEFAULT_DAYS)
    if old is None:
        return begin, end
    if old.x509.last_update_utc > begin + _CLOCK_TOLERANCE:
        problem = f"{old.source} is from {old.x509.last_update_utc:%Y-%m-%dT%H:%M:%SZ}, after the time of this machine"
        raise CertificateError(f"{problem}, {begin:%Y-%m-%dT%H:%M:%SZ}", "Fix the clock")
    until = old.x509.next_update_utc
    return max(begin, old.x509.last_update_utc), end if days or until is None else max(end, until)


def _entry(serial: int, now: datetime, reason: str) -> Any:
    from asn1crypto.core import ParsableOctetString
    from asn1crypto.crl import RevokedCertificate

    values: dict[str, Any] = {"user_certificate": serial, "revocation_date": _time(now)}
    if reason != "unspecified":  # RFC 5280, 5.3.1: then the extension should be left out.
        code = x509.CRLReason(REASONS[reason]).public_bytes()
        oid = CRLEntryExtensionOID.CRL_REASON.dotted_string
        values["crl_entry_extensions"] = [{"extn_id": oid, "extn_value": ParsableOctetString(code)}]
    return RevokedCertificate(values)


def _extensions(ca: Certificate, old: RevocationList | None) -> list[Any]:
    """Return the old list's extensions with the next number, and the two that every list must have."""
    kept = [] if old is None else list(old.body["crl_extensions"] or ())
    for one in kept:
        _check_extension(one, old)
    number = 1 if old is None or old.number is None else old.number + 1
    if number >= _LONGEST_NUMBER:
        raise CertificateError(f"{old.source if old else 'the CRL'} has the highest CRLNumber", "Use another CA")
    extensions = [one for one in kept if one["extn_id"].dotted != _NUMBER]
    own = [_extension(_NUMBER, x509.CRLNumber(number).public_bytes())]
    if not any(one["extn_id"].dotted == ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string for one in kept):
        own.insert(0, _extension(ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string, _key_identifier(ca)))
    return [*extensions, *own]


def _check_extension(extension: Any, old: RevocationList | None) -> None:
    """Refuse a list that is only a part, such as a delta, as the next one would not have the rest."""
    value = extension["extn_value"].parsed.native if extension["extn_id"].native == "issuing_distribution_point" else {}
    is_whole = bool(value) and not any(part for name, part in value.items() if name != "distribution_point")
    if extension["critical"].native and not is_whole:
        source = old.source if old else "the CRL"
        problem = f"{source} has the critical extension {extension['extn_id'].native}, so it may not be complete"
        raise CertificateError(problem, "Make the next one with the CA's own software")


def _key_identifier(ca: Certificate) -> bytes:
    if own := extension_of(ca.x509.extensions, x509.SubjectKeyIdentifier):
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own).public_bytes()
    key: Any = ca.x509.public_key()
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key).public_bytes()


def _extension(oid: str, value: bytes) -> Any:
    from asn1crypto.core import ParsableOctetString
    from asn1crypto.crl import TBSCertListExtension

    return TBSCertListExtension({"extn_id": oid, "extn_value": ParsableOctetString(value)})


def _subject(ca: Certificate) -> Any:
    """Return the subject as the certificate has it: a name is compared byte by byte in places."""
    from asn1crypto.x509 import Certificate as Parsed

    return Parsed.load(ca.der)["tbs_certificate"]["subject"]


def _time(time: datetime) -> Any:
    from asn1crypto.x509 import Time

    time = time.astimezone(UTC).replace(microsecond=0)
    return Time({"utc_time" if time.year < _GENERALIZED_TIME else "general_time": time})


def _signed(body: bytes, algorithm: bytes, signature: bytes) -> RevocationList:
    from asn1crypto.algos import SignedDigestAlgorithm
    from asn1crypto.crl import CertificateList, TbsCertList

    values = {"tbs_cert_list": TbsCertList.load(body), "signature_algorithm": SignedDigestAlgorithm.load(algorithm)}
    return RevocationList.read(CertificateList({**values, "signature": signature}).dump(), "the new CRL")


def _longest_signature(ca: Certificate) -> int:
    """Return the most bytes that a signature of a CA can have."""
    key = ca.x509.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size // 8
    if isinstance(key, ec.EllipticCurvePublicKey):
        return 2 * ((key.key_size + 7) // 8 + 4) + 3
    return _LONGEST_MLDSA


def _mismatch(ca: Certificate) -> KeyMismatchError:
    return KeyMismatchError(f"the key is not the one of the CA certificate {ca.source}", "Give the CA's own key")
