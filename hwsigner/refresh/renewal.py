"""Sessions, one after another: created by one thread at a time, the last good one kept, a pause after each failure."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeGuard
from weakref import WeakSet

from hwsigner.aws.create_session import Service, SessionRequest, create_session
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError
from hwsigner.refresh.outcome import HeldSession, Setback
from hwsigner.refresh.reopening import HeldIdentity
from hwsigner.refresh.schedule import POLICY, Lease, until_refresh
from hwsigner.system.clocks import Clocks

# Called after each try to create a session, with what came of it.
Listener = Callable[[HeldSession | Setback], None]
# Says of the last session, with the seconds of life that it has left, whether another one is to be created.
_IsDue = Callable[[Lease, float], bool]


class Renewal:
    """The sessions of one identity. Safe to use from several threads.

    Args:
        identity: who asks.
        request: what for.
        service: whom.
        clocks: what time it is.

    Attributes:
        session: the last session, which may have ended, or None.
        setback: what the last try left behind, or None if it succeeded or there was none.
        is_closed: whether it was closed.
        listener: called after each try, by the thread that made it, while it holds up others; it may call `get`, and
            raises nothing. None for nobody.
    """

    def __init__(self, identity: HeldIdentity, request: SessionRequest, *, service: Service, clocks: Clocks) -> None:
        self._identity = identity
        self._request = request
        self._service = service
        self._clocks = clocks
        # Whoever refreshes holds it. The session and the setback are replaced whole, so that they are read without it.
        # Its thread may come back, by what the refresh calls: it finds that it is refreshing, and waits not for itself.
        self._lock = threading.RLock()
        self._is_refreshing = False
        self._created = 0
        self.session: HeldSession | None = None
        self.setback: Setback | None = None
        self.is_closed = False
        self.listener: Listener | None = None
        _renewals.add(self)

    def get(self) -> HeldSession:
        """Return a session that lives: with no more life left than its margin, where one can be had, a new one.

        Raises:
            HwsignerError: there is none, and a try to get one failed as `open_identity` and `create_session` do, now
                or so lately that it is too early for the next; or this is closed.
            UsageError: there is none, and this is called by a refresh itself.
        """
        session = self.session
        left = self.left(session)
        if session and not session.lease.is_due(left):
            return session
        # Whoever has living credentials does not wait for another thread's refresh.
        if not self._lock.acquire(blocking=left <= 0) and session:
            return session
        try:
            return self._given(Lease.is_due)
        finally:
            self._lock.release()

    def is_good(self, session: HeldSession, *, is_tended: bool) -> bool:
        """Tell, without waiting, whether a session is to be given, and not `get` to be called for another one.

        Args:
            session: a session of this.
            is_tended: whether a thread makes the tries that follow a failure.
        """
        left, setback = session.left(self._clocks), self.setback
        if self.is_closed or left <= 0:
            return False
        if not session.lease.is_due(left):
            return True
        if setback is None:
            return self._is_refreshing
        return is_tended or self._is_refreshing or self._clocks.monotonic() < setback.next_try

    def renew(self, *, mended: bool) -> HeldSession:
        """Create a session now, whatever life the last has left, and however lately a try failed.

        Args:
            mended: whether what a PinError told of is mended; else it is raised again, and no PIN is sent.

        Raises:
            HwsignerError: the try failed; the last session is kept.
            UsageError: this is called by a refresh itself, and there is no session that lives.
        """
        created = self._created
        with self._lock:
            if self._created == created and not self._is_refreshing:
                if self.setback and (mended or not self.setback.is_final):
                    self.setback = None
                self._given(_always)
                if self.setback:
                    raise self.setback.to_raise()
            return self._given(Lease.is_due)

    def renew_ahead(self) -> bool:
        """Create a session if a resident is to do so now; raises as `get`.

        Returns:
            False if another thread is at it.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_refreshing:
                self._given(Lease.is_due_ahead)
        finally:
            self._lock.release()
        return True

    def until_refresh(self) -> float:
        """Return the seconds until `renew_ahead` does something: 0 for at once, infinity for never."""
        session, setback = self.session, self.setback
        next_try = setback.next_try if setback else -math.inf
        now = self._clocks.monotonic()
        lease = session.lease if session else None
        return until_refresh(lease, self.left(session), next_try=next_try, now=now)

    def needs_person(self) -> bool:
        """Tell whether somebody must touch or type something for the next session, so far as the key's times tell."""
        return self._identity.needs_person(self._clocks.now())

    def left(self, session: HeldSession | None) -> float:
        """Return the seconds of life that a session has left; not above 0 for none."""
        return session.left(self._clocks) if session else 0.0

    def close(self) -> None:
        """Close the key, after a refresh that is under way, and forget the session. Closing twice is allowed.

        What a refresh calls in its thread does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        with self._lock:
            self.is_closed = True
            if not self._is_refreshing:
                self._forget()

    def _lives(self, session: HeldSession | None) -> TypeGuard[HeldSession]:
        return self.left(session) > 0

    def _given(self, is_due: _IsDue) -> HeldSession:
        """Return a new session if one is due and a try may be made, else the last. The lock is held."""
        if self._is_refreshing:
            return self._given_within()
        # Before anything is read: what a signal's handler does meanwhile must not go unseen.
        self._is_refreshing = True
        try:
            session = self._refreshed(is_due)
        finally:
            self._is_refreshing = False
            if self.is_closed:
                self._forget()
        self._refuse_if_closed()
        return session

    def _given_within(self) -> HeldSession:
        self._refuse_if_closed()
        session = self.session
        if not self._lives(session):
            raise UsageError("a provider was called by its own refresh", "Let its callables and handlers not use it")
        return session

    def _refreshed(self, is_due: _IsDue) -> HeldSession:
        self._refuse_if_closed()
        session, setback = self.session, self.setback
        if session and not is_due(session.lease, self.left(session)):
            return session  # Another thread's work.
        if setback is None or self._clocks.monotonic() >= setback.next_try:
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
        if self.is_closed:
            raise UsageError("the provider is closed", "Make a new one")

    def _create(self) -> HeldSession:
        clocks = self._clocks
        identity = self._identity.get(clocks.now())
        # After a failure only the schedule repeats: a fleet would send three times what is too much already.
        service = replace(self._service, max_attempts=1) if self.setback else self._service
        begin = clocks.monotonic()
        credentials = create_session(identity, self._request, service, now=clocks.now, sleep=clocks.sleep)
        self.session = HeldSession.begin(credentials, begin, duration=self._request.duration, clocks=clocks)
        self.setback = None
        self._created += 1
        self._tell(self.session)
        return self.session

    def _note(self, error: Exception) -> None:
        # First of all: whatever fails after it, no PIN is sent twice.
        self.setback = Setback.after(error, self.setback, partial(self._next_try, error))
        if not isinstance(error, ServiceError | ServiceUnreachableError):
            with suppress(Exception):  # The key that failed is given up, and its first error is the one to tell.
                self._identity.close()
        if self.session:
            self.session = self.session.postponed(self._clocks)
        self._tell(self.setback)

    def _next_try(self, error: Exception, failures: int) -> float:
        asked = error.retry_after if isinstance(error, ServiceError) else 0.0
        return self._clocks.monotonic() + POLICY.pause(failures, random.random, asked=asked)

    def _tell(self, outcome: HeldSession | Setback) -> None:
        if self.listener:
            self.listener(outcome)

    def _forget(self) -> None:
        self.session = None
        self._identity.close()

    def _start_in_child(self) -> None:
        """Leave the key to the parent process, and with it a refresh of another thread, which this process lacks."""
        self._identity.leave()
        if self._lock.acquire(blocking=False):  # It is free, or this thread forked in a refresh, and is in it still.
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._is_refreshing = False


_renewals: WeakSet[Renewal] = WeakSet()


def _start_all_in_child() -> None:
    for renewal in list(_renewals):
        renewal._start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)


def _always(lease: Lease, left: float) -> bool:
    return True
