"""Credentials for programs that answer others: refreshed before a caller must wait, with replies as finished bytes."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import NamedTuple, Self
from weakref import WeakSet

from hwsigner._aws.credentials import Credentials
from hwsigner._identity.certificate import Certificate
from hwsigner._refresh.outcome import Failure, Rendered, Session
from hwsigner._refresh.provider import Provider
from hwsigner._refresh.reopening import ExpiryWatch
from hwsigner._refresh.workers import start_work
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError, suggestion

# Waiting does not count the time that the machine is suspended, and nothing reports that a clock was set.
LOOK_SECONDS = 60.0


class Status(NamedTuple):
    """The state of a background provider. Nothing in it is secret.

    Attributes:
        expiration: when the last credentials expire or expired; None without any.
        left: the seconds that they have left, 0 for none.
        until_refresh: the seconds until they are refreshed in the background; infinity for never.
        failure: the error of the last attempt, or None.
        needs_person: whether they are refreshed only when a caller asks, as the key needs a person.
        is_wanted: whether a caller asked for them.
    """

    expiration: datetime | None
    left: float
    until_refresh: float
    failure: HwsignerError | HwsignerWarning | None
    needs_person: bool
    is_wanted: bool


class BackgroundProvider:
    """A provider that is refreshed ahead of need by another thread, with finished replies. Thread-safe.

    Once warm, no caller waits for a signature: the next session is created while the last has 16 minutes or more left
    (of an hour, between 16 and 38; of 15 minutes, between 5 and 10), at a random moment. That happens only if a caller
    was given the last session, and never if the key needs a person: then the next session is created when a caller
    asks. After a failure the last credentials are given out, and attempts are repeated as a provider does. Once the
    credentials have expired, an attempt is made only if a caller has asked since the last one.

    Call `start()`, and `close()` at the end, or use a `with` statement. One thread waits for all background providers
    of a process; each refresh has a thread of its own. A child process starts without them and may call `start()`.

    Args:
        provider: closed with this.
        formats: by name, what makes a reply of credentials. It is called at each refresh by the thread that refreshes,
            and must not raise.
        attended: whether the key needs a person for each session: True, False, or None to judge by how long signatures
            take.
        on_try: called after each attempt with the credentials or the failure, in order, by the thread that made it. It
            may call and close this provider, and must not raise.
        on_notice: called with a notice when a refresh has begun to wait for the user, such as for a touch, and with
            None when that is over. It may be called from any thread, and must neither raise nor wait.
        guard: returns a context manager that is open while the key is opened, and while it signs; or None.

    Raises:
        UsageError: the provider has a background provider already.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        formats: Mapping[str, Callable[[Credentials], bytes | memoryview]] | None = None,
        attended: bool | None = None,
        on_try: Callable[[Credentials | Failure], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
        guard: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._provider = provider
        if provider._listener is not None:
            raise UsageError("the provider has a background provider already", "Make a provider for each")
        self._formats = dict(formats or {})
        self._attended = attended
        self._on_try = on_try
        self._expiry = ExpiryWatch()
        self._last: _RenderedSession | None = None  # Replaced whole, so it is read without a lock.
        self._is_started = self._is_closed = False
        self._is_wanted = False
        self._is_retried = False
        provider._listener = self._note
        provider._on_notice = on_notice
        if guard:
            provider._identity.guard = guard
        _providers.add(self)

    def __repr__(self) -> str:
        return f"<BackgroundProvider of {self._provider!r}>"

    def start(self) -> None:
        """Refresh in the background from now on. Nothing is done before a caller asks for credentials."""
        if not self._is_closed:
            self._is_started = True
            self._is_retried = not self._needs_person()
            _timer.start()
            self._report_change()

    def read(self, name: str) -> bytes | memoryview | None:
        """Return the finished reply of a format at once, or None if `reply` must be called, which may take long.

        While a refresh is in progress, and after one that failed, it is the last reply.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format, and the replies are there.
        """
        rendered = self._read(name)
        return None if rendered is None else rendered.reply

    def reply(self, name: str) -> bytes | memoryview:
        """Return the finished reply of a format; wait for a refresh if there are no live credentials.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format.
            HwsignerError: as a call of a provider does.
        """
        return self._reply(name).reply

    # `read` and `reply` with the credentials that are in the reply, and for callers that need nothing else:

    def _read(self, name: str) -> Rendered | None:
        last = self._live()
        try:
            return last.replies[name] if last else None
        except KeyError:
            raise self._unknown(name) from None

    def _reply(self, name: str) -> Rendered:
        if name not in self._formats:
            raise self._unknown(name)
        credentials, last = self(), self._last
        if last and last.session.credentials is credentials:
            return last.replies[name]
        return Rendered(self._formats[name](credentials), credentials)  # Another refresh is just storing its replies.

    def _at_once(self) -> Credentials | None:
        last = self._live()
        return last.session.credentials if last else None

    def _live(self) -> _RenderedSession | None:
        """Return what can be given out at once, or None if this must be called, which may take long."""
        last, provider = self._last, self._provider
        is_fresh = last is not None and not provider._is_closed and not last.session.is_due(provider._clocks)
        if last is None or not (is_fresh or provider._is_good(last.session, is_retried=self._is_retried)):
            self._is_wanted = True
            return None
        self._want()
        return last

    def _unknown(self, name: str) -> UsageError:
        return UsageError(f"there is no format {name!r}", suggestion(str(name), self._formats, "Add it to formats="))

    def __call__(self) -> Credentials:
        """Return live credentials; raises as a call of a provider does."""
        self._is_wanted = True
        credentials = self._provider()
        self._want()  # Again: a new session is not wanted before a caller has it.
        return credentials

    def refresh(self, *, fixed: bool = False) -> Credentials:
        """Create a session now; see `Provider.refresh`."""
        return self._provider.refresh(fixed=fixed)

    def _adopt(self, credentials: Credentials) -> bool:
        """Give out the session of another process, unless one is live here; return whether. See `Provider._adopt`."""
        is_taken = self._provider._adopt(credentials, self._store)
        self._report_change()
        return is_taken

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        return self._provider.failure

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._provider.leaf

    @property
    def request_seconds(self) -> float | None:
        """How long the last attempt's request took, with its signature and retries; None if it got no so far."""
        return self._provider._seconds

    def notices(self) -> list[tuple[str, str]]:
        """Return the levels and texts of lines for the log: the certificate is near its end, the session is too short.

        The first about a certificate is due once a quarter of its life is left, and the next ones each time that a
        tenth of what was left has passed. That sessions are shorter than asked is said with the first. Call it in
        `on_try`, after a session was created.
        """
        return list(self._provider._notices(self._expiry))

    def status(self) -> Status:
        """Return the state as it is now. Looks whether the key's files have changed."""
        session = self._provider._session
        return Status(
            expiration=session.credentials.expiration if session else None,
            left=max(0.0, self._provider._left(session)),
            until_refresh=self._until_refresh(),
            failure=self.failure,
            needs_person=self._needs_person(),
            is_wanted=self._is_wanted,
        )

    def _refresh_if_due(self) -> float:
        """Refresh if it is time to; return the seconds until the next call, unless an attempt is made before."""
        self._is_retried = not self._needs_person()
        if self._until_refresh() <= 0 and not self._renew_ahead():
            self._is_wanted = True  # No attempt was made: another thread refreshes, and reports its outcome.
            return LOOK_SECONDS
        return min(LOOK_SECONDS, self._until_refresh())

    def close(self) -> None:
        """Stop refreshing, and close the provider after a refresh in progress. Closing twice is allowed."""
        self._is_closed = True
        self._report_change()
        self._provider.close()
        self._last = None  # Last: a refresh that was in progress has stored its replies.

    def _forget(self) -> None:
        """Forget the credentials and close the key, after a refresh in progress. A later call opens it again."""
        self._is_wanted = False
        self._provider._forget()
        self._last = None
        self._report_change()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _want(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._report_change()

    def _report_change(self, seconds: float | None = None) -> None:
        if self._is_started:
            _timer.changes.put((self, seconds))

    def _needs_person(self) -> bool:
        return self._provider._needs_person() if self._attended is None else self._attended

    def _until_refresh(self) -> float:
        return self._provider._until_refresh() if self._is_wanted and self._is_retried else math.inf

    def _renew_ahead(self) -> bool:
        if self._provider._left(self._provider._session) <= 0:
            self._is_wanted = False  # Without credentials, each attempt is for a caller who asks.
        try:
            return self._provider._refresh_ahead()
        except Exception:  # The provider keeps it, and on_try was called.
            return True

    def _note(self, outcome: Session | Failure) -> None:
        if isinstance(outcome, Session):
            self._store(outcome)
        if self._is_started:
            self._is_retried = not self._needs_person()
        if self._on_try:
            self._on_try(outcome.credentials if isinstance(outcome, Session) else outcome)
        self._report_change()

    def _store(self, session: Session) -> None:
        credentials = session.credentials
        replies = {name: Rendered(render(credentials), credentials) for name, render in self._formats.items()}
        self._last = _RenderedSession(session, replies)
        self._is_wanted = False

    def _work(self) -> None:
        self._report_change(self._refresh_if_due())


@dataclass(frozen=True)
class _RenderedSession:
    """A session and its replies."""

    session: Session
    replies: Mapping[str, Rendered]


class _Timer:
    """The thread that waits for all background providers of a process, and lets workers refresh those that are due.

    `changes` takes a provider whose state has changed, with None; or one whose worker is done, with the seconds until
    it is due again.
    """

    def __init__(self) -> None:
        # Not a Condition: a signal handler could find its lock taken by the very thread that it interrupts.
        self.changes: SimpleQueue[tuple[BackgroundProvider, float | None]] = SimpleQueue()
        self._due: dict[BackgroundProvider, float] = {}
        self._at_work: dict[BackgroundProvider, bool] = {}  # Whether the state has changed since its worker began.
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hwsigner-timer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while True:
            first = min(look, min(self._due.values(), default=math.inf))
            with suppress(Empty):
                self._plan(*self.changes.get(timeout=max(0.0, first - time.monotonic())))
                while True:
                    self._plan(*self.changes.get_nowait())
            now = time.monotonic()
            if now >= look:
                look = now + LOOK_SECONDS
                for provider in list(self._due):
                    self._plan(provider, None)
            for provider in [provider for provider, due in self._due.items() if due <= now]:
                self._due[provider] = math.inf
                self._at_work[provider] = False
                start_work(provider._work)

    def _plan(self, provider: BackgroundProvider, seconds: float | None) -> None:
        """Decide when a provider is due; one that is at work, when its worker is done."""
        if seconds is None and provider in self._at_work:
            self._at_work[provider] = True
            return
        has_changed = self._at_work.pop(provider, False)
        if provider._is_closed:
            self._due.pop(provider, None)
        else:
            wait = provider._until_refresh() if seconds is None or has_changed else seconds
            self._due[provider] = time.monotonic() + wait


_timer = _Timer()
_providers: WeakSet[BackgroundProvider] = WeakSet()


def _start_all_in_child() -> None:
    global _timer
    _timer = _Timer()
    for provider in list(_providers):
        provider._is_started = provider._is_retried = False


os.register_at_fork(after_in_child=_start_all_in_child)
