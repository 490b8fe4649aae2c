"""The clients of the agent's loop: those whose request is incomplete, and those whose answer is not ready."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hwsigner._agent.profile import AgentProfile


@dataclass(eq=False, slots=True)
class Client:
    """A connected client."""

    sock: socket.socket
    uid: int
    deadline: float  # When its request must be complete.
    line: bytes = b""  # What it has sent of its request.
    profile: AgentProfile | None = None  # Which it waits for.
    is_watched: bool = False  # By the selector.
    with_notes: bool = False  # Whether it understands notes.
    noted: str | None = None  # The last note that it was sent.


_Group = dict[Client, None]


class Clients:
    """The agent's clients. Used by one thread only. What a new one costs grows with the users, not with the clients."""

    def __init__(self) -> None:
        self._reading: _Group = {}  # In the order of their deadlines.
        self._waiting: dict[AgentProfile, _Group] = {}
        # Each user's clients: those that wait for a profile, and under None those whose request is incomplete.
        self._users: dict[int, dict[AgentProfile | None, _Group]] = {}
        self._counts: Counter[int] = Counter()
        self.count = 0

    @property
    def is_waiting(self) -> bool:
        """Whether a client waits for its answer."""
        return self.count > len(self._reading)

    def enter(self, client: Client) -> None:
        """Add a client whose request is incomplete."""
        self._reading[client] = None
        self._add(client)

    def wait(self, client: Client, profile: AgentProfile) -> bool:
        """Let a client wait for a profile's answer; return whether it is the first that does."""
        self.leave(client)
        client.profile = profile
        is_first = profile not in self._waiting
        self._waiting.setdefault(profile, {})[client] = None
        self._add(client)
        return is_first

    def leave(self, client: Client) -> None:
        """Remove a client, if it is here."""
        groups = self._users.get(client.uid, {})
        group = groups.get(client.profile, {})
        if client not in group:
            return
        del group[client]
        if not group:
            del groups[client.profile]
        (self._waiting.get(client.profile, {}) if client.profile else self._reading).pop(client, None)
        self.count -= 1
        self._counts[client.uid] -= 1
        if not self._counts[client.uid]:
            del self._counts[client.uid], self._users[client.uid]

    def answered(self, profile: AgentProfile) -> Iterable[Client]:
        """Return the clients that wait for a profile's answer; they no longer do."""
        clients = self._waiting.pop(profile)
        for client in clients:
            self.leave(client)
        return clients

    def waiting(self) -> list[Client]:
        """Return all clients that wait for an answer."""
        return [client for clients in self._waiting.values() for client in clients]

    def reading(self) -> list[Client]:
        """Return all clients whose request is incomplete."""
        return list(self._reading)

    def least(self) -> Client:
        """Return the client to drop for a new one. There must be one.

        It is a client of the user with most connections: the one that has sent no complete request for the longest
        time; else the last that waits for the profile that most clients wait for. So no user is left with less than an
        equal share.
        """
        groups = self._users[max(self._counts, key=self._counts.__getitem__)]
        if reading := groups.get(None):
            return next(iter(reading))
        largest = max(groups.values(), key=len)
        return next(reversed(largest))

    def late(self, now: float) -> Iterator[Client]:
        """Yield the clients whose deadline has passed. Each must be removed before the next is taken."""
        while self._reading and (first := next(iter(self._reading))).deadline <= now:
            yield first

    def next_deadline(self) -> float:
        """Return the first deadline; infinity for none."""
        return next((client.deadline for client in self._reading), math.inf)

    def _add(self, client: Client) -> None:
        self._users.setdefault(client.uid, {}).setdefault(client.profile, {})[client] = None
        self._counts[client.uid] += 1
        self.count += 1
