"""What a command adds to the settings of its flags: PIN prompts, and the trace of `--debug`."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from hwsigner.cli.process import report
from hwsigner.config import settings
from hwsigner.pins import AskPin, PinRequest, PinSource
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.aws.create_session import Service
    from hwsigner.config.settings import Settings
    from hwsigner.identity import IdentitySource
    from hwsigner.refresh.provider import Provider


# Threads share the user and the terminal.
_one_prompt = threading.Lock()


def key_uri(values: Settings, text: str) -> KeyURI:
    """Return the key URI that is a command's argument, completed by the flags.

    Args:
        values: the settings.
        text: the one with the key URI.

    Raises:
        UsageError: it is malformed.

    Warns:
        UnsafeKeyWarning: it has a PIN.
    """
    uri = settings.key_uri(values, text)
    settings.warn_of_pin(uri)
    return uri


def pin_source(values: Settings, uri: KeyURI) -> PinSource:
    """Return where a key's PIN may come from; the last places are a pinentry and the terminal."""
    return settings.pin_source(values, uri, prompts=prompts(values))


def identity_source(values: Settings, *, check: bool = True) -> IdentitySource:
    """Return the source of the identity. If `check` is false, its certificate is not checked.

    Raises:
        UsageError, CertificateError: as `settings.identity_source`.
    """
    return settings.identity_source(values, prompts=prompts(values), check=check)


def service(values: Settings, *, stays: bool = False) -> Service:
    """Return the service to ask, with the trace of `--debug`.

    Args:
        values: the settings.
        stays: whether the command runs until it is stopped.

    Raises:
        UsageError: as `settings.service`, or `settings.service_for_daemon` for a command that stays.
    """
    find = settings.service_for_daemon if stays else settings.service
    return find(values)._replace(trace=_trace if values.debug else None)


def provider(values: Settings) -> Provider:
    """Return the provider of a command that stays.

    Raises:
        HwsignerError: as `service`, or a key URI or another value is invalid.
    """
    from hwsigner.refresh.provider import Provider

    found = service(values, stays=True)
    return Provider._from_settings(values, found, prompts=prompts(values))


def prompts(values: Settings) -> list[AskPin]:
    """Return what asks the user for a PIN: a pinentry, then the terminal. One question is open at a time."""

    def ask_pinentry(request: PinRequest) -> str | None:
        from hwsigner.pins.pinentry import find_pinentry

        found = find_pinentry(values.pinentry, os.environ)
        return found.ask(request) if found else None

    def ask_on_terminal(request: PinRequest) -> str | None:
        from hwsigner.pins.terminal import ask_pin

        return ask_pin(request)

    return [partial(_ask_alone, ask) for ask in (ask_pinentry, ask_on_terminal)]


def _ask_alone(ask: AskPin, request: PinRequest) -> str | None:
    with _one_prompt:
        return ask(request)


def _trace(text: str) -> None:
    report("\n".join(f"debug: {line}" for line in text.splitlines()))
