"""Certificate revocation lists (CRLs; RFC 5280, 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner._identity.certificate import Certificate, extension_of
from hwsigner.errors import CertificateError

if TYPE_CHECKING:
    from asn1crypto.crl import TbsCertList


@dataclass(frozen=True)
class RevocationList:
    """A signed CRL."""

    x509: x509.CertificateRevocationList
    source: str

    @classmethod
    def read(cls, data: bytes, source: str) -> RevocationList:
        """Parse PEM or DER."""
        try:
            pem = b"-----BEGIN " in data
            found = cls(x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data), source)
            # Each of these is parsed on first use, so use them here to find a broken one.
            _ = found.revoked, found.number, found.x509.issuer, found.body.native
        except (ValueError, TypeError, LookupError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            hint = "openssl crl -text -in FILE shows what is in it"
            raise CertificateError(f"{source} is not a CRL that can be read", hint) from error
        return found

    @property
    def pem(self) -> bytes:
        """The CRL as PEM (RFC 7468, 5)."""
        return self.x509.public_bytes(Encoding.PEM)

    @property
    def number(self) -> int | None:
        """The CRLNumber, or None if it has none."""
        number = extension_of(self.x509.extensions, x509.CRLNumber)
        return number.crl_number if number else None

    @cached_property
    def revoked(self) -> Mapping[int, datetime]:
        """The time of each revocation, by serial number."""
        return {entry.serial_number: entry.revocation_date_utc for entry in self.x509}

    def names_issuer(self, ca: Certificate) -> bool:
        """Return whether it says that it is the CRL of a CA and this key of it. Its signature may prove otherwise."""
        if self.x509.issuer != ca.x509.subject:
            return False
        named = extension_of(self.x509.extensions, x509.AuthorityKeyIdentifier)
        own = extension_of(ca.x509.extensions, x509.SubjectKeyIdentifier)
        return not (named and own) or named.key_identifier in (None, own.digest)

    @property
    def limits(self) -> list[str]:
        """What it leaves out, by its extensions (RFC 5280, 5.2.4 and 5.2.5)."""
        scope = extension_of(self.x509.extensions, x509.IssuingDistributionPoint)
        delta = extension_of(self.x509.extensions, x509.DeltaCRLIndicator)
        found: dict[str, object] = {"has only changes since another list (deltaCRLIndicator)": delta}
        if scope:
            found["is for CA certificates only (onlyContainsCACerts)"] = scope.only_contains_ca_certs
            found["is for attribute certificates only"] = scope.only_contains_attribute_certs
            found["is for some reasons only (onlySomeReasons)"] = scope.only_some_reasons
            found["is for certificates of other CAs too (indirectCRL)"] = scope.indirect_crl
        return [words for words, is_so in found.items() if is_so]

    def is_signed_by(self, ca: Certificate) -> bool:
        """Return whether a CA's key signed it."""
        try:
            key: Any = ca.x509.public_key()
            return self.x509.is_signature_valid(key)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False

    @cached_property
    def body(self) -> TbsCertList:
        """The TBSCertList, as asn1crypto parses it."""
        from asn1crypto.crl import TbsCertList

        return TbsCertList.load(self.x509.tbs_certlist_bytes)
