"""A server that records requests, and host names that all lead to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
import urllib3.util.connection

from auth.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def lead_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that redirects every new connection to a port of 127.0.0.1, whatever its host is."""

    def lead(port: int) -> None:
        def connect(address: object, *args: object, **options: object) -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), 5)

        monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)

    return lead
