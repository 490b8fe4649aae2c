"""The sockets: bound, limited in their hops, and for whom they can be reached."""

from __future__ import annotations

import socket
from contextlib import nullcontext

import pytest

from hwsigner.errors import HwsignerError, UsageError
from hwsigner.serving.admission import Admission
from hwsigner.serving.listener import listen, names_of
from hwsigner.serving.responses import Refusal


@pytest.mark.parametrize(
    ("address", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TTL),
        ("::1", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
    ],
)
def test_the_hop_limit_holds_for_what_is_accepted(address: str, level: int, option: int) -> None:
    with listen(address, 0, 3) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(level, option) == 3


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0, 64) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(HwsignerError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port, 64)


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:80", "1.2.3", "::g"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="is no IP address"):
        listen(address, 0, 64)


def test_names() -> None:
    with listen("127.0.0.1", 0, 64) as four, socket.socket(socket.AF_INET6) as six:
        port = four.getsockname()[1]
        assert set(names_of(four, [])) == {"127.0.0.1", f"127.0.0.1:{port}", "localhost", f"localhost:{port}"}
        # Not bound, it has the address of all.
        assert set(names_of(six, ["a.example"])) == {"[::]", "[::]:0", "a.example", "a.example:0"}


@pytest.mark.parametrize(("host", "is_known"), [("10.1.2.3", True), ("10.1.2.3:9911", True), ("10.1.2.4", False)])
def test_a_client_may_name_the_address_that_it_reached_a_wildcard_by(host: str, is_known: bool) -> None:
    scope = {"headers": [(b"host", host.encode())], "server": ("10.1.2.3", 9911)}
    with nullcontext() if is_known else pytest.raises(Refusal):
        assert Admission(["0.0.0.0"]).headers(scope) == {b"host": host.encode()}
