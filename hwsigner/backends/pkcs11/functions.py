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
from struct import Struct
from typing import Final, Literal, NamedTuple

from hwsigner.backends.pkcs11.errors import CRYPTOKI_NOT_INITIALIZED, PKCS11Error, error_for
from hwsigner.errors import SigningKeyError

Initialised = Literal["for threads", "for one thread", "by others"]
_Buffer = ctypes.Array[ctypes.c_char]
_ULONG = ctypes.c_ulong
_ALREADY_INITIALIZED = 0x191
# Some attributes are missing or hidden; the others were read (C_GetAttributeValue).
_READ_IN_PART = (0x11, 0x12, 0x150)
_UNAVAILABLE = _ULONG(-1).value
_OS_LOCKING_OK, _TOKEN_PRESENT, _WRITING, _SERIAL_SESSION, _CAN_SIGN = 0x2, 0x1, 0x2, 0x4, 0x800
_USER, _CONTEXT_SPECIFIC = 1, 2
# More than the longest signature that there is: 4627 bytes, of ML-DSA-87.
_SIGNATURE_BYTES, _BATCH = 5120, 256
# Room for the slots of tokens that are inserted between the two calls which list them.
_INSERTED = 64
# More objects or slots, and longer attributes, are a token's or a module's fault.
_MOST_LISTED, _LONGEST_VALUE = 1 << 16, 1 << 20
# Of CK_INFO: the manufacturer, the flags, the description and the version. Of CK_SLOT_INFO: the description, the
# manufacturer and the flags. Of CK_TOKEN_INFO: the label, manufacturer, model, serial number, flags and, after limits
# and the hardware's version, the firmware's version.
_INFO, _SLOT_INFO, _TOKEN_INFO = Struct("@2x32sL32sBB"), Struct("@64s32sL"), Struct("@32s32s16s16sL10L2xBB")
_MECHANISM_INFO = Struct("@LLL")
_Info = ctypes.c_char * 256  # Room for any of them.


class ObjectClass:
    """CK_OBJECT_CLASS."""

    CERTIFICATE, PUBLIC_KEY, PRIVATE_KEY = 1, 2, 3


class KeyType:
    """CK_KEY_TYPE."""

    RSA, EC, ML_DSA = 0x00, 0x03, 0x4A


class Attribute:
    """CK_ATTRIBUTE_TYPE."""

    CLASS, TOKEN, PRIVATE, LABEL, VALUE, CERTIFICATE_TYPE = 0x000, 0x001, 0x002, 0x003, 0x011, 0x080
    ISSUER, SERIAL_NUMBER, SUBJECT = 0x081, 0x082, 0x101
    KEY_TYPE, ID, SENSITIVE, SIGN, MODULUS, PUBLIC_EXPONENT = 0x100, 0x102, 0x103, 0x108, 0x120, 0x122
    ENCRYPT, DECRYPT, WRAP, UNWRAP, DERIVE = 0x104, 0x105, 0x106, 0x107, 0x10C
    SIGN_RECOVER, VERIFY, VERIFY_RECOVER, MODULUS_BITS = 0x109, 0x10A, 0x10B, 0x121
    EXTRACTABLE, LOCAL, NEVER_EXTRACTABLE, ALWAYS_SENSITIVE, MODIFIABLE = 0x162, 0x163, 0x164, 0x165, 0x170
    EC_PARAMS, EC_POINT, ALWAYS_AUTHENTICATE, PARAMETER_SET = 0x180, 0x181, 0x202, 0x61D


class TokenFlag:
    """Flags of CK_TOKEN_INFO."""

    LOGIN_REQUIRED, USER_PIN_INITIALIZED, PROTECTED_AUTHENTICATION_PATH, TOKEN_INITIALIZED = 0x04, 0x08, 0x100, 0x400
    USER_PIN_COUNT_LOW, USER_PIN_FINAL_TRY, USER_PIN_LOCKED = 0x10000, 0x20000, 0x40000


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", _ULONG), ("reserved", ctypes.c_void_p))


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", _ULONG), ("parameter", ctypes.c_void_p), ("length", _ULONG))


class _Attribute(ctypes.Structure):
    _fields_ = (("type", _ULONG), ("value", ctypes.c_void_p), ("length", _ULONG))


class TokenInfo(NamedTuple):
    """A token and its slot as the module describes them (CK_TOKEN_INFO, CK_SLOT_INFO); texts without padding."""

    slot: int
    slot_description: str
    slot_manufacturer: str
    label: str
    manufacturer: str
    model: str
    serial: str
    identity: bytes  # The label, manufacturer, model and serial number as the module has them, to be compared.
    flags: int
    firmware: tuple[int, int] = (0, 0)  # The major and minor number of its version.


class MechanismInfo:
    """What a token says of a mechanism (CK_MECHANISM_INFO): the sizes of its keys in bits, and its flags."""

    def __init__(self, smallest: int, largest: int, flags: int) -> None:
        self.smallest: Final = smallest
        self.largest: Final = largest
        self.flags: Final = flags


class Functions:
    """A module that is loaded. A method that returns no bool raises a PKCS11Error unless it gets CKR_OK."""

    initialised: Initialised = "for threads"  # Otherwise calls are made one at a time.

    def __init__(self, path: str) -> None:
        """Load the module.

        If the dynamic linker can't load it, that is an OSError; without C_GetFunctionList, an AttributeError.
        """
        found = ctypes.POINTER(_FunctionList)()
        check(ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(found)))
        self.addresses = list(found.contents.functions)  # By their places in CK_FUNCTION_LIST.
        self._lock = threading.Lock()
        self._find_functions()

    def initialise(self) -> None:
        """Initialise the module for calls from several threads at once, else for one (PKCS #11 3.1, 5.4.1)."""
        code = self._initialize(ctypes.byref(_InitializeArgs(flags=_OS_LOCKING_OK)))
        former = self.initialised
        self.initialised = "by others" if code == _ALREADY_INITIALIZED else "for one thread" if code else "for threads"
        if self.initialised == "for one thread":
            check(self._initialize(None))
        if self.initialised != former:
            self._find_functions()

    def finalise(self) -> None:
        """End all sessions of the process with the module's tokens."""
        check(self._finalize(None))

    def is_finalised(self) -> bool:
        """Whether another part of the process has finalised the module."""
        return self._get_info(_Info()) == CRYPTOKI_NOT_INITIALIZED

    def library(self) -> dict[str, str]:
        """Return the module's description, by the names of URI attributes."""
        info = _Info()
        check(self._get_info(info))
        manufacturer, _, description, major, minor = _INFO.unpack_from(info)
        return {
            "library-manufacturer": _text(manufacturer),
            "library-description": _text(description),
            "library-version": f"{major}.{minor}",
        }

    def slots(self) -> list[int]:
        """Return the slots that have a token."""
        count = _ULONG()
        check(self._get_slot_list(1, None, ctypes.byref(count)))
        _check_count(count.value, "slots")
        slots = (_ULONG * (count.value + _INSERTED))()
        count.value = len(slots)
        check(self._get_slot_list(1, slots, ctypes.byref(count)))
        return slots[: count.value]

    def token(self, slot: int) -> TokenInfo:
        """Return how the module describes the token in a slot now."""
        place, info = _Info(), _Info()
        check(self._get_slot_info(slot, place))
        check(self._get_token_info(slot, info))
        description, slot_manufacturer, _ = _SLOT_INFO.unpack_from(place)
        label, manufacturer, model, serial, flags, *_, major, minor = _TOKEN_INFO.unpack_from(info)
        return TokenInfo(
            slot,
            slot_description=_text(description),
            slot_manufacturer=_text(slot_manufacturer),
            label=_text(label),
            manufacturer=_text(manufacturer),
            model=_text(model),
            serial=_text(serial).rstrip(" \0"),
            identity=label + manufacturer + model + serial,
            flags=flags,
            firmware=(major, minor),
        )

    def has_token(self, slot: int) -> bool:
        """Whether a token is in a slot. When asked, modules check whether the token was removed."""
        info = _Info()
        return self._get_slot_info(slot, info) == 0 and bool(_SLOT_INFO.unpack_from(info)[2] & _TOKEN_PRESENT)

    def can_sign_with(self, slot: int, mechanism: int) -> bool:
        """Whether a token lists a mechanism, for signatures."""
        return bool((found := self.mechanism(slot, mechanism)) and found.flags & _CAN_SIGN)

    def mechanism(self, slot: int, mechanism: int) -> MechanismInfo | None:
        """Return what a token says of a mechanism, or None if it does not list it."""
        info = _Info()
        code = self._get_mechanism_info(slot, mechanism, info)
        return None if code else MechanismInfo(*_MECHANISM_INFO.unpack_from(info))

    def open_session(self, slot: int) -> PKCS11Session:
        """Open a session that can read and sign."""
        return PKCS11Session(self, self.new_session(slot))

    def new_session(self, slot: int, *, writing: bool = False) -> int:
        """Open a session, which can change the token only if it is for writing; return its handle."""
        handle, flags = _ULONG(), _SERIAL_SESSION | (_WRITING if writing else 0)
        check(self._open_session(slot, flags, None, None, ctypes.byref(handle)))
        return handle.value

    def _find_functions(self) -> None:
        """Look the functions up by their places in CK_FUNCTION_LIST."""
        number, pointer = _ULONG, ctypes.c_void_p

        def function(place: int, *arguments: type) -> Callable[..., int]:
            found: Callable[..., int] = ctypes.CFUNCTYPE(_ULONG, *arguments)(self.addresses[place])
            return found if self.initialised == "for threads" else in_turn(found)

        def in_turn(found: Callable[..., int]) -> Callable[..., int]:
            def call(*arguments: object) -> int:
                with self._lock:
                    return found(*arguments)

            return call

        self._initialize = function(0, pointer)
        self._finalize = function(1, pointer)
        self._get_info = function(2, pointer)
        self._get_slot_list = function(4, ctypes.c_ubyte, pointer, pointer)
        self._get_slot_info = function(5, number, pointer)
        self._get_token_info = function(6, number, pointer)
        self._get_mechanism_info = function(8, number, number, pointer)
        self._open_session = function(12, number, number, pointer, pointer, pointer)
        # The others are used by `PKCS11Session` and `WritingSession`.
        self.close_session = function(13, number)
        self.get_session_info = function(15, number, pointer)
        self.login = function(18, number, number, ctypes.c_char_p, number)
        self.logout = function(19, number)
        self.create_object = function(20, number, pointer, number, pointer)
        self.copy_object = function(21, number, number, pointer, number, pointer)
        self.destroy_object = function(22, number, number)
        self.get_attribute_value = function(24, number, number, pointer, number)
        self.find_objects_init = function(26, number, pointer, number)
        self.find_objects = function(27, number, pointer, number, pointer)
        self.find_objects_final = function(28, number)
        self.sign_init = function(42, number, pointer, number)
        self.sign = function(43, number, ctypes.c_char_p, number, pointer, pointer)
        self.generate_key_pair = function(59, number, *(pointer, pointer, number, pointer, number), pointer, pointer)


class PKCS11Session:
    """A session with a token. Not to be used by two threads at once."""

    def __init__(self, functions: Functions, handle: int) -> None:
        self._functions = functions
        self._handle = handle
        self._mechanism = Mechanism()

    def close(self) -> None:
        """Close the session."""
        check(self._functions.close_session(self._handle))

    def is_open(self) -> bool:
        """Whether the session has not ended."""
        return self._functions.get_session_info(self._handle, _Info()) == 0

    def log_in(self, pin: str | None, *, for_signature: bool = False) -> None:
        """Log in as the user, without a PIN at the token's own keypad; or for the one signature that was begun."""
        data = None if pin is None else pin.encode()
        user = _CONTEXT_SPECIFIC if for_signature else _USER
        check(self._functions.login(self._handle, user, data, len(data or b"")))

    def log_out(self) -> None:
        """Log the user out, of all sessions of the process with this token."""
        check(self._functions.logout(self._handle))

    def find(self, kind: int | None, template: Mapping[int, bytes]) -> list[int]:
        """Return the handles of the objects of a class, or of all with None, that have all these attributes."""
        if kind is not None:
            template = {Attribute.CLASS: from_number(kind), **template}
        values = {name: buffer(len(value), value) for name, value in template.items()}
        functions, handles, count = self._functions, (_ULONG * _BATCH)(), _ULONG(_BATCH)
        found: list[int] = []
        check(functions.find_objects_init(self._handle, attributes(values), len(values)))
        try:
            while count.value:
                check(functions.find_objects(self._handle, handles, _BATCH, ctypes.byref(count)))
                found += handles[: count.value]
                _check_count(len(found), "objects")
        finally:
            functions.find_objects_final(self._handle)
        return found

    def class_of(self, found: int) -> int:
        """Return an object's CKA_CLASS, or -1 if it can't be read."""
        value = buffer(ctypes.sizeof(_ULONG))
        with suppress(PKCS11Error):
            if self._get(found, {Attribute.CLASS: value}):
                return to_number(value.raw)
        return -1

    def read(self, found: int, names: Iterable[int]) -> dict[int, bytes]:
        """Return those of an object's attributes that the token shows."""
        names = tuple(names)
        values: dict[int, bytes] = {}
        with suppress(PKCS11Error):
            values = self._read(found, names)
        if not values and len(names) > 1:  # Some modules fail as a whole over one attribute that they don't have.
            for name in names:
                values |= self.read(found, (name,))
        return values

    def begin_signature(self, key: int, mechanism: int) -> None:
        """Begin a signature, with a mechanism that takes no parameter."""
        self._mechanism.mechanism = mechanism
        check(self._functions.sign_init(self._handle, ctypes.byref(self._mechanism), key))

    def complete_signature(self, data: bytes) -> bytes:
        """Return the signature that was begun, as the mechanism makes it."""
        signature, length = (ctypes.c_char * _SIGNATURE_BYTES)(), _ULONG(_SIGNATURE_BYTES)
        check(self._functions.sign(self._handle, data, len(data), signature, ctypes.byref(length)))
        return ctypes.string_at(signature, min(length.value, _SIGNATURE_BYTES))

    def _read(self, found: int, names: Iterable[int]) -> dict[int, bytes]:
        """Ask for the lengths, then for the values of the attributes that have one."""
        lengths = self._get(found, dict.fromkeys(names))
        buffers = {name: buffer(length) for name, length in lengths.items()}
        lengths = self._get(found, buffers) if buffers else {}
        return {name: buffers[name].raw[:length] for name, length in lengths.items()}

    def _get(self, found: int, buffers: Mapping[int, _Buffer | None]) -> dict[int, int]:
        """Fill the buffers with attributes; return the lengths of those that the token shows."""
        asked = attributes(buffers)
        code = self._functions.get_attribute_value(self._handle, found, asked, len(asked))
        if code and code not in _READ_IN_PART:
            raise error_for(code)
        return {one.type: one.length for one in asked if one.length <= _LONGEST_VALUE}  # _UNAVAILABLE is longer.


def attributes(buffers: Mapping[int, _Buffer | None]) -> ctypes.Array[_Attribute]:
    """Return attributes (CK_ATTRIBUTE) with their values' buffers, which must outlive them."""
    made = (_Attribute * len(buffers))()
    for one, (name, value) in zip(made, buffers.items(), strict=True):
        one.type, one.value = name, None if value is None else ctypes.addressof(value)
        one.length = _UNAVAILABLE if value is None else len(value)
    return made


def buffer(size: int, value: bytes = b"") -> _Buffer:
    """Return a buffer that starts with a value."""
    buffer = (ctypes.c_char * size)()
    buffer.raw = value
    return buffer


def to_number(value: bytes | None, default: int = -1) -> int:
    """Return the number that an attribute's value is, or the default if it is not a CK_ULONG."""
    return int.from_bytes(value, sys.byteorder) if value and len(value) == ctypes.sizeof(_ULONG) else default


def from_number(number: int) -> bytes:
    """Return the value of an attribute that is a CK_ULONG."""
    return bytes(_ULONG(number))


def _text(padded: bytes) -> str:
    """Return a text without its padding. What is not UTF-8 becomes replacement characters."""
    return padded.rstrip(b"\0").decode("utf-8", "replace").rstrip()


def _check_count(count: int, things: str) -> None:
    """Raise an error for a list that may never end."""
    if count > _MOST_LISTED:
        problem = f"a PKCS #11 module lists more than {_MOST_LISTED} {things}"
        raise SigningKeyError(problem, "Use another module or token")


def check(code: int) -> None:
    """Raise the PKCS11Error of a return value, unless it is CKR_OK."""
    if code:
        raise error_for(code)
