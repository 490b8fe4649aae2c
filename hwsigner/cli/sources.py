"""From profiles and flags to credentials for those who ask for them over HTTP."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hwsigner.cli import options
from hwsigner.config import settings
from hwsigner.serving.credentials import FORMATS

if TYPE_CHECKING:
    from hwsigner.refresh.background import BackgroundProvider, Reply
    from hwsigner.refresh.outcome import Failure, Session
    from hwsigner.serving.credentials import Source

Note = Callable[[str], None]


@dataclass(frozen=True)
class Sourced:
    """A profile and its credentials.

    Attributes:
        name: its name; of flags without a profile the role's.
        role: the role's name, the last part of its ARN.
        source: its credentials.
        own: the provider of this process, which may not be in use.
    """

    name: str
    role: str
    source: Source
    own: OwnProvider


class OwnProvider:
    """A source that makes a provider in this process when it is first asked for a reply. Safe to use by all threads.

    Args:
        make: makes it; raises a UsageError for what can't be meant.
    """

    def __init__(self, make: Callable[[], BackgroundProvider]) -> None:
        self._make = make
        self._made: BackgroundProvider | None = None
        self._is_started = False
        self._lock = threading.Lock()

    def read(self, name: str) -> Reply | None:
        """Implement Source.read."""
        return self._made.read(name) if self._made else None

    def reply(self, name: str) -> Reply:
        """Implement Source.reply."""
        return self.provider().reply(name)

    def provider(self) -> BackgroundProvider:
        """Return the provider, made now if it was not."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
                if self._is_started:
                    self._made.start()
            return self._made

    def start(self) -> None:
        """Let a thread refresh its sessions ahead of need."""
        with self._lock:
            self._is_started = True
            if self._made:
                self._made.start()

    def close(self) -> None:
        """Close the provider, if one was made."""
        if self._made:
            self._made.close()


def of_profile(name: str, note: Note) -> Sourced:
    """Return a profile of config.toml, whose credentials a running agent gives, or else a provider of this process.

    Args:
        name: its name.
        note: takes a line for each session and each failure.

    Raises:
        ConfigError: there is no such profile, or it holds what is no flag.
    """
    return _sourced(argparse.Namespace(**settings.read_profile(name, os.environ)), name, note, asks_agent=True)


def of_flags(arguments: argparse.Namespace, note: Note, *, asks_agent: bool) -> Sourced:
    """Return what the flags of a command line, and the profile that they may name, say.

    Args:
        arguments: the command line.
        note: takes a line for each session and each failure.
        asks_agent: whether it is the profile and nothing else, so that an agent's credentials are the same.
    """
    return _sourced(arguments, arguments.profile or arguments.config_profile, note, asks_agent=asks_agent)


def _sourced(arguments: argparse.Namespace, name: str | None, note: Note, *, asks_agent: bool) -> Sourced:
    from hwsigner.serving.agent_source import AgentFirst

    role = (arguments.role_arn or "").rpartition("/")[2]  # Without one, a provider can't be made.
    own = OwnProvider(partial(_resident, arguments, name or role, note))
    source = AgentFirst(name, own, role_arn=arguments.role_arn) if name and asks_agent else own
    return Sourced(name or role, role, source, own)


def _resident(arguments: argparse.Namespace, name: str, note: Note) -> BackgroundProvider:
    from hwsigner.refresh.background import BackgroundProvider

    provider = options.provider(arguments)
    attended = getattr(arguments, "attended", None)  # Of profiles alone.
    return BackgroundProvider(provider, formats=FORMATS, attended=attended, on_try=partial(_note, name, note))


def _note(name: str, note: Note, outcome: Session | Failure) -> None:
    from hwsigner.refresh.outcome import Session

    if isinstance(outcome, Session):
        note(f"{name}: created a session, good until {outcome.credentials.expiration:%Y-%m-%dT%H:%M:%SZ}")
    else:
        note(f"{name}: no session: {outcome.error}")
