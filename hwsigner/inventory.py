"""What tokens hold, for a person who looks for the name of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hwsigner.errors import UsageError
from hwsigner.pins import AskPin, PinSource
from hwsigner.uri import KeyURI


@dataclass(frozen=True)
class ListedObject:
    """A key or a certificate on a token.

    Attributes:
        kind: `key` or `certificate`.
        label: the CKA_LABEL; bytes that are not UTF-8 are escaped.
        id: the CKA_ID.
        uri: the URI that names it.
        algorithm: the type of a key as the specification names it (`EC`); the certificate's is in its public key.
        public_key: the DER SubjectPublicKeyInfo, or None where the token does not show it.
        certificate: a certificate's DER bytes.
        is_hidden: a login is needed to see it: only the public key is seen that belongs to it.
        pin_for_each_signature: CKA_ALWAYS_AUTHENTICATE.
    """

    kind: Literal["key", "certificate"]
    label: str
    id: bytes
    uri: str
    algorithm: str = ""
    public_key: bytes | None = None
    certificate: bytes | None = None
    is_hidden: bool = False
    pin_for_each_signature: bool = False


@dataclass(frozen=True)
class ListedToken:
    """A token, with what it shows.

    Attributes:
        module: the file of the PKCS #11 module.
        label, manufacturer, model, serial: as the token has them, without padding.
        slot_id: its slot's number, which may be another one tomorrow.
        uri: the URI that names it alone.
        wants_login: private keys are hidden until a login.
        has_keypad: the PIN is typed at the token itself.
        pin_state: `good`, `an earlier try failed`, `one try is left`, `locked` or `not set`.
        objects: what it shows.
    """

    module: str
    label: str
    manufacturer: str
    model: str
    serial: str
    slot_id: int
    uri: str
    wants_login: bool
    has_keypad: bool
    pin_state: str
    objects: tuple[ListedObject, ...] = ()


def list_tokens(
    uri: str | KeyURI = "pkcs11:", pin: str | AskPin | PinSource | None = None, *, log_in: bool = False
) -> Iterator[ListedToken]:
    """Yield the tokens that a URI names, with the keys and certificates on them that it names.

    Args:
        uri: a `pkcs11:` URI. Without a module in it, the modules of p11-kit's configuration are looked at.
        pin: where the PIN comes from for `log_in`.
        log_in: log in to the token, to see what is hidden. Nothing is logged in to otherwise.

    Raises:
        UsageError: the URI is malformed, or of a kind of keys that can't be listed.
        BackendUnavailableError: there is no module.
        AmbiguousKeyError: `log_in`, and several tokens are named: no PIN was sent.
        PinError: the PIN is missing, wrong or locked.

    Warns:
        HwsignerWarning: a module or a token can't be used. The others are listed.
    """
    parsed = KeyURI.of(uri)
    find: Callable[..., Iterator[ListedToken]] | None
    find = getattr(parsed.backend.load(), "list_tokens", None)
    if find is None:
        raise UsageError(f"{parsed.scheme}: keys can't be listed", "Give a pkcs11: URI, or none")
    yield from find(parsed, PinSource.of(pin), log_in=log_in)
