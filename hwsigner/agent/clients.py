"""The clients of the agent's loop: those whose request is incomplete, and those whose answer is not ready."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hwsigner.agent.profile import AgentProfile


@dataclass(eq=False, slots=True)
class Client:
    """A connection, the uid at its other end, and the time by which its request must be complete."""

    sock: socket.socket
    uid: int
    deadline: float
    line: bytes = b""
    profile: AgentProfile | None = None
    is_watched: bool = False


class Clients:
    """The agent's clients. Used by one thread only."""

    def __init__(self) -> None:
        self._reading: dict[Client, None] = {}  # In the order of their deadlines.
        self._waiting: dict[AgentProfile, dict[Client, None]] = {}

    def __len__(self) -> int:
        return len(self._reading) + sum(map(len, self._waiting.values()))

    @property
    def is_waiting(self) -> bool:
        """Whether a client waits for its answer."""
        return any(self._waiting.values())

    def enter(self, client: Client) -> None:
        """Add a client whose request is incomplete."""
        self._reading[client] = None

    def wait(self, client: Client, profile: AgentProfile) -> bool:
        """Let a client wait for a profile's answer; return whether it is the first that does."""
        self._reading.pop(client, None)
        client.profile = profile
        is_first = profile not in self._waiting
        self._waiting.setdefault(profile, {})[client] = None
        return is_first

    def leave(self, client: Client) -> None:
        """Remove a client."""
        self._reading.pop(client, None)
        if client.profile:
            self._waiting.get(client.profile, {}).pop(client, None)

    def answered(self, profile: AgentProfile) -> Iterable[Client]:
        """Return the clients that wait for a profile's answer; they no longer do."""
        return self._waiting.pop(profile)

    def waiting(self) -> list[Client]:
        """Return all clients that wait for an answer."""
        return [client for clients in self._waiting.values() for client in clients]

    def reading(self) -> list[Client]:
        """Return all clients whose request is incomplete."""
        return list(self._reading)

    def least(self) -> Client:
        """Return the client to drop for a new one. There must be one.

        It is a client of the user with most connections: the one that has sent no complete request for the longest
        time; else the last that waits for the profile that most clients wait for.
        """
        users = Counter(client.uid for client in (*self._reading, *self.waiting()))
        [(uid, _)] = users.most_common(1)
        reading = _of(uid, self._reading)
        return reading[0] if reading else max((_of(uid, each) for each in self._waiting.values()), key=len)[-1]

    def late(self, now: float) -> Iterator[Client]:
        """Yield the clients whose deadline has passed. Each must be removed before the next is taken."""
        while self._reading and (first := next(iter(self._reading))).deadline <= now:
            yield first

    def next_deadline(self) -> float:
        """Return the first deadline; infinity for none."""
        return next((client.deadline for client in self._reading), math.inf)


def _of(uid: int, clients: Iterable[Client]) -> list[Client]:
    return [client for client in clients if client.uid == uid]
