"""Credentials that refresh themselves: when a caller asks, or ahead of need for programs that answer others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Self

from hwsigner._aws.create_session import Service, SessionRequest
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import IdentitySource
from hwsigner._identity.certificate import Certificate
from hwsigner._pins import AskPin
from hwsigner._refresh.attempts import checked_source
from hwsigner._refresh.outcome import Failure, Status
from hwsigner._refresh.refresher import Refresher
from hwsigner._refresh.reopening import ReopeningIdentity
from hwsigner._system.clocks import Clocks, boot_time, utc_now
from hwsigner.errors import HwsignerError, HwsignerWarning


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
        clocks = Clocks(now, monotonic, sleep)
        self._refresher = Refresher(ReopeningIdentity(source, monotonic), request, service, clocks)

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
        service = settings.service(values, environ)
        return cls(checked_source(values, ask_pin), settings.session_request(values), service)

    def __repr__(self) -> str:
        return f"<Provider for {self._refresher.request.role_arn}>"

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        return self._refresher.failure

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._refresher.leaf

    def __call__(self) -> Credentials:
        """Return live credentials.

        Raises:
            HwsignerError: there are none, and an attempt failed as `open_identity` and `create_session` do, now or so
                recently that it is too early for the next; or the provider is closed.
            UsageError: there are none, and a refresh called this itself.
        """
        return self._refresher.credentials()

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
        return self._refresher.refresh(fixed=fixed)

    def close(self) -> None:
        """Close the key after a refresh in progress, and forget the credentials. Closing twice is allowed.

        If a refresh calls this itself, it does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        self._refresher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        self._refresher = provider._refresher
        self._refresher.configure(formats=formats, attended=attended, on_try=on_try, on_notice=on_notice, guard=guard)
        self._provider = provider

    def __repr__(self) -> str:
        return f"<BackgroundProvider of {self._provider!r}>"

    def start(self) -> None:
        """Refresh in the background from now on. Nothing is done before a caller asks for credentials."""
        self._refresher.start()

    def read(self, name: str) -> bytes | memoryview | None:
        """Return the finished reply of a format at once, or None if `reply` must be called, which may take long.

        While a refresh is in progress, and after one that failed, it is the last reply.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format, and the replies are there.
        """
        rendered = self._refresher.read(name)
        return None if rendered is None else rendered.reply

    def reply(self, name: str) -> bytes | memoryview:
        """Return the finished reply of a format; wait for a refresh if there are no live credentials.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format.
            HwsignerError: as a call of a provider does.
        """
        return self._refresher.reply(name).reply

    def __call__(self) -> Credentials:
        """Return live credentials; raises as a call of a provider does."""
        return self._refresher()

    def refresh(self, *, fixed: bool = False) -> Credentials:
        """Create a session now; see `Provider.refresh`."""
        return self._refresher.refresh(fixed=fixed)

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        return self._refresher.failure

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._refresher.leaf

    @property
    def request_seconds(self) -> float | None:
        """How long the last attempt's request took, with its signature and retries; None if it got no so far."""
        return self._refresher.request_seconds

    def notices(self) -> list[tuple[str, str]]:
        """Return the levels and texts of lines for the log: the certificate is near its end, the session is too short.

        The first about a certificate is due once a quarter of its life is left, and the next ones each time that a
        tenth of what was left has passed. That sessions are shorter than asked is said with the first. Call it in
        `on_try`, after a session was created.
        """
        return self._refresher.notices()

    def status(self) -> Status:
        """Return the state as it is now. Looks whether the key's files have changed."""
        return self._refresher.status()

    def close(self) -> None:
        """Stop refreshing, and close the provider after a refresh in progress. Closing twice is allowed."""
        self._refresher.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
