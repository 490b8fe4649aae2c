"""Credentials that refresh themselves: one identity and its session, shared by all threads of a program."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self, TypeGuard
from weakref import WeakSet

from hwsigner.backoff import Setback
from hwsigner.credentials import Credentials
from hwsigner.errors import HwsignerError, HwsignerWarning, ServiceError, ServiceUnreachableError, UsageError
from hwsigner.held_identity import HeldIdentity
from hwsigner.identity import IdentitySource
from hwsigner.pin import AskPin
from hwsigner.session import Service, SessionRequest, create_session, utc_now

# Seconds of life. botocore asks for other credentials when 15 minutes are left: what it gets has one minute more.
REFRESH_MARGIN = 960.0
_MARGIN_SHARE = 1 / 3


def boot_time() -> float:
    """Return the seconds since the machine started, suspension included; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Provider:
    """Gives credentials that live for a while yet. Call it, from any thread, whenever they are needed.

    The first call opens the key and creates a session. A call that finds less than 16 minutes of its life left (of a
    session of under 48 minutes, less than a third) creates the next; calls from other threads get the last credentials
    meanwhile, and every call does after that has failed, while they live. `failure` tells of it. The next try comes
    after a pause, which doubles from 1 s to 120 s, less up to a half by chance. After a PinError none comes, as a wrong
    PIN must not be sent again: mend what is wrong and make a new provider.

    The identity is held open. It is opened anew when the file of its certificate, key or intermediates has changed,
    when its leaf has expired, after its key has failed, and in a child process. Close the provider, or use it in a
    `with` statement.

    What a refresh calls in its thread (`source`, a callable for PINs, a handler of warnings or signals) gets the last
    credentials from the provider while they live, and else a UsageError; it may close it.

    Args:
        source: the identity; or a callable that returns it, called each time that it is opened.
        request: what to ask for.
        service: whom.
        now: tells the time, with its zone.
        monotonic: tells seconds by a clock that nobody sets.
        sleep: waits some seconds before another try within `create_session`.
    """

    def __init__(
        self,
        source: IdentitySource | Callable[[], IdentitySource],
        request: SessionRequest,
        service: Service,
        *,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = boot_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._request = request
        self._service = service
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        # Whoever refreshes holds it. The session and the setback are replaced whole, so that they are read without it.
        # Its thread may come back, by what the refresh calls: it finds that it is refreshing, and waits not for itself.
        self._lock = threading.RLock()
        self._is_refreshing = False
        self._identity = HeldIdentity(source)
        self._session: _Session | None = None
        self._setback: Setback | None = None
        self._is_closed = False
        _providers.add(self)

    @classmethod
    def from_profile(cls, name: str, ask_pin: AskPin | None = None, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Return a provider for a profile of config.toml, by the rules of `--profile`, but that nothing prompts.

        Its `pinentry`, `debug` and `strict` do nothing. A `pin-source=cmd:` of its key URIs may run.

        Args:
            name: the profile's name.
            ask_pin: asked first for a PIN that the profile does not hold itself as `pkcs8-password` or
                `tpm-key-password`; returns None to leave it to the stored places.
            environ: says where config.toml is, and the endpoint, proxies, CAs and number of tries.

        Raises:
            ConfigError: there is no such profile, or it holds what is no flag.
            UsageError: an ARN, a key URI or another value, or a variable of the environment, can't be meant.

        Warns:
            UnsafeKeyWarning: the profile holds a PIN and others can read its file.
            UnsafeConnectionWarning: the profile has `no-verify-ssl`.
        """
        from hwsigner import settings

        values = settings.read_profile(name, environ)
        service, request = settings.service(values, environ), settings.session_request(values)
        source = partial(settings.identity_source, values, ask_pin)
        if values["cert_selector"] is None:
            source()  # What the profile gets wrong is found now. Tokens are searched when the key is opened.
        return cls(source, request, service)

    def __repr__(self) -> str:
        return f"<Provider for {self._request.role_arn}>"

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """What the last try met, or None if it succeeded or there was none."""
        setback = self._setback
        return setback.error if setback else None

    def __call__(self) -> Credentials:
        """Return credentials that live.

        Raises:
            HwsignerError: there are none, and a try to get some failed as `open_identity` and `create_session` do, now
                or so lately that it is too early for the next; or the provider is closed.
            UsageError: there are none, and this is called by a refresh itself.
        """
        session = self._session
        left = self._left(session)
        if session and left > session.margin:
            return session.credentials
        # Whoever has living credentials does not wait for another thread's refresh.
        if not self._lock.acquire(blocking=left <= 0) and session:
            return session.credentials
        try:
            return self._given().credentials
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the key, after a refresh that is under way, and forget the credentials. Closing twice is allowed.

        What a refresh calls in its thread does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        with self._lock:
            self._is_closed = True
            if not self._is_refreshing:
                self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _left(self, session: _Session | None) -> float:
        """Return the seconds that a session has left, by the clock that leaves it less; 0 for none.

        The wall clock may be set back; the other stops with a virtual machine.
        """
        if session is None:
            return 0.0
        return min(_seconds_until(session.credentials.expiration, self._now()), session.end - self._monotonic())

    def _lives(self, session: _Session | None) -> TypeGuard[_Session]:
        return self._left(session) > 0

    def _given(self) -> _Session:
        """Return a new session if one is due and a try may be made, else the last. The lock is held."""
        if self._is_refreshing:
            return self._given_within()
        # Before anything is read: what a signal's handler does meanwhile must not go unseen.
        self._is_refreshing = True
        try:
            session = self._refreshed()
        finally:
            self._is_refreshing = False
            if self._is_closed:
                self._forget()
        self._refuse_if_closed()
        return session

    def _given_within(self) -> _Session:
        self._refuse_if_closed()
        session = self._session
        if not self._lives(session):
            raise UsageError("a provider was called by its own refresh", "Let its callables and handlers not use it")
        return session

    def _refreshed(self) -> _Session:
        self._refuse_if_closed()
        session, setback = self._session, self._setback
        if session and self._left(session) > session.margin:
            return session  # Another thread's work.
        if setback is None or self._monotonic() >= setback.next_try:
            try:
                return self._create()
            except Exception as error:
                self._note(error)
                if not self._lives(session):
                    raise
        elif not self._lives(session):
            raise setback.to_raise()
        return session

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise UsageError("the provider is closed", "Make a new one")

    def _create(self) -> _Session:
        identity = self._identity.get(self._now())
        begin = self._monotonic()
        credentials = create_session(identity, self._request, self._service, now=self._now, sleep=self._sleep)
        # A wall clock that is slow, as much as the service allows, must not make the session's life longer.
        life = min(_seconds_until(credentials.expiration, self._now()), self._request.duration)
        self._session = _Session(credentials, begin + life, min(REFRESH_MARGIN, life * _MARGIN_SHARE))
        self._setback = None
        return self._session

    def _note(self, error: Exception) -> None:
        # First of all: whatever fails after it, no PIN is sent twice.
        self._setback = Setback.after(error, self._setback, self._monotonic)
        if not isinstance(error, ServiceError | ServiceUnreachableError):
            with suppress(Exception):  # The key that failed is given up, and its first error is the one to tell.
                self._identity.close()

    def _forget(self) -> None:
        self._session = None
        self._identity.close()

    def _start_in_child(self) -> None:
        """Leave the key to the parent process, and with it a refresh of another thread, which this process lacks."""
        self._identity.leave()
        if self._lock.acquire(blocking=False):  # It is free, or this thread forked in a refresh, and is in it still.
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._is_refreshing = False


_providers: WeakSet[Provider] = WeakSet()


def _start_all_in_child() -> None:
    for provider in list(_providers):
        provider._start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)


@dataclass(frozen=True)
class _Session:
    """A session's credentials, when they end by the monotonic clock, and the seconds of life that call for the next."""

    credentials: Credentials
    end: float
    margin: float


def _seconds_until(end: datetime, now: datetime) -> float:
    return (end - now).total_seconds()
