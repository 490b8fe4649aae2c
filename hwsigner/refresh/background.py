"""Credentials for many who ask: a provider that a thread refreshes before anybody waits, and its replies as finished
bytes.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self
from weakref import WeakSet

from hwsigner.aws.credentials import Credentials
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError
from hwsigner.refresh.outcome import HeldSession, Setback
from hwsigner.refresh.provider import Provider
from hwsigner.refresh.renewal import Listener

# A wait does not count the time that the machine is suspended, and nobody tells that a clock was set.
LOOK_SECONDS = 60.0

Reply = bytes | memoryview
Format = Callable[[Credentials], Reply]


class Status(NamedTuple):
    """What can be told of a resident provider; nothing of it is secret.

    Attributes:
        expiration: when the last credentials end or ended; None without any.
        left: the seconds of life that they have left, 0 for none.
        until_refresh: the seconds until the thread refreshes them; infinity for never.
        failure: what the last try met, or None.
        needs_person: whether they are not refreshed but on the path of one who asks, as the key needs a person.
        is_wanted: whether somebody asked for them.
    """

    expiration: datetime | None
    left: float
    until_refresh: float
    failure: HwsignerError | HwsignerWarning | None
    needs_person: bool
    is_wanted: bool


class ResidentProvider:
    """A provider with a thread that refreshes it ahead of need, and with finished replies. Safe to use by all threads.

    Once warm, nobody waits for a signature: the thread creates the next session while the last has 16 minutes or more
    left (of an hour, between 16 and 38; of 15 minutes, between 5 and 10), at a moment that chance picks. It does so
    only if somebody was given the last, and never where the key needs a person: else the next is created on the path
    of one who asks. After failures it tries again as a provider does, while the last credentials are given. Once these
    have ended it tries only if somebody asked since its last try.

    Call `start()`, and `close()` at the end, or use it in a `with` statement: else the thread keeps the process for up
    to a minute after its end. A process that forks has no thread in the child, which may start one.

    Args:
        provider: is closed with this.
        formats: by name, what makes a reply of credentials. It is called at each refresh, by the thread that
            refreshes, and raises nothing.
        attended: whether the key needs a person for each session: True, False, or None to judge by the time that
            signatures take.
        on_try: called after each try with the session or the setback, in their order, by the thread that made it. It
            may call and close this provider, and raises nothing.

    Raises:
        UsageError: the provider has a resident already.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        formats: Mapping[str, Format] | None = None,
        attended: bool | None = None,
        on_try: Listener | None = None,
    ) -> None:
        self._provider = provider
        self._renewal = provider.renewal
        if self._renewal.listener is not None:
            raise UsageError("the provider has a resident already", "Make a provider for each")
        self._formats = dict(formats or {})
        self._attended = attended
        self._on_try = on_try
        # Replaced whole, so that it is read without a lock.
        self._held: _Held | None = None
        self._is_wanted = False
        self._is_tended = False
        self._thread: threading.Thread | None = None
        # Not an Event, whose lock a handler of a signal could find taken by the very thread that it interrupts.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._is_closed = False
        self._renewal.listener = self._note
        _residents.add(self)

    def __repr__(self) -> str:
        return f"<ResidentProvider of {self._provider!r}>"

    def start(self) -> None:
        """Start the thread, unless it runs. It does nothing before somebody asks."""
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name="hwsigner-resident", daemon=False)
            self._thread.start()

    def read(self, name: str) -> Reply | None:
        """Return the finished reply of a format at once, or None where `reply` is to be called, which may take long.

        It is the last one while a refresh is under way, or too early after one that failed.

        Args:
            name: the format's name.
        """
        self._is_wanted = True
        held = self._held
        if held is None or not self._renewal.is_good(held.session, is_tended=self._is_tended):
            return None
        return held.replies[name]

    def reply(self, name: str) -> Reply:
        """Return the finished reply of a format; wait for a refresh if there is none that lives.

        Args:
            name: the format's name.

        Raises:
            HwsignerError: as a call of a provider does.
        """
        session = self._get_session()
        held = self._held
        if held and held.session.credentials is session.credentials:
            return held.replies[name]
        return self._formats[name](session.credentials)  # Another refresh is just being made known.

    def __call__(self) -> Credentials:
        """Return credentials that live; raises as a call of a provider does."""
        return self._get_session().credentials

    def refresh(self, *, mended: bool = False) -> Credentials:
        """Create a session now; see `Provider.refresh`."""
        return self._provider.refresh(mended=mended)

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """What the last try met, or None if it succeeded or there was none."""
        return self._provider.failure

    def status(self) -> Status:
        """Return what can be told of it now. It reads the state of the key's files."""
        session = self._renewal.session
        return Status(
            expiration=session.credentials.expiration if session else None,
            left=max(0.0, self._renewal.left(session)),
            until_refresh=self._until_refresh(),
            failure=self.failure,
            needs_person=self._needs_person(),
            is_wanted=self._is_wanted,
        )

    def tend(self) -> float:
        """Do what is due now, and return the seconds after which to look again, unless something is told before."""
        self._is_tended = not self._needs_person()
        if self._until_refresh() <= 0 and not self._renew_ahead():
            return LOOK_SECONDS  # Another thread is at it, and what comes of it is told.
        return min(LOOK_SECONDS, self._until_refresh())

    def close(self) -> None:
        """End the thread and close the provider, after a refresh that is under way. Closing twice is allowed."""
        self._is_closed = True
        self._wakes.put(None)
        thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join()
        self._provider.close()
        self._held = None  # Last: a refresh that was under way has made its own known.

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get_session(self) -> HeldSession:
        self._is_wanted = True
        session = self._renewal.get()
        self._is_wanted = True  # A new session is nobody's yet. This one is given to somebody.
        return session

    def _needs_person(self) -> bool:
        return self._renewal.needs_person() if self._attended is None else self._attended

    def _until_refresh(self) -> float:
        return self._renewal.until_refresh() if self._is_wanted and self._is_tended else math.inf

    def _renew_ahead(self) -> bool:
        if self._renewal.left(self._renewal.session) <= 0:
            self._is_wanted = False  # Without credentials, each try is for somebody who asks.
        try:
            return self._renewal.renew_ahead()
        except Exception:  # The provider keeps it, and on_try was told.
            return True

    def _note(self, outcome: HeldSession | Setback) -> None:
        if isinstance(outcome, HeldSession):
            replies = {name: render(outcome.credentials) for name, render in self._formats.items()}
            self._held = _Held(outcome, replies)
            self._is_wanted = False
        if self._on_try:
            self._on_try(outcome)
        self._wakes.put(None)

    def _run(self) -> None:
        while threading.main_thread().is_alive() and not (self._is_closed or self._renewal.is_closed):
            with suppress(Empty):
                self._wakes.get(timeout=self.tend())

    def _start_in_child(self) -> None:
        self._thread = None
        self._is_tended = False
        self._wakes = SimpleQueue()


@dataclass(frozen=True)
class _Held:
    """A session and its replies."""

    session: HeldSession
    replies: Mapping[str, Reply] = field(repr=False)


_residents: WeakSet[ResidentProvider] = WeakSet()


def _start_all_in_child() -> None:
    for resident in list(_residents):
        resident._start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)
