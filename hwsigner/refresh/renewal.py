"""An identity's sessions: created by one thread at a time, the last good one kept, a pause after each failure."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from weakref import WeakSet

from hwsigner.aws.create_session import Service, SessionRequest, create_session
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError
from hwsigner.refresh.outcome import Failure, Session
from hwsigner.refresh.reopening import ReopeningIdentity
from hwsigner.refresh.schedule import POLICY, Lifetime, until_refresh
from hwsigner.system.clocks import Clocks

# Called after each attempt to create a session, with its outcome.
Listener = Callable[[Session | Failure], None]
# Whether the last session, with so many seconds left, is to be replaced.
_IsDue = Callable[[Lifetime, float], bool]


class Renewal:
    """An identity's sessions, created one at a time. Thread-safe.

    Args:
        identity: the identity.
        request: what to request.
        service: the service to ask.
        clocks: the clocks.

    Attributes:
        session: the last session, which may have expired, or None.
        failure: the failure of the last attempt, or None.
        is_closed: whether `close` was called.
        listener: called after each attempt, by the thread that made it and while others wait for it. It may call `get`,
            and must not raise. None: nothing is called.
    """

    def __init__(
        self, identity: ReopeningIdentity, request: SessionRequest, *, service: Service, clocks: Clocks
    ) -> None:
        self._identity = identity
        self._request = request
        self._service = service
        self._clocks = clocks
        # Held by the thread that refreshes. Session and failure are replaced whole, so they are read without it.
        # What a refresh calls may call this again, in the same thread: hence the RLock, and `_is_refreshing`.
        self._lock = threading.RLock()
        self._is_refreshing = False
        self._created = 0
        self.session: Session | None = None
        self.failure: Failure | None = None
        self.is_closed = False
        self.listener: Listener | None = None
        _renewals.add(self)

    def get(self) -> Session:
        """Return a live session: a new one if the last has reached its margin and a new one can be had.

        Raises:
            HwsignerError: there is none, and an attempt failed as `open_identity` and `create_session` do, now or so
                recently that it is too early for the next; or this is closed.
            UsageError: there is none, and a refresh called this itself.
        """
        session = self.session
        left = self.left(session)
        if session and not session.lifetime.is_due(left):
            return session
        # A caller with live credentials does not wait for another thread's refresh.
        if not self._lock.acquire(blocking=left <= 0) and session:
            return session
        try:
            return self._renewed(Lifetime.is_due)
        finally:
            self._lock.release()

    def is_good(self, session: Session, *, is_retried: bool) -> bool:
        """Return, without waiting, whether a session can be given out, or `get` must be called for another.

        Args:
            session: one of these sessions.
            is_retried: whether a background thread makes the attempts that follow a failure.
        """
        left, failure = session.left(self._clocks), self.failure
        if self.is_closed or left <= 0:
            return False
        if not session.lifetime.is_due(left) or self._is_refreshing:
            return True
        return failure is not None and (is_retried or self._clocks.monotonic() < failure.next_try)

    def renew(self, *, fixed: bool) -> Session:
        """Create a session now, whatever time the last has left, and however recently an attempt failed.

        Args:
            fixed: whether the cause of a PinError was fixed. If not, that error is raised again, and no PIN is sent.

        Raises:
            HwsignerError: the attempt failed; the last session is kept.
            UsageError: a refresh called this itself, and there is no live session.
        """
        created = self._created
        with self._lock:
            if self._created == created and not self._is_refreshing:
                if self.failure and (fixed or not self.failure.is_final):
                    self.failure = None
                self._renewed(lambda *_: True)
                if self.failure:
                    raise self.failure.to_raise()
            return self._renewed(Lifetime.is_due)

    def renew_ahead(self) -> bool:
        """Create a session if a background provider is to do so now; raises as `get`.

        Returns:
            False if another thread is at it.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_refreshing:
                self._renewed(Lifetime.is_due_ahead)
        finally:
            self._lock.release()
        return True

    def until_refresh(self) -> float:
        """Return the seconds until `renew_ahead` does something: 0 for at once, infinity for never."""
        session, failure = self.session, self.failure
        return until_refresh(
            session.lifetime if session else None,
            self.left(session),
            next_try=failure.next_try if failure else -math.inf,
            now=self._clocks.monotonic(),
        )

    def needs_person(self) -> bool:
        """Return whether the next session will need a touch or a typed PIN, judged by the key's times."""
        return self._identity.needs_person(self._clocks.now())

    def left(self, session: Session | None) -> float:
        """Return the seconds that a session has left: 0 or less for none."""
        return session.left(self._clocks) if session else 0.0

    def close(self) -> None:
        """Close the key after a refresh in progress, and forget the session. Closing twice is allowed.

        If a refresh calls this itself, it does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        with self._lock:
            self.is_closed = True
            if not self._is_refreshing:
                self._forget()

    def _renewed(self, is_due: _IsDue) -> Session:
        """Return a new session if one is due and an attempt is allowed, else the last. The lock is held."""
        if self._is_refreshing:
            self._refuse_if_closed()
            if self.session is None or self.left(self.session) <= 0:
                raise UsageError(
                    "a provider was called by its own refresh",
                    "Don't call the provider from its own callables or handlers",
                )
            return self.session
        # Before anything is read: a signal handler may close this meanwhile, which must be seen in the end.
        self._is_refreshing = True
        try:
            session = self._refreshed(is_due)
        finally:
            self._is_refreshing = False
            if self.is_closed:
                self._forget()
        self._refuse_if_closed()
        return session

    def _refreshed(self, is_due: _IsDue) -> Session:
        self._refuse_if_closed()
        session, failure = self.session, self.failure
        if session and not is_due(session.lifetime, self.left(session)):
            return session  # Another thread created it.
        if failure is None or self._clocks.monotonic() >= failure.next_try:
            try:
                return self._create()
            except Exception as error:
                self._note_failure(error)
                if session is None or self.left(session) <= 0:
                    raise
        elif session is None or self.left(session) <= 0:
            raise failure.to_raise()
        return session

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise UsageError("the provider is closed", "Make a new one")

    def _create(self) -> Session:
        clocks = self._clocks
        identity = self._identity.get(clocks.now())
        # After a failure only the schedule retries: otherwise an overloaded service would get three times the requests.
        service = replace(self._service, max_attempts=1) if self.failure else self._service
        begin = clocks.monotonic()
        credentials = create_session(identity, self._request, service, now=clocks.now, sleep=clocks.sleep)
        self.session = Session.begin(credentials, begin, duration=self._request.duration, clocks=clocks)
        self.failure = None
        self._created += 1
        if self.listener:
            self.listener(self.session)
        return self.session

    def _note_failure(self, error: Exception) -> None:
        def next_try(failures: int) -> float:
            asked = error.retry_after if isinstance(error, ServiceError) else 0.0
            return self._clocks.monotonic() + POLICY.pause(failures, random.random, asked=asked)

        # First of all, so that no PIN is sent twice, whatever fails below.
        self.failure = Failure.after(error, self.failure, next_try)
        if not isinstance(error, ServiceError | ServiceUnreachableError):
            with suppress(Exception):  # The key has failed; its first error is the one to report.
                self._identity.close()
        if self.session:
            self.session = self.session.postponed(self._clocks)
        if self.listener:
            self.listener(self.failure)

    def _forget(self) -> None:
        self.session = None
        self._identity.close()

    def _start_in_child(self) -> None:
        """After a fork: leave the key to the parent, and with it a refresh by a thread that this process lacks."""
        self._identity.leave()
        if self._lock.acquire(blocking=False):  # It is free, or this thread forked during its own refresh.
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._is_refreshing = False


_renewals: WeakSet[Renewal] = WeakSet()


def _start_all_in_child() -> None:
    for renewal in list(_renewals):
        renewal._start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)
