"""Certificate chains of chip vendors, verified up to given roots.

They are parsed by asn1crypto: `cryptography` refuses some vendors' roots, and certificates with padding after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from asn1crypto.x509 import Certificate as Parsed
from asn1crypto.x509 import GeneralNames
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hwsigner.errors import AttestationError, UsageError

_HASHES: dict[str, type[HashAlgorithm]] = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
_SUFFIXES = (".pem", ".crt", ".cer", ".der")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LONGEST_CHAIN = 6
_MOST_OTHERS = 8  # More would make looking for the chain slow.
_LONGEST_KEY_BITS = 8192
_KNOWN_EXTENSIONS = frozenset(
    {
        *("basic_constraints", "key_usage", "extended_key_usage", "subject_alt_name", "subject_directory_attributes"),
        *("certificate_policies", "authority_key_identifier", "key_identifier", "crl_distribution_points"),
        "authority_information_access",
    }
)
# What asn1crypto and cryptography raise for bytes that they can't read.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, UnsupportedAlgorithm)


@dataclass(frozen=True)
class VendorCertificate:
    """A certificate.

    Attributes:
        der: its DER bytes, without padding after them.
    """

    der: bytes

    @classmethod
    def read(cls, data: bytes, name: str) -> Self:
        """Read a certificate; padding may follow it.

        Raises:
            AttestationError: it can't be read.
        """
        try:
            certificate = cls(Parsed.load(data).dump())
            # Parsed on first use, so use it here to find what is broken.
            _ = certificate.extensions, certificate.public_key, certificate.subject, certificate.issuer
            _ = certificate.begin, certificate.end, certificate.is_ca, certificate.longest_path
            parts = [part for value in certificate.extensions.values() for part in _parts(value)]
            _ = certificate.unknown_critical, [part.native for part in parts]
        except UNREADABLE as error:
            raise AttestationError(f"{name} can't be read as a certificate", "Get another copy") from error
        return certificate

    @cached_property
    def _body(self) -> Any:
        return Parsed.load(self.der, strict=True)["tbs_certificate"]

    @property
    def subject(self) -> str:
        """The subject in words."""
        return str(self._body["subject"].human_friendly)

    @property
    def issuer(self) -> str:
        """The issuer in words."""
        return str(self._body["issuer"].human_friendly)

    @property
    def begin(self) -> datetime:
        """From when it is valid."""
        begin: datetime = self._body["validity"]["not_before"].native
        return begin.astimezone(UTC)

    @property
    def end(self) -> datetime:
        """Until when it is valid."""
        end: datetime = self._body["validity"]["not_after"].native
        return end.astimezone(UTC)

    @property
    def public_key(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        spki: bytes = self._body["subject_public_key_info"].dump()
        return spki

    @cached_property
    def extensions(self) -> dict[str, Any]:
        """The extensions' values by asn1crypto's names, parsed; or by their OID, as octets, if it has none."""
        extensions = list(self._body["extensions"])
        values = {item["extn_id"].native: item["extn_value"] for item in extensions}
        if len(values) < len(extensions):
            raise ValueError("an extension is there twice")
        return {name: value if name[0].isdigit() else value.parsed for name, value in values.items()}

    @property
    def unknown_critical(self) -> list[str]:
        """The critical extensions that are not understood here."""
        critical = [item["extn_id"].native for item in self._body["extensions"] if item["critical"].native]
        return [name for name in critical if name not in _KNOWN_EXTENSIONS]

    @property
    def is_ca(self) -> bool:
        """Whether it may issue certificates: basicConstraints, and keyUsage if there is one (RFC 5280, 6.1.4)."""
        basic, usage = self.extensions.get("basic_constraints"), self.extensions.get("key_usage")
        return bool(basic and basic["ca"].native) and (usage is None or "key_cert_sign" in usage.native)

    @property
    def longest_path(self) -> int:
        """How many CA certificates may stand between it and the leaf."""
        basic = self.extensions.get("basic_constraints")
        limit = basic["path_len_constraint"].native if basic else None
        return _LONGEST_CHAIN if limit is None else int(limit)

    def issued(self, other: VendorCertificate) -> bool:
        """Return whether this certificate's name and key issued another one."""
        try:
            if self._body["subject"] != other._body["issuer"]:
                return False
            certificate = Parsed.load(other.der, strict=True)
            body, algorithm = certificate["tbs_certificate"], certificate["signature_algorithm"]
            signature = certificate["signature_value"].contents
            # The first byte counts the bits of the last one that are not part of a BIT STRING.
            if body["signature"].dump() != algorithm.dump() or signature[:1] != b"\0":
                return False
            return verifies(self.public_key, algorithm, signature[1:], body.dump())
        except UNREADABLE:
            return False


@dataclass(frozen=True)
class Trust:
    """What a verifier trusts.

    Attributes:
        roots: the vendors' certificates. Each is trusted by itself, whether it is a root or not.
        now: the time at which certificates must be valid, with its zone; None for the present.
    """

    roots: tuple[VendorCertificate, ...]
    now: datetime | None = None

    def time(self) -> datetime:
        """Return the time at which certificates must be valid."""
        return self.now or datetime.now(UTC)

    def verify(
        self,
        leaf: VendorCertificate,
        others: Sequence[VendorCertificate] = (),
        *,
        may_issue: Callable[[VendorCertificate], bool] = lambda certificate: certificate.is_ca,
    ) -> tuple[VendorCertificate, ...]:
        """Return the chain from a leaf to a root.

        Args:
            leaf: the leaf.
            others: certificates that may stand between leaf and root.
            may_issue: whether a certificate that is not a root may issue others.

        Raises:
            AttestationError: no chain leads to a root, or a certificate in it is not valid now.
        """
        if len(others) > _MOST_OTHERS:
            problem = f"there are more than {_MOST_OTHERS} certificates"
            raise AttestationError(problem, "Leave out what the chain does not need")
        chain = self._path((leaf,), others, may_issue)
        if chain is None:
            name = leaf.subject or "the chip"
            problem = f"the certificate of {name}, issued by {leaf.issuer}, leads to none of the roots"
            hint = "Add the vendor's root and intermediate certificates to the folder, if you trust that vendor"
            raise AttestationError(problem, hint)
        for certificate in chain:
            self.check(certificate)
        return chain

    def _path(
        self,
        chain: tuple[VendorCertificate, ...],
        others: Sequence[VendorCertificate],
        may_issue: Callable[[VendorCertificate], bool],
    ) -> tuple[VendorCertificate, ...] | None:
        last, length = chain[-1], len(chain) - 1
        for root in self.roots:
            if root.longest_path >= length and root.issued(last):
                return (*chain, root)
        if len(chain) >= _LONGEST_CHAIN:
            return None
        # Each name and key once: else many certificates of one CA make looking for a chain slow.
        passed = {(one.subject, one.public_key) for one in chain}
        for other in others:
            is_new = (other.subject, other.public_key) not in passed
            if is_new and may_issue(other) and other.longest_path >= length and other.issued(last):
                found = self._path((*chain, other), others, may_issue)
                if found:
                    return found
        return None

    def check(self, certificate: VendorCertificate) -> None:
        """Check that a certificate is valid now and says nothing critical that is unknown here.

        Raises:
            AttestationError: it is not, or does.
        """
        name = f"the certificate of {certificate.subject or 'the chip'}"
        if not certificate.begin <= self.time() <= certificate.end:
            dates = f"{certificate.begin:{_TIME}} to {certificate.end:{_TIME}}"
            raise AttestationError(f"{name} is valid from {dates} only", "Fix the clock if it is wrong")
        if certificate.unknown_critical:
            unknown = ", ".join(certificate.unknown_critical)
            problem = f"{name} has a critical extension that is unknown here: {unknown}"
            raise AttestationError(problem, "Update hwsigner")


def _parts(value: Any) -> Sequence[Any]:
    """Return what is read of an extension. An otherName is not: its value may be anything (RFC 5280, 4.2.1.6)."""
    return [name for name in value if name.name != "other_name"] if isinstance(value, GeneralNames) else [value]


def certificate_files(folder: str) -> list[Path]:
    """Return the files with the vendors' certificates in a folder, hidden ones too.

    Raises:
        UsageError: the folder can't be read, or has no such file.
    """
    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise UsageError(f"can't read the folder {folder}: {error.strerror}", "Name a folder with roots") from error
    if not files:
        raise UsageError(f"{folder} has no certificates", f"Put the vendors' roots there, named {', '.join(_SUFFIXES)}")
    return files


def in_usual_form(public_key: bytes) -> bytes:
    """Return a DER SubjectPublicKeyInfo as `cryptography` writes it; empty if it can't be read."""
    try:
        return load_der_public_key(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UNREADABLE:
        return b""


def verifies(public_key: bytes, algorithm: Any, signature: bytes, signed: bytes) -> bool:
    """Return whether a key made a signature of asn1crypto's algorithm. SHA-1 and older hashes are not accepted.

    Raises:
        one of UNREADABLE: key, algorithm or signature can't be read.
    """
    key = load_der_public_key(public_key)
    digest = _HASHES[algorithm.hash_algo]()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > _LONGEST_KEY_BITS:
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm.signature_algo == "ecdsa":
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.signature_algo == "rsassa_pkcs1v15":
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.signature_algo == "rsassa_pss":
            mask = _HASHES[algorithm["parameters"]["mask_gen_algorithm"]["parameters"]["algorithm"].native]()
            salt = algorithm["parameters"]["salt_length"].native
            key.verify(signature, signed, padding.PSS(padding.MGF1(mask), salt), digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True
