"""Sessions with tokens: one for each token in a process, without regard to logins, which `_pkcs11_token` makes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from pkcs11 import Attribute, PKCS11Error
from pkcs11.attributes import AttributeMapper, handle_bytes, handle_ulong
from pkcs11.exceptions import PinIncorrect, PinLocked, SessionClosed
from pkcs11.types import Session, Token

from hwsigner.backends.pkcs11.errors import REMOVED, hint_for, in_words
from hwsigner.backends.pkcs11.locks import BothLocks, Lock
from hwsigner.backends.pkcs11.module import Module
from hwsigner.backends.pkcs11.pins import locked, pin_state, token_name
from hwsigner.backends.pkcs11.registry import registry_lock
from hwsigner.backends.pkcs11.uris import identity_of
from hwsigner.errors import PinError, SigningKeyError, TokenRemovedError, WrongPinError


class TokenSession:
    """A token with at most one session on it, which is opened anew after it was dropped.

    Attributes:
        module: its module.
        token: python-pkcs11's, as it was seen last.
        name: the token as messages name it.
        lock: to be held while the token is used; see `_pkcs11_module`.
        generation: counts sessions; object handles of an earlier one are void.
        asks_person: a person is asked for a PIN now, and no call into the module is under way.
    """

    def __init__(self, module: Module, token: Token) -> None:
        self.module = module
        self.token = token
        self.name = token_name(token)
        self.generation = 0
        self.asks_person = False
        self._own_lock = threading.RLock()
        self._session: Session | None = None
        self._is_lost = False
        self._logged_in = False
        self._owns_login = False
        self.lock = self._lock()

    @property
    def has_session(self) -> bool:
        """Whether a session is open now."""
        return self._session is not None

    @property
    def is_twin(self) -> bool:
        """Whether another token was seen that says the same of itself: only its slot tells it apart."""
        return self.module.is_twin(self.token)

    def error(self, action: str, error: PKCS11Error) -> SigningKeyError:
        """Return what to raise for an error of the token; for one of its PIN, what the token says of the PIN."""
        if isinstance(error, PinIncorrect):
            with suppress(SigningKeyError):
                self._refresh()
            state = pin_state(self.token)
            message = f"wrong PIN for {self.name}" + (f": {state}" if state else "")
            return WrongPinError(message, "It was tried once: check it before the next try")
        if isinstance(error, PinLocked):
            return locked(self.token)
        kind = PinError if "Pin" in type(error).__name__ else SigningKeyError
        return (TokenRemovedError if isinstance(error, REMOVED) else kind)(
            f"{self.name} {action}: {in_words(error)}", hint_for(error)
        )

    def drop_lost_session(self, *, thoroughly: bool = False) -> None:
        """Drop the session if the token was taken out; thoroughly: or if it has ended without that.

        OpenSC's module would log in to another card in the same reader by itself, and libykcs11 sign with it.
        """
        session, calls = self._session, self.module.calls
        if session is not None and not (
            calls.has_token(self.token.slot.slot_id) and (not thoroughly or calls.is_session(handle(session)))
        ):
            self.drop_session()

    def drop_session(self) -> None:
        """Close the session, with which something is wrong. The next use opens another one."""
        self._is_lost = True
        self._close_session()

    def forget_session(self) -> None:
        """Leave, in a child process, the session and a lock that a thread holds to the parent."""
        self._session = None
        with ExitStack() as held:
            if not self.hold(held, 0):
                self._own_lock = threading.RLock()
        self.asks_person = False
        self.lock = self._lock()

    def hold(self, held: ExitStack, timeout: float) -> bool:
        """Hold the token's own lock, if it is to be had in some seconds; `held` releases it."""
        acquired = self._own_lock.acquire(timeout=timeout) if timeout else self._own_lock.acquire(blocking=False)
        if acquired:
            held.callback(self._own_lock.release)
        return acquired

    def is_same(self, token: Token) -> bool:
        """Tell whether this is the same token, in the same slot where another one says the same of itself."""
        is_elsewhere = self.token.slot.slot_id != token.slot.slot_id
        return identity_of(self.token) == identity_of(token) and not (self.module.is_twin(token) and is_elsewhere)

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise SessionClosed
        return self._session

    def _lock(self) -> Lock:
        return self._own_lock if self.module.takes_threads else BothLocks(self._own_lock, self.module.lock)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask a person: other tokens can be used meanwhile, and the process can fork."""
        with self.module.lock.released():
            self.asks_person = True
            try:
                yield
            finally:
                with registry_lock:  # A fork that has seen a person asked is over.
                    self.asks_person = False

    def _open_session(self) -> None:
        self._session = self.module.insist(self._open)
        self.generation += 1

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            # The token may be gone, and the session with it. Who made another login still wants it.
            if self._logged_in and self._owns_login:
                with suppress(PKCS11Error):
                    self.module.calls.log_out(handle(session))
            with suppress(PKCS11Error):
                session.close()

    def _open(self) -> Session:
        self._refresh()
        try:
            return open_session(self.token)
        except PKCS11Error as error:
            raise self.error("can't be opened", error) from error

    def _refresh(self) -> None:
        """Read the token's flags anew, and see that it is still the same one, in its slot or in another."""
        found: Token | None = None
        with suppress(PKCS11Error):
            found = self.token.slot.get_token()
        if found is None or not self.is_same(found):
            there = next((token for token in self.module.tokens() if self.is_same(token)), None)
            if there is None:
                what = "was removed" + (" and another one is in its slot" if found is not None else "")
                raise TokenRemovedError(f"{self.name} {what}", "Insert it again")
            found = there
        self.token = found


def open_session(token: Token) -> Session:
    """Return a session with a token that can read and sign.

    Raises:
        PKCS11Error: the token can't be opened.
    """
    return token.open(attribute_mapper=_MAPPER)


def handle(session: Any) -> int:
    """Return the session's handle (CK_SESSION_HANDLE)."""
    number: int = session.handle
    return number


def _mapper() -> AttributeMapper:
    """Return a mapper that takes what tokens hold: labels that are not UTF-8, key types of vendors."""
    mapper = AttributeMapper()
    mapper.register_handler(Attribute.LABEL, *handle_bytes)
    mapper.register_handler(Attribute.KEY_TYPE, *handle_ulong)
    mapper.register_handler(Attribute.CERTIFICATE_TYPE, *handle_ulong)
    return mapper


_MAPPER = _mapper()
