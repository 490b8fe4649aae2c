"""The open sessions, one for each service account or Pod: from its first request until nothing needs it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hwsigner._serving.credentials import CredentialResponses, CredentialSource, Outcome, in_thread, pod_json
from hwsigner._serving.pods.naming import session_name
from hwsigner._serving.pods.pod_policy import PodPolicy
from hwsigner._serving.pods.token import PodIdentity

# How many sessions of a key may wait for it or for AWS at once, each in a thread. The others queue: AWS allows an
# account ten a second, and refuses more if all Pods ask at once, as after a restart.
MOST_AT_ONCE = 8
# More sessions than a node needs. Above this number, the one that was asked for longest ago is closed.
MOST_SESSIONS = 2000


class SessionSource(CredentialSource, Protocol):
    """The credentials of a session, which can be closed."""

    @property
    def has_expired(self) -> bool:
        """Whether there are no live credentials."""

    def close(self) -> None:
        """Close it soon, without waiting."""


class OpensSessions(Protocol):
    """Opens the sessions of a profile."""

    @property
    def identity(self) -> object:
        """Its key and certificate: the same object for all profiles that use them."""

    def open(self, name: str, account: str) -> SessionSource:
        """Return a session of this role session name, for an account `namespace/serviceaccount`; does not wait."""


# Returns the Pod of a token, or an awaitable for it; see `Verification.check`.
Check = Callable[[bytes, str], PodIdentity | Awaitable[PodIdentity]]


class PodRules(NamedTuple):
    """The policy with its profiles, by name, and what verifies tokens. If a profile changes, it is another object."""

    policy: PodPolicy
    profiles: Mapping[str, OpensSessions]
    check: Check

    def profile(self, namespace: str, service_account: str) -> tuple[str, OpensSessions] | None:
        """Return the name and the profile of a service account, or None if it has none."""
        name = self.policy.profile_of(namespace, service_account)
        return None if name is None else (name, self.profiles[name])


class _Owner(NamedTuple):
    """Whose a session is: a service account's if it names no Pod."""

    namespace: str
    service_account: str
    pod: str = ""
    pod_uid: str = ""


@dataclass
class _Open:
    """An open session."""

    profile: OpensSessions
    source: SessionSource
    responses: CredentialResponses
    asked: float  # When it was asked for last.


class Sessions:
    """The open sessions. For one thread: that of the event loop.

    `rules` returns the rules as they are now.
    """

    # Between two looks for sessions that nothing needs.
    LOOK_SECONDS = 10.0
    # An expired session is closed once it was not asked for in this time.
    IDLE_SECONDS = 60.0

    def __init__(self, rules: Callable[[], PodRules], clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._open: dict[_Owner, _Open] = {}  # By when they were asked for, the longest ago first.
        self._queues: dict[object, asyncio.Semaphore] = {}  # By identity.
        self._is_looking = False

    def __len__(self) -> int:
        return len(self._open)

    def responses(self, pod: PodIdentity, profile: OpensSessions, *, is_per_pod: bool) -> CredentialResponses:
        """Return the responses for a Pod, by a session that is opened if need be.

        If `is_per_pod`, the session is the Pod's own.
        """
        owner = _owner(pod, is_per_pod=is_per_pod)
        found = self._open.get(owner)
        if found is not None and found.profile is not profile:
            self._close(owner)
            found = None
        if found is None:
            found = self._opened(pod, profile, is_per_pod=is_per_pod)
        found.asked = self._clock()
        self._open.pop(owner, None)  # It goes to the end.
        self._open[owner] = found
        return found.responses

    def _opened(self, pod: PodIdentity, profile: OpensSessions, *, is_per_pod: bool) -> _Open:
        if len(self._open) >= MOST_SESSIONS:
            self._close(next(iter(self._open)))
        name = session_name(pod.namespace, pod.service_account, pod.pod if is_per_pod else pod.node)
        source = profile.open(name, pod.account)
        queue = self._queues.setdefault(profile.identity, asyncio.Semaphore(MOST_AT_ONCE))
        if not self._is_looking:
            self._is_looking = True
            self._look_later()
        responses = CredentialResponses(source, pod_json, pod.account, fetch=lambda ask: _fetch(queue, ask))
        return _Open(profile, source, responses, self._clock())

    def close_unneeded(self) -> None:
        """Close the sessions that the rules no longer allow, and those that have expired and are not asked for."""
        rules, now = self._rules(), self._clock()
        for owner, one in list(self._open.items()):
            found = rules.profile(owner.namespace, owner.service_account)
            is_allowed = found is not None and found[1] is one.profile
            is_asked = now - one.asked < self.IDLE_SECONDS or one.responses.is_fetching
            is_needed = is_asked or not one.source.has_expired
            if not (is_allowed and is_needed and bool(owner.pod) == rules.policy.session_per_pod):
                self._close(owner)
        used = {one.profile.identity for one in self._open.values()}
        self._queues = {identity: queue for identity, queue in self._queues.items() if identity in used}

    def _close(self, owner: _Owner) -> None:
        self._open.pop(owner).source.close()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(self.LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._look_later()  # Also without sessions: a changed policy is read, and reported if it is bad.
        self.close_unneeded()


def _owner(pod: PodIdentity, *, is_per_pod: bool) -> _Owner:
    return _Owner(pod.namespace, pod.service_account, *((pod.pod, pod.pod_uid) if is_per_pod else ()))


async def _fetch(queue: asyncio.Semaphore, ask: Callable[[], Outcome]) -> Outcome:
    async with queue:
        return await in_thread(ask)
