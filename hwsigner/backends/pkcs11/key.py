"""A key on a PKCS #11 token: its signatures, and finding it again when its session has gone."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, PKCS11Error

from hwsigner.backends.pkcs11.der import encode_ecdsa_signature
from hwsigner.backends.pkcs11.errors import SESSION_LOST
from hwsigner.backends.pkcs11.objects import ALGORITHMS, ORDER_BYTES, PrivateKeyObject, attributes, public_key_of
from hwsigner.backends.pkcs11.registry import let_forks_pass
from hwsigner.backends.pkcs11.search import find_key
from hwsigner.backends.pkcs11.session import handle
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import SigningKeyError
from hwsigner.key import Algorithm, HashName, Key
from hwsigner.pins import PinSource
from hwsigner.system import notices
from hwsigner.system.stderr import quiet
from hwsigner.uri import KeyURI

_RSA_MECHANISMS = {
    "sha256": Mechanism.SHA256_RSA_PKCS,
    "sha384": Mechanism.SHA384_RSA_PKCS,
    "sha512": Mechanism.SHA512_RSA_PKCS,
}
_ECDSA_MECHANISMS = {
    "sha256": Mechanism.ECDSA_SHA256,
    "sha384": Mechanism.ECDSA_SHA384,
    "sha512": Mechanism.ECDSA_SHA512,
}
# The DER of DigestInfo up to the digest (RFC 8017, 9.2, note 1).
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
T = TypeVar("T")


class _Way(NamedTuple):
    """How a key signs: what the mechanism gets of a message, and what becomes of its signature."""

    mechanism: int
    prepare: Callable[[bytes], bytes]
    finish: Callable[[bytes], bytes]


class PKCS11Key(Key):
    """A private key on a token. It takes over one use of the token, and releases it when closed."""

    def __init__(
        self, token: OpenToken, key: PrivateKeyObject, uri: KeyURI, pins: PinSource, *, public_key: bytes | None
    ) -> None:
        self._token = token
        self._notice = f"touch {token.name} if it blinks: its signature is waited for"
        self._key = key
        self._generation = token.generation
        self._uri = uri
        self._pins = pins
        self._certified = public_key
        self._public_key: bytes | None = None
        self._ways: dict[HashName, _Way] = {}
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
            self._public_key = self._call("can't show the public key", self._shown_public_key)
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message: ECDSA with the digest made here, RSA with the token's own hash, each where it has that.

        Where the session has ended since the last signature, because the token was removed and is back, the signature
        is made with another one; not so where a PIN was sent for this signature.

        Raises:
            TokenRemovedError: the token is not there, or went away meanwhile.
            SigningKeyError: the key is closed, or the token can't sign; what it says is in the message.
            PinError: the PIN for this signature is missing, wrong or locked.
        """
        return self._call("could not sign", lambda: self._sign(message, hash))

    def close(self) -> None:
        """Release the token, which is logged out with the last of its keys."""
        with self._token.lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._token.release()

    def _call(self, action: str, call: Callable[[], T]) -> T:
        token = self._token
        let_forks_pass()
        with token.lock:
            if self._is_closed:
                raise SigningKeyError(f"key {self._uri.name} is closed", "Open it again")
            try:
                try:
                    return call()
                except SESSION_LOST:
                    token.drop_session()
                    if self._key.always_authenticate:
                        raise
                    return call()
            except PKCS11Error as error:
                # The failed operation may still be active on the session, and there is no way to cancel it.
                token.drop_session()
                raise token.failure(action, error) from error

    def _current_key(self) -> PrivateKeyObject:
        """Return the key as an object of the present session."""
        # No PIN is to be asked for in vain.
        self._token.drop_lost_session(thoroughly=self._key.always_authenticate)
        self._token.session()
        if self._generation != self._token.generation:
            self._key = find_key(self._token, self._uri, self._pins, self._certified or self._public_key)
            self._generation = self._token.generation
        return self._key

    def _shown_public_key(self) -> bytes | None:
        key = self._current_key()
        return public_key_of(self._token.session(), key)

    def _sign(self, message: bytes, hash: HashName) -> bytes:
        key = self._current_key()
        way = self._ways.get(hash) or self._ways.setdefault(hash, self._way(hash))
        data = way.prepare(message)
        calls, session = self._token.module.calls, handle(self._token.session())
        if key.always_authenticate:
            begin = functools.partial(calls.begin_signature, session, key.object.handle, way.mechanism)
            self._token.log_in_for_signature(self._uri, self._pins, begin)
        else:
            calls.begin_signature(session, key.object.handle, way.mechanism)
        with notices.waiting(self._notice), quiet():
            signature = calls.complete_signature(session, data)
        return way.finish(signature)

    def _way(self, hash: HashName) -> _Way:
        if self._key.key_type == KeyType.EC:
            return self._ecdsa_way(hash)
        if self._key.key_type == KeyType.RSA:
            return self._rsa_way(hash)
        return _Way(Mechanism.ML_DSA, bytes, bytes)

    def _ecdsa_way(self, hash: HashName) -> _Way:
        hashing = _ECDSA_MECHANISMS[hash]
        if self._offers(hashing) and not self._offers(Mechanism.ECDSA):
            return _Way(hashing, bytes, encode_ecdsa_signature)
        algorithm = getattr(hashlib, hash)
        size: int | None = None
        if algorithm().digest_size > 32:  # ECDSA takes the leftmost bits (FIPS 186-5, 6.4.1); not every token cuts.
            parameters = attributes(self._key.object, Attribute.EC_PARAMS).get(Attribute.EC_PARAMS, b"")
            size = ORDER_BYTES.get(parameters)
        return _Way(Mechanism.ECDSA, lambda message: algorithm(message).digest()[:size], encode_ecdsa_signature)

    def _rsa_way(self, hash: HashName) -> _Way:
        if self._offers(_RSA_MECHANISMS[hash]):
            return _Way(_RSA_MECHANISMS[hash], bytes, bytes)
        algorithm, head = getattr(hashlib, hash), _DIGEST_INFO[hash]
        return _Way(Mechanism.RSA_PKCS, lambda message: head + algorithm(message).digest(), bytes)

    def _offers(self, mechanism: Mechanism) -> bool:
        try:
            flags = self._token.token.slot.get_mechanism_info(mechanism).flags
        except PKCS11Error:
            return False
        return bool(flags & MechanismFlag.SIGN)
