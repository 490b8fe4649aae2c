"""Listening sockets: addresses, hop limits and the names by which clients may call them."""

from __future__ import annotations

import socket
from contextlib import nullcontext

import pytest

from hwsigner.errors import HwsignerError, UsageError
from hwsigner.serving.admission import Request, read_headers
from hwsigner.serving.listener import listen, names_of
from hwsigner.serving.peer import Peer
from hwsigner.serving.responses import Refusal


@pytest.mark.parametrize(
    ("address", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TTL),
        ("::1", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
    ],
)
def test_accepted_connection_has_the_hop_limit(address: str, level: int, option: int) -> None:
    with listen(address, 0, 3) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(level, option) == 3


def test_error_names_a_port_in_use() -> None:
    with listen("127.0.0.1", 0, 64) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(HwsignerError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port, 64)


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:80", "1.2.3", "::g"])
def test_invalid_address_is_an_error(address: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address"):
        listen(address, 0, 64)


def test_names_are_the_address_and_on_loopback_localhost_with_and_without_port() -> None:
    with listen("127.0.0.1", 0, 64) as four, socket.socket(socket.AF_INET6) as six:
        port = four.getsockname()[1]
        assert set(names_of(four, [])) == {"127.0.0.1", f"127.0.0.1:{port}", "localhost", f"localhost:{port}"}
        # It is not bound, so it has the wildcard address.
        assert set(names_of(six, ["a.example"])) == {"[::]", "[::]:0", "a.example", "a.example:0"}


@pytest.mark.parametrize(("host", "is_known"), [("10.1.2.3", True), ("10.1.2.3:9911", True), ("10.1.2.4", False)])
def test_client_may_send_the_address_by_which_it_reached_a_wildcard(host: str, is_known: bool) -> None:
    class Transport:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            assert name == "sockname"
            return "10.1.2.3", 9911

    peer = Peer(Transport())  # type: ignore[arg-type]
    request = Request("GET", "/", [(b"host", host.encode())], keeps_open=True, peer=peer)
    with nullcontext() if is_known else pytest.raises(Refusal):
        assert read_headers(request, {b"0.0.0.0"}) == {b"host": host.encode()}
