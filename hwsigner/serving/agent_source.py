"""Credentials of a running agent, or of a provider of this process where no agent has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwsigner.agent.client import find_credentials
from hwsigner.aws.credentials import read_agent_credentials
from hwsigner.errors import AgentError, HwsignerError, HwsignerWarning
from hwsigner.refresh.outcome import Session
from hwsigner.serving.credentials import FORMATS, Source
from hwsigner.system.clocks import Clocks

if TYPE_CHECKING:
    from hwsigner.refresh.background import Reply

# An agent refreshes a session as long as it is asked for it: this often.
ASK_SECONDS = 60.0

_LONGEST_LIFE = 43200.0


class AgentFirst:
    """A source that asks an agent, and caches its credentials. Thread-safe.

    Args:
        name: the profile's name, for the agent.
        local: gives credentials if no agent runs, or none knows the profile.
        role_arn: the profile's role.
        find: asks agents; returns the JSON of `credential_process`, or None.
        clocks: what time it is.
    """

    def __init__(
        self,
        name: str,
        local: Source,
        *,
        role_arn: str,
        find: Callable[[str], bytes | None] = find_credentials,
        clocks: Clocks | None = None,
    ) -> None:
        self._name = name
        self._local = local
        self._role_arn = role_arn
        self._find = find
        self._clocks = clocks or Clocks()
        self._rendered: _Rendered | None = None
        self._ask_after = 0.0
        self._lock = threading.Lock()
        self._is_asking = False

    def read(self, name: str) -> Reply | None:
        """Implement Source.read."""
        last = self._rendered
        if last is None:
            return self._local.read(name)
        if last.session.lifetime.is_due(last.session.left(self._clocks)):
            return None
        if not self._is_asking and self._clocks.monotonic() >= self._ask_after:
            self._is_asking = True
            threading.Thread(target=self._ask_again, name="hwsigner-ask-agent", daemon=True).start()
        return last.replies[name]

    def reply(self, name: str) -> Reply:
        """Return the credentials in a format: the agent's, or the provider's, or the last ones while they are valid.

        Raises:
            HwsignerError: there are none.
        """
        try:
            new = self._ask()
            if new:
                return new.replies[name]
            reply = self._local.reply(name)
        except (HwsignerError, HwsignerWarning):
            last = self._rendered
            if last is None or last.session.left(self._clocks) <= 0:
                raise
            return last.replies[name]
        self._rendered = None  # From now on the provider has the last ones.
        return reply

    def _ask(self) -> _Rendered | None:
        """Ask the agent, cache its credentials and return them. One thread at a time."""
        with self._lock:
            begin = self._clocks.monotonic()
            self._ask_after = begin + ASK_SECONDS
            body = self._find(self._name)
            if not body:
                return None
            credentials = read_agent_credentials(body, role_arn=self._role_arn)
            session = Session.begin(credentials, begin, duration=_LONGEST_LIFE, clocks=self._clocks)
            self._rendered = _Rendered(session, {name: render(credentials) for name, render in FORMATS.items()})
            return self._rendered

    def _ask_again(self) -> None:
        try:
            with suppress(AgentError):  # `reply` raises it, once the last credentials have expired.
                self._ask()
        finally:
            self._is_asking = False


@dataclass(frozen=True)
class _Rendered:
    """A session of the agent, in each format."""

    session: Session
    replies: Mapping[str, Reply] = field(repr=False)
