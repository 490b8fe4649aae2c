"""A key on a PKCS #11 token: its signatures, and finding it again when its session has ended."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from hwsigner._pins import PinSource
from hwsigner._system import notices
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import errors, module
from hwsigner.backends.pkcs11.der import encode_ecdsa_signature
from hwsigner.backends.pkcs11.functions import KeyType, PKCS11Session
from hwsigner.backends.pkcs11.objects import ALGORITHMS, ORDER_BYTES, KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.search import find_key
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import SigningKeyError
from hwsigner.key import Algorithm, HashName, Key, unknown_hash

_CKM_RSA_PKCS, _CKM_ECDSA, _CKM_ML_DSA = 0x01, 0x1041, 0x1D
# Mechanisms with which the token makes the hash itself.
_RSA_WITH_HASH = {"sha256": 0x40, "sha384": 0x41, "sha512": 0x42}
_ECDSA_WITH_HASH = {"sha256": 0x1044, "sha384": 0x1045, "sha512": 0x1046}
# The DER of DigestInfo up to the digest (RFC 8017, 9.2, note 1).
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
T = TypeVar("T")


class SigningMethod:
    """How a key signs: the mechanism, what it gets of a message, and what becomes of its signature."""

    def __init__(self, mechanism: int, prepare: Callable[[bytes], bytes], finish: Callable[[bytes], bytes]) -> None:
        self.mechanism: Final = mechanism
        self.prepare: Final = prepare
        self.finish: Final = finish


class PKCS11Key(Key):
    """A private key on a token. It takes over one use of the token, and releases it when closed."""

    def __init__(
        self, token: OpenToken, key: KeyObject, uri: KeyURI, pins: PinSource, *, public_key: bytes | None
    ) -> None:
        self._token = token
        self._notice = f"touch {token.name} if it blinks: waiting for its signature"
        self._key = key
        self._generation = token.generation
        self._uri = uri
        self._pins = pins
        self._certified = public_key
        self._public_key: bytes | None = None
        self._methods: dict[HashName, SigningMethod] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<PKCS11Key {self._uri.name}>"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return ALGORITHMS[self._key.key_type]

    def public_key(self) -> bytes | None:
        """Return the DER SubjectPublicKeyInfo, from the key itself, its public key object or its certificate."""
        if self._public_key is None:
            problem = "can't show the public key"
            self._public_key = self._use(problem, lambda session: public_keys_of(session, [self._key])[0])
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message: ECDSA with a digest made here, RSA with the token's own hash, if it offers that.

        If the session has ended since the last signature, because the token was removed and is back, the signature is
        made in a new one, unless a PIN was sent for this signature. If the token is not there, that is a
        TokenRemovedError.
        """
        return self._use("could not sign", self._sign, message, hash)

    def close(self) -> None:
        """Release the token, which is logged out when its last key is closed."""
        with self._token.lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._token.release()

    def _use(self, action: str, call: Callable[..., T], *arguments: object) -> T:
        """Call something that takes the session and what follows here; once more if the session has ended."""
        token = self._token
        if module.is_forking:
            module.let_forks_pass()
        with token.lock:
            if self._is_closed:
                raise SigningKeyError(f"key {self._uri.name} is closed", "Open it again")
            try:
                try:
                    return call(self._session(), *arguments)
                except errors.SessionLostError:
                    token.drop_session()
                    if self._key.always_authenticate:
                        raise
                    return call(self._session(), *arguments)
            except errors.PKCS11Error as error:
                # The failed operation may still be active in the session, and there is no way to cancel it.
                token.drop_session()
                raise token.failure(action, error) from error

    def _session(self) -> PKCS11Session:
        """Return the token's session, with the key found again if the session is a new one."""
        # Thoroughly, so that the user is not asked for a PIN in vain.
        self._token.drop_lost_session(thoroughly=self._key.always_authenticate)
        session = self._token.current_session()
        if self._generation != self._token.generation:
            self._key = find_key(self._token, self._uri, self._pins, self._certified or self._public_key)
            self._generation = self._token.generation
            session = self._token.current_session()
        return session

    def _sign(self, session: PKCS11Session, message: bytes, hash: HashName) -> bytes:
        method = self._methods.get(hash) or self._methods.setdefault(hash, self._method(hash))
        data = method.prepare(message)
        if self._key.always_authenticate:
            begin = partial(session.begin_signature, self._key.handle, method.mechanism)
            self._token.log_in_for_signature(self._uri, self._pins, begin)
        else:
            session.begin_signature(self._key.handle, method.mechanism)
        since = time.monotonic()
        try:
            with notices.waiting(self._notice), quiet():
                signature = session.complete_signature(data)
        except errors.PKCS11Error as error:
            # YubiKeys answer CKR_USER_NOT_LOGGED_IN, too. If a login has ended, the answer comes at once.
            has_waited = time.monotonic() - since > notices.PATIENCE_SECONDS
            if has_waited and error.code in (errors.FUNCTION_CANCELED, errors.USER_NOT_LOGGED_IN):
                self._token.drop_session()
                hint = "Retry, and touch it when it blinks"
                raise SigningKeyError(f"{self._token.name} was not touched in time", hint) from error
            # libykcs11 2.2 answers so if the card was away meanwhile. It may mean anything in another module, where a
            # new session does no harm: its login sends the PIN that was right, and is not repeated if that fails. A
            # lasting fault costs one more signature, and is raised then.
            if not has_waited and error.code == errors.DEVICE_ERROR:
                raise errors.SessionLostError(error.code) from error
            raise
        return method.finish(signature)

    def _method(self, hash: HashName) -> SigningMethod:
        """Return how the key signs with a hash. A mechanism that the token does not list is still tried."""
        if hash not in _RSA_WITH_HASH:
            raise unknown_hash(hash)
        algorithm = getattr(hashlib, hash)
        if self._key.key_type == KeyType.ML_DSA:
            return SigningMethod(_CKM_ML_DSA, _whole, bytes)
        if self._key.key_type != KeyType.EC:
            if self._offers(_RSA_WITH_HASH[hash]):
                return SigningMethod(_RSA_WITH_HASH[hash], _whole, bytes)
            return SigningMethod(_CKM_RSA_PKCS, lambda message: _DIGEST_INFO[hash] + algorithm(message).digest(), bytes)
        if self._offers(_ECDSA_WITH_HASH[hash]) and not self._offers(_CKM_ECDSA):
            return SigningMethod(_ECDSA_WITH_HASH[hash], _whole, encode_ecdsa_signature)
        # ECDSA takes the leftmost bits (FIPS 186-5, 6.4.1), but not every token cuts a digest that is too long.
        size = ORDER_BYTES.get(self._key.curve)
        return SigningMethod(_CKM_ECDSA, lambda message: algorithm(message).digest()[:size], encode_ecdsa_signature)

    def _offers(self, mechanism: int) -> bool:
        return self._token.module.functions.can_sign_with(self._token.info.slot, mechanism)


def _whole(message: bytes) -> bytes:
    return bytes(memoryview(message))  # bytes(5) would be five NUL bytes.
