"""What guards the user PIN of a PKCS #11 token: what is asked for, and when none is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pkcs11 import PKCS11Error, TokenFlag
from pkcs11.exceptions import PinIncorrect, PinInvalid
from pkcs11.types import Session, Token

from hwsigner.backends import refusals
from hwsigner.backends.pkcs11.objects import has_visible_match, visible_keys
from hwsigner.backends.pkcs11.uris import identity_of, names_token, serial_text
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, printable
from hwsigner.pins import PinRequest, PinSource
from hwsigner.system import notices
from hwsigner.uri import KeyURI

_STATES = (
    (TokenFlag.USER_PIN_LOCKED, "locked"),
    (TokenFlag.USER_PIN_FINAL_TRY, "one try is left"),
    (TokenFlag.USER_PIN_COUNT_LOW, "an earlier try failed"),
)


def token_name(token: Token) -> str:
    """Return a token as messages name it."""
    return f"token '{printable(token.label)}'"


def user_pin_request(token: Token, state: str = "", *, is_twin: bool = False) -> PinRequest:
    """Return the question for a token's user PIN.

    Args:
        token: the token.
        state: what is said of its PIN.
        is_twin: only its slot tells the token from another one.
    """
    slot = str(token.slot.slot_id) if is_twin else ""
    return PinRequest("user PIN", token_name(token), state, serial_text(token), slot)


def signature_pin_request(token: Token, *, is_twin: bool) -> PinRequest:
    """Return the question for the PIN of a key that wants it at each signature."""
    asked = user_pin_request(token, pin_state(token), is_twin=is_twin)
    return replace(asked, kind="PIN for this signature", for_one_signature=True)


def pin_state(token: Token) -> str:
    """Return what the token says of its PIN, or an empty string where that is good."""
    return next((words for flag, words in _STATES if token.flags & flag), "")


def has_keypad(token: Token) -> bool:
    """Tell whether the PIN is typed at the token."""
    return bool(token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)


def tell_of_keypad(token: Token) -> None:
    """Tell a person to type the PIN at the token."""
    notices.notify(f"type the PIN of {token_name(token)} at its keypad")


def refuse_risk(token: Token, pins: PinSource, *, is_stored: bool = False) -> None:
    """See that a try does no harm.

    Args:
        token: the token, with its flags as they are now.
        pins: says whether the final try is allowed.
        is_stored: the PIN is not one that somebody has just given, and would be wrong again and again.

    Raises:
        PinLockedError: the PIN is locked, would be with one more wrong try, or is a stored one after a wrong try.
    """
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise locked(token)
    if pins.allow_final_try:
        return
    name = token_name(token)
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinLockedError(
            f"one more wrong PIN locks {name}, so none was sent",
            "Log in once by hand with the right PIN, or allow the try with --allow-final-pin-try",
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW and is_stored:
        raise has_failed(token)


def has_failed(token: Token) -> PinLockedError:
    """Return the error of a stored PIN that is not sent, because of an earlier try."""
    return PinLockedError(
        f"an earlier PIN failed at {token_name(token)}, so the stored one was not sent",
        "Correct the stored one, and log in once by hand (hwsigner list --login) or allow a try: --allow-final-pin-try",
    )


def unmeant(token: Token, uri: KeyURI, named: KeyURI) -> PinRequiredError:
    """Return the error of a stored PIN that may be another token's.

    Args:
        token: the token.
        uri: what was looked for.
        named: the same, on this token.
    """
    return PinRequiredError(
        f"{uri.name} names no token, and {token_name(token)} shows other keys only, so the stored PIN was not sent",
        f"If it is this token, write {named.name}",
    )


def locked(token: Token) -> PinLockedError:
    """Return the error of a PIN that is locked."""
    return PinLockedError(
        f"the PIN of {token_name(token)} is locked",
        "Unblock it with its SO PIN or PUK; a TPM's lockout ends by itself, after a while",
    )


def checked(token: Token, pin: str) -> str:
    """Return a PIN that can be sent.

    Raises:
        PinError: it is empty, or no text.
    """
    if not pin:
        raise PinError(f"the PIN for {token_name(token)} is empty, so it was not sent", "Give the token's user PIN")
    try:
        pin.encode()
    except UnicodeEncodeError:
        # Not chained: the exception would carry the PIN.
        raise PinError(f"the PIN for {token_name(token)} is not UTF-8 text", "Give it as UTF-8 text") from None
    return pin


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
