"""Credentials of a running agent, or of a provider of this process if no agent has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from hwsigner.agent.client import find_credentials
from hwsigner.agent.protocol import LOCKED
from hwsigner.aws.credentials import Credentials, Reply, read_agent_credentials
from hwsigner.errors import AgentError, HwsignerError, HwsignerWarning
from hwsigner.refresh.outcome import Session
from hwsigner.system.clocks import Clocks

# How old an answer of the agent may be when a client asks: `hwsigner agent lock` takes effect here within this time.
ASK_SECONDS = 1.0
# After waiting for an agent in vain, do not ask it again for this many times as long.
_RARELY = 10.0

_LONGEST_LIFE = 43200.0


def agent_credentials(name: str, role_arn: str = "") -> Credentials | None:
    """Return the credentials of a profile that a running agent has; None if `find_credentials` finds none.

    Args:
        name: the profile.
        role_arn: its role, which the agent's reply does not contain.

    Raises:
        AgentError: as `find_credentials`; or the reply has no credentials.
    """
    body = find_credentials(name)
    return read_agent_credentials(body, role_arn=role_arn) if body else None


class LocalSource(Protocol):
    """Finished replies with the credentials of a provider of this process."""

    def read(self, name: str) -> Reply | None:
        """Return the credentials in a format at once, or None if `reply` must be called."""

    def reply(self, name: str) -> Reply:
        """Return the credentials in a format. May take long; raises a HwsignerError."""

    def forget(self) -> None:
        """Forget the credentials and close the key. Later calls open it again."""


class AgentFirst:
    """A source that asks an agent, and caches its credentials. Thread-safe.

    Args:
        find: asks agents, as `agent_credentials` does.
        local: gives credentials if `find` returns None.
        formats: by name, what makes a reply of credentials.
        clocks: what time it is.

    Attributes:
        cause: the cause of the failure of the last call of `reply`; an empty string if it had credentials.
    """

    def __init__(
        self,
        find: Callable[[], Credentials | None],
        local: LocalSource,
        formats: Mapping[str, Callable[[Credentials], Reply]],
        *,
        clocks: Clocks | None = None,
    ) -> None:
        self._find = find
        self._local = local
        self._formats = formats
        self._clocks = clocks or Clocks()
        self._rendered: _Rendered | None = None
        # Once the provider has given credentials. Before, reading would make it create a session in the background.
        self._has_local = False
        self.cause = ""
        self._ask_after = 0.0
        self._lock = threading.Lock()

    def read(self, name: str) -> Reply | None:
        """Return the credentials in a format at once, or None if `reply` must be called."""
        if self._clocks.monotonic() >= self._ask_after:
            return None
        last = self._rendered
        if last is None:
            return self._read_local(name)
        return None if self._is_due(last) else last.replies[name]

    @property
    def expiration(self) -> datetime | None:
        """When the last credentials of an agent expire, or None if an agent gave none."""
        last = self._rendered
        return last.session.credentials.expiration if last else None

    def reply(self, name: str) -> Reply:
        """Return the credentials in a format: the agent's, or the provider's, or the last ones while they are valid.

        Raises:
            AgentError: the profile was locked; all credentials are forgotten.
            HwsignerError: there are none.
        """
        try:
            self._ask()
            last = self._rendered
            if last and not self._is_due(last):
                self.cause = ""
                return last.replies[name]
            reply = self._local.reply(name)
        except (HwsignerError, HwsignerWarning) as error:
            self.cause = error.cause
            if isinstance(error, AgentError) and LOCKED in error.message:
                self._rendered, self._has_local = None, False
                self._local.forget()
                raise
            last = self._rendered
            found = last.replies[name] if last and last.session.left(self._clocks) > 0 else self._read_local(name)
            if found is None:
                raise
            return found
        self.cause, self._rendered, self._has_local = "", None, True  # From now on the provider has the last ones.
        return reply

    def _read_local(self, name: str) -> Reply | None:
        return self._local.read(name) if self._has_local else None

    def _ask(self) -> None:
        """Ask the agent, and cache its credentials if it has any. One thread at a time."""
        with self._lock:
            begin = self._clocks.monotonic()
            self._ask_after = begin + ASK_SECONDS
            credentials = self._find()
            if credentials is None:  # If the agent hangs, only few requests must wait for it.
                now = self._clocks.monotonic()
                self._ask_after = now + max(ASK_SECONDS, _RARELY * (now - begin))
                return
            session = Session.begin(credentials, begin, duration=_LONGEST_LIFE, clocks=self._clocks)
            self._rendered = _Rendered(session, {name: render(credentials) for name, render in self._formats.items()})

    def _is_due(self, last: _Rendered) -> bool:
        return last.session.lifetime.is_due(last.session.left(self._clocks))


@dataclass(frozen=True)
class _Rendered:
    """A session of the agent, in each format."""

    session: Session
    replies: Mapping[str, Reply] = field(repr=False)
