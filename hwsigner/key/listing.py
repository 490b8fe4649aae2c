"""From a key URI to a list of tokens, with what is on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from hwsigner._pins import AskPin, PinSource
from hwsigner._uri import KeyURI
from hwsigner.key import capability


class ListedObject(NamedTuple):
    """A key or a certificate on a token, as `list_tokens` shows it.

    Attributes:
        kind: `key` or `certificate`.
        label: the CKA_LABEL; bytes that are not UTF-8 are escaped.
        id: the CKA_ID.
        uri: the URI that names it.
        algorithm: a key's type, as the PKCS #11 specification names it (`EC`). A certificate's is in its public key.
        public_key: the DER SubjectPublicKeyInfo, or None if the token does not show it.
        certificate: a certificate's DER bytes.
        is_hidden: whether it is shown only after a login. Before, only its public key is visible.
        pin_for_each_signature: CKA_ALWAYS_AUTHENTICATE.
        notes: what else matters for its use, a few words each: `noDA`, `policy`, `can be copied`.
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
    notes: tuple[str, ...] = ()


class ListedToken(NamedTuple):
    """A token, with the objects that it shows.

    Attributes:
        module: the path of the PKCS #11 module.
        label, manufacturer, model, serial: the token's details, without padding.
        slot_id: its slot's number, which may change.
        uri: the URI that names only this token.
        wants_login: whether private keys are hidden until a login.
        has_keypad: whether the PIN is typed at the token itself.
        pin_state: `good`, `an earlier try failed`, `one try is left`, `locked` or `not set`;
            empty if it can't be known.
        objects: the keys and certificates that it shows.
        other_keys: keys that can't make the service's signatures, such as a TPM's storage root key.
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
    other_keys: tuple[ListedObject, ...] = ()


class ListsTokens(Protocol):
    """A backend whose tokens can be listed."""

    def list_tokens(self, uri: KeyURI, pins: PinSource, *, log_in: bool = False) -> Iterator[ListedToken]:
        """Yield the tokens that a key URI names, with what they show; see `list_tokens`."""
        ...


def list_tokens(
    uri: str | KeyURI = "pkcs11:",
    pin: str | AskPin | PinSource | None = None,
    *,
    log_in: bool = False,
    allow_modules: bool = False,
) -> Iterator[ListedToken]:
    """Yield the tokens that a URI names, with the keys and certificates on them that it names.

    Args:
        uri: a `pkcs11:` URI, or `tpm2:`. A `pkcs11:` URI without a module means those of p11-kit's configuration.
        pin: where the PIN comes from for `log_in`.
        log_in: whether to log in to the token, to see hidden objects.
        allow_modules: whether the URI may name any library to load, as in `open_key`.

    Raises:
        UsageError: the URI is malformed, names a library that needs `allow_modules`, or its backend has no tokens to
            list.
        BackendUnavailableError: there is no module.
        AmbiguousKeyError: `log_in` is set and the URI names several tokens. No PIN was sent.
        PinError: the PIN is missing, wrong or locked.

    Warns:
        HwsignerWarning: a module or a token can't be used. The others are listed.
    """
    parsed = KeyURI.of(uri).resolved()
    lack = f"{parsed.scheme}: keys can't be listed", "Give a pkcs11: or tpm2: URI, or none"
    function, module = ListsTokens.list_tokens, parsed.backend.module
    list_named = capability(parsed, function, module, lack, returns=[ListedToken], allow_modules=allow_modules)
    yield from list_named(parsed, PinSource.of(pin), log_in=log_in)
