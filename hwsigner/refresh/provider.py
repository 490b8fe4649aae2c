"""Credentials that refresh themselves: one identity and its session, shared by all threads of a program."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hwsigner.aws.create_session import Service, SessionRequest
from hwsigner.aws.credentials import Credentials
from hwsigner.errors import HwsignerError, HwsignerWarning
from hwsigner.identity import IdentitySource
from hwsigner.pins import AskPin
from hwsigner.refresh.renewal import Renewal
from hwsigner.refresh.reopening import HeldIdentity
from hwsigner.system.clocks import Clocks, boot_time, utc_now

if TYPE_CHECKING:
    from hwsigner.config import settings


class Provider:
    """Gives credentials that live for a while yet. Call it, from any thread, whenever they are needed.

    The first call opens the key and creates a session. A call that finds less than 16 minutes of its life left (of a
    session of under 48 minutes, less than a third) creates the next; calls from other threads get the last credentials
    meanwhile, and every call does after that has failed, while they live. `failure` tells of it. The next try comes
    after a pause, which doubles from 1 s to 120 s, less up to a half by chance, and begins when what the service's
    Retry-After asks for has passed, 15 minutes at most. It sends one request, whatever `max_attempts` allows the first.
    After a PinError none comes, as a wrong PIN must not be sent again: mend what is wrong and make a new provider.

    The identity is held open. It is opened anew when the file of its certificate, key or intermediates has changed,
    when its leaf has expired, after its key has failed, and in a child process. Close the provider, or use it in a
    `with` statement.

    What a refresh calls in its thread (`source`, a callable for PINs, a handler of warnings or signals) gets the last
    credentials from the provider while they live, and else a UsageError; it may close it.

    Args:
        source: the identity; or a callable that returns it, called each time that it is opened.
        request: what to ask for.
        service: whom.
        now: tells the time, with its zone.
        monotonic: tells seconds by a clock that nobody sets.
        sleep: waits some seconds before another try within `create_session`.

    Attributes:
        renewal: its sessions.
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
        identity, clocks = HeldIdentity(source, monotonic), Clocks(now, monotonic, sleep)
        self.renewal = Renewal(identity, request, service=service, clocks=clocks)
        self._role_arn = request.role_arn

    @classmethod
    def from_profile(cls, name: str, ask_pin: AskPin | None = None, *, environ: Mapping[str, str] = os.environ) -> Self:
        """Return a provider for a profile of config.toml, by the rules of `--profile`, but that nothing prompts.

        Its `pinentry`, `debug` and `strict` do nothing. A `pin-source=cmd:` of its key URIs may run.

        Args:
            name: the profile's name.
            ask_pin: asked first for a PIN that the profile does not hold itself as `pkcs8-password` or
                `tpm-key-password`; returns None to leave it to the stored places.
            environ: says where config.toml is, and the endpoint, proxies, CAs and number of tries.

        Raises:
            ConfigError: there is no such profile, or it holds what is no flag.
            UsageError: an ARN, a key URI or another value, or a variable of the environment, can't be meant.

        Warns:
            UnsafeKeyWarning: the profile holds a PIN and others can read its file.
            UnsafeConnectionWarning: the profile has `no-verify-ssl`.
        """
        from hwsigner.config import settings

        values = settings.read_profile(name, environ)
        return cls.from_values(values, settings.service(values, environ), ask_pin)

    @classmethod
    def from_values(
        cls, values: settings.Values, service: Service, ask_pin: AskPin | None = None, prompts: Sequence[AskPin] = ()
    ) -> Self:
        """Return a provider for the values of a command line or a profile, as `hwsigner.config.settings` has them.

        Args:
            values: the values.
            service: whom to ask, of `settings.service` or `settings.resident_service`.
            ask_pin: asked first for a PIN that the values do not hold themselves.
            prompts: what asks a person for a PIN that no other place gives.

        Raises:
            UsageError: a key URI or another value can't be meant.
        """
        from hwsigner.config import settings

        source = partial(settings.identity_source, values, ask_pin, prompts)
        if values["cert_selector"] is None:
            source()  # What can't be meant is found now. Tokens are searched when the key is opened.
        return cls(source, settings.session_request(values), service)

    def __repr__(self) -> str:
        return f"<Provider for {self._role_arn}>"

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """What the last try met, or None if it succeeded or there was none."""
        setback = self.renewal.setback
        return setback.error if setback else None

    def __call__(self) -> Credentials:
        """Return credentials that live.

        Raises:
            HwsignerError: there are none, and a try to get some failed as `open_identity` and `create_session` do, now
                or so lately that it is too early for the next; or the provider is closed.
            UsageError: there are none, and this is called by a refresh itself.
        """
        return self.renewal.get().credentials

    def refresh(self, *, mended: bool = False) -> Credentials:
        """Create a session now, whatever life the last has left, and however lately a try failed.

        Args:
            mended: whether what a PinError told of is mended; else it is raised again, and no PIN is sent.

        Raises:
            HwsignerError: the try failed; the last credentials are still given while they live.
            UsageError: this is called by a refresh itself, and there are no credentials that live.
        """
        return self.renewal.renew(mended=mended).credentials

    def close(self) -> None:
        """Close the key, after a refresh that is under way, and forget the credentials. Closing twice is allowed.

        What a refresh calls in its thread does not wait: the refresh goes on, closes the key and raises a UsageError.
        """
        self.renewal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
