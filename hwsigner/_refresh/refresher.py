"""Sessions that are created when a caller asks or, in the background, before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from hwsigner._aws.create_session import Service, SessionRequest
from hwsigner._aws.credentials import Credentials, Reply
from hwsigner._refresh import timer
from hwsigner._refresh.attempts import Attempts
from hwsigner._refresh.outcome import ExpiryWatch, Failure, Rendered, RenderedSession, Session, Status
from hwsigner._refresh.reopening import ReopeningIdentity
from hwsigner._refresh.schedule import Lifetime, until_refresh
from hwsigner._system.clocks import Clocks
from hwsigner.errors import UsageError, suggestion


class Refresher(Attempts):
    """An identity's sessions, which can be refreshed in the background. Thread-safe.

    `Provider` and `BackgroundProvider` are its faces, and describe what it does: `credentials` is a call of a provider,
    and a call of this is one of a background provider.
    """

    def __init__(
        self, identity: ReopeningIdentity, request: SessionRequest, service: Service, clocks: Clocks | None = None
    ) -> None:
        super().__init__(identity, request, service, clocks)
        self._is_configured = False
        self._formats: Mapping[str, Callable[[Credentials], Reply]] = {}
        self._attended: bool | None = None
        self._on_try: Callable[[Credentials | Failure], None] | None = None
        self._expiry = ExpiryWatch()
        self.is_stopped = False
        self._last: RenderedSession | None = None  # Replaced whole, so it is read without a lock.
        self._is_started = False
        self._is_wanted = False
        self._is_retried = False

    def configure(
        self,
        *,
        formats: Mapping[str, Callable[[Credentials], Reply]] | None = None,
        attended: bool | None = None,
        on_try: Callable[[Credentials | Failure], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
        guard: Callable[[], AbstractContextManager[None]] | None = None,
        expiry: ExpiryWatch | None = None,
    ) -> None:
        """Take what a BackgroundProvider takes, once; and what `notices` asks, if others ask it too."""
        if self._is_configured:
            raise UsageError("the provider has a background provider already", "Make a provider for each")
        self._is_configured = True
        self._formats = dict(formats or {})
        self._attended, self._on_try, self._on_notice = attended, on_try, on_notice
        self._expiry = expiry or self._expiry
        if guard:
            self._identity.guard = guard

    def forget(self) -> None:
        """Forget the credentials and close the key, after a refresh in progress. A later call opens it again."""
        self._is_wanted = False
        super().forget()
        self._last = None
        self._report_change()

    def start(self) -> None:
        """Refresh in the background from now on. Nothing is done before a caller asks for credentials."""
        if not self.is_stopped:
            self._is_started = True
            self._is_retried = not self._needs_person()
            timer.start_timer()
            self._report_change()

    def stop(self) -> None:
        """Stop refreshing, and close this."""
        self.is_stopped = True
        self._report_change()
        self.close()
        self._last = None  # Last: a refresh that was in progress has stored its replies.

    def __call__(self) -> Credentials:
        """Return live credentials, and refresh them in the background from now on."""
        self._is_wanted = True
        credentials = self.credentials()
        self._want()  # Again: a new session is not wanted before a caller has it.
        return credentials

    def at_once(self) -> Credentials | None:
        """Return what a call would, or None if it may take long."""
        last = self._live()
        return last.session.credentials if last else None

    def read(self, name: str) -> Rendered | None:
        """Return the finished reply of a format at once, or None if `reply` must be called, which may take long."""
        last = self._live()
        try:
            return last.replies[name] if last else None
        except KeyError:
            raise self._unknown(name) from None

    def reply(self, name: str) -> Rendered:
        """Return the finished reply of a format; wait for a refresh if there are no live credentials."""
        if name not in self._formats:
            raise self._unknown(name)
        credentials, last = self(), self._last
        if last and last.session.credentials is credentials:
            return last.replies[name]
        return Rendered(self._formats[name](credentials), credentials)  # Another refresh is just storing its replies.

    def adopt(self, credentials: Credentials) -> bool:
        """Give out the session of another process, unless one is live here; return whether.

        Its key may need a person, so that the next session is created when a caller asks. The last failure stays: a
        wrong PIN is not sent again.
        """
        is_taken = self._adopt(credentials)
        self._report_change()
        return is_taken

    def notices(self) -> list[tuple[str, str]]:
        """Return the levels and texts of lines for the log, right after a session was created."""
        return list(self._notices(self._expiry))

    def status(self) -> Status:
        """Return the state as it is now. Looks whether the key's files have changed."""
        session = self._session
        return Status(
            expiration=session.credentials.expiration if session else None,
            left=max(0.0, self._left(session)),
            until_refresh=self.until_refresh(),
            failure=self.failure,
            needs_person=self._needs_person(),
            is_wanted=self._is_wanted,
        )

    def until_refresh(self) -> float:
        """Return the seconds until a refresh in the background: 0 for at once, infinity for never."""
        if not (self._is_wanted and self._is_retried):
            return math.inf
        session, failure = self._session, self._failure
        return until_refresh(
            session.lifetime if session else None,
            self._left(session),
            next_try=failure.next_try if failure else -math.inf,
            now=self._clocks.monotonic(),
        )

    def work(self) -> None:
        """Refresh if it is time to, and tell the timer. Called by a worker."""
        self._report_change(self.refresh_ahead())

    def refresh_ahead(self) -> float:
        """Refresh if it is time to; return the seconds until the next call, unless an attempt is made before."""
        self._is_retried = not self._needs_person()
        if self.until_refresh() <= 0 and not self._renew_ahead():
            self._is_wanted = True  # No attempt was made: another thread refreshes, and reports its outcome.
            return timer.LOOK_SECONDS
        return min(timer.LOOK_SECONDS, self.until_refresh())

    def _renew_ahead(self) -> bool:
        """Create a session if it is time to. Returns False if another thread is."""
        if self._left(self._session) <= 0:
            self._is_wanted = False  # Without credentials, each attempt is for a caller who asks.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_refreshing:
                self._session_after_refresh(Lifetime.is_due_ahead)
        except Exception:  # It is kept, and on_try was called.
            return True
        finally:
            self._lock.release()
        return True

    def _adopt(self, credentials: Credentials) -> bool:
        with self._lock:
            begin = self._clocks.monotonic()
            session = Session.begin(credentials, begin, duration=self.request.duration, clocks=self._clocks)
            if self._is_closed or self._is_refreshing or self._left(self._session) > 0 or self._left(session) <= 0:
                return False
            self._identity.expect_person()
            self._session = session
            self._store(session)
        return True

    def _live(self) -> RenderedSession | None:
        """Return what can be given out at once, or None if this must be called, which may take long."""
        last = self._last
        is_fresh = last is not None and not self._is_closed and not last.session.is_due(self._clocks)
        if last is None or not (is_fresh or self._is_good(last.session)):
            self._is_wanted = True
            return None
        self._want()
        return last

    def _is_good(self, session: Session) -> bool:
        left, failure = session.left(self._clocks), self._failure
        if self._is_closed or left <= 0:
            return False
        if not session.lifetime.is_due(left) or self._is_refreshing:
            return True
        return failure is not None and (self._is_retried or self._clocks.monotonic() < failure.next_try)

    def _want(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._report_change()

    def _report_change(self, seconds: float | None = None) -> None:
        if self._is_started:
            timer.report_change(self, seconds)

    def _needs_person(self) -> bool:
        return self._identity.needs_person(self._clocks.now()) if self._attended is None else self._attended

    def _unknown(self, name: str) -> UsageError:
        return UsageError(f"there is no format {name!r}", suggestion(str(name), self._formats, "Add it to formats="))

    def _note(self, outcome: Session | Failure) -> None:
        """Take what came of an attempt, before others go on."""
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
        self._last = RenderedSession(session, replies)
        self._is_wanted = False

    def _drop_session(self) -> None:
        self._last = None
        super()._drop_session()

    def start_in_child(self) -> None:
        """After a fork: besides, refresh nothing in the background until `start`."""
        self._is_started = self._is_retried = False
        super().start_in_child()
