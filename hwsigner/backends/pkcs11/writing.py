"""Changing a token: a session that can make, copy and delete its objects."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from hwsigner._pins import PinSource
from hwsigner._system.environment import open_lock_file
from hwsigner._system.files import lock_within
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Functions, Mechanism, PKCS11Session, attributes, buffer, check
from hwsigner.backends.pkcs11.search import FoundToken
from hwsigner.backends.pkcs11.token import OpenToken, acquire
from hwsigner.errors import BackendUnavailableError

TRUE, FALSE = b"\1", b"\0"
# Attributes by their numbers. A CK_BBOOL is TRUE or FALSE; `from_number` makes a CK_ULONG.
Template = Mapping[int, bytes]
_ULONG = ctypes.c_ulong
_LONGEST_WAIT_SECONDS = 60.0


class KeyPair(NamedTuple):
    """The handles of a new key pair."""

    public: int
    private: int


class WritingSession(PKCS11Session):
    """A session that can change its token. It shares the login of the process. A method raises a PKCS11Error."""

    def __init__(self, functions: Functions, slot: int) -> None:
        super().__init__(functions, functions.new_session(slot, writing=True))

    def generate_key_pair(self, mechanism: int, public: Template, private: Template) -> KeyPair:
        """Make a key pair, with a mechanism that takes no parameter."""
        asked, publics, privates = Mechanism(mechanism=mechanism), _buffers(public), _buffers(private)
        handles = _ULONG(), _ULONG()
        templates = attributes(publics), len(publics), attributes(privates), len(privates)
        answers = map(ctypes.byref, handles)
        check(self._functions.generate_key_pair(self._handle, ctypes.byref(asked), *templates, *answers))
        return KeyPair(*(handle.value for handle in handles))

    def create(self, template: Template) -> int:
        """Create an object and return its handle."""
        values, handle = _buffers(template), _ULONG()
        check(self._functions.create_object(self._handle, attributes(values), len(values), ctypes.byref(handle)))
        return handle.value

    def copy(self, found: int, changes: Template) -> int:
        """Copy an object, with some attributes changed, and return the handle of the copy."""
        values, handle = _buffers(changes), _ULONG()
        check(self._functions.copy_object(self._handle, found, attributes(values), len(values), ctypes.byref(handle)))
        return handle.value

    def destroy(self, found: int) -> None:
        """Delete an object. Some modules report success and keep it."""
        check(self._functions.destroy_object(self._handle, found))


@contextmanager
def changing(found: FoundToken, action: str) -> Iterator[OpenToken]:
    """Lock a token in this process, and wait until no other process of this user changes it.

    Otherwise two processes could find the same place free, and each make a key there. Those that only sign don't wait.
    A PKCS11Error, also one from the body of the `with` statement, becomes a SigningKeyError that says which action
    failed, such as `could not make the key`. If another process changes the token for too long, that is a
    BackendUnavailableError.
    """
    token = acquire(found.module, found.info)
    file = None
    try:
        with token.lock:
            file = open_lock_file("token", f"{token.info.label} {token.info.serial}")
            if file is not None and not lock_within(file, _LONGEST_WAIT_SECONDS):
                problem = f"another process has been changing {token.name} for {_LONGEST_WAIT_SECONDS:g} s"
                raise BackendUnavailableError(problem, "Wait for that process, or stop it, then retry")
            yield token
    except PKCS11Error as error:
        raise token.failure(action, error) from error
    finally:
        if file is not None:
            os.close(file)
        token.release()


@contextmanager
def writing(found: FoundToken, uri: KeyURI, pins: PinSource, action: str) -> Iterator[tuple[OpenToken, WritingSession]]:
    """Lock a token, log in to it, and open a session that can change it."""
    with changing(found, action) as token:
        token.current_session()
        session = WritingSession(token.module.functions, token.info.slot)
        try:
            token.forget_refusal()
            if token.can_log_in:
                token.log_in(uri, pins)
            yield token, session
        finally:
            with suppress(PKCS11Error):
                session.close()


def _buffers(template: Template) -> dict[int, ctypes.Array[ctypes.c_char]]:
    return {name: buffer(len(value), value) for name, value in template.items()}
