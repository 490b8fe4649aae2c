"""Calls into a PKCS #11 module that hwsigner does not make itself, or whose return value is the answer."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from hwsigner.backends.pkcs11.errors import SessionLostError, error_for
from hwsigner.backends.pkcs11.functions import Functions, Mechanism, attributes, buffer

OK, NOT_SUPPORTED, NO_RANDOM = 0, 0x54, 0x121
# Return values that hwsigner does not need to name.
_NAMES = {
    OK: "CKR_OK",
    0x11: "CKR_ATTRIBUTE_SENSITIVE",
    0x61: "CKR_KEY_NOT_NEEDED",
    0x150: "CKR_BUFFER_TOO_SMALL",
    0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
}
RSA_GENERATION, RSA, RSA_SHA256 = 0x0000, 0x0001, 0x0040
EC_GENERATION, ECDSA, ECDSA_SHA256 = 0x1040, 0x1041, 0x1044
MLDSA_GENERATION, MLDSA = 0x1C, 0x1D
MECHANISMS = {
    RSA_GENERATION: "CKM_RSA_PKCS_KEY_PAIR_GEN",
    RSA: "CKM_RSA_PKCS",
    RSA_SHA256: "CKM_SHA256_RSA_PKCS",
    EC_GENERATION: "CKM_EC_KEY_PAIR_GEN",
    ECDSA: "CKM_ECDSA",
    ECDSA_SHA256: "CKM_ECDSA_SHA256",
    MLDSA_GENERATION: "CKM_ML_DSA_KEY_PAIR_GEN",
    MLDSA: "CKM_ML_DSA",
}
# States of a session (CK_STATE).
STATES = {0: "not logged in", 1: "logged in", 2: "not logged in", 3: "logged in", 4: "logged in as SO"}
_ULONG = ctypes.c_ulong
_UNAVAILABLE = _ULONG(-1).value
_SERIAL_SESSION, _WRITING = 0x4, 0x2
_ROOM = 8192
_MOST = 1 << 12


def named(code: int) -> str:
    """Return the name of a return value (CK_RV)."""
    return _NAMES.get(code) or error_for(code).name


def means_lost(code: int) -> bool:
    """Whether hwsigner takes a return value for the end of a session, and opens another one."""
    return code != OK and isinstance(error_for(code), SessionLostError)


class Calls:
    """A module's functions by their places in CK_FUNCTION_LIST. Each returns CK_RV, first if it returns more.

    Sessions and objects are handles here.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def _call(self, place: int, *values: object) -> int:
        return int(ctypes.CFUNCTYPE(_ULONG)(self._functions.addresses[place])(*values))

    def initialise(self, *, in_threads: bool = True) -> int:
        """C_Initialize, with CKF_OS_LOCKING_OK or without arguments."""
        arguments = (ctypes.c_void_p * 6)(None, None, None, None, 2, None)
        return self._call(0, ctypes.byref(arguments) if in_threads else None)

    def finalise(self) -> int:
        """C_Finalize."""
        return self._call(1, None)

    def version(self) -> tuple[int, tuple[int, int]]:
        """C_GetInfo: the version of Cryptoki."""
        raw = buffer(256)
        code = self._call(2, raw)
        return code, (raw.raw[0], raw.raw[1])

    def slots(self, *, present: bool) -> tuple[int, list[int]]:
        """C_GetSlotList."""
        count, found = _ULONG(_MOST), (_ULONG * _MOST)()
        code = self._call(4, ctypes.c_ubyte(present), found, ctypes.byref(count))
        return code, found[: min(count.value, _MOST)]

    def hardware(self, slot: int) -> tuple[int, int]:
        """C_GetTokenInfo: the version of the hardware, without the return value."""
        raw = buffer(512)
        self._call(6, _ULONG(slot), raw)
        versions = 96 + 11 * ctypes.sizeof(_ULONG)
        return raw.raw[versions], raw.raw[versions + 1]

    def mechanism(self, slot: int, mechanism: int) -> int:
        """C_GetMechanismInfo."""
        return self._call(8, _ULONG(slot), _ULONG(mechanism), buffer(64))

    def open(self, slot: int, *, writing: bool = False) -> tuple[int, int]:
        """C_OpenSession: the session."""
        handle, flags = _ULONG(), _SERIAL_SESSION | (_WRITING if writing else 0)
        code = self._call(12, _ULONG(slot), _ULONG(flags), None, None, ctypes.byref(handle))
        return code, handle.value

    def close(self, session: int) -> int:
        """C_CloseSession."""
        return self._call(13, _ULONG(session))

    def state(self, session: int) -> tuple[int, str]:
        """C_GetSessionInfo: whether the session is logged in."""
        raw = buffer(256)
        code = self._call(15, _ULONG(session), raw)
        state = int((_ULONG * 2).from_buffer(raw)[1])
        return code, STATES.get(state, f"state {state}") if code == OK else ""

    def log_in(self, session: int, pin: str) -> int:
        """C_Login as the user."""
        data = pin.encode()
        return self._call(18, _ULONG(session), _ULONG(1), data, _ULONG(len(data)))

    def log_out(self, session: int) -> int:
        """C_Logout."""
        return self._call(19, _ULONG(session))

    def lengths(self, session: int, found: int, names: Sequence[int]) -> tuple[int, dict[int, int | None]]:
        """C_GetAttributeValue for the lengths of attributes alone; None for those that are not shown."""
        asked = attributes(dict.fromkeys(names))
        code = self._call(24, _ULONG(session), _ULONG(found), asked, _ULONG(len(asked)))
        return code, {one.type: None if one.length == _UNAVAILABLE else one.length for one in asked}

    def set(self, session: int, found: int, values: Mapping[int, bytes]) -> int:
        """C_SetAttributeValue."""
        buffers = {name: buffer(len(value), value) for name, value in values.items()}
        return self._call(25, _ULONG(session), _ULONG(found), attributes(buffers), _ULONG(len(buffers)))

    def begin_search(self, session: int) -> int:
        """C_FindObjectsInit, for all objects."""
        return self._call(26, _ULONG(session), None, _ULONG(0))

    def search(self, session: int, most: int) -> tuple[int, list[int]]:
        """C_FindObjects: some of the objects."""
        count, found = _ULONG(), (_ULONG * most)()
        code = self._call(27, _ULONG(session), found, _ULONG(most), ctypes.byref(count))
        return code, found[: min(count.value, most)]

    def begin_signature(self, session: int, mechanism: int, key: int) -> int:
        """C_SignInit, with a mechanism that takes no parameter."""
        asked = Mechanism(mechanism=mechanism)
        return self._call(42, _ULONG(session), ctypes.byref(asked), _ULONG(key))

    def sign(self, session: int, data: bytes) -> tuple[int, bytes]:
        """C_Sign: the signature."""
        signature, length = buffer(_ROOM), _ULONG(_ROOM)
        code = self._call(43, _ULONG(session), data, _ULONG(len(data)), signature, ctypes.byref(length))
        return code, signature.raw[: min(length.value, _ROOM)]

    def random(self, session: int) -> int:
        """C_GenerateRandom, of 16 bytes."""
        return self._call(64, _ULONG(session), buffer(16), _ULONG(16))
