"""What guards a stored PIN, which would be sent again and again: to which token it goes, and that it fails but once.

Some modules (OpenSC's) show nothing after one wrong PIN, so what another process's try came to is kept in a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pkcs11 import PKCS11Error
from pkcs11.exceptions import PinIncorrect, PinInvalid
from pkcs11.types import Session, Token

from hwsigner.backends import _pkcs11_refusals as refusals
from hwsigner.backends._pkcs11_identity import identity_of, names_token
from hwsigner.backends._pkcs11_objects import has_visible_match, visible_keys
from hwsigner.backends._pkcs11_pins import has_failed, pin_state
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

# A token that says itself that a try failed knows best when that is over, for another program may log in. But libykcs11
# does not see what another process did before it lists its slots again.
_TOLD = ".told"
# Not CKR_PIN_LEN_RANGE: such a PIN does not get as far as the token.
REFUSED = (PinIncorrect, PinInvalid)


class Sight:
    """What a token shows of a key before the first login. By it the token is known again after it was away."""

    def __init__(self) -> None:
        self._uri: KeyURI | None = None
        self._shown: set[bytes] = set()

    def remember(self, session: Session, uri: KeyURI) -> None:
        """Look at what a URI names on the token, unless something was remembered before."""
        if self._uri is None:
            self._uri = uri
            with suppress(PKCS11Error):  # Some tokens let nobody search before a login.
                self._shown = visible_keys(session, uri)

    def is_same(self, session: Session, *, is_twin: bool) -> bool:
        """Tell whether the token shows something of that again; without that, one with a twin is not known again."""
        if self._uri is None:
            return True
        return bool(self._shown & visible_keys(session, self._uri)) if self._shown else not is_twin


def is_anothers(session: Session, uri: KeyURI, public_key: bytes | None) -> bool:
    """Tell whether a token shows without a login that a URI that names no token means another one.

    It does if it shows keys or certificates, and none is the certificate's or has the URI's label and id.

    Args:
        session: a session with the token.
        uri: the URI.
        public_key: the certificate's DER SubjectPublicKeyInfo, where it is known.
    """
    anything = KeyURI("pkcs11", {})
    if names_token(uri):
        return False
    try:
        if public_key is not None:
            shown = visible_keys(session, anything)
            return bool(shown) and public_key not in shown
        return not has_visible_match(session, uri, None) and has_visible_match(session, anything, None)
    except PKCS11Error:
        return False


@contextmanager
def only_try(token: Token, pins: PinSource, looked_at: float, *, is_twin: bool) -> Iterator[None]:
    """Send a stored PIN, in the body of the `with` statement, unless one was refused before; keep it if this one is.

    Args:
        token: the token.
        pins: say whether a person has allowed the try.
        looked_at: when the module has looked at the token, in time of `time.time()`.
        is_twin: only its slot tells the token from another one.

    Raises:
        PinLockedError: an earlier one was refused, by whichever process.
    """
    own, shared = _name(token, is_twin=is_twin), _name(token, is_twin=False)
    with refusals.one_process(shared):
        is_held_back = refusals.is_kept(own) or refusals.is_kept(own + _TOLD, since=looked_at)
        if is_held_back and not pins.allow_final_try:
            raise has_failed(token)
        try:
            yield
        except REFUSED:
            kind = _TOLD if pin_state(_now(token)) else ""
            for name in {own, shared}:
                refusals.keep(name + kind)
            raise


def forget_refusals(token: Token, *, is_twin: bool, by_hand: bool) -> None:
    """Let a stored PIN be sent again, after a login. One by hand counts for processes too that have seen no twin."""
    names = {_name(token, is_twin=is_twin), *([_name(token, is_twin=False)] if by_hand else [])}
    for name in names:
        refusals.forget(name)
        refusals.forget(name + _TOLD)


def _now(token: Token) -> Token:
    """Return the token with its flags as they are now."""
    with suppress(PKCS11Error):
        return token.slot.get_token()
    return token


def _name(token: Token, *, is_twin: bool) -> str:
    """Return what a token's refusal is filed under. Not the label itself, which may be no file's name."""
    identity = (*identity_of(token), token.slot.slot_id if is_twin else "")
    return f"pkcs11-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
