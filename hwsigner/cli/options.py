"""Turn a command's arguments into the library's settings, PIN prompts and traces."""

from __future__ import annotations

import argparse
import os
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hwsigner.cli.process import report
from hwsigner.config import settings
from hwsigner.pins import AskPin, PinRequest, PinSource
from hwsigner.pins.terminal import ask_pin
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.aws.create_session import Service, SessionRequest
    from hwsigner.identity import IdentitySource
    from hwsigner.refresh.provider import Provider


# Threads share one person and one terminal.
_one_question = threading.Lock()


def warn_of_secrets(arguments: argparse.Namespace) -> None:
    """Warn of each PIN on the command line, or in the file of a profile that others can read."""
    given = {flag.name for flag, _ in arguments.given}
    settings.warn_of_secrets(vars(arguments), given=given, exposed=arguments.exposed)


def key_uri(arguments: argparse.Namespace, text: str) -> KeyURI:
    """Return a key URI as the flags complete it; raises as `settings.key_uri`."""
    return settings.key_uri(vars(arguments), text)


def pin_source(arguments: argparse.Namespace, uri: KeyURI) -> PinSource:
    """Return the places for the PIN of a key; the last are a pinentry and the terminal."""
    return settings.pin_source(vars(arguments), uri, prompts=_prompts(arguments))


def identity_source(arguments: argparse.Namespace, *, check: bool = True) -> IdentitySource:
    """Return where the identity comes from; with `check` false, its leaf is not looked over.

    Raises as `settings.identity_source`.
    """
    return settings.identity_source(vars(arguments), prompts=_prompts(arguments), check=check)


def session_request(arguments: argparse.Namespace) -> SessionRequest:
    """Return what to ask the service for; raises as `settings.session_request`."""
    return settings.session_request(vars(arguments))


def service(arguments: argparse.Namespace, *, stays: bool = False) -> Service:
    """Return whom to ask, with the trace that `--debug` shows.

    Raises as `settings.service`, or, for a command that stays, as `settings.resident_service`.
    """
    find = settings.resident_service if stays else settings.service
    return replace(find(vars(arguments)), trace=_trace if arguments.debug else None)


def provider(arguments: argparse.Namespace) -> Provider:
    """Return what keeps sessions in a command that stays; raises as `service` and `Provider.from_values`."""
    from hwsigner.refresh.provider import Provider

    found = service(arguments, stays=True)
    return Provider.from_values(vars(arguments), found, prompts=_prompts(arguments))


def _prompts(arguments: argparse.Namespace) -> list[AskPin]:
    def ask_pinentry(request: PinRequest) -> str | None:
        from hwsigner.pins.pinentry import find_pinentry

        found = find_pinentry(arguments.pinentry, os.environ)
        return found.ask(request) if found else None

    return [partial(_ask_alone, ask) for ask in (ask_pinentry, ask_pin)]


def _ask_alone(ask: AskPin, request: PinRequest) -> str | None:
    with _one_question:
        return ask(request)


def _trace(text: str) -> None:
    report("\n".join(f"debug: {line}" for line in text.splitlines()))
