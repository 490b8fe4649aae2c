"""PKCS #11 modules: loading one once, and the tokens that it sees.

Three kinds of lock are taken in this order, and none is waited for by one who holds a later one:

1. a token's, by whoever uses the token: opens it, logs in, searches, signs. It is held while a person is asked for a
   PIN or has to touch the token, and so holds up that token alone;
2. a module's, to initialise it and to list its slots and tokens. Where a module takes calls from one thread at a time,
   each use of a token holds it too, but for the time that a person is asked;
3. the registry's, to look up modules and tokens. Only finalising and forking take others after it, without waiting, or
   for half a second.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

from pkcs11 import PKCS11Error, TokenFlag, _pkcs11
from pkcs11.exceptions import GeneralError, TokenNotPresent, TokenNotRecognised
from pkcs11.types import Slot, Token

from hwsigner.backends.pkcs11.errors import hint_for, in_words, why_not_loaded
from hwsigner.backends.pkcs11.functions import Calls
from hwsigner.backends.pkcs11.locks import CallLock, remaining
from hwsigner.backends.pkcs11.paths import FLAG_HINT, module_path
from hwsigner.backends.pkcs11.registry import modules, registry_lock
from hwsigner.backends.pkcs11.uris import Identity, identity_of, matches, serial_text
from hwsigner.errors import BackendUnavailableError, SigningKeyError
from hwsigner.system.stderr import quiet
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.backends.pkcs11.token import OpenToken

# How long a token that is not there is looked for again and again.
_PATIENCE_SECONDS = 0.15
_PAUSE_SECONDS = 0.01
T = TypeVar("T")


class _Library(_pkcs11.lib):
    """python-pkcs11's view of a module. It would initialise it for a single thread; here, `Calls` does."""

    def __init__(self, path: str) -> None:
        self.calls = Calls(self, path)
        super().__init__(path)

    def initialize(self) -> None:
        self.initialised = self.calls.initialise()


class Module:
    """A PKCS #11 module, loaded once in a process.

    Attributes:
        path: the file of the module, or a bare name that the dynamic linker looks up.
        lock: the module's own; see above.
        open_tokens: the tokens that have been in use.
        looked_at: when its slots were listed last, in time of `time.time()`.
    """

    _library: _Library

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = CallLock()
        self.open_tokens: list[OpenToken] = []
        self.looked_at = 0.0
        self._twins: set[Identity] = set()
        self._is_loaded = False
        self._is_ready = False
        self._is_inherited = False
        self._is_lost = False

    @property
    def calls(self) -> Calls:
        """What python-pkcs11 does not call, of the loaded module."""
        return self._library.calls

    @property
    def takes_threads(self) -> bool:
        """Whether the module was initialised for calls from several threads at once."""
        return self._library.initialised == "for threads"

    def initialise(self) -> None:
        """Load and initialise the module, unless it is.

        Raises:
            BackendUnavailableError: the file is missing, or no PKCS #11 module, or does not start.
        """
        if self._is_ready:
            return
        if self._is_lost:
            message = f"PKCS #11 module {self.path} was busy when this process was forked, and can't be used in it"
            raise BackendUnavailableError(message, "Fork while no signature is waited for")
        with self.lock:
            try:
                if not self._is_ready:
                    with quiet():
                        self._start()
                    self._is_ready = True
            except PKCS11Error as error:
                message = f"PKCS #11 module {self.path} can't be used: {why_not_loaded(self.path, error)}"
                hint = hint_for(error) if isinstance(error, GeneralError) else FLAG_HINT
                raise BackendUnavailableError(message, hint) from error

    def insist(self, call: Callable[[], T]) -> T:
        """Make a call that looks for a token; where that fails, again for a short while, the module initialised anew.

        The call sends no PIN: it may be made many times, and each could count as a try.

        SoftHSM empties a token's file for a moment at each login, and whoever looks then overlooks it, for ever if it
        initialises then (https://github.com/softhsm/SoftHSMv2/issues/757). Other modules find the readers of a service
        that was restarted (pcscd) only thus. Sessions in use are not ended for it.

        Raises:
            SigningKeyError: what the last call raised.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self.initialise()
            try:
                return call()
            except SigningKeyError:
                if time.monotonic() > deadline:
                    raise
            self._finalise()
            time.sleep(_PAUSE_SECONDS)

    def look_again(self) -> None:
        """Let the module notice which tokens are there: initialised anew, or if that can't be, by listing its slots.

        Else OpenSC's module and libykcs11 answer for a token that was removed and is back from what they remember.
        """
        if self._is_ready:
            self._finalise()
        if self._is_ready:
            with self.lock, suppress(PKCS11Error):
                self._present_slots()

    def tokens(self) -> list[Token]:
        """Return the initialised tokens that are present. Those that don't answer are passed over, if others do.

        Raises:
            SigningKeyError: they can't be listed.
        """
        found, first_error = [], None
        with self.lock:
            self.initialise()
            try:
                slots = self._present_slots()
            except PKCS11Error as error:
                slots, first_error = [], error
            for slot in slots:
                try:
                    token = slot.get_token()
                    if token.flags & TokenFlag.TOKEN_INITIALIZED:
                        found.append(token)
                except (TokenNotPresent, TokenNotRecognised):
                    pass
                except PKCS11Error as error:
                    first_error = first_error or error
        self._twins |= {one for one, count in Counter(map(identity_of, found)).items() if count > 1}
        if first_error and not found:
            message = f"PKCS #11 module {self.path} can't list its tokens: {in_words(first_error)}"
            raise SigningKeyError(message, hint_for(first_error)) from first_error
        return found

    def is_twin(self, token: Token) -> bool:
        """Tell whether another token was seen beside it that says the same of itself: only its slot tells it apart."""
        return identity_of(token) in self._twins

    def matching_tokens(self, uri: KeyURI) -> list[Token]:
        """Return the tokens that a key URI names, at least one.

        Raises:
            BackendUnavailableError: there is none; the hint lists those that are present.
        """
        return self.insist(lambda: self._matching_tokens(uri))

    def hold(self, held: ExitStack, deadline: float) -> bool:
        """Hold the locks of the module and its tokens; return whether no call is under way in it now.

        Args:
            held: what releases them.
            deadline: in time of `time.monotonic()`: when to do with those that are to be had.
        """
        tokens = [token.asks_person or token.hold(held, remaining(deadline)) for token in self.open_tokens]
        return self._hold(held, remaining(deadline)) and all(tokens)

    def forget_sessions(self) -> None:
        """Leave, in a child process, the module's state and sessions, and the locks of its threads, to the parent."""
        self._is_inherited |= self._is_ready
        self._is_ready = False
        with ExitStack() as held:
            if not self._hold(held, 0):
                self.lock = CallLock()
        for token in self.open_tokens:
            token.forget_session()

    def lose(self) -> None:
        """Give the module up, in a child process: the parent was inside it, and its own locks may never be released."""
        self._is_lost = True

    def _present_slots(self) -> list[Slot]:
        self.looked_at = time.time()
        slots: list[Slot] = self._library.get_slots(token_present=True)
        return slots

    def _start(self) -> None:
        if not self._is_loaded:
            self._library = _Library(self.path)
            self._is_loaded = True
            return
        if self._is_inherited:
            self._is_inherited = False
            # PKCS #11 2.40, 6.6.1: a child process must initialise for itself. Some modules notice the fork.
            with suppress(PKCS11Error):
                self.calls.finalise()
        self._library.initialize()

    def _finalise(self) -> None:
        """Finalise the module, unless others have initialised it, or a token is in use."""
        with ExitStack() as held:
            # Not to be waited for by one who holds a token's lock: another thread does this, or forks.
            if not registry_lock.acquire(blocking=False):
                return
            held.callback(registry_lock.release)
            if not (all(token.hold(held, 0) for token in self.open_tokens) and self._hold(held, 0)):
                return
            if self.calls.is_finalised():
                for token in self.open_tokens:
                    token.forget_session()
            elif self._library.initialised == "by others" or any(token.has_session for token in self.open_tokens):
                return
            with suppress(PKCS11Error):
                self.calls.finalise()
            self._is_ready = False

    def _hold(self, held: ExitStack, timeout: float) -> bool:
        acquired = self.lock.acquire(timeout)
        if acquired:
            held.callback(self.lock.release)
        return acquired

    def _matching_tokens(self, uri: KeyURI) -> list[Token]:
        present = self.tokens()
        matching = [token for token in present if self.matches(token, uri)]
        if not matching:
            listed = ", ".join(f"'{token.label}' (serial {serial_text(token)})" for token in present)
            raise BackendUnavailableError(
                f"no token of PKCS #11 module {self.path} matches {uri.name}",
                f"Tokens present: {listed}" if listed else "No token is present: insert one, or name another module",
            )
        return matching

    def matches(self, token: Token, uri: KeyURI) -> bool:
        """Tell whether a URI's attributes of token, slot and module are this token's."""
        return matches(token, self._library, uri)


def load_module(uri: KeyURI) -> Module:
    """Return the module that a key URI names by `module-path` and `module-name`, or p11-kit's proxy, initialised.

    Raises:
        UsageError: a `module-name` that is a path.
        BackendUnavailableError: there is no such module; the message names the path.
    """
    path = module_path(uri)
    # The dynamic linker knows a file by any of its names, and so one module must be known here.
    file = os.path.realpath(path) if "/" in path else path
    with registry_lock:
        module = modules.setdefault(file, Module(path))
    module.initialise()
    return module
