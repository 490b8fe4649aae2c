"""What PKCS #11 modules answer, as exceptions and in words."""

from __future__ import annotations

import re

from pkcs11 import PKCS11Error, exceptions


class NotInitialised(PKCS11Error):  # noqa: N818  named as python-pkcs11 names its own
    """CKR_CRYPTOKI_NOT_INITIALIZED, for which python-pkcs11 has no exception of its own."""


# Return values (PKCS #11 3.1, 7, and its header) and the exceptions that python-pkcs11 makes of them.
_EXCEPTIONS: dict[int, type[PKCS11Error]] = {
    0x02: exceptions.HostMemory,
    0x03: exceptions.SlotIDInvalid,
    0x05: exceptions.GeneralError,
    0x06: exceptions.FunctionFailed,
    0x07: exceptions.ArgumentsBad,
    0x20: exceptions.DataInvalid,
    0x21: exceptions.DataLenRange,
    0x30: exceptions.DeviceError,
    0x31: exceptions.DeviceMemory,
    0x32: exceptions.DeviceRemoved,
    0x50: exceptions.FunctionCancelled,
    0x54: exceptions.FunctionNotSupported,
    0x60: exceptions.KeyHandleInvalid,
    0x62: exceptions.KeySizeRange,
    0x63: exceptions.KeyTypeInconsistent,
    0x70: exceptions.MechanismInvalid,
    0x71: exceptions.MechanismParamInvalid,
    0x82: exceptions.ObjectHandleInvalid,
    0x90: exceptions.OperationActive,
    0x91: exceptions.OperationNotInitialized,
    0xA0: exceptions.PinIncorrect,
    0xA1: exceptions.PinInvalid,
    0xA2: exceptions.PinLenRange,
    0xA3: exceptions.PinExpired,
    0xA4: exceptions.PinLocked,
    0xB0: exceptions.SessionClosed,
    0xB1: exceptions.SessionCount,
    0xB3: exceptions.SessionHandleInvalid,
    0xE0: exceptions.TokenNotPresent,
    0xE1: exceptions.TokenNotRecognised,
    0x100: exceptions.UserAlreadyLoggedIn,
    0x101: exceptions.UserNotLoggedIn,
    0x102: exceptions.UserPinNotInitialized,
    0x104: exceptions.AnotherUserAlreadyLoggedIn,
    0x190: NotInitialised,
    0x200: exceptions.FunctionRejected,
}
# The session or the key's handle has ended, as after the token's removal: nothing was done, another session may do it.
SESSION_LOST = (
    NotInitialised,
    exceptions.DeviceRemoved,
    exceptions.KeyHandleInvalid,
    exceptions.ObjectHandleInvalid,
    exceptions.SessionClosed,
    exceptions.SessionHandleInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
)
REMOVED = (
    exceptions.DeviceRemoved,
    exceptions.SlotIDInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
)
_WORDS = {
    "DeviceRemoved": "the token was removed",
    "TokenNotPresent": "there is no token in its slot",
    "TokenNotRecognised": "the token in its slot is of an unknown kind",
    "DeviceError": "the token reports a device error",
    "DeviceMemory": "the token is out of memory",
    "HostMemory": "the module is out of memory",
    "GeneralError": "the module reports a general error",
    "FunctionFailed": "the module reports that the function failed",
    "FunctionCancelled": "it was cancelled at the token, or nobody touched it in time",
    "FunctionRejected": "it was refused at the token",
    "SessionCount": "the token has no session left",
    "SessionClosed": "its session was closed",
    "SessionHandleInvalid": "its session has ended",
    "SlotIDInvalid": "its slot is gone",
    "UserNotLoggedIn": "nobody is logged in",
    "UserPinNotInitialized": "its user PIN was never set",
    "PinExpired": "its user PIN has expired",
    "PinLenRange": "the PIN has a length that it does not take",
    "PinInvalid": "the PIN holds characters that it does not take",
    "MechanismInvalid": "it does not offer the mechanism",
    "NotInitialised": "another part of this process has finalised the module",
}
_HINT = "Try again; if it stays so, see whether the token's own tools can use it"
_HINTS = {
    "GeneralError": "See whether the module's own configuration is right, and this user may read it",
    "DeviceRemoved": "Insert it again",
    "TokenNotPresent": "Insert it again",
    "SlotIDInvalid": "Insert it again",
    "SessionCount": "End another program that uses it",
    "UserPinNotInitialized": "Set the user PIN with the token's own tool",
    "PinExpired": "Set another one with the token's own tool",
    "PinLenRange": "Correct the PIN where it is stored or typed",
    "PinInvalid": "Correct the PIN where it is stored or typed",
    "MechanismInvalid": "Use another key or token",
}


def exception_for(answer: int) -> PKCS11Error:
    """Return python-pkcs11's exception for a return value (CK_RV) other than CKR_OK."""
    kind = _EXCEPTIONS.get(answer)
    return PKCS11Error(f"the module answers {answer:#x}") if kind is None else kind()


def why_not_loaded(path: str, error: PKCS11Error) -> str:
    """Return what keeps a module from being loaded or initialised; of the linker's text the part that says so."""
    words = in_words(error)
    if "C_GetFunctionList" in words:
        return "it is no PKCS #11 module, for it has no C_GetFunctionList"
    return re.sub(rf"^OS exception while loading .*?: ({re.escape(path)}: )?", "", words, flags=re.DOTALL)


def in_words(error: PKCS11Error) -> str:
    """Return what a PKCS #11 error says: python-pkcs11's exceptions bear the return value in their class's name."""
    name = type(error).__name__
    words = _WORDS.get(name) or str(error) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return words if name == "PKCS11Error" else f"{words} ({name})"


def hint_for(error: PKCS11Error) -> str:
    """Return what to do about a PKCS #11 error."""
    return _HINTS.get(type(error).__name__, _HINT)
