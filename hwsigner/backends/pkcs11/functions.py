"""The functions of a PKCS #11 module, called through ctypes. PKCS #11 3.1 and its header have the numbers.

They are those of one list, got from C_GetFunctionList: p11-kit's proxy gives each caller a list of its own, and knows
the sessions of no other list.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

from hwsigner.backends.pkcs11.errors import CRYPTOKI_NOT_INITIALIZED, PKCS11Error, error_for

CKO_CERTIFICATE, CKO_PUBLIC_KEY, CKO_PRIVATE_KEY = 1, 2, 3
CKK_RSA, CKK_EC, CKK_ML_DSA = 0x00, 0x03, 0x4A
CKA_CLASS, CKA_LABEL, CKA_VALUE, CKA_CERTIFICATE_TYPE = 0x000, 0x003, 0x011, 0x080
CKA_KEY_TYPE, CKA_ID, CKA_SIGN, CKA_MODULUS, CKA_PUBLIC_EXPONENT = 0x100, 0x102, 0x108, 0x120, 0x122
CKA_EC_PARAMS, CKA_EC_POINT, CKA_ALWAYS_AUTHENTICATE, CKA_PARAMETER_SET = 0x180, 0x181, 0x202, 0x61D
CKF_LOGIN_REQUIRED, CKF_USER_PIN_INITIALIZED, CKF_PROTECTED_AUTHENTICATION_PATH = 0x04, 0x08, 0x100
CKF_TOKEN_INITIALIZED, CKF_USER_PIN_COUNT_LOW = 0x400, 0x10000
CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED = 0x20000, 0x40000

Initialised = Literal["for threads", "for one thread", "by others"]
_ULONG = ctypes.c_ulong
_ALREADY_INITIALIZED = 0x191
# Some attributes are missing or hidden; the others were read (C_GetAttributeValue).
_READ_IN_PART = (0x11, 0x12, 0x150)
_UNAVAILABLE = _ULONG(-1).value
_OS_LOCKING_OK, _TOKEN_PRESENT, _SERIAL_SESSION, _CAN_SIGN = 0x2, 0x1, 0x4, 0x800
_USER, _CONTEXT_SPECIFIC = 1, 2
# More than the longest signature that there is: 4627 bytes, of ML-DSA-87.
_SIGNATURE_BYTES = 5120
_BATCH = 256


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", _ULONG), ("reserved", ctypes.c_void_p))


class _Info(ctypes.Structure):
    _fields_ = (
        ("cryptoki", ctypes.c_ubyte * 2),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("flags", _ULONG),
        ("description", ctypes.c_ubyte * 32),
        ("version", ctypes.c_ubyte * 2),
    )


class _SlotInfo(ctypes.Structure):
    _fields_ = (
        ("description", ctypes.c_ubyte * 64),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("flags", _ULONG),
        ("versions", ctypes.c_ubyte * 4),
    )


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_ubyte * 32),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("model", ctypes.c_ubyte * 16),
        ("serial", ctypes.c_ubyte * 16),
        ("flags", _ULONG),
        ("counts", _ULONG * 10),
        ("versions", ctypes.c_ubyte * 4),
        ("time", ctypes.c_ubyte * 16),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = (("slot", _ULONG), ("state", _ULONG), ("flags", _ULONG), ("device_error", _ULONG))


class _MechanismInfo(ctypes.Structure):
    _fields_ = (("shortest", _ULONG), ("longest", _ULONG), ("flags", _ULONG))


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", _ULONG), ("parameter", ctypes.c_void_p), ("length", _ULONG))


class _Attribute(ctypes.Structure):
    _fields_ = (("type", _ULONG), ("value", ctypes.c_void_p), ("length", _ULONG))


class LibraryInfo(NamedTuple):
    """What a module says of itself (CK_INFO), without padding."""

    manufacturer: str
    description: str
    version: str


class TokenInfo(NamedTuple):
    """What a module says of a token and its slot (CK_TOKEN_INFO, CK_SLOT_INFO), without padding.

    Attributes:
        slot: the slot's number.
        identity: the label, manufacturer, model and serial number as the module has them, to be compared.
        flags: those of the token.
    """

    slot: int
    slot_description: str
    slot_manufacturer: str
    label: str
    manufacturer: str
    model: str
    serial: str
    identity: bytes
    flags: int


class Functions:
    """A module that is loaded. Each method raises a PKCS11Error if the module returns anything but CKR_OK.

    Attributes:
        initialised: how the module was initialised. All but `for threads` get their calls one at a time.
    """

    initialised: Initialised = "for threads"

    def __init__(self, path: str) -> None:
        """Load the module.

        Raises:
            OSError: the dynamic linker can't load it.
            AttributeError: it has no C_GetFunctionList.
        """
        found = ctypes.POINTER(_FunctionList)()
        _check(ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(found)))
        self._addresses = list(found.contents.functions)
        self._lock = threading.Lock()
        self._find_functions()

    def initialise(self) -> None:
        """Initialise the module for calls from several threads at once, else for one (PKCS #11 3.1, 5.4.1)."""
        code = self._initialize(_InitializeArgs(flags=_OS_LOCKING_OK))
        former = self.initialised
        self.initialised = "by others" if code == _ALREADY_INITIALIZED else "for one thread" if code else "for threads"
        if self.initialised == "for one thread":
            _check(self._initialize(None))
        if self.initialised != former:
            self._find_functions()

    def finalise(self) -> None:
        """End all sessions of the process with the module's tokens."""
        _check(self._finalize(None))

    def is_finalised(self) -> bool:
        """Whether another part of the process has finalised the module."""
        return self._get_info(_Info()) == CRYPTOKI_NOT_INITIALIZED

    def info(self) -> LibraryInfo:
        """Return what the module says of itself."""
        info = _Info()
        _check(self._get_info(info))
        return LibraryInfo(_text(info.manufacturer), _text(info.description), f"{info.version[0]}.{info.version[1]}")

    def slots(self) -> list[int]:
        """Return the slots that have a token."""
        count = _ULONG()
        _check(self._get_slot_list(1, None, count))
        slots = (_ULONG * count.value)()
        _check(self._get_slot_list(1, slots, count))
        return list(slots[: count.value])

    def token(self, slot: int) -> TokenInfo:
        """Return what the module says now of the token in a slot."""
        place, info = _SlotInfo(), _TokenInfo()
        _check(self._get_slot_info(slot, place))
        _check(self._get_token_info(slot, info))
        return TokenInfo(
            slot,
            slot_description=_text(place.description),
            slot_manufacturer=_text(place.manufacturer),
            label=_text(info.label),
            manufacturer=_text(info.manufacturer),
            model=_text(info.model),
            serial=_text(info.serial).rstrip(" \0"),
            identity=bytes(info)[: _TokenInfo.flags.offset],
            flags=info.flags,
        )

    def has_token(self, slot: int) -> bool:
        """Whether a token is in a slot. Asked, modules look whether one was taken out."""
        info = _SlotInfo()
        return self._get_slot_info(slot, info) == 0 and bool(info.flags & _TOKEN_PRESENT)

    def can_sign_with(self, slot: int, mechanism: int) -> bool:
        """Whether a token lists a mechanism, for signatures."""
        info = _MechanismInfo()
        return self._get_mechanism_info(slot, mechanism, info) == 0 and bool(info.flags & _CAN_SIGN)

    def open_session(self, slot: int) -> Session:
        """Open a session that can read and sign."""
        handle = _ULONG()
        _check(self._open_session(slot, _SERIAL_SESSION, None, None, handle))
        return Session(self, handle.value)

    def _find_functions(self) -> None:
        """Look the functions up by their places in CK_FUNCTION_LIST."""

        def function(place: int, *arguments: type) -> Callable[..., int]:
            found: Callable[..., int] = ctypes.CFUNCTYPE(_ULONG, *arguments)(self._addresses[place])
            return found if self.initialised == "for threads" else in_turn(found)

        def in_turn(found: Callable[..., int]) -> Callable[..., int]:
            def call(*arguments: object) -> int:
                with self._lock:
                    return found(*arguments)

            return call

        to, data = ctypes.POINTER, ctypes.c_char_p
        attributes = to(_Attribute)
        self._initialize = function(0, to(_InitializeArgs))
        self._finalize = function(1, ctypes.c_void_p)
        self._get_info = function(2, to(_Info))
        self._get_slot_list = function(4, ctypes.c_ubyte, to(_ULONG), to(_ULONG))
        self._get_slot_info = function(5, _ULONG, to(_SlotInfo))
        self._get_token_info = function(6, _ULONG, to(_TokenInfo))
        self._get_mechanism_info = function(8, _ULONG, _ULONG, to(_MechanismInfo))
        self._open_session = function(12, _ULONG, _ULONG, ctypes.c_void_p, ctypes.c_void_p, to(_ULONG))
        self.close_session = function(13, _ULONG)
        self.get_session_info = function(15, _ULONG, to(_SessionInfo))
        self.login = function(18, _ULONG, _ULONG, data, _ULONG)
        self.logout = function(19, _ULONG)
        self.get_attribute_value = function(24, _ULONG, _ULONG, attributes, _ULONG)
        self.find_objects_init = function(26, _ULONG, attributes, _ULONG)
        self.find_objects = function(27, _ULONG, to(_ULONG), _ULONG, to(_ULONG))
        self.find_objects_final = function(28, _ULONG)
        self.sign_init = function(42, _ULONG, to(_Mechanism), _ULONG)
        self.sign = function(43, _ULONG, data, _ULONG, to(ctypes.c_char * _SIGNATURE_BYTES), to(_ULONG))


class Session:
    """A session with a token. Not to be used by two threads at once."""

    def __init__(self, functions: Functions, handle: int) -> None:
        self._functions = functions
        self._handle = handle
        self._mechanisms: dict[int, _Mechanism] = {}

    def close(self) -> None:
        """Close the session."""
        _check(self._functions.close_session(self._handle))

    def is_open(self) -> bool:
        """Whether the session has not ended."""
        return self._functions.get_session_info(self._handle, _SessionInfo()) == 0

    def log_in(self, pin: str | None, *, for_signature: bool = False) -> None:
        """Log in as the user, without a PIN at the token's own keypad; or for the one signature that was begun."""
        data = None if pin is None else pin.encode()
        user = _CONTEXT_SPECIFIC if for_signature else _USER
        _check(self._functions.login(self._handle, user, data, len(data or b"")))

    def log_out(self) -> None:
        """Log the user out, of all sessions of the process with this token."""
        _check(self._functions.logout(self._handle))

    def find(self, template: Mapping[int, bytes | int]) -> list[int]:
        """Return the handles of the objects that have all these attributes."""
        values = [_buffer(value if isinstance(value, bytes) else bytes(_ULONG(value))) for value in template.values()]
        wanted = _attributes(zip(template, values, strict=True))
        functions, handles, count = self._functions, (_ULONG * _BATCH)(), _ULONG(_BATCH)
        found: list[int] = []
        _check(functions.find_objects_init(self._handle, wanted, len(wanted)))
        try:
            while count.value:
                _check(functions.find_objects(self._handle, handles, _BATCH, count))
                found += handles[: count.value]
        finally:
            functions.find_objects_final(self._handle)
        return found

    def read(self, found: int, names: Iterable[int]) -> dict[int, bytes]:
        """Return those of an object's attributes that the token shows."""
        names = tuple(names)
        try:
            values = self._read(found, names)
        except PKCS11Error:
            values = {}
        if not values and len(names) > 1:  # Some modules fail as a whole over one attribute that they don't have.
            for name in names:
                with suppress(PKCS11Error):
                    values |= self._read(found, (name,))
        return values

    def begin_signature(self, key: int, mechanism: int) -> None:
        """Begin a signature, with a mechanism that takes no parameter."""
        known = self._mechanisms.get(mechanism)
        if known is None:
            known = self._mechanisms[mechanism] = _Mechanism(mechanism)
        if code := self._functions.sign_init(self._handle, known, key):
            raise error_for(code)

    def complete_signature(self, data: bytes) -> bytes:
        """Return the signature that was begun, as the mechanism makes it."""
        signature, length = (ctypes.c_char * _SIGNATURE_BYTES)(), _ULONG(_SIGNATURE_BYTES)
        if code := self._functions.sign(self._handle, data, len(data), signature, length):
            raise error_for(code)
        return ctypes.string_at(signature, length.value)

    def _read(self, found: int, names: Iterable[int]) -> dict[int, bytes]:
        """Ask for the lengths, then for the values of those attributes that have one."""
        asked = _attributes((name, None) for name in names)
        self._get(found, asked)
        buffers = {one.type: _buffer(bytes(one.length)) for one in asked if one.length != _UNAVAILABLE}
        asked = _attributes(buffers.items())
        if buffers:
            self._get(found, asked)
        return {one.type: buffers[one.type].raw[: one.length] for one in asked if one.length != _UNAVAILABLE}

    def _get(self, found: int, asked: ctypes.Array[_Attribute]) -> None:
        code = self._functions.get_attribute_value(self._handle, found, asked, len(asked))
        if code and code not in _READ_IN_PART:
            raise error_for(code)


def _attributes(values: Iterable[tuple[int, ctypes.Array[ctypes.c_char] | None]]) -> ctypes.Array[_Attribute]:
    """Return attributes (CK_ATTRIBUTE) with their values' buffers, which must outlive them."""
    made = [
        _Attribute(name, None, _UNAVAILABLE)
        if buffer is None
        else _Attribute(name, ctypes.addressof(buffer), len(buffer))
        for name, buffer in values
    ]
    return (_Attribute * len(made))(*made)


def _buffer(value: bytes) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * len(value)).from_buffer_copy(value)


def number(value: bytes | None, default: int = -1) -> int:
    """Return the number (CK_ULONG) that an attribute's value is; of anything else the default."""
    return int.from_bytes(value, sys.byteorder) if value and len(value) == ctypes.sizeof(_ULONG) else default


def _text(padded: Iterable[int]) -> str:
    """Return a text without its padding. What is not UTF-8 becomes replacement characters."""
    return bytes(padded).rstrip(b"\0").decode("utf-8", "replace").rstrip()


def _check(code: int) -> None:
    if code:
        raise error_for(code)
