"""The return values of a PKCS #11 module's functions (CK_RV) as exceptions, with what they mean and what to do."""

from __future__ import annotations

ARGUMENTS_BAD, DEVICE_ERROR, DEVICE_MEMORY = 0x07, 0x30, 0x31
PIN_INCORRECT, PIN_INVALID, PIN_LEN_RANGE, PIN_LOCKED = 0xA0, 0xA1, 0xA2, 0xA4
SLOT_ID_INVALID, GENERAL_ERROR, DEVICE_REMOVED, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED = 0x03, 0x05, 0x32, 0xE0, 0xE1
SESSION_CLOSED, USER_ALREADY_LOGGED_IN, CRYPTOKI_NOT_INITIALIZED = 0xB0, 0x100, 0x190
FUNCTION_CANCELED, USER_NOT_LOGGED_IN = 0x50, 0x101
ATTRIBUTE_READ_ONLY, ATTRIBUTE_TYPE_INVALID, ATTRIBUTE_VALUE_INVALID = 0x10, 0x12, 0x13
ACTION_PROHIBITED, FUNCTION_NOT_SUPPORTED = 0x1B, 0x54
TEMPLATE_INCOMPLETE, TEMPLATE_INCONSISTENT = 0xD0, 0xD1
CURVE_NOT_SUPPORTED, KEY_SIZE_RANGE, MECHANISM_INVALID, DOMAIN_PARAMS_INVALID = 0x140, 0x62, 0x70, 0x130
PARAMETER_SET_NOT_SUPPORTED = 0x209  # PKCS #11 3.2.
_READ_ONLY = (SESSION_READ_ONLY, TOKEN_WRITE_PROTECTED) = 0xB5, 0xE2
# The token does not make such keys; or it can't change a key's id, or make a key for a session only.
CANT_MAKE = (
    *(CURVE_NOT_SUPPORTED, DOMAIN_PARAMS_INVALID, KEY_SIZE_RANGE, MECHANISM_INVALID),
    PARAMETER_SET_NOT_SUPPORTED,
)
CANT_COPY = (
    *(ACTION_PROHIBITED, ATTRIBUTE_READ_ONLY, ATTRIBUTE_VALUE_INVALID, FUNCTION_NOT_SUPPORTED),
    *(TEMPLATE_INCOMPLETE, TEMPLATE_INCONSISTENT),
)

# By return value (PKCS #11 3.1, 7, and its header): its name after CKR_, and what that means if it does not say so.
_MEANINGS = {
    0x02: ("HOST_MEMORY", "the module is out of memory"),
    SLOT_ID_INVALID: ("SLOT_ID_INVALID", "its slot is gone"),
    GENERAL_ERROR: ("GENERAL_ERROR", "the module reports a general error"),
    0x06: ("FUNCTION_FAILED", "the module reports that the function failed"),
    ARGUMENTS_BAD: ("ARGUMENTS_BAD", ""),
    0x0A: ("CANT_LOCK", ""),
    ATTRIBUTE_READ_ONLY: ("ATTRIBUTE_READ_ONLY", "it does not let an attribute be chosen"),
    ATTRIBUTE_TYPE_INVALID: ("ATTRIBUTE_TYPE_INVALID", "it does not know an attribute"),
    ATTRIBUTE_VALUE_INVALID: ("ATTRIBUTE_VALUE_INVALID", "it does not accept the value of an attribute"),
    ACTION_PROHIBITED: ("ACTION_PROHIBITED", "it does not allow this for the object"),
    0x20: ("DATA_INVALID", ""),
    0x21: ("DATA_LEN_RANGE", ""),
    DEVICE_ERROR: ("DEVICE_ERROR", "the token reports a device error"),
    DEVICE_MEMORY: ("DEVICE_MEMORY", "the token is full"),
    DEVICE_REMOVED: ("DEVICE_REMOVED", "the token was removed"),
    FUNCTION_CANCELED: ("FUNCTION_CANCELED", "it was cancelled at the token, or the token was not touched in time"),
    FUNCTION_NOT_SUPPORTED: ("FUNCTION_NOT_SUPPORTED", "the module can't do this"),
    0x60: ("KEY_HANDLE_INVALID", ""),
    KEY_SIZE_RANGE: ("KEY_SIZE_RANGE", "it has no keys of this size"),
    0x63: ("KEY_TYPE_INCONSISTENT", ""),
    0x68: ("KEY_FUNCTION_NOT_PERMITTED", ""),
    MECHANISM_INVALID: ("MECHANISM_INVALID", "it does not offer the mechanism"),
    0x71: ("MECHANISM_PARAM_INVALID", ""),
    0x82: ("OBJECT_HANDLE_INVALID", ""),
    0x90: ("OPERATION_ACTIVE", ""),
    0x91: ("OPERATION_NOT_INITIALIZED", ""),
    PIN_INCORRECT: ("PIN_INCORRECT", ""),
    PIN_INVALID: ("PIN_INVALID", "the PIN has characters that it does not accept"),
    PIN_LEN_RANGE: ("PIN_LEN_RANGE", "the PIN has a length that it does not accept"),
    0xA3: ("PIN_EXPIRED", "its user PIN has expired"),
    PIN_LOCKED: ("PIN_LOCKED", ""),
    SESSION_CLOSED: ("SESSION_CLOSED", "its session was closed"),
    0xB1: ("SESSION_COUNT", "the token has no session left"),
    0xB3: ("SESSION_HANDLE_INVALID", "its session has ended"),
    SESSION_READ_ONLY: ("SESSION_READ_ONLY", "it is read-only"),
    TEMPLATE_INCOMPLETE: ("TEMPLATE_INCOMPLETE", "it wants more attributes"),
    TEMPLATE_INCONSISTENT: ("TEMPLATE_INCONSISTENT", "it does not accept these attributes together"),
    TOKEN_NOT_PRESENT: ("TOKEN_NOT_PRESENT", "there is no token in its slot"),
    TOKEN_NOT_RECOGNIZED: ("TOKEN_NOT_RECOGNIZED", "the token in its slot is of an unknown kind"),
    TOKEN_WRITE_PROTECTED: ("TOKEN_WRITE_PROTECTED", "it is read-only"),
    USER_ALREADY_LOGGED_IN: ("USER_ALREADY_LOGGED_IN", ""),
    USER_NOT_LOGGED_IN: ("USER_NOT_LOGGED_IN", "no user is logged in"),
    0x102: ("USER_PIN_NOT_INITIALIZED", "its user PIN was never set"),
    0x104: ("USER_ANOTHER_ALREADY_LOGGED_IN", ""),
    DOMAIN_PARAMS_INVALID: ("DOMAIN_PARAMS_INVALID", "it does not have this curve"),
    CURVE_NOT_SUPPORTED: ("CURVE_NOT_SUPPORTED", "it does not have this curve"),
    PARAMETER_SET_NOT_SUPPORTED: ("PARAMETER_SET_NOT_SUPPORTED", "it does not have this parameter set"),
    CRYPTOKI_NOT_INITIALIZED: ("CRYPTOKI_NOT_INITIALIZED", "another part of this process has finalised the module"),
    0x200: ("FUNCTION_REJECTED", "it was refused at the token"),
}
_REMOVED = (DEVICE_REMOVED, SLOT_ID_INVALID, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED)
_HINT = "Try again; if that does not help, check whether the token's own tools can use it"
_HINTS = {
    GENERAL_ERROR: "Check that the module's own configuration is right and that this user may read it",
    **dict.fromkeys(_REMOVED, "Insert it again"),
    **dict.fromkeys((PIN_INVALID, PIN_LEN_RANGE), "Correct the PIN where it is stored or typed"),
    FUNCTION_NOT_SUPPORTED: "Use the token's own tool, or another PKCS #11 module for it",
    DEVICE_MEMORY: "Delete keys or certificates on it that are not needed, then retry",
    **dict.fromkeys(_READ_ONLY, "Make it writable with its own tool, or use another token"),
    MECHANISM_INVALID: "Use another key or token",
    0xA3: "Set a new one with the token's own tool",
    0xB1: "Stop another program that uses it",
    0x102: "Set the user PIN with the token's own tool",
}


class PKCS11Error(Exception):
    """A function of a module returned something other than CKR_OK. The text says what, in words."""

    def __init__(self, code: int) -> None:
        name, words = _MEANINGS.get(code, ("", "the module reports an error of its own"))
        self.code = code
        self.name = f"CKR_{name}" if name else f"{code:#x}"  # Of a vendor's value, the number.
        self.hint = _HINTS.get(code, _HINT)
        super().__init__(f"{words or name.replace('_', ' ').lower()} ({self.name})")

    @property
    def is_removal(self) -> bool:
        """Whether the token is not in its slot any more."""
        return self.code in _REMOVED


class SessionLostError(PKCS11Error):
    """The session or an object's handle is void, as after the token's removal. A login is not repeated in a new one.

    A token that was removed during the login may have counted an attempt, and any other call can be repeated.
    """


class PinRefusedError(PKCS11Error):
    """The token compared the PIN and refused it. Not CKR_PIN_LEN_RANGE: such a PIN does not get as far as the token."""


_KINDS: dict[int, type[PKCS11Error]] = {
    **dict.fromkeys((0x60, 0x82, SESSION_CLOSED, 0xB3, CRYPTOKI_NOT_INITIALIZED, USER_NOT_LOGGED_IN), SessionLostError),
    **dict.fromkeys((DEVICE_REMOVED, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED), SessionLostError),
    **dict.fromkeys((PIN_INCORRECT, PIN_INVALID), PinRefusedError),
}


def error_for(code: int) -> PKCS11Error:
    """Return the exception for a return value other than CKR_OK."""
    return _KINDS.get(code, PKCS11Error)(code)
