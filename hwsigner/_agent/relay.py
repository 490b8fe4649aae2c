"""What a command does for the user's agent: hands over the session that it created."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

from hwsigner._agent import protocol
from hwsigner._agent.client import (
    VARIABLE,
    Address,
    connected,
    is_closed_folder,
    runtime_folder,
    start_agent,
    user_address,
)
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._aws.credentials import Credentials
from hwsigner._pins.terminal import has_terminal
from hwsigner._system import notices
from hwsigner._system.environment import is_usable, temporary_folders

# Seconds that a command waits for an agent that it has started.
_START_LIMIT = 10.0
_PAUSE = 0.02
_NO_FOLDER_HINT = "Log in to a session that makes it, or set XDG_RUNTIME_DIR"


def hand_over(name: str, digest: str, credentials: Credentials, environ: Mapping[str, str]) -> None:
    """Start the user's agent if there is none, and give it a session. Returns once the agent has it, or can't.

    `digest` is that of the profile when the session was created. With HWSIGNER_AGENT=none, nothing is done.
    """
    if environ.get(VARIABLE) == "none":
        return
    folder = runtime_folder(environ)
    if not _is_usable_by_agent(folder):
        _say_once(f"{name}: no agent can start without a runtime folder of yours at {folder}. {_NO_FOLDER_HINT}")
        return
    agent = start_agent(environ)
    limit = _START_LIMIT if agent else protocol.FIRST_BYTE_LIMIT
    deadline = time.monotonic() + limit
    while not _has_taken(user_address(environ), name, digest, credentials, limit):
        if agent is None or agent.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(_PAUSE)


def _is_usable_by_agent(folder: str) -> bool:
    """Return whether an agent would take a runtime folder; with sudo, it may be another user's."""
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return is_closed_folder(status) and status.st_uid in (0, os.geteuid())


def _say_once(text: str) -> None:
    """Show the user a notice, unless it was shown since /tmp was emptied."""
    for place in filter(is_usable, temporary_folders() if has_terminal() else ()):
        with suppress(FileExistsError):
            path = os.path.join(place, "no-runtime-folder")
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            notices.notify(text)
        return


def _has_taken(address: Address, name: str, digest: str, credentials: Credentials, limit: float) -> bool:
    """Give the agent a session, if its profile is the same; return whether an agent is there, which may be starting."""
    with connected(address, is_own=True) as channel:
        if channel is None:
            return False
        channel.send(AgentRequest(Verb.PUT, name).line())
        head, body = channel.answer(limit)
        if head.kind == "ask" and body == digest.encode():
            channel.send(protocol.with_body("session", credentials.handover_json().encode()))
            channel.answer()
        return True
