"""Keys in a drawer, for hwsigner: a backend in a package of its own that can do all that a backend can.

    drawer:folder=/srv/drawer                   the certificate's key, or the only one
    drawer:folder=/srv/drawer;label=web         the one with this label

A drawer is a folder, and its PIN encrypts all its keys. A key is in the files LABEL.key (PKCS #8, encrypted) and
LABEL.pub (SubjectPublicKeyInfo), its certificates are in LABEL.crt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hwsigner import (
    Algorithm,
    Confirm,
    FoundCertificate,
    HashName,
    InstalledCertificate,
    Key,
    KeyDescription,
    KeyRequest,
    KeyURI,
    ListedObject,
    ListedToken,
    PinRequest,
    PinSource,
)
from hwsigner.backends import Backend
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    CertificateError,
    KeyNotFoundError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)

BACKEND = Backend(
    __name__,
    object_attributes=frozenset({"label"}),
    shares_store=True,  # A drawer holds certificates, too.
    management=__name__,
    attestation=__name__,
)
_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
_HASHES: dict[HashName, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class DrawerKey(Key):
    """A key of a drawer, decrypted."""

    def __init__(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._name = name
        self._key: ec.EllipticCurvePrivateKey | None = key
        self._public_key = _spki(key.public_key())

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm: all keys are of curves."""
        return "AWS4-X509-ECDSA-SHA256"

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo."""
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message; see `Key.sign`."""
        if self._key is None:
            raise SigningKeyError(f"key {self._name} is closed", "Open it again")
        if hash not in _HASHES:
            raise UnsupportedKeyError(f"a drawer has no hash {hash!r}", "Use sha256, sha384 or sha512")
        return self._key.sign(message, ec.ECDSA(_HASHES[hash]))

    def close(self) -> None:
        """Forget the key."""
        self._key = None


# Opening keys: OpensKeys, FindsCertificates and ListsTokens of hwsigner.key and key.listing.


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the key that a `drawer:` URI names."""
    file = _file(uri, public_key)
    request = PinRequest("PIN", f"drawer {file.parent}")
    pin = pins.get(uri, request)
    try:
        key = load_pem_private_key(_read(file), pin.encode())
    except ValueError:
        raise WrongPinError(f"wrong PIN for {request.subject}", "Check the PIN, then retry") from None
    pins.remember(request, pin)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return DrawerKey(uri.name, key)


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the certificates that a URI names: those of a key, or of all keys."""
    label, folder = uri.text("label"), _folder(uri)
    files = [folder / f"{label}.crt"] if label else sorted(folder.glob("*.crt"))
    found = []
    for file in files:
        if file.is_file():
            name = str(_named(uri, file.stem))
            parsed = x509.load_pem_x509_certificates(_read(file))
            found += [FoundCertificate(one.public_bytes(Encoding.DER), name) for one in parsed]
    if not found:
        raise CertificateError(f"no certificate is named by {uri.name}", "See what is there with hwsigner list")
    return found


def list_tokens(uri: KeyURI, pins: PinSource, *, log_in: bool = False) -> Iterator[ListedToken]:
    """Yield the drawer, with its keys. They are seen without the PIN."""
    folder = _folder(uri)
    keys = [
        ListedObject("key", file.stem, b"", str(_named(uri, file.stem)), public_key=_read(file.with_suffix(".pub")))
        for file in sorted(folder.glob("*.key"))
    ]
    yield ListedToken("", folder.name, "", "", "", 0, str(uri.token), True, False, "", tuple(keys))


# A key's life: ManagesKeys of hwsigner.key.management.


def generate_key(uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key, encrypted with the PIN."""
    request.require_only(kind="keys in a drawer")
    label, folder = uri.text("label"), _folder(uri)
    if not label or request.algorithm not in _CURVES:
        raise UsageError("a drawer holds EC keys, each with a label", "Add label=, and use p256, p384 or p521")
    pin = pins.get(uri, PinRequest("PIN", f"drawer {folder}"))
    key = ec.generate_private_key(_CURVES[request.algorithm])
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(pin.encode()))
    try:
        with open(os.open(folder / f"{label}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        (folder / f"{label}.pub").write_bytes(_spki(key.public_key()))
    except OSError as error:
        raise SigningKeyError(f"can't write key {uri.name}: {error.strerror}", "Take another label") from error
    return describe_key(uri, pins)


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what is known of a key. That takes no PIN."""
    file = _file(uri, None)
    public_key = _read(file.with_suffix(".pub"))
    return KeyDescription(str(_named(uri, file.stem)), f"drawer {file.parent}", public_key, ("It needs the PIN",))


def install_certificate(
    uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
) -> InstalledCertificate:
    """Put a chain beside its key."""
    file = _file(uri, None).with_suffix(".crt")
    pem = [x509.load_der_x509_certificate(one.der).public_bytes(Encoding.PEM) for one in chain]
    file.write_bytes(b"".join(pem))
    return InstalledCertificate(str(_named(uri, file.stem)))


def delete_key(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    """Delete a key, and its certificates."""
    file = _file(uri, None)
    doomed = [one for one in (file.with_suffix(".crt"), file.with_suffix(".pub"), file) if one.is_file()]
    lines = tuple(f"the file {one}" for one in doomed)
    confirm(lines)
    for one in doomed:
        one.unlink()
    return lines


# Proving: ProvesKeys of hwsigner.key.management, with the documents about keys of tokens.


def formats() -> tuple[str, ...]:
    """Return the formats of the documents."""
    return ("pkcs11",)


def make_statement(
    uri: KeyURI, pins: PinSource, *, certificates: tuple[bytes, ...]
) -> tuple[str, Mapping[str, bytes | str]]:
    """Return what a drawer says of a key: that it was made there, and can be copied."""
    described = describe_key(uri, pins)
    assert described.public_key
    claims = {"token": described.place, "local": "yes", "sensitive": "no"}
    return "pkcs11", {"keyPublic": described.public_key, **claims}


def answer_challenge(uri: KeyURI, pins: PinSource, challenge: Mapping[str, bytes], *, pcrs: str) -> dict[str, bytes]:
    """Return the key's signature of a challenge."""
    with open_key(uri, pins) as key:
        return {"signature": key.sign(challenge["message"])}


def _folder(uri: KeyURI) -> Path:
    uri.require_known({"folder", "label"}, set())
    folder = Path(uri.text("folder") or "")
    if "folder" not in uri.path or not folder.is_dir():
        raise BackendUnavailableError(f"{uri.name} names no drawer", "Write drawer:folder=/path")
    return folder


def _file(uri: KeyURI, public_key: bytes | None) -> Path:
    """Return the file of the key that a URI names."""
    label, there = uri.text("label"), sorted(_folder(uri).glob("*.key"))
    named = [file for file in there if label in (None, file.stem)]
    matching = [file for file in named if _read(file.with_suffix(".pub")) == public_key]
    found = matching or named
    if not found:
        raise KeyNotFoundError(f"no key is named by {uri.name}", "See what is there with hwsigner list")
    if len(found) > 1:
        raise AmbiguousKeyError(f"{uri.name} names {len(found)} keys", "Add label=")
    return found[0]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"can't read {file}: {error.strerror}", "Check the drawer") from error


def _named(uri: KeyURI, label: str) -> KeyURI:
    return KeyURI(uri.scheme, {**uri.token.path, "label": label.encode()})


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


if TYPE_CHECKING:
    import hwsigner_drawer

    from hwsigner.key import FindsCertificates, OpensKeys
    from hwsigner.key.listing import ListsTokens
    from hwsigner.key.management import ManagesKeys, ProvesKeys

    class _Backend(OpensKeys, FindsCertificates, ListsTokens, ManagesKeys, ProvesKeys, Protocol): ...

    _: _Backend = hwsigner_drawer
