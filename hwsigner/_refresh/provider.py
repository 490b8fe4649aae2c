"""Credentials that refresh themselves: one identity and its sessions, shared by all threads of a program."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self

from hwsigner._aws.create_session import Service, SessionRequest
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import IdentitySource
from hwsigner._identity.certificate import Certificate
from hwsigner._pins import AskPin
from hwsigner._refresh.attempts import checked_source
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


def refresher_of(provider: Provider) -> Refresher:
    """Return what a provider is a face of."""
    return provider._refresher
