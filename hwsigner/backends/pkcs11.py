"""Keys and certificates of PKCS #11 tokens, named by RFC 7512 URIs.

Searches, logins and signatures hold the module's lock; a token has one session and one login in a process, which all
its open keys share, and which ends with the last of them.
"""

from __future__ import annotations

from pkcs11 import PKCS11Error

from hwsigner.backends._pkcs11_key import PKCS11Key
from hwsigner.backends._pkcs11_module import TOKEN_ATTRIBUTES, load_module
from hwsigner.backends._pkcs11_objects import find_certificate_objects, object_uri
from hwsigner.backends._pkcs11_search import choose_token, find_key
from hwsigner.backends._pkcs11_token import OpenToken, acquire, token_name, user_pin_request
from hwsigner.errors import CertificateError, PinRequiredError
from hwsigner.key import FoundCertificate, Key
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

_PATH = TOKEN_ATTRIBUTES | {"object", "id", "type"}
_QUERY = frozenset({"module-path", "module-name"})


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
        token = acquire(module, choose_token(module, uri, public_key))
        token.forget_refusal()
        try:
            key = find_key(token, uri, pins, public_key)
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
        login = (
            pins if is_wide and len(tokens) == 1 and pins.stored(uri, user_pin_request(tokens[0])) is not None else None
        )
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
