"""What is known of a connection. Clients that keep one open send the same head again and again."""

from __future__ import annotations

from dataclasses import dataclass

from hwsigner.serving.answers import Give

# Its key in the state of an ASGI scope.
CONNECTION = "connection"


@dataclass(slots=True)
class Known:
    """What is known of a connection.

    Attributes:
        asked: method, path and headers of the last request that was let in.
        give: what answers it.
        user: the uid of who made the connection, once it was looked up and found.
    """

    asked: tuple[str, str, list[tuple[bytes, bytes]]] | None = None
    give: Give | None = None
    user: int | None = None
