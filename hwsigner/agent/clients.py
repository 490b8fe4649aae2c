"""The clients of an agent's loop: those whose line has not come whole, and those whose answer is being worked at."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Iterable, Iterator

from hwsigner.agent.profile import HeldProfile


class Client:
    """A connection.

    Args:
        sock: its socket.
        uid: the user at its other end.
        deadline: until when its line must have come.
    """

    __slots__ = ("deadline", "held", "is_watched", "line", "sock", "uid")

    def __init__(self, sock: socket.socket, uid: int, deadline: float) -> None:
        self.sock = sock
        self.uid = uid
        self.deadline = deadline
        self.line = b""
        self.held: HeldProfile | None = None
        self.is_watched = False


class Crowd:
    """Who is there. For one thread."""

    def __init__(self) -> None:
        # In the order of their deadlines.
        self._reading: dict[Client, None] = {}
        self._waiting: dict[HeldProfile, dict[Client, None]] = {}

    def __len__(self) -> int:
        return len(self._reading) + sum(map(len, self._waiting.values()))

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for an answer that is being worked at."""
        return any(self._waiting.values())

    def enter(self, client: Client) -> None:
        """Take a client whose line is yet to come."""
        self._reading[client] = None

    def wait(self, client: Client, held: HeldProfile) -> bool:
        """Let a client wait for a profile's answer; return whether it is the first that does."""
        self._reading.pop(client, None)
        client.held = held
        is_first = held not in self._waiting
        self._waiting.setdefault(held, {})[client] = None
        return is_first

    def leave(self, client: Client) -> None:
        """Forget a client, wherever it is."""
        self._reading.pop(client, None)
        if client.held:
            self._waiting.get(client.held, {}).pop(client, None)

    def answered(self, held: HeldProfile) -> Iterable[Client]:
        """Return who waits for a profile's answer; nobody does any more."""
        return self._waiting.pop(held)

    def waiting(self) -> list[Client]:
        """Return all who wait."""
        return [client for clients in self._waiting.values() for client in clients]

    def reading(self) -> list[Client]:
        """Return all whose line is yet to come."""
        return list(self._reading)

    def least(self) -> Client:
        """Return who is to make room for another. There must be somebody.

        It is one of the user who has most connections: who has said nothing for the longest time, else the last that
        waits for the profile that most wait for.
        """
        users = Counter(client.uid for client in (*self._reading, *self.waiting()))
        [(uid, _)] = users.most_common(1)
        reading = _of(uid, self._reading)
        return reading[0] if reading else max((_of(uid, each) for each in self._waiting.values()), key=len)[-1]

    def late(self, now: float) -> Iterator[Client]:
        """Yield those whose deadline has passed, which must leave."""
        while self._reading and (first := next(iter(self._reading))).deadline <= now:
            yield first

    def next_deadline(self) -> float:
        """Return the first deadline; infinity for none."""
        return next((client.deadline for client in self._reading), math.inf)


def _of(uid: int, clients: Iterable[Client]) -> list[Client]:
    return [client for client in clients if client.uid == uid]
