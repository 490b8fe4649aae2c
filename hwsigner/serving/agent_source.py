"""Credentials of a running agent, and of a provider of this process where no agent has them."""

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

# The agent renews its session while it is asked for: so often it is.
ASK_SECONDS = 60.0

_LONGEST_LIFE = 43200.0


class AgentFirst:
    """A source that asks an agent, and keeps what it gave. Safe to use by all threads.

    Args:
        name: the profile's name, for the agent.
        own: a provider for where no agent runs, or none knows the profile.
        role_arn: the profile's role.
        find: asks agents; returns the JSON of `credential_process`, or None.
        clocks: what time it is.
    """

    def __init__(
        self,
        name: str,
        own: Source,
        *,
        role_arn: str,
        find: Callable[[str], bytes | None] = find_credentials,
        clocks: Clocks | None = None,
    ) -> None:
        self._name = name
        self._own = own
        self._role_arn = role_arn
        self._find = find
        self._clocks = clocks or Clocks()
        self._held: _Held | None = None
        self._ask_after = 0.0
        self._lock = threading.Lock()
        self._is_asking = False

    def read(self, name: str) -> Reply | None:
        """Return the finished reply of a format at once, or None where `reply` is to be called."""
        held = self._held
        if held is None:
            return self._own.read(name)
        if held.session.lifetime.is_due(held.session.left(self._clocks)):
            return None
        if not self._is_asking and self._clocks.monotonic() >= self._ask_after:
            self._is_asking = True
            threading.Thread(target=self._ask_again, name="hwsigner-ask-agent", daemon=True).start()
        return held.replies[name]

    def reply(self, name: str) -> Reply:
        """Return the finished reply of a format: the agent's, or else the provider's; or else the last, while it lives.

        Raises:
            HwsignerError: there is none.
        """
        try:
            return self._fresh(name)
        except (HwsignerError, HwsignerWarning):
            held = self._held
            if held is None or held.session.left(self._clocks) <= 0:
                raise
            return held.replies[name]

    def _fresh(self, name: str) -> Reply:
        held = self._ask()
        if held:
            return held.replies[name]
        reply = self._own.reply(name)
        self._held = None  # From now on the provider's are the last.
        return reply

    def _ask(self) -> _Held | None:
        """Ask the agent, and keep and return what it gives; one thread at a time."""
        with self._lock:
            begin = self._clocks.monotonic()
            self._ask_after = begin + ASK_SECONDS
            body = self._find(self._name)
            if not body:
                return None
            self._held = self._hold(body, begin)
            return self._held

    def _ask_again(self) -> None:
        try:
            with suppress(AgentError):  # Who asks when the last reply has ended is told.
                self._ask()
        finally:
            self._is_asking = False

    def _hold(self, body: bytes, begin: float) -> _Held:
        credentials = read_agent_credentials(body, role_arn=self._role_arn)
        session = Session.begin(credentials, begin, duration=_LONGEST_LIFE, clocks=self._clocks)
        replies = {name: render(credentials) for name, render in FORMATS.items()}
        return _Held(session, replies)


@dataclass(frozen=True)
class _Held:
    """What the agent gave."""

    session: Session
    replies: Mapping[str, Reply] = field(repr=False)
