"""Calls into a PKCS #11 module that hwsigner does not make itself, and return values (CK_RV) as answers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from struct import unpack_from

from hwsigner.backends.pkcs11.errors import PKCS11Error, SessionLostError
from hwsigner.backends.pkcs11.functions import Functions, PKCS11Session, attributes, buffer, check

OK = "CKR_OK"
# After these answers of C_GenerateRandom, the token can be used.
USABLE = (OK, "CKR_FUNCTION_NOT_SUPPORTED", "CKR_RANDOM_NO_RNG")
# Return values that hwsigner does not need to name.
_NAMES = {0x121: "CKR_RANDOM_NO_RNG", 0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED"}
RSA, RSA_SHA256, ECDSA, ECDSA_SHA256, MLDSA = 0x0001, 0x0040, 0x1041, 0x1044, 0x1D
MECHANISMS = {RSA: "CKM_RSA_PKCS", RSA_SHA256: "CKM_SHA256_RSA_PKCS", ECDSA: "CKM_ECDSA", MLDSA: "CKM_ML_DSA"}
# States of a session (CK_STATE).
_STATES = {0: "not logged in", 1: "logged in", 2: "not logged in", 3: "logged in", 4: "logged in as SO"}
_ULONG = ctypes.c_ulong


def answer(call: Callable[[], object], *, lost: str = "") -> str:
    """Return the text that a call returns, or the name of the module's return value.

    `lost` is the answer in place of those that hwsigner takes for the end of a session or the loss of an object.
    """
    try:
        found = call()
    except PKCS11Error as error:
        return lost if lost and isinstance(error, SessionLostError) else _NAMES.get(error.code, error.name)
    return found if isinstance(found, str) else OK


def initialise(functions: Functions) -> None:
    """C_Initialize, whatever hwsigner has done before."""
    _call(functions, 0, None)


def _call(functions: Functions, place: int, *values: object) -> None:
    check(int(ctypes.CFUNCTYPE(_ULONG)(functions.addresses[place])(*values)))


class TriedSession(PKCS11Session):
    """A session of a trial, which shares the login of the process. A method raises a PKCS11Error."""

    def __init__(self, functions: Functions, slot: int, *, writing: bool = False) -> None:
        super().__init__(functions, functions.new_session(slot, writing=writing))

    def state(self) -> str:
        """Return whether the session is logged in (C_GetSessionInfo)."""
        info = buffer(256)
        check(self._functions.get_session_info(self._handle, info))
        state = unpack_from("@LL", info)[1]
        return _STATES.get(state, f"state {state}")

    def lengths(self, found: int, names: Iterable[int]) -> Mapping[int, int]:
        """Return the lengths of those of an object's attributes that are shown (C_GetAttributeValue)."""
        return self._get(found, dict.fromkeys(names))

    def set(self, found: int, values: Mapping[int, bytes]) -> None:
        """C_SetAttributeValue."""
        buffers = {name: buffer(len(value), value) for name, value in values.items()}
        given = attributes(buffers), _ULONG(len(buffers))
        _call(self._functions, 25, _ULONG(self._handle), _ULONG(found), *given)

    def random(self) -> None:
        """C_GenerateRandom, of 16 bytes."""
        _call(self._functions, 64, _ULONG(self._handle), buffer(16), _ULONG(16))

    def sign(self, mechanism: int, key: int, data: bytes) -> bytes:
        """Return a signature as the mechanism makes it (C_SignInit, C_Sign)."""
        self.begin_signature(key, mechanism)
        return self.complete_signature(data)
