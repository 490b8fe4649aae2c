"""PKCS #11 modules: finding one, loading it once, and the tokens that it sees."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import pkcs11
from pkcs11 import PKCS11Error, TokenFlag
from pkcs11.exceptions import TokenNotPresent, TokenNotRecognised
from pkcs11.types import Token

from hwsigner.backends._pkcs11_paths import FLAG_HINT, module_path
from hwsigner.errors import BackendUnavailableError, SigningKeyError
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.backends._pkcs11_token import OpenToken

# How long a token that is not there is looked for again and again.
_PATIENCE_SECONDS = 0.15
_PAUSE_SECONDS = 0.01
T = TypeVar("T")
_WORDS = {
    "DeviceRemoved": "the token was removed",
    "TokenNotPresent": "there is no token in its slot",
    "TokenNotRecognised": "the token in its slot is of an unknown kind",
    "DeviceError": "the token reports a device error",
    "DeviceMemory": "the token is out of memory",
    "HostMemory": "the module is out of memory",
    "GeneralError": "the module reports a general error",
    "FunctionFailed": "the module reports that the function failed",
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
}
_HINT = "Try again; if it stays so, see whether the token's own tools can use it"
_HINTS = {
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


def in_words(error: PKCS11Error) -> str:
    """Return what a PKCS #11 error says: python-pkcs11's exceptions bear the return value in their class's name."""
    name = type(error).__name__
    if "already initialized" in str(error):
        return "another part of this process has initialised it"
    words = _WORDS.get(name) or str(error) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return words if name == "PKCS11Error" else f"{words} ({name})"


def hint_for(error: PKCS11Error) -> str:
    """Return what to do about a PKCS #11 error."""
    return _HINTS.get(type(error).__name__, _HINT)


class Module:
    """A PKCS #11 module, loaded once in a process.

    python-pkcs11 initialises modules for one thread and yet lets Python's threads run during its calls, so every
    call into the module, searches and signatures too, is made while holding `lock`.

    Attributes:
        path: the file of the module, or a bare name that the dynamic linker looks up.
        lock: to be held around every call.
        open_tokens: the tokens in use, by slot identifier.
        has_leaked_session: a login failed, and python-pkcs11 gives no hold of the session that it opened for it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.open_tokens: dict[int, OpenToken] = {}
        self.has_leaked_session = False
        self._forked = False

    def initialise(self) -> None:
        """Load and initialise the module, unless it is.

        Raises:
            BackendUnavailableError: the file is missing, or no PKCS #11 module, or does not start.
        """
        try:
            self._lib = pkcs11.lib(self.path)
            if self._forked:
                self._forked = False
                # PKCS #11 2.40, 6.6.1: a child process must initialise for itself. Some modules notice the fork.
                with suppress(PKCS11Error):
                    self._lib.finalize()
                self._lib.initialize()
        except PKCS11Error as error:
            raise BackendUnavailableError(
                f"PKCS #11 module {self.path} can't be used: {in_words(error)}", FLAG_HINT
            ) from error

    def insist(self, call: Callable[[], T]) -> T:
        """Make a call that looks for a token; where that fails, for a short while with the module initialised anew.

        The call sends no PIN: it may be made many times, and each could count as a try.

        SoftHSM empties a token's file for a moment at each login, and a process that initialises then overlooks it
        (https://github.com/softhsm/SoftHSMv2/issues/757). Sessions in use are not ended for it.

        Raises:
            SigningKeyError: what the last call raised.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self.initialise()
                return call()
            except SigningKeyError:
                in_use = any(token.has_session for token in self.open_tokens.values())
                if in_use or time.monotonic() > deadline:
                    raise
            with suppress(PKCS11Error):
                self._lib.finalize()
            time.sleep(_PAUSE_SECONDS)

    def end_leaked_sessions(self) -> None:
        """Finalise the module if a session leaked and none is in use. The next use initialises it again."""
        if self.has_leaked_session and not self.open_tokens:
            self.has_leaked_session = False
            with suppress(PKCS11Error):
                self._lib.finalize()

    def reset_after_fork(self) -> None:
        """Leave, in a child process, the sessions to the parent."""
        self._forked = True
        for token in self.open_tokens.values():
            token.forget_session()

    def tokens(self) -> list[Token]:
        """Return the initialised tokens that are present."""
        found = []
        try:
            for slot in self._lib.get_slots(token_present=True):
                with suppress(TokenNotPresent, TokenNotRecognised):
                    token = slot.get_token()
                    if token.flags & TokenFlag.TOKEN_INITIALIZED:
                        found.append(token)
        except PKCS11Error as error:
            message = f"PKCS #11 module {self.path} can't list its tokens: {in_words(error)}"
            raise SigningKeyError(message, hint_for(error)) from error
        return found

    def matching_tokens(self, uri: KeyURI) -> list[Token]:
        """Return the tokens that a key URI names, at least one.

        Raises:
            BackendUnavailableError: there is none; the hint lists those that are present.
        """
        return self.insist(lambda: self._matching_tokens(uri))

    def _matching_tokens(self, uri: KeyURI) -> list[Token]:
        present = self.tokens()
        matching = [token for token in present if self._matches(token, uri)]
        if not matching:
            listed = ", ".join(f"'{token.label}' (serial {serial_text(token)})" for token in present)
            raise BackendUnavailableError(
                f"no token of PKCS #11 module {self.path} matches {uri.name}",
                f"Tokens present: {listed}" if listed else "No token is present: insert one, or name another module",
            )
        return matching

    def _matches(self, token: Token, uri: KeyURI) -> bool:
        slot, version = token.slot, self._lib.library_version
        actual = {
            "token": token.label,
            "manufacturer": token.manufacturer_id,
            "model": token.model,
            "serial": serial_text(token),
            "slot-id": str(slot.slot_id),
            "slot-manufacturer": slot.manufacturer_id,
            "slot-description": slot.slot_description,
            "library-manufacturer": self._lib.manufacturer_id,
            "library-description": self._lib.library_description,
            "library-version": f"{version[0]}.{version[1]}",
        }
        return all((uri.text(name) or "").rstrip() == value for name, value in actual.items() if name in uri.path)


TOKEN_ATTRIBUTES = frozenset(
    {
        *("token", "manufacturer", "model", "serial", "slot-id", "slot-manufacturer", "slot-description"),
        *("library-manufacturer", "library-description", "library-version"),
    }
)
_modules: dict[str, Module] = {}
_modules_lock = threading.Lock()


def load_module(uri: KeyURI) -> Module:
    """Return the module that a key URI names by `module-path` and `module-name`, or p11-kit's proxy, initialised.

    Raises:
        UsageError: a `module-name` that is a path.
        BackendUnavailableError: there is no such module; the message names the path.
    """
    path = module_path(uri)
    with _modules_lock:
        module = _modules.setdefault(path, Module(path))
    with module.lock:
        module.initialise()
    return module


def serial_text(token: Token) -> str:
    """Return a token's serial number as the text that a URI bears."""
    return token.serial.rstrip(b" \0").decode("utf-8", "replace")


def _lock_before_fork() -> None:
    """Let no call be under way in a module while the process forks: the child would wait for its locks for ever."""
    _modules_lock.acquire()
    for module in _modules.values():
        module.lock.acquire()


def _unlock_after_fork() -> None:
    for module in _modules.values():
        module.lock.release()
    _modules_lock.release()


def _reset_after_fork() -> None:
    for module in _modules.values():
        module.reset_after_fork()
    _unlock_after_fork()


os.register_at_fork(before=_lock_before_fork, after_in_parent=_unlock_after_fork, after_in_child=_reset_after_fork)
