"""Asking an agent, from Python: for credentials, as `hwsigner-credentials` does, and for what a person wants of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hwsigner.agent import protocol
from hwsigner.agent.address import (
    VARIABLE,
    Place,
    may_ask,
    may_start,
    peer_uid,
    runtime_folder,
    system_place,
    user_place,
)
from hwsigner.agent.protocol import Request, Verb, Wire
from hwsigner.errors import AgentError, PinRequiredError
from hwsigner.pins import AskPin, PinRequest
from hwsigner.pins.child import VARIABLE as PIN_VARIABLE

CONNECT_LIMIT = 1.0


def find_credentials(name: str, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the JSON that `credential_process` prints, with a newline, from a running agent.

    The user's agent is asked and, where there is none or it does not know the profile, the system's.

    Args:
        name: the profile.
        environ: says where the user's agent listens; with HWSIGNER_AGENT=none or =asked, none is asked.

    Returns:
        None where no agent can be used, or none knows the profile: the caller does without.

    Raises:
        AgentError: an agent answers that it can't give credentials; with the exit status to end with.
    """
    if not may_ask(environ) or not protocol.is_name(name):
        return None
    for place in (user_place(environ), system_place()):
        try:
            with _connected(place) as wire:
                if wire is None:
                    continue
                wire.send(Request(Verb.GET, name).line())
                head, body = wire.answer()
        except (AgentError, OSError):
            return None  # One that is not to be trusted or hangs: the next one's profile might be another.
        if head.kind == "error":
            raise AgentError(body.decode("utf-8", "replace"), exit_status=head.status)
        if head.kind != "unknown":
            return body
    return None


def command(place: Place, request: Request, ask: AskPin | None = None) -> str:
    """Let an agent do something, and return what it says.

    Args:
        place: where it listens.
        request: what it shall do.
        ask: answers its questions for PINs.

    Raises:
        AgentError: no agent runs there, or it failed.
        PinRequiredError: `ask` has no answer.
    """
    try:
        with _connected(place) as wire:
            if wire is None:
                start = "hwsigner agent --system" if place.is_systems else "hwsigner agent"
                raise AgentError(f"no agent is running at {place.socket}", f"Start one: {start}")
            wire.send(request.line())
            head, body = wire.answer(protocol.SILENCE_LIMIT)
            while head.kind == "ask":
                wire.send(protocol.with_body("pin", _answered(body, ask)))
                head, body = wire.answer(protocol.SILENCE_LIMIT)
    except OSError as error:
        raise AgentError(f"the agent at {place.socket} failed: {error.strerror or error}") from error
    if head.kind == "unknown":
        raise AgentError(f"the agent has no profile {request.name!r}", "hwsigner profile add makes one")
    if head.kind == "error":
        raise AgentError(body.decode("utf-8", "replace"), exit_status=head.status)
    return body.decode("utf-8", "replace")


def is_running(place: Place) -> bool:
    """Tell whether an agent listens there, or somebody else does, in whose place none can be put."""
    try:
        with _connected(place) as wire:
            return wire is not None
    except (AgentError, OSError):
        return True


@contextmanager
def _connected(place: Place) -> Iterator[Wire | None]:
    """Give a connection to the agent of a place, or None if there is none; raises AgentError, OSError."""
    owner = place.owner()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_LIMIT)
        try:
            if owner is not None:
                sock.connect(place.socket)
        except (FileNotFoundError, ConnectionRefusedError):
            owner = None
        if owner is None:
            yield None
            return
        uid = peer_uid(sock)
        if uid not in (0, owner):
            raise AgentError(f"user {uid} listens at {place.socket}", "Remove it")
        yield Wire(sock)


def _answered(question: bytes, ask: AskPin | None) -> bytes:
    kind, subject, state, serial, slot = [*question.decode("utf-8", "replace").split("\n"), *[""] * 5][:5]
    request = PinRequest(kind, subject, state, serial, slot)
    pin = ask(request) if ask else None
    if not pin:
        problem = f"{request.subject} wants its {request.kind}, and none was given"
        raise PinRequiredError(problem, "Run from a terminal, or where a pinentry can ask")
    return pin.encode()


def start_agent(environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start the user's agent, unless one runs or the user has no runtime folder; of two that start at once one stays.

    It gets a session of its own, /dev/null for stdin, stdout and stderr, and no other descriptor, so that nobody who
    waits for this command waits for it.

    Args:
        environ: its environment, less PINs; with HWSIGNER_AGENT=none nothing is started.

    Returns:
        The process, or None if none was started.
    """
    has_place = os.path.isdir(runtime_folder(environ))
    if not may_start(environ) or not has_place or is_running(user_place(environ)):
        return None
    return subprocess.Popen(
        # -P: the current folder, which is anybody's, is not on the path of modules.
        [sys.executable, "-P", "-m", "hwsigner", "agent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in environ.items() if name not in (VARIABLE, PIN_VARIABLE)},
        start_new_session=True,
        umask=0o077,
    )
