"""Keys and certificates of PKCS #11 tokens, named by RFC 7512 URIs.

Searches, logins and signatures hold the module's lock; a token has one session and one login in a process, which all
its open keys share, and which ends with the last of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from pkcs11 import Attribute, Mechanism, MechanismFlag, PKCS11Error
from pkcs11.exceptions import MechanismInvalid
from pkcs11.types import Token

from hwsigner.backends._pkcs11_module import TOKEN_ATTRIBUTES, Module, load_module, serial_text
from hwsigner.backends._pkcs11_objects import (
    ALGORITHMS,
    ORDER_BYTES,
    CertificateObject,
    PrivateKeyObject,
    attributes,
    encode_ecdsa_signature,
    find_certificate_objects,
    find_private_keys,
    has_visible_match,
    object_uri,
    public_key_of,
    supported,
)
from hwsigner.backends._pkcs11_token import OpenToken, acquire, token_name
from hwsigner.errors import (
    AmbiguousKeyError,
    CertificateError,
    KeyNotFoundError,
    PinRequiredError,
    SigningKeyError,
)
from hwsigner.key import ECDSA, Algorithm, FoundCertificate, HashName, Key
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

_PATH = TOKEN_ATTRIBUTES | {"object", "id", "type"}
_QUERY = frozenset({"module-path", "module-name"})
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
_LISTED = 10
T = TypeVar("T")


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the private key that a `pkcs11:` URI names. `type` is ignored: a certificate's URI finds its key too.

    Args:
        uri: token and slot attributes, `object`, `id`; the query's `module-path`, `module-name`, `pin-source`.
        pins: where the user PIN comes from, if the token wants a login.
        public_key: the certificate's DER SubjectPublicKeyInfo, which decides among several keys.

    Raises:
        UsageError: the URI has an attribute that is not known here.
        BackendUnavailableError: the module or the token is missing.
        KeyNotFoundError, AmbiguousKeyError: no key or several; the hint lists what is there.
        PinError: the PIN is missing, wrong (it was sent once), locked, or at risk of being locked.
        UnsupportedKeyError: the key is neither EC nor RSA, or may not sign.
    """
    uri.require_known(_PATH, _QUERY)
    module = load_module(uri)
    with module.lock:
        token = acquire(module, _choose_token(module, uri, public_key))
        token.forget_refusal()
        try:
            key = _find_key(token, uri, pins, public_key)
            return PKCS11Key(token, key, uri, pins, public_key=public_key)
        except BaseException as error:
            token.release()
            if isinstance(error, PKCS11Error):
                raise token.error("can't be searched", error) from error
            raise


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the X.509 certificates that a `pkcs11:` URI names, on all the tokens that it names.

    Certificates are looked for without a login first; only where there are none, on a single token, after one. A URI
    with neither `object` nor `id` means private ones too: a single token is logged in to first, if its PIN is stored.

    Raises:
        UsageError: the URI has an attribute that is not known here.
        BackendUnavailableError: the module or the token is missing.
        CertificateError: there is none.
        PinError: the PIN of a token that is logged in to is wrong or locked.
    """
    uri.require_known(_PATH, _QUERY)
    module = load_module(uri)
    with module.lock:
        tokens = module.matching_tokens(uri)
        is_wide = not {"object", "id"} & uri.path.keys()
        login = pins if is_wide and len(tokens) == 1 and pins.stored(uri) is not None else None
        found = [one for token in tokens for one in _certificates(acquire(module, token), uri, login=login)]
        cause: PinRequiredError | None = None
        if not found and len(tokens) == 1:
            try:
                found = _certificates(acquire(module, tokens[0]), uri, login=pins)
            except PinRequiredError as error:
                cause = error
    if not found:
        searched = f"Searched: {', '.join(token_name(token) for token in tokens)}"
        hint = f"{searched}, without a PIN and so for public certificates only" if cause else searched
        raise CertificateError(f"no certificate is named by {uri.name}", hint) from cause
    return found


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
            self._key = _find_key(self._token, self._uri, self._pins, self._certified or self._public_key)
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


def _choose_token(module: Module, uri: KeyURI, public_key: bytes | None) -> Token:
    """Return the one token that the URI names. A PIN goes to one token only: a doubt is an error before any login."""
    tokens = module.matching_tokens(uri)
    if len(tokens) == 1:
        return tokens[0]
    holding = [token for token in tokens if _shows_key(module, token, uri, public_key)]
    if len(holding) == 1:
        return holding[0]
    listed = ", ".join(f"'{token.label}' (serial {serial_text(token)})" for token in holding or tokens)
    raise AmbiguousKeyError(
        f"{uri.name} names {len(holding or tokens)} tokens: {listed}",
        "Add token= or serial= to the key URI; no PIN was sent to any of them",
    )


def _shows_key(module: Module, token: Token, uri: KeyURI, public_key: bytes | None) -> bool:
    opened = acquire(module, token)
    try:
        return has_visible_match(opened.session(), uri, public_key)
    except PKCS11Error as error:
        raise opened.error("can't be searched", error) from error
    finally:
        opened.release()


def _find_key(token: OpenToken, uri: KeyURI, pins: PinSource, public_key: bytes | None) -> PrivateKeyObject:
    if token.wants_login:
        token.log_in(uri, pins)
    keys = find_private_keys(token.session(), uri)
    if not keys and token.can_log_in:
        token.log_in(uri, pins)
        keys = find_private_keys(token.session(), uri)
    if len(keys) > 1 and public_key is not None:
        keys = [key for key in keys if public_key_of(token.session(), key) == public_key][:1] or keys
    if len(keys) > 1:
        raise AmbiguousKeyError(
            f"{uri.name} names {len(keys)} keys on {token.name}", f"Use one of {_listed(token, keys, uri)}"
        )
    if not keys:
        raise _not_found(token, uri)
    return supported(keys[0], uri)


def _not_found(token: OpenToken, uri: KeyURI) -> KeyNotFoundError:
    anything = KeyURI("pkcs11", {}, uri.query)
    keys = find_private_keys(token.session(), anything)
    certificates = find_certificate_objects(token.session(), anything)
    listed = _listed(token, (*keys, *certificates), uri)
    hint = f"It holds {listed}" if listed else "It holds no keys and no certificates"
    return KeyNotFoundError(f"no key is named by {uri.name} on {token.name}", hint)


def _listed(token: OpenToken, found: Sequence[PrivateKeyObject | CertificateObject], uri: KeyURI) -> str:
    uris = [object_uri(token.token, one, uri) for one in found[:_LISTED]]
    return ", ".join(uris) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")


def _certificates(token: OpenToken, uri: KeyURI, *, login: PinSource | None = None) -> list[FoundCertificate]:
    """Return the certificates on a token that the URI names, and release the token."""
    try:
        if login is not None:
            token.forget_refusal()
        if login is not None and token.can_log_in:
            token.log_in(uri, login)
        found = find_certificate_objects(token.session(), uri)
        return [FoundCertificate(one.der, object_uri(token.token, one, uri)) for one in found]
    except PKCS11Error as error:
        raise token.error("can't be searched", error) from error
    finally:
        token.release()
