"""What the agent reports to those who watch it: states, sessions, failures, and who gets which credentials."""

from __future__ import annotations

import re
import socket
from datetime import datetime
from typing import NamedTuple, Protocol

from hwsigner.agent import protocol
from hwsigner.aws.credentials import Credentials, Reply
from hwsigner.errors import AuditError, HwsignerError, HwsignerWarning
from hwsigner.refresh.background import BackgroundProvider
from hwsigner.refresh.outcome import Failure
from hwsigner.system.users import peer_pid

# An answer with credentials: the line of the protocol, then the beginning of the JSON.
_GIVEN = re.compile(rb'1 ok \d+\n\{"Version": 1, "AccessKeyId": "([^"]+)"')


class ProfileStatus(NamedTuple):
    """How a profile is. Nothing in it is secret.

    Attributes:
        name: its name.
        state: `ready`, `idle`, `locked`, `failing` or `closed`.
        expiration: when its last credentials expire or expired, or None.
        failure: why it can't be used, or its last attempt failed; or None.
    """

    name: str
    state: str
    expiration: datetime | None
    failure: HwsignerError | HwsignerWarning | None


class Watch(Protocol):
    """Takes the reports. Thread-safe."""

    def issued(self, profile: str, credentials: Credentials, source: BackgroundProvider) -> None:
        """A session was created, and its credentials are not given out yet."""

    def tried(self, profile: str, outcome: Credentials | Failure, source: BackgroundProvider) -> None:
        """An attempt to create a session succeeded or failed."""

    def given(self, profile: str, access_key_id: str, uid: int, pid: int) -> None:
        """Credentials are about to be given to a process. Raises an AuditError if they must not be."""


def watched_answer(watch: Watch, profile: str, sock: socket.socket, uid: int, reply: Reply) -> Reply:
    """Report that a user's client gets an answer, if it has credentials; return it, or an error in its place."""
    match = _GIVEN.match(reply)
    if match is None:
        return reply
    try:
        pid = peer_pid(sock)
    except OSError:  # It has hung up.
        pid = 0
    try:
        watch.given(profile, match[1].decode(), uid, pid)
    except AuditError as error:
        return protocol.error(error.exit_status, f"profile {profile!r}: {error}")
    return reply
