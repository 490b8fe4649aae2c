"""What is known of a connection. Clients that keep one open send the same head again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwsigner.serving.responses import Answer

# Its key in the state of an ASGI scope.
CONNECTION = "connection"


@dataclass(slots=True)
class Known:
    """What is known of a connection.

    Attributes:
        headers: those of the last request that was let in: the very list of its scope.
        now: what answers it when it comes again, if that can be done at once.
        user: the uid of who made the connection, once it was looked up and found.
    """

    headers: list[tuple[bytes, bytes]] | None = None
    now: Callable[[], Answer | None] | None = None
    user: int | None = None
