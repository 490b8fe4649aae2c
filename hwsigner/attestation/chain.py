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
from unicodedata import normalize

from asn1crypto.keys import PublicKeyInfo
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
LONGEST_CHAIN = 6
# What chips and their vendors use. Others make verifying slow; a TPM's exponent has 32 bits.
_RSA_BITS = range(2048, 8193)
_MOST_EXPONENT_BITS = 32
_SLOW_KINDS = frozenset({"dsa", "dh", "1.2.840.113549.1.3.1"})  # The last is PKCS #3's.
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_USED_EXTENSIONS = ("basic_constraints", "key_usage", "extended_key_usage", "subject_alt_name")
_MOST_PARSED_BYTES = 1024  # Of a name, and of an extension that is used. Those of real chips have some 200.
_KNOWN_EXTENSIONS = frozenset(
    {
        *("basic_constraints", "key_usage", "extended_key_usage", "subject_alt_name", "subject_directory_attributes"),
        *("certificate_policies", "authority_key_identifier", "key_identifier", "crl_distribution_points"),
        "authority_information_access",
    }
)
_Name = tuple[frozenset[tuple[str, str]], ...]
# What asn1crypto and cryptography raise for bytes that they can't read.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, UnsupportedAlgorithm)


@dataclass(frozen=True)
class VendorCertificate:
    """A certificate: its DER bytes, without padding after them."""

    der: bytes

    @classmethod
    def read(cls, data: bytes, name: str) -> Self:
        """Read a certificate; padding may follow it. One that can't be read is an AttestationError."""
        try:
            certificate = cls(Parsed.load(data).dump())
            # Parsed on first use, so use it here to find what is broken.
            _ = certificate._names, certificate.extensions, certificate.public_key
            _ = certificate.subject, certificate.issuer, certificate.unknown_critical
            _ = certificate.begin, certificate.end, certificate.is_ca, certificate.longest_path
            used = [certificate.extensions[name] for name in _USED_EXTENSIONS if name in certificate.extensions]
            _ = [part.native for one in used for part in _parts(one)]
        except UNREADABLE as error:
            raise AttestationError(f"{name} can't be read as a certificate", "Get another copy") from error
        return certificate

    @cached_property
    def _body(self) -> Any:
        return Parsed.load(self.der, strict=True)["tbs_certificate"]

    @cached_property
    def _names(self) -> tuple[_Name, _Name]:
        """The subject and the issuer, as they are compared."""
        return _comparable(self._body["subject"]), _comparable(self._body["issuer"])

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
        """The extensions' values by asn1crypto's names, or by OID if it has none: parsed if used, otherwise octets."""
        extensions = list(self._body["extensions"])
        values = {item["extn_id"].native: item["extn_value"] for item in extensions}
        if len(values) < len(extensions):
            raise ValueError("an extension is there twice")
        used = {name: values[name] for name in _USED_EXTENSIONS if name in values}
        if any(len(value.contents) > _MOST_PARSED_BYTES for value in used.values()):
            raise ValueError("an extension takes long to parse")
        return values | {name: value.parsed for name, value in used.items()}

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
        return LONGEST_CHAIN if limit is None else int(limit)

    @cached_property
    def _signed(self) -> tuple[bytes, Any, bytes]:
        """What is signed, the algorithm, and the signature; the algorithm is None if none can verify it."""
        certificate = Parsed.load(self.der, strict=True)
        body, algorithm = certificate["tbs_certificate"], certificate["signature_algorithm"]
        signature = certificate["signature_value"].contents
        # The first byte counts the bits of the last one that are not part of a BIT STRING.
        is_whole = body["signature"].dump() == algorithm.dump() and signature[:1] == b"\0"
        return body.dump(), algorithm if is_whole else None, signature[1:]

    def is_issuer(self, other: VendorCertificate) -> bool:
        """Return whether another certificate names this one's subject as its issuer."""
        return self._names[0] == other._names[1]

    def is_signed_by(self, public_key: bytes) -> bool:
        """Return whether a key (DER SubjectPublicKeyInfo) signed this certificate."""
        try:
            signed, algorithm, signature = self._signed
            return algorithm is not None and verifies(public_key, algorithm, signature, signed)
        except UNREADABLE:
            return False


@dataclass(frozen=True)
class Trust:
    """What a verifier trusts.

    Attributes:
        roots: the vendors' certificates. Each is trusted by itself, whether it is a root or not.
        now: the time at which certificates must be valid, with its zone; None for the present.
        has_left: whether the client that sent the statement has left, so that the work on it may end.
        endorsement_keys: the SHA-256 of endorsement keys of TPMs (DER SubjectPublicKeyInfo), in hexadecimal, that need
            no vendor's certificate: the verifier's administrator certifies them.
    """

    roots: tuple[VendorCertificate, ...]
    now: datetime | None = None
    has_left: Callable[[], bool] = lambda: False
    endorsement_keys: frozenset[str] = frozenset()

    def time(self) -> datetime:
        """Return the time at which certificates must be valid."""
        return self.now or datetime.now(UTC)

    def is_valid(self, certificate: VendorCertificate) -> bool:
        """Return whether `check` accepts a certificate."""
        try:
            self.check(certificate)
        except AttestationError:
            return False
        return True

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


def root_files(folder: str) -> list[Path]:
    """Return the files of a folder that are read as roots of vendors, hidden ones too.

    A folder that can't be read, or has no such file, is a UsageError.
    """
    try:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise UsageError(f"can't read the folder {folder}: {error.strerror}", "Name a folder with roots") from error
    if not files:
        raise UsageError(f"{folder} has no certificates", f"Put the vendors' roots there, named {', '.join(_SUFFIXES)}")
    return files


def in_usual_form(public_key: bytes) -> bytes:
    """Return a DER SubjectPublicKeyInfo as `cryptography` writes it; empty if it can't be read, or if that is slow."""
    try:
        if is_slow(public_key):
            return b""
        return load_der_public_key(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UNREADABLE:
        return b""


def is_slow(public_key: bytes) -> bool:
    """Return whether a DER SubjectPublicKeyInfo can't be read, or is of a kind or size that is slow to use or load."""
    try:
        info = PublicKeyInfo.load(public_key)
        kind: str = info["algorithm"]["algorithm"].native
        if not kind.startswith("rsa"):
            return kind in _SLOW_KINDS
        key = info["public_key"].parsed
        modulus: int = key["modulus"].native
        exponent: int = key["public_exponent"].native
    except UNREADABLE:
        return True
    return modulus.bit_length() >= _RSA_BITS.stop or exponent.bit_length() > _MOST_EXPONENT_BITS


def verifies(public_key: bytes, algorithm: Any, signature: bytes, signed: bytes) -> bool:
    """Return whether a key made a signature of asn1crypto's algorithm. SHA-1 and older hashes are not accepted.

    Nor are keys of kinds and sizes that no vendor uses. A key, algorithm or signature that can't be read is one of the
    errors in UNREADABLE.
    """
    if is_slow(public_key):
        return False
    key = load_der_public_key(public_key)
    digest = _HASHES[algorithm.hash_algo]()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size not in _RSA_BITS:
        return False
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, _CURVES):
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


def _comparable(name: Any) -> _Name:
    """Return a name in a form in which equal ones are equal (RFC 5280, 7.1): case and spaces do not count.

    asn1crypto's own comparison takes 50 ms for a name of 8 KiB. A name that can't be read is one of UNREADABLE.
    """
    if len(name.chosen.contents) > _MOST_PARSED_BYTES:
        raise ValueError("a name takes long to parse")
    return tuple(frozenset((one["type"].dotted, _folded(one["value"].native)) for one in part) for part in name.chosen)


def _folded(value: Any) -> str:
    return " ".join(normalize("NFKC", str(value).casefold()).split())
