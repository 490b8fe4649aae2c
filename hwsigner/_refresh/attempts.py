"""Attempts to create sessions of an identity, one at a time."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from hwsigner._aws.create_session import Service, SessionRequest, create_session, shortened
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import IdentitySource
from hwsigner._identity.certificate import Certificate
from hwsigner._monitoring import logger
from hwsigner._pins import AskPin
from hwsigner._refresh.outcome import ExpiryWatch, Failure, Session
from hwsigner._refresh.reopening import ReopeningIdentity
from hwsigner._refresh.schedule import SESSION_TIMING, Lifetime
from hwsigner._system.clocks import Clocks
from hwsigner._system.notices import observed_by
from hwsigner.errors import HwsignerError, HwsignerWarning, ServiceError, ServiceUnreachableError, UsageError

if TYPE_CHECKING:
    from hwsigner._config import settings


class Attempts:
    """An identity's sessions, created one at a time when a caller asks, as `Provider` describes it. Thread-safe."""

    def __init__(
        self, identity: ReopeningIdentity, request: SessionRequest, service: Service, clocks: Clocks | None = None
    ) -> None:
        self.request = request
        self._identity = identity
        self._service = service
        self._clocks = clocks or Clocks()
        # Held by the thread that refreshes. Session and failure are replaced whole, so they are read without it. What a
        # refresh calls may call this again, in the same thread: hence the RLock, and `_is_refreshing`.
        self._lock = threading.RLock()
        self._is_refreshing = False
        self._is_closed = False
        self._created = 0
        self._session: Session | None = None
        self._failure: Failure | None = None
        self._logged = ExpiryWatch()  # For the library's log.
        self.request_seconds: float | None = None  # How long the last attempt's request took.
        self._on_notice: Callable[[str | None], None] | None = None
        _all.add(self)

    @classmethod
    def from_settings(cls, values: settings.Settings, service: Service, ask_pin: AskPin | None = None) -> Self:
        """Return one for the settings of a command line or a profile; raises a UsageError if one is invalid."""
        from hwsigner._config import settings

        clocks = Clocks()
        identity = ReopeningIdentity(checked_source(values, ask_pin), clocks.monotonic)
        return cls(identity, settings.session_request(values), service, clocks)

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        failure = self._failure
        return failure.error if failure else None

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._identity.leaf

    def credentials(self) -> Credentials:
        """Return live credentials."""
        session = self._session
        left = self._left(session)
        if session and not session.lifetime.is_due(left):
            return session.credentials
        # A caller with live credentials does not wait for another thread's refresh.
        if not self._lock.acquire(blocking=left <= 0) and session:
            return session.credentials
        try:
            return self._session_after_refresh(Lifetime.is_due).credentials
        finally:
            self._lock.release()

    def refresh(self, *, fixed: bool = False) -> Credentials:
        """Create a session now; after a PinError, only if its cause was fixed."""
        created = self._created
        with self._lock:
            if self._created == created and not self._is_refreshing:
                if self._failure and (fixed or not self._failure.is_final):
                    self._failure = None
                self._session_after_refresh(lambda *_: True)
                if self._failure:
                    raise self._failure.to_raise()
            return self._session_after_refresh(Lifetime.is_due).credentials

    def close(self) -> None:
        """Close the key after a refresh in progress, if this is not called by it, and forget the credentials."""
        with self._lock:
            self._is_closed = True
            if not self._is_refreshing:
                self._drop_session()

    def forget(self) -> None:
        """Forget the credentials and close the key, after a refresh in progress. A later call opens it again."""
        with self._lock:
            if not self._is_refreshing:
                self._drop_session()

    def __call__(self) -> Credentials:
        """Return live credentials."""
        return self.credentials()

    def at_once(self) -> Credentials | None:
        """Return the last credentials while they live, without waiting for others."""
        session = self._session
        return session.credentials if session and self._left(session) > 0 else None

    def _left(self, session: Session | None) -> float:
        """Return the seconds that a session has left: 0 or less for none."""
        return session.left(self._clocks) if session else 0.0

    def _session_after_refresh(self, is_due: Callable[[Lifetime, float], bool]) -> Session:
        """Return a new session if one is due and an attempt is allowed, else the last. The lock is held."""
        if self._is_refreshing:
            self._refuse_if_closed()
            if self._session is None or self._left(self._session) <= 0:
                hint = "Don't call the provider from its own callables or handlers"
                raise UsageError("a provider was called by its own refresh", hint)
            return self._session
        # Before anything is read: a signal handler may close this meanwhile, which must be seen in the end.
        self._is_refreshing = True
        try:
            session = self._refresh_if_due(is_due)
        finally:
            self._is_refreshing = False
            if self._is_closed:
                self._drop_session()
        self._refuse_if_closed()
        return session

    def _refresh_if_due(self, is_due: Callable[[Lifetime, float], bool]) -> Session:
        self._refuse_if_closed()
        session, failure = self._session, self._failure
        if session and not is_due(session.lifetime, self._left(session)):
            return session  # Another thread created it.
        if failure is None or self._clocks.monotonic() >= failure.next_try:
            try:
                with observed_by(self._on_notice):
                    session = self._request_session()
            except Exception as error:
                self._note_failure(error)
                if session is None or self._left(session) <= 0:
                    raise
            else:  # A log handler that raises is no failure of the session.
                logger.session_created(self.request.role_arn, session.credentials.expiration)
                for notice in self._notices(self._logged):
                    logger.notice(*notice)
        elif session is None or self._left(session) <= 0:
            raise failure.to_raise()
        return session

    def _request_session(self) -> Session:
        clocks = self._clocks
        self.request_seconds = None
        identity = self._identity.get(clocks.now())
        # After a failure only the schedule retries: otherwise an overloaded service would get three times the requests.
        service = self._service._replace(max_attempts=1) if self._failure else self._service
        begin = clocks.monotonic()
        try:
            credentials = create_session(identity, self.request, service, now=clocks.now, sleep=clocks.sleep)
        finally:
            self.request_seconds = clocks.monotonic() - begin
        session = Session.begin(credentials, begin, duration=self.request.duration, clocks=clocks)
        self._session, self._failure = session, None
        self._created += 1
        self._note(session)
        return session

    def _note_failure(self, error: Exception) -> None:
        def next_try(failures: int) -> float:
            asked = error.retry_after if isinstance(error, ServiceError) else 0.0
            return self._clocks.monotonic() + SESSION_TIMING.pause(failures, random.random, asked=asked)

        # First of all, so that no PIN is sent twice, whatever fails below.
        self._failure = failure = Failure.after(error, self._failure, next_try)
        if not isinstance(error, ServiceError | ServiceUnreachableError):
            with suppress(Exception):  # The key has failed; its first error is the one to report.
                self._identity.close()
        if self._session:
            self._session = self._session.postponed(self._clocks)
        self._note(failure)
        logger.no_session(self.request.role_arn, failure.error)

    def _notices(self, watch: ExpiryWatch) -> Iterator[tuple[str, str]]:
        leaf, session, now = self.leaf, self._session, self._clocks.now()
        if leaf and (notice := watch.notice(leaf, now)):
            yield notice
        is_first, watch.has_seen_session = not watch.has_seen_session, True
        # The next sessions are as short.
        if session and is_first and (text := shortened(session.credentials, self.request.duration, now)):
            yield "warning", text

    def _note(self, outcome: Session | Failure) -> None:
        """Take what came of an attempt, before others go on."""

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise UsageError("the provider is closed", "Make a new one")

    def _drop_session(self) -> None:
        self._session = None
        self._identity.close()

    def start_in_child(self) -> None:
        """After a fork: leave the key to the parent, and with it a refresh by a thread that this process lacks."""
        self._identity.leave()
        if self._lock.acquire(blocking=False):  # It is free, or this thread forked during its own refresh.
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._is_refreshing = False


def checked_source(values: settings.Settings, ask_pin: AskPin | None = None) -> Callable[[], IdentitySource]:
    """Return what makes the identity's source of settings; raises a UsageError if a value is invalid."""
    from hwsigner._config import settings

    source = partial(settings.identity_source, values, ask_pin)
    if values.cert_selector is None:
        source()  # Invalid values are found now. Tokens are searched when the key is opened.
    return source


_all: WeakSet[Attempts] = WeakSet()


def _start_all_in_child() -> None:
    for attempts in list(_all):
        attempts.start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)
