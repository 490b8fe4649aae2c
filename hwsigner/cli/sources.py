"""From profiles and flags to credentials for those who ask for them over HTTP."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hwsigner import settings
from hwsigner.cli import options
from hwsigner.serving.formats import FORMATS

if TYPE_CHECKING:
    from hwsigner.backoff import Setback
    from hwsigner.held_session import HeldSession
    from hwsigner.provider import Provider
    from hwsigner.resident import ResidentProvider
    from hwsigner.serving.replies import Source

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
    own: ResidentProvider


def of_profile(name: str, note: Note) -> Sourced:
    """Return a profile of config.toml, whose credentials a running agent gives, or else a provider of this process.

    Args:
        name: its name.
        note: takes a line for each session and each failure.

    Raises:
        UsageError: there is no such profile, or it holds what can't be meant.
    """
    return _sourced(argparse.Namespace(**settings.read_profile(name, os.environ)), name, note, asks_agent=True)


def of_flags(arguments: argparse.Namespace, note: Note, *, asks_agent: bool) -> Sourced:
    """Return what the flags of a command line, and the profile that they may name, say.

    Args:
        arguments: the command line.
        note: takes a line for each session and each failure.
        asks_agent: whether it is the profile and nothing else, so that an agent's credentials are the same.

    Raises:
        UsageError: something can't be meant.
    """
    return _sourced(arguments, arguments.profile or arguments.config_profile, note, asks_agent=asks_agent)


def _sourced(arguments: argparse.Namespace, name: str | None, note: Note, *, asks_agent: bool) -> Sourced:
    from hwsigner.serving.agent_source import AgentFirst

    provider = _provider(arguments)
    role = arguments.role_arn.rpartition("/")[2]
    own = _resident(provider, name or role, note)
    source = AgentFirst(name, own, role_arn=arguments.role_arn) if name and asks_agent else own
    return Sourced(name or role, role, source, own)


def _provider(arguments: argparse.Namespace) -> Provider:
    from hwsigner.provider import Provider

    service, request = options.service(arguments, stays=True), options.session_request(arguments)
    source = partial(options.identity_source, arguments)
    if arguments.cert_selector is None:
        source()  # What is wrong is found now. Tokens are searched when the key is opened.
    return Provider(source, request, service)


def _resident(provider: Provider, name: str, note: Note) -> ResidentProvider:
    from hwsigner.resident import ResidentProvider

    return ResidentProvider(provider, formats=FORMATS, on_try=partial(_note, name, note))


def _note(name: str, note: Note, outcome: HeldSession | Setback) -> None:
    from hwsigner.held_session import HeldSession

    if isinstance(outcome, HeldSession):
        note(f"{name}: created a session, good until {outcome.credentials.expiration:%Y-%m-%dT%H:%M:%SZ}")
    else:
        note(f"{name}: no session: {outcome.error}")
