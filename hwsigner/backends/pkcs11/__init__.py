"""Keys and certificates of PKCS #11 tokens, named by RFC 7512 URIs.

A token has one session and one login in a process. All its open keys share them, and they end with its last open key.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.key import PKCS11Key
from hwsigner.backends.pkcs11.module import TOKEN_ATTRIBUTES
from hwsigner.backends.pkcs11.objects import count_names, find_objects, object_uri
from hwsigner.backends.pkcs11.paths import is_trusted, module_paths
from hwsigner.backends.pkcs11.pins import names_token, token_name, user_pin_request
from hwsigner.backends.pkcs11.search import FoundToken, choose_token, find_key, find_tokens, using
from hwsigner.backends.pkcs11.token import acquire
from hwsigner.errors import CertificateError, HwsignerWarning, PinRequiredError, SigningKeyError, UsageError
from hwsigner.key import FoundCertificate, Key

if TYPE_CHECKING:
    from hwsigner.key.listing import ListedToken

_PATH = TOKEN_ATTRIBUTES | {"object", "id", "type"}
_QUERY = frozenset({"module-path", "module-name"})
_TYPES = (b"private", b"public", b"cert")


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the private key that a `pkcs11:` URI names: by itself, or by its certificate or public key.

    The certificate's public key, DER SubjectPublicKeyInfo, decides among several keys. A wrong PIN is sent once.
    """
    check_uri(uri)
    found = choose_token(uri, public_key)
    token = acquire(found.module, found.info)
    try:
        with token.lock:
            token.forget_refusal()
            key = find_key(token, uri, pins, public_key)
            return PKCS11Key(token, key, uri, pins, public_key=public_key)
    except BaseException as error:
        token.release()
        if isinstance(error, PKCS11Error):
            raise token.error("can't be searched", error) from error
        raise


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the X.509 certificates that a `pkcs11:` URI names, on all the tokens that it names.

    They are searched for without a login first. Only if there are none, and the URI names a single token, hwsigner logs
    in to it. A URI with neither `object` nor `id` means private certificates too: a token that it names is logged in to
    first, if its PIN is stored. A token that can't be searched is skipped if another one has certificates. If no token
    has one, that is a CertificateError.
    """
    check_uri(uri)
    tokens = find_tokens(uri)
    single = tokens[0] if len(tokens) == 1 else None
    means_private = single and names_token(uri) and not {"object", "id"} & uri.path.keys()
    found: list[FoundCertificate] = []
    errors: list[SigningKeyError] = []
    if not (means_private and single and pins.stored(uri, user_pin_request(single.info)) is not None):
        for token in tokens:
            try:
                found += _certificates(token, uri, others=tokens)
            except SigningKeyError as error:
                errors.append(error)
    if errors and not found:
        raise errors[0]
    cause: PinRequiredError | None = None
    if not found and single:
        try:
            found = _certificates(single, uri, login=pins)
        except PinRequiredError as error:
            cause = error
    if not found:
        searched = f"Searched: {', '.join(token_name(one.info) for one in tokens)}"
        hint = f"{searched}, for public certificates only: {cause.message}" if cause else searched
        raise CertificateError(f"no certificate is named by {uri.name}", hint) from cause
    return found


def list_tokens(uri: KeyURI, pins: PinSource, *, log_in: bool = False) -> Iterator[ListedToken]:
    """Yield the tokens that a `pkcs11:` URI names, with what they show; see `hwsigner.key.listing.list_tokens`."""
    from hwsigner.backends.pkcs11 import listing

    check_uri(uri)
    return listing.list_tokens(uri, pins if log_in else None)


def check_modules(uri: KeyURI) -> None:
    """Refuse a URI whose module is neither in the system's folders nor known: see `Backend`."""
    for path in module_paths(uri) if "module-path" in uri.query else ():
        if not is_trusted(path):
            raise UsageError(
                f"PKCS #11 module {path} is neither in the system's library folders nor in p11-kit's configuration",
                "Give allow_modules=True if the key URI may load any module",
            )


def check_uri(uri: KeyURI) -> None:
    """Check the attributes of a `pkcs11:` URI. A vendor's is ignored, with a warning."""
    vendor = [name for name in (*uri.path, *uri.query) if _is_vendors(name)]
    uri.require_known(_PATH.union(vendor), _QUERY.union(vendor))
    for name in vendor:
        problem = f"{name!r} of {uri.name} is ignored"
        warnings.warn(HwsignerWarning(problem, "Leave it out, or correct it"), stacklevel=3)
    if not uri.path.get("slot-id", b"0").isdigit():
        raise UsageError(f"{uri.name} has a slot-id that is not a number", "Write slot-id=0, or name the token")
    if not re.fullmatch(rb"\d+(\.\d+)?", uri.path.get("library-version", b"0")):  # RFC 7512, 2.3.
        raise UsageError(f"{uri.name} has a library-version that is not a version", "Write library-version=2 or 2.6")
    if uri.path.get("type", b"private") not in _TYPES:
        raise UsageError(
            f"{uri.name} has a type that is neither a key nor a certificate", "Write type=private or type=cert"
        )


def _is_vendors(name: str) -> bool:
    """Return whether an attribute is a vendor's (RFC 7512, 2.3): a name with a prefix, not a misspelt one."""
    known = _PATH | _QUERY | {"pin-value", "pin-source"}
    if name in known or "-" not in name:
        return False
    from difflib import get_close_matches

    return name.startswith("x-") or not get_close_matches(name, known, cutoff=0.65)


def _certificates(
    found: FoundToken, uri: KeyURI, *, login: PinSource | None = None, others: Sequence[FoundToken] = ()
) -> list[FoundCertificate]:
    """Return the certificates on a token that the URI names."""
    with using(found) as token:
        if login is not None:
            token.forget_refusal()
            if token.can_log_in:
                token.log_in(uri, login)
        objects = find_objects(token.current_session(), uri).certificates
        place, names = found.named(others), count_names(objects)
        return [FoundCertificate(one.der, object_uri(one, place, uri, names)) for one in objects]


if TYPE_CHECKING:
    from hwsigner.backends import pkcs11
    from hwsigner.key import ChecksModules, FindsCertificates, OpensKeys
    from hwsigner.key.listing import ListsTokens

    class _Backend(OpensKeys, FindsCertificates, ListsTokens, ChecksModules, Protocol): ...

    _: _Backend = pkcs11
