"""Keys as objects of a TPM: loaded for as long as they are used, and what their public areas allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_CONTEXT,
    TPMS_SCHEME_HASH,
    TPMT_ECC_SCHEME,
    TPMT_PUBLIC,
    TPMT_RSA_SCHEME,
    TPMT_SIG_SCHEME,
    TPMU_SIG_SCHEME,
    TSS2_Exception,
)

from hwsigner.backends._tpm2_connection import AUTH_FAIL, BAD_AUTH, HANDLE, INTEGRITY, LOCKOUT, code, is_answer
from hwsigner.backends._tss2 import HIERARCHIES, TSS2Key
from hwsigner.errors import KeyNotFoundError, SigningKeyError, UnsupportedKeyError
from hwsigner.key import ECDSA, RSA, RSA_BITS, Algorithm, HashName

_HASHES: dict[HashName, int] = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_USABLE = "Use an unrestricted signing key without a policy: RSA of 2048 to 4096 bits, P-256, P-384 or P-521"
_CURVES = (TPM2_ECC.NIST_P256, TPM2_ECC.NIST_P384, TPM2_ECC.NIST_P521)
_HASH_NAMES = {number: name for name, number in _HASHES.items()}
_ESYS_HIERARCHIES = {
    "owner": ESYS_TR.RH_OWNER,
    "null": ESYS_TR.RH_NULL,
    "endorsement": ESYS_TR.RH_ENDORSEMENT,
    "platform": ESYS_TR.RH_PLATFORM,
}
_STORAGE = TPMA_OBJECT(
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)


class KeyObject(Protocol):
    """A key that a TPM holds, or can load."""

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Return the public area, after making sure that the TPM has or takes the key."""
        ...

    def loaded(self, tpm: ESAPI) -> AbstractContextManager[ESYS_TR]:
        """Give the loaded key; afterwards it takes up no slot of the TPM."""
        ...


class PersistentObject:
    """A key at a persistent handle."""

    def __init__(self, handle: int, name: str) -> None:
        self._handle = handle
        self._name = name
        self._seen: tuple[ESAPI, ESYS_TR] | None = None

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Read the public area from the TPM.

        Raises:
            KeyNotFoundError: there is no key at the handle.
        """
        with self.loaded(tpm) as key:
            return tpm.read_public(key)[0].publicArea

    @contextmanager
    def loaded(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        """Give the key, which takes up no slot at any time."""
        if self._seen is None or self._seen[0] is not tpm:
            self._seen = tpm, self._find(tpm)
        yield self._seen[1]

    def _find(self, tpm: ESAPI) -> ESYS_TR:
        try:
            return tpm.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if code(error) != HANDLE:
                raise
            raise KeyNotFoundError(
                f"the TPM has no key at {self._name}", "tpm2_getcap handles-persistent lists those that it has"
            ) from error


class LoadableObject:
    """The key of a TSS2 file. Loaded through its parent once, and from a saved context after that."""

    def __init__(self, file: TSS2Key, name: str) -> None:
        self._name = name
        self._parent = file.parent
        self._public = _unmarshal(TPM2B_PUBLIC, file.public, name)
        self._private = _unmarshal(TPM2B_PRIVATE, file.private, name)
        self._saved: TPMS_CONTEXT | None = None

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Load the key for a moment, and return the public area.

        Raises:
            SigningKeyError: the TPM does not take the key.
            UnsupportedKeyError: the parent wants an auth value.
        """
        with self.loaded(tpm):
            return self._public.publicArea

    @contextmanager
    def loaded(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        """Give the loaded key, and flush it."""
        key = self._restored(tpm) or self._load(tpm)
        try:
            if self._saved is None:
                self._saved = tpm.context_save(key)
            yield key
        finally:
            tpm.flush_context(key)

    def _restored(self, tpm: ESAPI) -> ESYS_TR | None:
        if self._saved is None:
            return None
        try:
            return tpm.context_load(self._saved)
        except TSS2_Exception as error:
            if not is_answer(error):
                raise
            self._saved = None  # A context does not outlive a reset of the TPM.
            return None

    def _load(self, tpm: ESAPI) -> ESYS_TR:
        """Load the key under its parent, which is flushed at once. No auth value of the key is sent by that."""
        try:
            if self._parent in HIERARCHIES:
                return self._load_in_hierarchy(tpm, _ESYS_HIERARCHIES[HIERARCHIES[self._parent]])
            return tpm.load(tpm.tr_from_tpmpublic(self._parent), self._private, self._public)
        except TSS2_Exception as error:
            refusal = self._load_error(error)
            if refusal is None:
                raise
            raise refusal from error

    def _load_in_hierarchy(self, tpm: ESAPI, hierarchy: ESYS_TR) -> ESYS_TR:
        for template in _TEMPLATES:
            primary = tpm.create_primary(None, template(), hierarchy)[0]
            try:
                return tpm.load(primary, self._private, self._public)
            except TSS2_Exception as error:
                refusal = error
                if code(error) != INTEGRITY:
                    raise
            finally:
                tpm.flush_context(primary)
        raise refusal

    def _load_error(self, error: TSS2_Exception) -> SigningKeyError | None:
        parent = HIERARCHIES.get(self._parent, hex(self._parent))
        if code(error) in (AUTH_FAIL, BAD_AUTH, LOCKOUT):
            return UnsupportedKeyError(
                f"the parent of key {self._name}, {parent}, wants an auth value of its own",
                "Make the key under a parent without one",
            )
        if code(error) == INTEGRITY:
            return SigningKeyError(
                f"the TPM does not take key {self._name} under its parent, {parent}",
                "It is the key of another TPM, of a TPM that was cleared, or of another parent; or it is damaged",
            )
        if code(error) == HANDLE:
            return KeyNotFoundError(f"the TPM has no parent {parent} for key {self._name}", "Make it persistent")
        return None


@dataclass(frozen=True)
class PublicArea:
    """What a key's public area says (TPM 2.0 Library, part 2, 12.2).

    Attributes:
        algorithm: the SigV4-X509 algorithm.
        public_key: the DER SubjectPublicKeyInfo.
        only_hash: the one hash that the key signs with, or None for any.
        guarded: whether a wrong auth value counts towards the TPM's lockout.
    """

    algorithm: Algorithm
    public_key: bytes
    only_hash: HashName | None
    guarded: bool

    def scheme(self, hash: HashName) -> TPMT_SIG_SCHEME:
        """Return the signing scheme for a hash."""
        details = TPMS_SCHEME_HASH(hashAlg=_HASHES[hash])
        if self.algorithm == ECDSA:
            return TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(ecdsa=details))
        return TPMT_SIG_SCHEME(scheme=TPM2_ALG.RSASSA, details=TPMU_SIG_SCHEME(rsassa=details))


def read_public_area(public: TPMT_PUBLIC, name: str) -> PublicArea:
    """Look a public area over, before a signature is tried.

    Raises:
        UnsupportedKeyError: the key can't make signatures of SigV4-X509, or not of bytes that its caller hashed.
    """
    attributes = public.objectAttributes
    _refuse_if(not attributes & TPMA_OBJECT.SIGN_ENCRYPT, name, "may not sign")
    _refuse_if(attributes & TPMA_OBJECT.RESTRICTED, name, "is restricted to what the TPM itself hashed")
    _refuse_if(not attributes & TPMA_OBJECT.USERWITHAUTH, name, "has a policy")
    _refuse_if(public.type not in (TPM2_ALG.RSA, TPM2_ALG.ECC), name, "is neither RSA nor ECC")
    if public.type == TPM2_ALG.RSA:
        algorithm, own, parameters = RSA, TPM2_ALG.RSASSA, public.parameters.rsaDetail
        _refuse_if(parameters.keyBits not in RSA_BITS, name, f"has {parameters.keyBits} bits")
    else:
        algorithm, own, parameters = ECDSA, TPM2_ALG.ECDSA, public.parameters.eccDetail
        _refuse_if(parameters.curveID not in _CURVES, name, f"is on curve {TPM2_ECC(parameters.curveID)}")
    only_hash = _only_hash(parameters.scheme, own, name)
    return PublicArea(algorithm, _spki(public, name), only_hash, not attributes & TPMA_OBJECT.NODA)


def _only_hash(scheme: TPMT_RSA_SCHEME | TPMT_ECC_SCHEME, own: TPM2_ALG, name: str) -> HashName | None:
    """Return the hash of a key that signs with one only, if the scheme is SigV4-X509's for such a key."""
    if scheme.scheme == TPM2_ALG.NULL:
        return None
    _refuse_if(scheme.scheme != own, name, f"signs with {TPM2_ALG(scheme.scheme)} only")
    number = scheme.details.anySig.hashAlg
    _refuse_if(number not in _HASH_NAMES, name, f"signs with {TPM2_ALG(number)} only")
    return _HASH_NAMES[number]


def _refuse_if(condition: object, name: str, fault: str) -> None:
    if condition:
        raise UnsupportedKeyError(f"key {name} {fault}", _USABLE)


def _spki(public: TPMT_PUBLIC, name: str) -> bytes:
    try:
        der: bytes = public.to_der()
    except ValueError as error:
        raise UnsupportedKeyError(f"key {name} has no public key that can be used: {error}") from error
    return der


def _unmarshal(kind: type[TPM2B_PUBLIC | TPM2B_PRIVATE], data: bytes, name: str) -> TPM2B_PUBLIC | TPM2B_PRIVATE:
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception as error:
        raise UnsupportedKeyError(f"key {name} is damaged: {error}") from error
    if length != len(data):
        raise UnsupportedKeyError(f"key {name} is damaged: its {kind.__name__} has {len(data) - length} bytes too many")
    return structure


def _template(kind: str, attributes: int = _STORAGE) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC.parse(f"{kind}:aes128cfb", objectAttributes=TPMA_OBJECT(attributes))


def _ecc_primary() -> TPM2B_PUBLIC:
    return _template("ecc256", _STORAGE | TPMA_OBJECT.NODA)


def _zeros_ecc_primary() -> TPM2B_PUBLIC:
    template = _ecc_primary()
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


# The primary keys that a hierarchy stands for, by likelihood. A TPM makes each from its seed, the last in seconds.
_TEMPLATES: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    _ecc_primary,  # The format's own; tpm2-openssl, tpm2-pytss
    _zeros_ecc_primary,  # TCG's provisioning guidance; systemd
    lambda: _template("ecc256"),  # tpm2_createprimary -G ecc
    lambda: _template("rsa2048"),  # tpm2_createprimary
)
