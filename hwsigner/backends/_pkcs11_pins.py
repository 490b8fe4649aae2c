"""What guards the user PIN of a PKCS #11 token: what is asked for, and when none is sent."""

from __future__ import annotations

from dataclasses import replace

from pkcs11 import TokenFlag
from pkcs11.types import Token

from hwsigner import notices
from hwsigner.backends._pkcs11_identity import serial_text
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, printable
from hwsigner.pin import PinRequest, PinSource
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
    return replace(asked, kind="PIN for this signature")


def pin_state(token: Token) -> str:
    """Return what the token says of its PIN, or an empty string where that is good."""
    return next((words for flag, words in _STATES if token.flags & flag), "")


def has_keypad(token: Token) -> bool:
    """Tell whether the PIN is typed at the token."""
    return bool(token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH)


def tell_of_keypad(token: Token) -> None:
    """Tell a person to type the PIN at the token."""
    notices.tell(f"type the PIN of {token_name(token)} at its keypad")


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
