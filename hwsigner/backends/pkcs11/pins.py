"""The user PIN of a token: what the user is asked, and when no PIN is sent."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hwsigner._pins import FoundPin, PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends import refusals
from hwsigner.backends.pkcs11.errors import PinRefusedError, PKCS11Error
from hwsigner.backends.pkcs11.functions import PKCS11Session, TokenFlag, TokenInfo
from hwsigner.backends.pkcs11.module import Module, token_uri
from hwsigner.backends.pkcs11.pairing import has_visible_match, visible_keys
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, printable

_STATES = (
    (TokenFlag.USER_PIN_LOCKED, "locked"),
    (TokenFlag.USER_PIN_FINAL_TRY, "one try is left"),
    (TokenFlag.USER_PIN_COUNT_LOW, "an earlier try failed"),
)
# What is a token's own, or its place; many tokens have the same manufacturer or model.
_NAMING = frozenset({"token", "serial", "slot-id", "slot-description"})
# Marks a refusal that the token's flags show too. The flags say when it is over, for another program may log in. But
# libykcs11 does not see what another process did before it lists its slots again.
_IN_FLAGS = ".shown"
# A login has begun and not ended.
_OPEN = ".open"
_BY_HAND = (
    "Correct the stored PIN, then add --allow-final-pin-try once; or run hwsigner list --login with the token's URI, "
    "without pin-source, and type the PIN"
)
# Names the file of the stored PIN that was right.
_RIGHT = ".right"


def token_name(token: TokenInfo) -> str:
    """Return a token as messages name it."""
    return f"token '{printable(token.label)}'"


def pin_state(token: TokenInfo) -> str:
    """Return the token's warning about its PIN, or an empty string."""
    return next((words for flag, words in _STATES if token.flags & flag), "")


def listed_pin_state(token: TokenInfo) -> str:
    """Return the state of a token's PIN for `list_tokens`. Many tokens do not report a refusal; hwsigner keeps it."""
    if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
        return "not set"
    return pin_state(token) or ("an earlier try failed" if refusals.is_kept(_name(token)) else "good")


def has_tries_left(token: TokenInfo) -> bool:
    """Whether a token shows, after a wrong PIN, that another one would not be the last attempt."""
    last = TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED
    return bool(token.flags & TokenFlag.USER_PIN_COUNT_LOW) and not token.flags & last


def has_keypad(token: TokenInfo) -> bool:
    """Whether the PIN is typed at the token."""
    return bool(token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)


def names_token(uri: KeyURI) -> bool:
    """Whether a URI says which token it means, and not only which key."""
    return bool(_NAMING & uri.path.keys())


def user_pin_request(token: TokenInfo) -> PinRequest:
    """Return the question for a token's user PIN."""
    return PinRequest("user PIN", token_name(token), pin_state(token), token.serial)


def signature_pin_request(token: TokenInfo) -> PinRequest:
    """Return the question for the PIN of a key that needs it for each signature."""
    return user_pin_request(token)._replace(kind="PIN for this signature", for_one_signature=True)


def refuse_risk(token: TokenInfo, pins: PinSource, found: FoundPin | None = None, *, module: str) -> None:
    """Check that a wrong PIN would do no harm. A stored one would be sent again and again.

    It would if the PIN is locked, or would be with one more wrong attempt, or is a stored one after a wrong attempt and
    was not right before: a PinLockedError.
    """
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise locked(token, module)
    if pins.allow_final_try:
        return
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinLockedError(
            f"one more wrong PIN locks {token_name(token)}, so none was sent",
            "Log in with the right PIN in another program, or add --allow-final-pin-try",
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW and found and found.is_stored and not _was_right(token, found):
        raise _has_failed(token)


def refuse_stranger(session: PKCS11Session, token: TokenInfo, uri: KeyURI, public_key: bytes | None) -> None:
    """Check that a token may be the one that a URI means, before a stored PIN is sent to it.

    It is not if the URI names no token, and this one shows keys or certificates without a login, none of which is the
    certificate's (`public_key`, if it is known) or has the URI's label and id. A token that is another one is a
    PinRequiredError.
    """
    if names_token(uri):
        return
    anything = KeyURI("pkcs11", {})
    try:
        if public_key is not None:
            shown = visible_keys(session, anything)
            is_other = bool(shown) and public_key not in shown
        else:
            is_other = not has_visible_match(session, uri, None) and has_visible_match(session, anything, None)
    except PKCS11Error:
        return
    if is_other:
        name = token_name(token)
        named = uri.changed(path={**token_uri(token, uri).path, **uri.path})
        raise PinRequiredError(
            f"{uri.name} names no token, and {name} shows only other keys, so the stored PIN was not sent",
            f"If you mean this token, write {named.name}",
        )


def locked(token: TokenInfo, module: str) -> PinLockedError:
    """Return the error for a PIN that is locked, with the command that unblocks it through the module at a path."""
    name = os.path.basename(module)
    if "tpm2_pkcs11" in name:
        hint = "Wait until the TPM's lockout ends, or run tpm2_dictionarylockout --clear-lockout"
    elif "ykcs11" in name or token.manufacturer.startswith("Yubico"):
        hint = "With the PUK, run ykman piv access unblock-pin or yubico-piv-tool -a unblock-pin"
    else:
        tool = ["pkcs11-tool", "--module", module, "--token-label", token.label]
        hint = f"With the SO PIN, run {shlex.join(tool)} --login --login-type so --init-pin"
        if token.manufacturer == "piv_II":  # Of OpenSC, which shows a YubiKey so too.
            hint = "With the PUK, run pkcs15-tool --unblock-pin, or ykman piv access unblock-pin for a YubiKey"
    return PinLockedError(f"the PIN of {token_name(token)} is locked", hint)


def checked(token: TokenInfo, pin: str) -> str:
    """Return a PIN that can be sent. An empty one, and one that is not text, is a PinError."""
    if not pin:
        raise PinError(f"the PIN for {token_name(token)} is empty, so it was not sent", "Give the token's user PIN")
    try:
        pin.encode()
    except UnicodeEncodeError:
        # Not chained: the exception would carry the PIN.
        raise PinError(f"the PIN for {token_name(token)} is not UTF-8 text", "Give it as UTF-8 text") from None
    return pin


class TokenFingerprint:
    """The public keys that a token shows before the first login, to recognise it after it was removed."""

    def __init__(self) -> None:
        self._uri: KeyURI | None = None
        self._shown: set[bytes] = set()

    def take(self, session: PKCS11Session, uri: KeyURI) -> None:
        """Remember what a URI names on the token, unless this was done before."""
        if self._uri is None:
            self._uri = uri
            with suppress(PKCS11Error):  # Some tokens can't be searched before a login.
                self._shown = visible_keys(session, uri)

    def fits(self, session: PKCS11Session) -> bool:
        """Whether the token shows one of these keys again. A token that showed none at first always fits."""
        return self._uri is None or not self._shown or bool(self._shown & visible_keys(session, self._uri))


@contextmanager
def only_try(module: Module, token: TokenInfo, found: FoundPin | None, pins: PinSource) -> Iterator[None]:
    """Send a PIN (None: a keypad) in the body of the `with` statement. If it is stored and refused, remember that.

    A process that is killed meanwhile may have used an attempt. So the file `NAME.open` counts logins that began, until
    one ends. It can be seen only if the process that wrote it has died, and after two such processes no PIN is sent.

    Raises:
        PinLockedError: the PIN is stored, and the token refused a stored one before, in this or another process; or
            two logins with one were cut short; or no folder can keep a refusal.
    """
    if found is None or not found.is_stored:
        yield
        return
    name = _name(token)
    with refusals.one_process(name):
        if not pins.allow_final_try and not _was_right(token, found):
            _refuse_to_repeat(module, token)
        is_noted = refusals.note(name + _OPEN, "open 2" if refusals.noted(name + _OPEN) else "open 1")
        if not (is_noted or pins.allow_final_try):
            raise PinLockedError(
                f"no folder can keep whether the stored PIN of {token_name(token)} is wrong, so it was not sent",
                "Set XDG_STATE_HOME to a folder that you can write (StateDirectory= in a unit)",
            )
        try:
            yield
        except Exception as error:
            if isinstance(error, PinRefusedError):
                if _was_right(token, found):
                    refusals.forget(name + _RIGHT)
                with suppress(PKCS11Error):
                    token = module.functions.token(token.slot)
                refusals.keep(name + _IN_FLAGS if pin_state(token) else name)
            refusals.forget(name + _OPEN)  # Last: this process may be killed before.
            raise
        refusals.forget(name + _OPEN)
        if found.place and not _was_right(token, found):
            refusals.note(name + _RIGHT, found.place)


def _refuse_to_repeat(module: Module, token: TokenInfo) -> None:
    """Raise a PinLockedError if a stored PIN was refused before, or two logins with one were cut short."""
    name = _name(token)
    if refusals.is_kept(name) or refusals.is_kept(name + _IN_FLAGS, since=module.listed_at):
        raise _has_failed(token)
    if refusals.noted(name + _OPEN) not in ("", "open 1"):
        raise PinLockedError(
            f"two logins to {token_name(token)} were cut short, so the stored PIN was not sent",
            "Log in by hand (hwsigner list --login) or add --allow-final-pin-try",
        )


def forget_refusals(token: TokenInfo) -> None:
    """Let a stored PIN be sent again, after a login."""
    for ending in ("", _IN_FLAGS, _OPEN):
        refusals.forget(_name(token) + ending)


def _was_right(token: TokenInfo, found: FoundPin) -> bool:
    """Return whether a stored PIN was right at its last login, in this or another process, and has not changed since.

    If so, a wrong PIN that another program sent says nothing about it.
    """
    return bool(found.place) and refusals.noted(_name(token) + _RIGHT) == found.place


def _has_failed(token: TokenInfo) -> PinLockedError:
    return PinLockedError(f"an earlier PIN failed at {token_name(token)}, so the stored one was not sent", _BY_HAND)


def _name(token: TokenInfo) -> str:
    """Return the name under which a token's refusals are stored. The label may not be valid in a file name."""
    return f"pkcs11-{hashlib.sha256(token.identity).hexdigest()[:32]}"
