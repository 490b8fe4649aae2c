"""What guards the user PIN of a PKCS #11 token: what is asked for, and when none is sent."""

from __future__ import annotations

from pkcs11 import TokenFlag
from pkcs11.types import Token

from hwsigner import notices
from hwsigner.backends._pkcs11_module import serial_text
from hwsigner.errors import PinError, PinLockedError, printable
from hwsigner.pin import PinRequest, PinSource

_STATES = (
    (TokenFlag.USER_PIN_LOCKED, "the PIN is locked"),
    (TokenFlag.USER_PIN_FINAL_TRY, "one try is left"),
    (TokenFlag.USER_PIN_COUNT_LOW, "an earlier try failed"),
)


def token_name(token: Token) -> str:
    """Return a token as messages name it."""
    return f"token '{printable(token.label)}'"


def user_pin_request(token: Token, state: str = "") -> PinRequest:
    """Return the question for a token's user PIN."""
    return PinRequest("user PIN", token_name(token), state, serial_text(token))


def signature_pin_request(token: Token) -> PinRequest:
    """Return the question for the PIN of a key that wants it at each signature."""
    return PinRequest("PIN for this signature", token_name(token), pin_state(token), serial_text(token))


def pin_state(token: Token) -> str:
    """Return what the token says of its PIN, or an empty string where that is good."""
    return next((words for flag, words in _STATES if token.flags & flag), "")


def has_keypad(token: Token) -> bool:
    """Tell whether the PIN is typed at the token; if so, a person is told to."""
    if not token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        return False
    notices.tell(f"type the PIN of {token_name(token)} at its keypad")
    return True


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
        raise PinLockedError(
            f"an earlier PIN failed at {name}, so the stored one was not sent",
            "Log in once by hand with the right PIN, then correct the stored one",
        )


def locked(token: Token) -> PinLockedError:
    """Return the error of a PIN that is locked."""
    return PinLockedError(f"the PIN of {token_name(token)} is locked", "Unblock it with its SO PIN or PUK")


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
