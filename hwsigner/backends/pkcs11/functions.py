"""The functions of a PKCS #11 module that python-pkcs11 does not call as they are needed here.

It initialises modules for a single thread, and opens no session that is logged in to later, so that a failed login
leaks one. Its signatures take two calls of C_Sign, and do not tell which step has failed.
"""

from __future__ import annotations

import ctypes
from typing import Literal

from pkcs11 import PKCS11Error

from hwsigner.backends.pkcs11.errors import exception_for

Initialised = Literal["for threads", "for one thread", "by others"]
_ULONG = ctypes.c_ulong
_OK = 0
_NOT_INITIALIZED = 0x190
_ALREADY_INITIALIZED = 0x191
_OS_LOCKING_OK = 2
_TOKEN_PRESENT = 1
_USER = 1
_CONTEXT_SPECIFIC = 2
# More than the longest signature that there is: 4627 bytes, of ML-DSA-87.
_SIGNATURE_BYTES = 5120
# Places in CK_FUNCTION_LIST (PKCS #11 3.1, 3.6 and its header), of C_Initialize and so on.
_INITIALIZE, _FINALIZE, _GET_INFO, _GET_SLOT_INFO, _GET_SESSION_INFO = 0, 1, 2, 5, 15
_LOGIN, _LOGOUT, _SIGN_INIT, _SIGN = 18, 19, 42, 43
# python-pkcs11 0.10 has room for three: the lists of PKCS #11 2.40, 3.0 and 3.2.
_HELD_LISTS = 3
# Of CK_INFO.
_INFO_BYTES = 128


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * (_SIGN + 1)))


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", _ULONG), ("reserved", ctypes.c_void_p))


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", _ULONG), ("parameter", ctypes.c_void_p), ("length", _ULONG))


class _SlotInfo(ctypes.Structure):
    _fields_ = (("names", ctypes.c_char * 96), ("flags", _ULONG), ("versions", ctypes.c_ubyte * 4))


class _SessionInfo(ctypes.Structure):
    _fields_ = (("slot", _ULONG), ("state", _ULONG), ("flags", _ULONG), ("device_error", _ULONG))


_BY_POINTER = ctypes.CFUNCTYPE(_ULONG, ctypes.c_void_p)
_BY_SESSION = ctypes.CFUNCTYPE(_ULONG, _ULONG)
_SLOT_INFO = ctypes.CFUNCTYPE(_ULONG, _ULONG, ctypes.POINTER(_SlotInfo))
_SESSION_INFO = ctypes.CFUNCTYPE(_ULONG, _ULONG, ctypes.POINTER(_SessionInfo))
_LOG_IN = ctypes.CFUNCTYPE(_ULONG, _ULONG, _ULONG, ctypes.c_char_p, _ULONG)
_BEGIN = ctypes.CFUNCTYPE(_ULONG, _ULONG, ctypes.POINTER(_Mechanism), _ULONG)
_COMPLETE = ctypes.CFUNCTYPE(
    _ULONG, _ULONG, ctypes.c_char_p, _ULONG, ctypes.POINTER(ctypes.c_char * _SIGNATURE_BYTES), ctypes.POINTER(_ULONG)
)


class Calls:
    """Functions of one module. Those that fail raise python-pkcs11's exceptions. Sessions and keys are handles.

    Args:
        library: python-pkcs11's object for the module, of which `__init__` has not run.
        path: the module, as that object has opened it.

    Raises:
        PKCS11Error: the functions can't be had; see docs/decisions/0006.
    """

    def __init__(self, library: object, path: str) -> None:
        functions = _FunctionList.from_address(_function_list(library, path)).functions
        self._initialize = _BY_POINTER(functions[_INITIALIZE])
        self._finalize = _BY_POINTER(functions[_FINALIZE])
        self._get_info = _BY_POINTER(functions[_GET_INFO])
        self._get_slot_info = _SLOT_INFO(functions[_GET_SLOT_INFO])
        self._get_session_info = _SESSION_INFO(functions[_GET_SESSION_INFO])
        self._login = _LOG_IN(functions[_LOGIN])
        self._logout = _BY_SESSION(functions[_LOGOUT])
        self._sign_init = _BEGIN(functions[_SIGN_INIT])
        self._sign = _COMPLETE(functions[_SIGN])
        self._mechanisms: dict[int, _Mechanism] = {}

    def initialise(self) -> Initialised:
        """Initialise the module for calls from several threads at once, else for one (PKCS #11 3.1, 5.4.1)."""
        arguments = _InitializeArgs(flags=_OS_LOCKING_OK)
        answer = self._initialize(ctypes.byref(arguments))
        if answer == _ALREADY_INITIALIZED:
            return "by others"
        if answer == _OK:
            return "for threads"
        _check(self._initialize(None))
        return "for one thread"

    def finalise(self) -> None:
        """End all sessions of the process with the module's tokens."""
        _check(self._finalize(None))

    def is_finalised(self) -> bool:
        """Whether another part of the process has finalised the module."""
        info = ctypes.create_string_buffer(_INFO_BYTES)
        return bool(self._get_info(info) == _NOT_INITIALIZED)

    def has_token(self, slot: int) -> bool:
        """Whether a token is in a slot. Asked, modules look whether one was taken out."""
        info = _SlotInfo()
        return bool(self._get_slot_info(slot, info) == _OK and info.flags & _TOKEN_PRESENT)

    def is_session(self, session: int) -> bool:
        """Whether a session has not ended."""
        return bool(self._get_session_info(session, _SessionInfo()) == _OK)

    def log_in(self, session: int, pin: str | None, *, for_signature: bool = False) -> None:
        """Log in as the user, without a PIN at the token's own keypad; or for the one signature that was begun."""
        data = None if pin is None else pin.encode()
        _check(self._login(session, _CONTEXT_SPECIFIC if for_signature else _USER, data, len(data or b"")))

    def log_out(self, session: int) -> None:
        """Log the user out."""
        _check(self._logout(session))

    def begin_signature(self, session: int, key: int, mechanism: int) -> None:
        """Begin a signature, with a mechanism that takes no parameter."""
        known = self._mechanisms.get(mechanism)
        if known is None:
            known = self._mechanisms.setdefault(mechanism, _Mechanism(mechanism))
        _check(self._sign_init(session, known, key))

    def complete_signature(self, session: int, data: bytes) -> bytes:
        """Return the signature as the mechanism makes it; the one that was begun."""
        signature = (ctypes.c_char * _SIGNATURE_BYTES)()
        length = _ULONG(_SIGNATURE_BYTES)
        _check(self._sign(session, data, len(data), signature, length))
        return ctypes.string_at(signature, length.value)


def _function_list(library: object, path: str) -> int:
    """Return the address of the module's CK_FUNCTION_LIST that python-pkcs11 uses.

    Most modules have one. p11-kit's proxy makes one for each who asks, and knows the sessions of the others not.
    """
    held, asked = _held_list(library), _asked_list(path)
    if held == asked or asked == _asked_list(path):
        return asked
    if held is None:
        raise PKCS11Error("it needs python-pkcs11 0.10, and this is another release")
    return held


def _asked_list(path: str) -> int:
    listed = ctypes.c_void_p()
    get = ctypes.CDLL(path).C_GetFunctionList
    get.restype = _ULONG
    _check(get(ctypes.byref(listed)))
    return listed.value or 0


def _held_list(library: object) -> int | None:
    """Return the list that python-pkcs11's object holds: of the pointers in its base class, the one that is set yet."""
    base = type(library).__mro__[-2]
    count = (base.__basicsize__ - object.__basicsize__) // ctypes.sizeof(ctypes.c_void_p)
    if base.__name__ != "HasFuncList" or count != _HELD_LISTS:
        return None
    fields = (ctypes.c_void_p * count).from_address(id(library) + object.__basicsize__)
    held = [address for address in fields if address]
    return held[0] if len(held) == 1 else None


def _check(answer: int) -> None:
    if answer != _OK:
        raise exception_for(answer)
