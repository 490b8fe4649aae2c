"""The profiles of config.toml for `serve --pods`: each has a session for each service account that uses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY
from hwsigner._config.profiles import profile, profiles
from hwsigner._refresh.monitor import Monitor
from hwsigner._refresh.outcome import ExpiryWatch, Failure, profile_state
from hwsigner._refresh.refresher import Refresher
from hwsigner._refresh.shared_identity import SharedIdentity
from hwsigner._system.clocks import utc_now
from hwsigner._system.workers import start_work
from hwsigner.errors import CertificateError, SigningKeyError, UsageError

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._config.profiles import Profile

Identities = dict[tuple[object, ...], SharedIdentity]


class PodProfiles:
    """The profiles that a policy names. Their identities are shared: those of one key and certificate open it once."""

    def __init__(self, monitor: Monitor, log: Callable[[str], None]) -> None:
        self._monitor = monitor
        self._log = log
        self._used: Mapping[str, PodProfile] = {}
        # Kept, as they remember wrong PINs, which must not be sent again.
        self._identities: Identities = {}

    def read(self, names: Iterable[str]) -> dict[str, PodProfile]:
        """Return profiles of config.toml. One that has not changed since `use` is the same object."""
        found: dict[str, PodProfile] = {}
        known = profiles(os.environ)
        for name in sorted(set(names)):
            current = known[name] if name in known else profile(name, os.environ)  # Raises the error of a missing one.
            one = self._used.get(name)
            if one is None or one.digest != current.digest:
                try:
                    one = PodProfile(current, self._identities, self._monitor, self._log)
                except UsageError as error:
                    raise type(error)(f"profile {name!r}: {error.message}", error.hint) from error
            found[name] = one
        return found

    def use(self, found: Mapping[str, PodProfile]) -> None:
        """Use these profiles from now on."""
        for name in self._used.keys() - found.keys():
            settings.serve_profile(name, None)
        for name, one in found.items():
            settings.serve_profile(name, one.values)
        self._used = found

    def states(self) -> list[tuple[str, str, datetime | None, str]]:
        """Return the name of each profile, and what its `state` returns."""
        return [(name, *one.state()) for name, one in self._used.items()]

    def close(self) -> None:
        """Close all sessions and keys."""
        for one in self._used.values():
            one.close()


class PodProfile:
    """A profile, and its sessions. One account at a time uses its key. Its digest is that of `Profile`."""

    def __init__(self, found: Profile, identities: Identities, monitor: Monitor, log: Callable[[str], None]) -> None:
        self.values = values = settings.of_profile(found)
        self.digest = found.digest
        self._name = found.name
        self._monitor = monitor
        self._log: Callable[[str], None] | None = log  # None once the warning about session names is logged.
        self._request = settings.session_request(values)
        self._service = settings.service_for_daemon(values)
        source = partial(settings.identity_source, values)
        if values.cert_selector is None:
            with suppress(CertificateError, SigningKeyError):  # The node may have to be enrolled first.
                source()
        key = tuple(getattr(values, flag.attribute) for flag in IDENTITY)
        self.identity = identities.setdefault(key, SharedIdentity(source))
        self._expiry = ExpiryWatch()
        self._sessions: dict[PodSession, None] = {}

    def open(self, name: str, account: str) -> PodSession:
        """Return a session of this role session name, for an account `namespace/serviceaccount`."""
        made = Refresher(self.identity, self._request._replace(session_name=name), self._service)

        def note(outcome: Credentials | Failure) -> None:
            self._monitor.attempted(self._name, outcome, made, account=account)
            if not isinstance(outcome, Failure):
                self._check_name(outcome.assumed_role_arn, name)

        # One warning about the certificate is enough for all.
        made.configure(attended=self.values.attended, on_try=note, expiry=self._expiry)
        self.identity.join()
        session = PodSession(made, self)
        self._sessions[session] = None
        return session

    def _check_name(self, arn: str, name: str) -> None:
        """Log, once, if the service gave a session another name: CloudTrail then does not tell accounts apart."""
        if self._log and arn and arn.rpartition("/")[2] != name:
            fix = "Set acceptRoleSessionName in its Roles Anywhere profile: aws setup --accept-role-session-name"
            self._log(f"warning: profile {self._name!r}: the session for {name} is called {arn[:200]}. {fix}")
            self._log = None

    def forget(self, session: PodSession) -> None:
        """Forget a session that was closed. The key is closed after the last one."""
        try:
            del self._sessions[session]
        except KeyError:  # It was closed before.
            return
        self.identity.part()

    def close(self) -> None:
        """Close all sessions, and wait for their refreshes in progress."""
        for one in list(self._sessions):
            one.close_now()

    def state(self) -> tuple[str, datetime | None, str]:
        """Return the state, the last expiration and a cause of all its sessions.

        The state is `failing` if a session is, else `ready` if one is, else `idle`.
        """
        found = [one.state() for one in list(self._sessions)]
        expiration = max((end for _, end, _ in found if end), default=None)
        states = {state for state, _, _ in found}
        state = next((one for one in ("failing", "ready") if one in states), "idle")
        return state, expiration, next((cause for _, _, cause in found if cause), "")


class PodSession:
    """The credentials of one service account or Pod."""

    def __init__(self, provider: Refresher, profile: PodProfile) -> None:
        self._provider = provider
        self._profile = profile

    def at_once(self) -> Credentials | None:
        """Return live credentials, or None if a call may take long."""
        return self._provider.at_once()

    def __call__(self) -> Credentials:
        """Return live credentials; raises as a call of a provider does."""
        credentials = self._provider()
        self._provider.start()  # Not before: it would create the first session too, out of turn.
        return credentials

    @property
    def has_expired(self) -> bool:
        """Whether there are no live credentials."""
        return self._provider.status().left <= 0

    def state(self) -> tuple[str, datetime | None, str]:
        """Return the state, when the last credentials expire, and the cause of the last failure."""
        status = self._provider.status()
        failure, end = status.failure, status.expiration
        state = profile_state(failure, is_live=end is not None and end > utc_now())
        return state, end, failure.cause if failure else ""

    def close(self) -> None:
        """Close it soon. A refresh in progress may take long."""
        start_work(self.close_now)

    def close_now(self) -> None:
        """Close it, and wait for a refresh in progress."""
        self._provider.stop()
        self._profile.forget(self)
