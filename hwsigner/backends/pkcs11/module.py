"""PKCS #11 modules: loading each once, the tokens that it sees, and what becomes of it when the process forks.

There are three kinds of lock, taken in this order. No thread waits for one while it holds a later one:

1. a token's, held by whatever uses the token: opens it, logs in, searches, signs. It is held while the user is asked
   for a PIN or has to touch the token, and so holds up that token alone;
2. a module's, held to initialise it and to list its tokens;
3. the registry's, held to look up modules and tokens. Only finalising and forking take others after it, and they wait
   for half a second at most.

A module that does not accept calls from several threads gets them one at a time: see `Functions`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import TypeVar

from hwsigner._system import pcsc
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import GENERAL_ERROR, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED, PKCS11Error
from hwsigner.backends.pkcs11.functions import Functions, PKCS11Session, TokenFlag, TokenInfo
from hwsigner.backends.pkcs11.paths import FLAG_HINT, access_hint
from hwsigner.errors import BackendUnavailableError, SigningKeyError

# How many times a missing token is looked for, and the pause after each look.
_LOOKS = 10
_PAUSE_SECONDS = 0.015
# How long a fork waits for calls that are under way: one may wait for a touch that never comes.
_FORK_SECONDS = 0.5
TOKEN_ATTRIBUTES = frozenset(
    {
        *("token", "manufacturer", "model", "serial", "slot-id", "slot-manufacturer", "slot-description"),
        *("library-manufacturer", "library-description", "library-version"),
    }
)
# Modules pad with spaces; other tools' URIs may keep other white space.
_PADDING = re.compile(r"[\s\0]+\Z")
T = TypeVar("T")


class TokenSession:
    """The one session of this process with a token, as far as its module has to know of it."""

    def __init__(self) -> None:
        self.session: PKCS11Session | None = None
        self.lock = threading.RLock()  # Held while the token is used.
        self.asks_user = False  # The user is asked for a PIN now, and no call into the module is under way.

    def leave_to_parent(self) -> None:
        """Leave, in a child process, the session and a lock that another thread holds to the parent."""
        self.session = None
        self.asks_user = False
        with ExitStack() as held:
            if not _hold(self.lock, held):
                self.lock = threading.RLock()


class Module:
    """A PKCS #11 module, loaded once in a process."""

    functions: Functions  # Once it is initialised.
    _library: dict[str, str]

    def __init__(self, path: str) -> None:
        self.path = path  # Its file, or a bare name that the dynamic linker looks up.
        self.lock = threading.RLock()  # Held to initialise it and to list its tokens.
        self.sessions: list[TokenSession] = []  # Those of the tokens that have been in use.
        self.listed_at = 0.0  # When its slots were listed last, in time of `time.time()`.
        self._is_ready = False
        self._is_inherited = False
        self._is_lost = False

    def initialise(self) -> None:
        """Load and initialise the module, unless it is. If that fails, it is a BackendUnavailableError."""
        if self._is_ready:
            return
        if self._is_lost:
            message = f"PKCS #11 module {self.path} was busy when this process was forked, and can't be used in it"
            raise BackendUnavailableError(message, "Fork only when no signature is in progress")
        with self.lock:
            try:
                if not self._is_ready:
                    with quiet():
                        self._start()
                    self._is_ready = True
            except (AttributeError, OSError, PKCS11Error) as error:
                why = str(error).removeprefix(f"{self.path}: ")
                if isinstance(error, AttributeError):
                    why = "it is not a PKCS #11 module: it has no C_GetFunctionList"
                hint = FLAG_HINT
                if isinstance(error, PKCS11Error) and error.code == GENERAL_ERROR:
                    hint = access_hint(self.path, error.hint)
                raise BackendUnavailableError(f"PKCS #11 module {self.path} can't be used: {why}", hint) from error

    def retry(self, call: Callable[[], T]) -> T:
        """Make a call that looks for a token. After a SigningKeyError, repeat it, with the module initialised again.

        The call must not send a PIN, since each may count as an attempt.

        SoftHSM empties a token's file for a moment at each login. A process that looks then overlooks the token, and
        never finds it if it initialises then (https://github.com/softhsm/SoftHSMv2/issues/757). Other modules find the
        readers of a restarted service (pcscd) only when they are initialised again. Sessions in use are not ended.
        """
        for _ in range(_LOOKS):
            self.initialise()
            with suppress(SigningKeyError):
                return call()
            self._finalise()
            time.sleep(_PAUSE_SECONDS)
        self.initialise()
        return call()

    def refresh_tokens(self) -> None:
        """Let the module notice which tokens are there: initialise it again, or list its slots if it is in use.

        Otherwise OpenSC's module and libykcs11 answer from memory for a token that was removed and is back.
        """
        if self._is_ready:
            self._finalise()
        if self._is_ready:
            with self.lock, suppress(PKCS11Error):
                self._slots()

    def tokens(self) -> list[TokenInfo]:
        """Return the initialised tokens that are present. Those that don't answer are left out, if others do."""
        found: list[TokenInfo] = []
        first_error: PKCS11Error | None = None
        with self.lock:
            self.initialise()
            try:
                slots = self._slots()
            except PKCS11Error as error:
                slots, first_error = [], error
            for slot in slots:
                try:
                    found.append(self.functions.token(slot))
                except PKCS11Error as error:
                    if error.code not in (TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED):
                        first_error = first_error or error
        found = [token for token in found if token.flags & TokenFlag.TOKEN_INITIALIZED]
        if first_error and not found:
            message = f"PKCS #11 module {self.path} can't list its tokens: {first_error}"
            raise SigningKeyError(message, pcsc.hint(first_error.hint)) from first_error
        return found

    def matching_tokens(self, uri: KeyURI) -> list[TokenInfo]:
        """Return the present tokens that have a URI's attributes of token, slot and module; padding does not count."""
        return [token for token in self.tokens() if self._matches(token, uri)]

    def hold(self, held: ExitStack, deadline: float) -> bool:
        """Hold the locks of the module and its tokens; return whether no call is under way in it now.

        It stops waiting for them at a time of `time.monotonic()`; `held` releases them.
        """
        tokens = [token.asks_user or _hold(token.lock, held, deadline) for token in self.sessions]
        return _hold(self.lock, held, deadline) and all(tokens)

    def leave_to_parent(self, *, is_lost: bool) -> None:
        """Leave, in a child process, the module's state and sessions, and the locks of its threads, to the parent.

        The module is lost if the parent was inside it: its own locks may never be released.
        """
        self._is_lost |= is_lost
        self._is_inherited |= self._is_ready
        self._is_ready = False
        with ExitStack() as held:
            if not _hold(self.lock, held):
                self.lock = threading.RLock()
        for token in self.sessions:
            token.leave_to_parent()

    def _start(self) -> None:
        if not hasattr(self, "functions"):
            self.functions = Functions(self.path)
        if self._is_inherited:
            self._is_inherited = False
            # PKCS #11 2.40, 6.6.1: a child process must initialise for itself. Some modules notice the fork.
            with suppress(PKCS11Error):
                self.functions.finalise()
        self.functions.initialise()
        self._library = self.functions.library()

    def _finalise(self) -> None:
        """Finalise the module, unless others have initialised it, or a token is in use."""
        with ExitStack() as held:
            # Not to be waited for by a thread that holds a token's lock: another thread does this, or forks.
            if not _hold(registry_lock, held):
                return
            if not (all(_hold(token.lock, held) for token in self.sessions) and _hold(self.lock, held)):
                return
            if self.functions.is_finalised():
                for token in self.sessions:
                    token.session = None
            elif self.functions.initialised == "by others" or any(token.session for token in self.sessions):
                return
            with suppress(PKCS11Error):
                self.functions.finalise()
            self._is_ready = False

    def _slots(self) -> list[int]:
        self.listed_at = time.time()
        return self.functions.slots()

    def _matches(self, token: TokenInfo, uri: KeyURI) -> bool:
        actual = {
            "token": token.label,
            "manufacturer": token.manufacturer,
            "model": token.model,
            "serial": token.serial,
            "slot-id": str(token.slot),
            "slot-manufacturer": token.slot_manufacturer,
            "slot-description": token.slot_description,
            **self._library,
        }
        wanted = {
            name: _unpadded(uri.path[name].decode("utf-8", "replace")) for name in actual.keys() & uri.path.keys()
        }
        if "." not in wanted.get("library-version", "."):
            wanted["library-version"] += ".0"  # RFC 7512, 2.3: a major version alone.
        return all(_unpadded(actual[name]) == value for name, value in wanted.items())


def _unpadded(text: str) -> str:
    return _PADDING.sub("", text)


def token_uri(token: TokenInfo, uri: KeyURI, others: Iterable[TokenInfo] = ()) -> KeyURI:
    """Return the URI of a token that was found by another URI: with its attributes of tokens, and its module.

    If another token was found that has the same label and serial number, the slot is named.
    """
    names = {"token": token.label, "serial": token.serial}
    # A text with a replacement character was not UTF-8, and would name nothing.
    path = {name: text.encode() for name, text in names.items() if text and "\ufffd" not in text}
    path |= {name: value for name, value in uri.path.items() if name in TOKEN_ATTRIBUTES}
    alike = [one for one in others if (one.label, one.serial) == (token.label, token.serial)]
    if not path or any(one.slot != token.slot for one in alike):
        path["slot-id"] = str(token.slot).encode()
    return KeyURI("pkcs11", path, {name: value for name, value in uri.query.items() if name.startswith("module-")})


def load_module(path: str) -> Module:
    """Return a module, initialised, by its path or by a bare name that the dynamic linker looks up.

    If there is no such module, that is a BackendUnavailableError.
    """
    file = path
    if "/" in path:
        if not os.path.isfile(path):
            is_there = "is a folder" if os.path.isdir(path) else "is not a file"
            what = is_there if os.path.exists(path) else "does not exist"
            raise BackendUnavailableError(f"PKCS #11 module {path} {what}", FLAG_HINT)
        file = os.path.realpath(path)  # The dynamic linker loads a file once, whatever it is called.
    with registry_lock:
        module = modules.setdefault(file, Module(path))
    module.initialise()
    return module


# Forks

modules: dict[str, Module] = {}  # By their files.
registry_lock = threading.RLock()
_held_for_fork = ExitStack()
_busy_at_fork: list[Module] = []
is_forking = False


def let_forks_pass() -> None:
    """Wait while the process forks. Threads that sign without a pause check `is_forking` for this."""
    with registry_lock:
        pass


def _lock_before_fork() -> None:
    """Let no call be under way in a module while the process forks: the child would wait for its locks for ever.

    A module that is inside a call for longer is lost to the child. A user who is asked for a PIN is outside.
    """
    global is_forking
    registry_lock.acquire()
    is_forking = True
    deadline = time.monotonic() + _FORK_SECONDS
    for module in modules.values():
        if not module.hold(_held_for_fork, deadline):
            _busy_at_fork.append(module)


def _unlock_after_fork() -> None:
    global is_forking
    is_forking = False
    _held_for_fork.close()
    _busy_at_fork.clear()
    registry_lock.release()


def _reset_after_fork() -> None:
    for module in modules.values():
        module.leave_to_parent(is_lost=module in _busy_at_fork)
    _unlock_after_fork()


def _hold(lock: threading.RLock, held: ExitStack, deadline: float = 0.0) -> bool:
    """Acquire a lock until a time of `time.monotonic()`, at once by default; `held` releases it."""
    acquired = lock.acquire(timeout=max(deadline - time.monotonic(), 0))
    if acquired:
        held.callback(lock.release)
    return acquired


os.register_at_fork(before=_lock_before_fork, after_in_parent=_unlock_after_fork, after_in_child=_reset_after_fork)
