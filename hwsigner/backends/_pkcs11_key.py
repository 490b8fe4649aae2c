"""A key on a PKCS #11 token: its signatures, and finding it again when its session has gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from pkcs11 import Attribute, Mechanism, MechanismFlag, PKCS11Error
from pkcs11.exceptions import MechanismInvalid

from hwsigner.backends._pkcs11_objects import (
    ALGORITHMS,
    ORDER_BYTES,
    PrivateKeyObject,
    attributes,
    encode_ecdsa_signature,
    public_key_of,
)
from hwsigner.backends._pkcs11_search import find_key
from hwsigner.backends._pkcs11_token import OpenToken
from hwsigner.errors import SigningKeyError
from hwsigner.key import ECDSA, Algorithm, HashName, Key
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

_RSA_MECHANISMS = {
    "sha256": Mechanism.SHA256_RSA_PKCS,
    "sha384": Mechanism.SHA384_RSA_PKCS,
    "sha512": Mechanism.SHA512_RSA_PKCS,
}
# The DER of DigestInfo up to the digest (RFC 8017, 9.2, note 1).
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
T = TypeVar("T")


class PKCS11Key(Key):
    """A private key on a token. It takes over one use of the token, and releases it when closed."""

    def __init__(
        self, token: OpenToken, key: PrivateKeyObject, uri: KeyURI, pins: PinSource, *, public_key: bytes | None
    ) -> None:
        self._token = token
        self._key = key
        self._generation = token.generation
        self._uri = uri
        self._pins = pins
        self._certified = public_key
        self._public_key: bytes | None = None
        self._offered: dict[Mechanism, bool] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<PKCS11Key {self._uri.name}>"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return ALGORITHMS[self._key.key_type]

    def public_key(self) -> bytes | None:
        """Return the DER SubjectPublicKeyInfo, from the key itself or from the token's public key object."""
        if self._public_key is None:
            self._public_key = self._call(
                "can't show the public key", lambda: public_key_of(self._token.session(), self._current_key())
            )
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message: ECDSA with the digest made here, RSA with the token's own hash where it has one.

        Raises:
            SigningKeyError: the key is closed, or the token can't sign; what it says is in the message.
            PinError: the PIN for this signature is missing, wrong or locked.
        """
        if self.algorithm == ECDSA:
            return encode_ecdsa_signature(self._call("could not sign", lambda: self._sign_ecdsa(message, hash)))
        return self._call("could not sign", lambda: self._sign_rsa(message, hash))

    def close(self) -> None:
        """Release the token, which is logged out with the last of its keys."""
        with self._token.module.lock:
            if not self._is_closed:
                self._is_closed = True
                self._token.release()

    def _call(self, action: str, call: Callable[[], T]) -> T:
        with self._token.module.lock:
            if self._is_closed:
                raise SigningKeyError(f"key {self._uri.name} is closed", "Open it again")
            try:
                return call()
            except PKCS11Error as error:
                # The failed operation may still be active on the session, and there is no way to cancel it.
                self._token.drop_session()
                raise self._token.error(action, error) from error

    def _current_key(self) -> PrivateKeyObject:
        """Return the key as an object of the present session."""
        self._token.session()
        if self._generation != self._token.generation:
            self._key = find_key(self._token, self._uri, self._pins, self._certified or self._public_key)
            self._generation = self._token.generation
        return self._key

    def _sign_ecdsa(self, message: bytes, hash: HashName) -> bytes:
        key = self._current_key()
        digest = hashlib.new(hash, message).digest()
        if len(digest) > 32:  # ECDSA takes the leftmost bits (FIPS 186-5, 6.4.1); not every token cuts them itself.
            parameters = attributes(key.object, Attribute.EC_PARAMS).get(Attribute.EC_PARAMS, b"")
            digest = digest[: ORDER_BYTES.get(parameters)]
        return self._sign(key, digest, Mechanism.ECDSA)

    def _sign_rsa(self, message: bytes, hash: HashName) -> bytes:
        key, mechanism = self._current_key(), _RSA_MECHANISMS[hash]
        if self._offers(mechanism):
            return self._sign(key, message, mechanism)
        return self._sign(key, _DIGEST_INFO[hash] + hashlib.new(hash, message).digest(), Mechanism.RSA_PKCS)

    def _sign(self, key: PrivateKeyObject, data: bytes, mechanism: Mechanism) -> bytes:
        pin = self._token.signature_pin(self._uri, self._pins) if key.always_authenticate else None
        signature: bytes = key.object.sign(data, mechanism=mechanism, pin=pin)
        return signature

    def _offers(self, mechanism: Mechanism) -> bool:
        if mechanism not in self._offered:
            try:
                flags = self._token.token.slot.get_mechanism_info(mechanism).flags
            except MechanismInvalid:
                flags = MechanismFlag(0)
            self._offered[mechanism] = bool(flags & MechanismFlag.SIGN)
        return self._offered[mechanism]
