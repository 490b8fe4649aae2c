"""Credentials that refresh themselves: one identity and its session, shared by all threads of a program."""

from __future__ import annotations

import math
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self

from hwsigner.credentials import Credentials
from hwsigner.errors import (
    HwsignerError,
    HwsignerWarning,
    PinError,
    ServiceError,
    ServiceUnreachableError,
    UsageError,
)
from hwsigner.identity import Identity, IdentitySource, open_identity
from hwsigner.pin import AskPin
from hwsigner.session import Service, SessionRequest, create_session, utc_now
from hwsigner.uri import KeyURI

# Seconds of life. botocore asks for other credentials when 15 minutes are left: what it gets has one minute more.
REFRESH_MARGIN = 960.0
_MARGIN_SHARE = 1 / 3
_BACKOFF_BASE = 1.0
_BACKOFF_CAP = 120.0
_MAX_DOUBLINGS = 10


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
    when its leaf has expired, and after its key has failed. Close the provider, or use it in a `with` statement.

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
        self._lock = threading.Lock()
        self._identity = _HeldIdentity(source)
        self._session: _Session | None = None
        self._setback: _Setback | None = None
        self._is_closed = False

    @classmethod
    def from_profile(cls, name: str, ask_pin: AskPin | None = None, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Return a provider for a profile of config.toml, by the rules of `--profile`; `debug` and `strict` do nothing.

        Args:
            name: the profile's name.
            ask_pin: asked for a PIN that no stored place gives, whenever the key is opened; None makes that an error.
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
        """
        session = self._session
        left = self._left(session)
        if session and left > session.margin:
            return session.credentials
        # Whoever has living credentials does not wait for another thread's refresh.
        if not self._lock.acquire(blocking=left <= 0) and session:
            return session.credentials
        try:
            return self._refreshed().credentials
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the key, after a refresh that is under way, and forget the credentials. Closing twice is allowed."""
        with self._lock:
            self._is_closed = True
            self._session = None
            self._identity.close()

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

    def _refreshed(self) -> _Session:
        """Return a new session if one is due and a try may be made, else the last. The lock is held."""
        if self._is_closed:
            raise UsageError("the provider is closed", "Make a new one")
        session, setback = self._session, self._setback
        if session and self._left(session) > session.margin:
            return session  # Another thread's work.
        if setback is None or self._monotonic() >= setback.next_try:
            try:
                return self._create()
            except Exception as error:
                self._note(error)
                if session is None or self._left(session) <= 0:
                    raise
        elif session is None or self._left(session) <= 0:
            raise copy(setback.error)  # An exception that is raised again and again would gather tracebacks.
        return session

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
        if not isinstance(error, ServiceError | ServiceUnreachableError):
            self._identity.close()
        number = self._setback.number + 1 if self._setback else 1
        pause = min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** min(number - 1, _MAX_DOUBLINGS))
        pause *= random.uniform(0.5, 1)  # noqa: S311  no secret
        next_try = math.inf if isinstance(error, PinError) else self._monotonic() + pause
        self._setback = _Setback(_told(error), number, next_try)


@dataclass(frozen=True)
class _Session:
    """A session's credentials, when they end by the monotonic clock, and the seconds of life that call for the next."""

    credentials: Credentials
    end: float
    margin: float


@dataclass(frozen=True)
class _Setback:
    """A try that failed, how many did in a row, and when the next may be made by the monotonic clock."""

    error: HwsignerError | HwsignerWarning
    number: int
    next_try: float


class _HeldIdentity:
    """An identity that is held open, and opened anew when its files have changed or its leaf has expired."""

    def __init__(self, source: IdentitySource | Callable[[], IdentitySource]) -> None:
        self._source = source
        self._identity: Identity | None = None
        self._stamps: dict[bytes, _Stamp] = {}

    def get(self, now: datetime) -> Identity:
        """Return the identity, opened if need be; raises as `open_identity`."""
        if self._identity and not self._is_outdated(self._identity, now):
            return self._identity
        self.close()
        source = self._source if isinstance(self._source, IdentitySource) else self._source()
        # Before the files are read: a later change is seen next time.
        self._stamps = {path: _stamp(path) for path in _files(source)}
        self._identity = open_identity(source, now)
        return self._identity

    def close(self) -> None:
        """Close the identity if it is open."""
        identity, self._identity = self._identity, None
        if identity:
            identity.close()

    def _is_outdated(self, identity: Identity, now: datetime) -> bool:
        is_changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
        return is_changed or identity.chain.leaf.x509.not_valid_after_utc < now


_Stamp = tuple[int, int, int, int] | None


def _stamp(path: bytes) -> _Stamp:
    """Return what changes when a regular file does, or None: a pipe is read once, whatever becomes of it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _files(source: IdentitySource) -> Iterator[bytes]:
    """Yield the paths of an identity's files: those of file: and tpm2:path= URIs."""
    for uri in (source.certificate, source.private_key, source.intermediates):
        path = KeyURI.of(uri).path.get("path") if uri else None
        if path is not None:
            yield path


def _seconds_until(end: datetime, now: datetime) -> float:
    return (end - now).total_seconds()


def _told(error: Exception) -> HwsignerError | HwsignerWarning:
    """Return an error to keep: without its traceback, whose frames may hold a PIN, and without its chain."""
    if isinstance(error, HwsignerError | HwsignerWarning):
        return copy(error)
    return HwsignerError(f"getting credentials failed with {type(error).__name__}", "See where it was raised first")
