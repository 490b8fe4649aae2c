"""Making and deleting keys in files. They can be copied, so they are for development."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hwsigner._pins import PinSource
from hwsigner._system.notices import waiting
from hwsigner._uri import KeyURI
from hwsigner.backends import key_files
from hwsigner.backends.file import open_key, private_key_block
from hwsigner.backends.file.loading import encoded, passphrase_request
from hwsigner.backends.pem import PKCS12, read_contents
from hwsigner.errors import KeyNotFoundError, PinError, SigningKeyError, UnsupportedKeyError
from hwsigner.key import FoundCertificate
from hwsigner.key.management import (
    Confirm,
    InstalledCertificate,
    KeyAlgorithm,
    KeyDescription,
    KeyRequest,
    inapplicable,
)

_MLDSAKey: TypeAlias = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
_CURVES: dict[KeyAlgorithm, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
_MLDSA: dict[KeyAlgorithm, type[_MLDSAKey]] = {
    "mldsa44": mldsa.MLDSA44PrivateKey,
    "mldsa65": mldsa.MLDSA65PrivateKey,
    "mldsa87": mldsa.MLDSA87PrivateKey,
}
_MAX_PASSPHRASE = 1023  # The limit of OpenSSL.
_WITH_MLDSA = "Install cryptography from PyPI, or choose another --algorithm"
_CAN_BE_COPIED = "A program that can read the file can copy the key, so it is for development"


def generate_key(uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Write a new key into a file of mode 0600: PKCS #8 in PEM, encrypted if there is a passphrase.

    Of an ML-DSA key, the file has the seed alone (RFC 9881, 6). An existing file is a SigningKeyError. ML-DSA, if the
    OpenSSL of the installed cryptography lacks it, is an UnsupportedKeyError.
    """
    uri.require_known({"path"}, set())
    request.require_only(kind="keys in files")
    path = uri.file
    key_files.check_new_key_file(path)
    encryption = _encryption(uri, pins)
    with waiting(f"making the {request.algorithm} key, which may take some seconds"):
        key = _new_key(request.algorithm)
    key_files.write_new_key_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    made = describe_key(uri, pins)
    if made.public_key != key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise SigningKeyError(f"{path} has another key than the one written", "Find out which program replaced it")
    return made


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what is known of the key in a file. An encrypted one is decrypted for its public key."""
    path = uri.file
    contents = read_contents(path, KeyNotFoundError)
    block = private_key_block(path, contents)
    with open_key(uri, pins) as key:
        public_key = key.public_key()
    mode = stat.S_IMODE(contents.status.st_mode) if contents.status else 0
    encrypted = None if block.label == PKCS12 else block.encrypted  # PKCS #12 does not say.
    guards = [f"The file has mode {mode:04o}"]
    if encrypted is not None:
        guards.append("It is encrypted with a passphrase" if encrypted else "It is not encrypted")
    return KeyDescription(
        uri.name if KeyURI.parse(uri.name) == uri else str(uri),
        f"the file {path}",
        public_key,
        tuple(guards),
        {"extractable": True, "encrypted": encrypted, "mode": f"{mode:04o}"},
        (_CAN_BE_COPIED,),
    )


def install_certificate(
    uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
) -> InstalledCertificate:
    """Write a leaf and its intermediates into a PEM file beside the key: for `web.key`, `web.crt`.

    If a file of that name has anything else than certificates of this key, that is a CertificateError.
    """
    if nv_index:
        raise inapplicable("nv-index", "keys in files")
    with open_key(uri, pins) as key:
        public_key = key.public_key()
    path, _ = key_files.certificate_files(uri.file)
    key_files.write_certificates(path, [found.der for found in chain], public_key)
    return InstalledCertificate(path)


def delete_key(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    """Delete a key's file, with all that is in it, and the file that `install_certificate` wrote.

    An encrypted key is decrypted first, to find out whether the certificate is its own.
    """
    with open_key(uri, pins) as key:
        public_key = key.public_key()
    path, (certificate, _) = os.path.realpath(uri.file), key_files.certificate_files(uri.file)
    doomed = {path: f"the key in {path}"}
    if key_files.holds_certificates(certificate, public_key):
        doomed[certificate] = f"its certificate in {certificate}"
    key_files.delete_files(doomed, lambda: confirm(tuple(doomed.values())))
    return tuple(doomed.values())


def _encryption(uri: KeyURI, pins: PinSource) -> KeySerializationEncryption:
    asked = passphrase_request(uri)
    passphrase = pins.offered(uri, asked)
    if passphrase is None:
        return NoEncryption()
    if not 0 < len(encoded(uri, passphrase)) <= _MAX_PASSPHRASE:
        problem = f"the passphrase for {uri.name} does not have 1 to {_MAX_PASSPHRASE} bytes"
        raise PinError(problem, "Use another one, or none for a key that is not encrypted")
    pins.remember(asked, passphrase)
    return BestAvailableEncryption(encoded(uri, passphrase))


def _new_key(algorithm: KeyAlgorithm) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | _MLDSAKey:
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    if algorithm in _MLDSA:
        try:
            return _MLDSA[algorithm].generate()
        except UnsupportedAlgorithm as error:
            problem = f"the OpenSSL that the Python library cryptography uses here can't make {algorithm} keys"
            raise UnsupportedKeyError(problem, _WITH_MLDSA) from error
    return rsa.generate_private_key(65537, int(algorithm.removeprefix("rsa")))


if TYPE_CHECKING:
    from hwsigner.backends.file import management
    from hwsigner.key.management import ManagesKeys

    _: ManagesKeys = management
