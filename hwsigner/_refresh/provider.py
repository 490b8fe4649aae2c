"""Credentials that refresh themselves: one identity and its sessions, shared by all threads of a program."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from hwsigner._aws.create_session import Service, SessionRequest, create_session, shortened
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import IdentitySource
from hwsigner._identity.certificate import Certificate
from hwsigner._monitoring import logger
from hwsigner._pins import AskPin
from hwsigner._refresh.outcome import Failure, Session
from hwsigner._refresh.reopening import ExpiryWatch, ReopeningIdentity
from hwsigner._refresh.schedule import SESSION_TIMING, Lifetime, until_refresh
from hwsigner._system.clocks import Clocks, boot_time, utc_now
from hwsigner._system.notices import observed_by
from hwsigner.errors import HwsignerError, HwsignerWarning, ServiceError, ServiceUnreachableError, UsageError

if TYPE_CHECKING:
    from hwsigner._config import settings


class Provider:
    """Credentials that are live whenever it is called. Thread-safe.

    The first call opens the key and creates a session. A call that finds 16 minutes or less left (of a session of under
    48 minutes, a third) creates the next session; meanwhile, and after that has failed, other calls get the last
    credentials while they live, and `failure` has the error.

    After a failure the next attempt is allowed once the service's Retry-After (15 minutes at most) and a pause have
    passed. The pause doubles from 1 s to 120 s, and is up to half shorter by chance. Such an attempt sends one request,
    whatever `max_attempts` allows the first. After a PinError none follows, as a wrong PIN must not be sent again: fix
    the cause and make a new provider, or call `refresh(fixed=True)`.

    The identity stays open. It is reopened if the file of its certificate, key or intermediates has changed, if its
    leaf has expired, after its key has failed, and in a child process. Close the provider, or use a `with` statement.

    What a refresh calls in its thread (`source`, a callable for PINs, a handler of warnings, signals or log records)
    gets the last credentials from the provider while they live, else a UsageError; it may close the provider.

    Args:
        source: the identity; or a callable that returns it, called each time that it is opened.
        request: what to request.
        service: the service to ask.
        now: the time, with its zone.
        monotonic: seconds by a clock that can't be set.
        sleep: waits some seconds between the attempts of one `create_session`.
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
        self._identity = ReopeningIdentity(source, monotonic)
        self._request = request
        self._service = service
        self._clocks = Clocks(now, monotonic, sleep)
        # Held by the thread that refreshes. Session and failure are replaced whole, so they are read without it. What a
        # refresh calls may call this again, in the same thread: hence the RLock, and `_is_refreshing`.
        self._lock = threading.RLock()
        self._is_refreshing = False
        self._is_closed = False
        self._created = 0
        self._seconds: float | None = None
        self._session: Session | None = None
        self._failure: Failure | None = None
        self._expiry = ExpiryWatch()
        # A background provider's: called by the thread that made an attempt, before it lets others go on.
        self._listener: Callable[[Session | Failure], None] | None = None
        self._on_notice: Callable[[str | None], None] | None = None
        _providers.add(self)

    @classmethod
    def from_profile(
        cls, name: str, ask_pin: AskPin | None = None, *, environ: Mapping[str, str] = os.environ, **overrides: Any
    ) -> Self:
        """Return a provider for a profile of config.toml, as `--profile` does, but without prompts.

        The profile's `pinentry`, `debug` and `strict` have no effect. A `pin-source=cmd:` of its key URIs may run.

        Args:
            name: the profile's name.
            ask_pin: asked first for a PIN that the profile does not hold itself as `pkcs8-password` or
                `tpm-key-password`; returns None to leave it to the stored places.
            environ: says where config.toml is, and the endpoint, proxies, CAs and number of attempts.
            overrides: values that take precedence over the profile's, by the names of the flags with `_`, as in
                `session_duration=900`. A value has the type that it has in config.toml.

        Raises:
            ConfigError: there is no such profile, or it has a key that is not a flag.
            UsageError: an ARN, a key URI or another value, an override, or an environment variable, is invalid.

        Warns:
            UnsafeKeyWarning: the profile holds a PIN and others can read its file.
            UnsafeConnectionWarning: the profile has `no-verify-ssl`.
        """
        from hwsigner._config import settings

        values = settings.read_profile(name, environ, overrides)
        return cls._from_settings(values, settings.service(values, environ), ask_pin)

    @classmethod
    def _from_settings(cls, values: settings.Settings, service: Service, ask_pin: AskPin | None = None) -> Self:
        """Return a provider for the settings of a command line or a profile; raises a UsageError if one is invalid."""
        from hwsigner._config import settings

        source = partial(settings.identity_source, values, ask_pin)
        if values.cert_selector is None:
            source()  # Invalid values are found now. Tokens are searched when the key is opened.
        return cls(source, settings.session_request(values), service)

    @classmethod
    def _sharing(cls, identity: ReopeningIdentity, request: SessionRequest, service: Service) -> Self:
        """Return a provider for an identity that other providers use too."""
        made = cls(identity.source, request, service)
        made._identity = identity
        return made

    def __repr__(self) -> str:
        return f"<Provider for {self._request.role_arn}>"

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        failure = self._failure
        return failure.error if failure else None

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._identity.leaf

    def __call__(self) -> Credentials:
        """Return live credentials.

        Raises:
            HwsignerError: there are none, and an attempt failed as `open_identity` and `create_session` do, now or so
                recently that it is too early for the next; or the provider is closed.
            UsageError: there are none, and a refresh called this itself.
        """
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

    async def get(self) -> Credentials:
        """Return live credentials, as a call does, without blocking the event loop of asyncio."""
        import asyncio

        return await asyncio.to_thread(self)

    def refresh(self, *, fixed: bool = False) -> Credentials:
        """Create a session now, whatever time the last has left, and however recently an attempt failed.

        Args:
            fixed: whether the cause of a PinError was fixed. If not, that error is raised again, and no PIN is sent.

        Raises:
            HwsignerError: the attempt failed; the last credentials are still given out while they live.
            UsageError: a refresh called this itself, and there are no live credentials.
        """
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
        """Close the key after a refresh in progress, and forget the credentials. Closing twice is allowed.

        If a refresh calls this itself, it does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        with self._lock:
            self._is_closed = True
            if not self._is_refreshing:
                self._drop_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For background providers, and for those who may ask an agent first:

    def _at_once(self) -> Credentials | None:
        """Return the last credentials while they live, without waiting for others."""
        session = self._session
        return session.credentials if session and self._left(session) > 0 else None

    def _forget(self) -> None:
        """Forget the credentials and close the key, after a refresh in progress. A later call opens it again."""
        with self._lock:
            if not self._is_refreshing:
                self._drop_session()

    def _is_good(self, session: Session, *, is_retried: bool) -> bool:
        """Return, without waiting, whether a session can be given out, or this must be called for another.

        `is_retried` says whether a background provider makes the attempts that follow a failure.
        """
        left, failure = session.left(self._clocks), self._failure
        if self._is_closed or left <= 0:
            return False
        if not session.lifetime.is_due(left) or self._is_refreshing:
            return True
        return failure is not None and (is_retried or self._clocks.monotonic() < failure.next_try)

    def _adopt(self, credentials: Credentials, store: Callable[[Session], None]) -> bool:
        """Pass the session of another process to `store` and give it out, unless one is live here; return whether.

        Its key may need a person, so that the next session is created when a caller asks. The last failure stays: a
        wrong PIN is not sent again.
        """
        with self._lock:
            session = Session.begin(
                credentials, self._clocks.monotonic(), duration=self._request.duration, clocks=self._clocks
            )
            if self._is_closed or self._is_refreshing or self._left(self._session) > 0 or self._left(session) <= 0:
                return False
            self._identity.expect_person()
            self._session = session
            store(session)
        return True

    def _refresh_ahead(self) -> bool:
        """Create a session if it is time to in the background; raises as a call. Returns False if another thread is."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_refreshing:
                self._session_after_refresh(Lifetime.is_due_ahead)
        finally:
            self._lock.release()
        return True

    def _until_refresh(self) -> float:
        """Return the seconds until `_refresh_ahead` does something: 0 for at once, infinity for never."""
        session, failure = self._session, self._failure
        return until_refresh(
            session.lifetime if session else None,
            self._left(session),
            next_try=failure.next_try if failure else -math.inf,
            now=self._clocks.monotonic(),
        )

    def _needs_person(self) -> bool:
        return self._identity.needs_person(self._clocks.now())

    def _notices(self, watch: ExpiryWatch) -> Iterator[tuple[str, str]]:
        """Yield the level and text of lines for the log, right after a session was created."""
        leaf, session, now = self.leaf, self._session, self._clocks.now()
        if leaf and (notice := watch.notice(leaf, now)):
            yield notice
        is_first, watch.has_seen_session = not watch.has_seen_session, True
        # The next sessions are as short.
        if session and is_first and (text := shortened(session.credentials, self._request.duration, now)):
            yield "warning", text

    # For all of the above:

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
                logger.session_created(self._request.role_arn, session.credentials.expiration)
                for notice in self._notices(self._expiry):
                    logger.notice(*notice)
        elif session is None or self._left(session) <= 0:
            raise failure.to_raise()
        return session

    def _request_session(self) -> Session:
        clocks = self._clocks
        self._seconds = None
        identity = self._identity.get(clocks.now())
        # After a failure only the schedule retries: otherwise an overloaded service would get three times the requests.
        service = self._service._replace(max_attempts=1) if self._failure else self._service
        begin = clocks.monotonic()
        try:
            credentials = create_session(identity, self._request, service, now=clocks.now, sleep=clocks.sleep)
        finally:
            self._seconds = clocks.monotonic() - begin
        session = Session.begin(credentials, begin, duration=self._request.duration, clocks=clocks)
        self._session, self._failure = session, None
        self._created += 1
        if self._listener:
            self._listener(session)
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
        if self._listener:
            self._listener(failure)
        logger.no_session(self._request.role_arn, failure.error)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise UsageError("the provider is closed", "Make a new one")

    def _drop_session(self) -> None:
        self._session = None
        self._identity.close()

    def _start_in_child(self) -> None:
        """After a fork: leave the key to the parent, and with it a refresh by a thread that this process lacks."""
        self._identity.leave()
        if self._lock.acquire(blocking=False):  # It is free, or this thread forked during its own refresh.
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._is_refreshing = False


_providers: WeakSet[Provider] = WeakSet()


def _start_all_in_child() -> None:
    for provider in list(_providers):
        provider._start_in_child()


os.register_at_fork(after_in_child=_start_all_in_child)
