"""Listening sockets: addresses, hop limits and the names by which clients may call them."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from hwsigner._serving.admission import HTTPRequest, read_headers
from hwsigner._serving.listener import hold_localhost, listen, names_of, tls_context
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import HTTPRefusal
from hwsigner.errors import HwsignerError, HwsignerWarning, UnsafeKeyWarning, UsageError
from loopback import ServerCA
from ports import reserve_port


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


def test_error_says_that_an_address_is_not_of_this_machine() -> None:
    with pytest.raises(HwsignerError, match=r"Cannot assign requested address\. Give an address of this machine"):
        listen("192.0.2.1", 0, 64)


@pytest.mark.parametrize(("address", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_both_addresses_of_localhost_are_held(address: str, other: str) -> None:
    port = reserve_port()
    listeners = [listen(address, port, 64)]
    assert hold_localhost(listeners, 3) is True
    assert [one.getsockname()[:2] for one in listeners] == [(address, port), (other, port)]
    assert hold_localhost(listeners, 3) is True  # As with both from systemd.
    assert len(listeners) == 2
    for one in listeners:
        one.close()


def test_other_address_in_use_is_a_warning_and_localhost_is_not_held() -> None:
    port = reserve_port()
    with listen("::1", port, 64):
        listeners = [listen("127.0.0.1", port, 64)]
        with listeners[0], pytest.warns(HwsignerWarning, match=rf"can't listen on \[::1\]:{port}: Address already in "):
            assert hold_localhost(listeners, 64) is False
        assert len(listeners) == 1


def test_machine_without_ipv6_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0, 64) as four:
        for number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):

            def refuse(*_: object, number: int = number, **__: object) -> socket.socket:
                raise OSError(number, "no IPv6")

            monkeypatch.setattr(socket, "create_server", refuse)
            listeners = [four]
            assert hold_localhost(listeners, 64) is True
            assert listeners == [four]


def test_other_addresses_are_not_localhost() -> None:
    with listen("127.0.0.2", 0, 64) as one:
        listeners = [one]
        assert hold_localhost(listeners, 64) is False
        assert listeners == [one]


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:80", "1.2.3", "::g"])
def test_invalid_address_is_an_error(address: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address"):
        listen(address, 0, 64)


def test_names_are_the_address_and_host_names_with_and_without_port() -> None:
    with listen("127.0.0.1", 0, 64) as four, socket.socket(socket.AF_INET6) as six:
        port = four.getsockname()[1]
        assert set(names_of(four, [])) == {"127.0.0.1", f"127.0.0.1:{port}"}
        # It is not bound, so it has the wildcard address.
        assert set(names_of(six, ["a.example"])) == {"[::]", "[::]:0", "a.example", "a.example:0"}


@pytest.mark.parametrize(("host", "is_known"), [("10.1.2.3", True), ("10.1.2.3:9911", True), ("10.1.2.4", False)])
def test_client_may_send_the_address_by_which_it_reached_a_wildcard(host: str, is_known: bool) -> None:
    class Transport:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            assert name == "sockname"
            return "10.1.2.3", 9911

    peer = Peer(Transport())  # type: ignore[arg-type]
    request = HTTPRequest("GET", "/", [(b"host", host.encode())], keeps_open=True, peer=peer)
    with nullcontext() if is_known else pytest.raises(HTTPRefusal):
        assert read_headers(request, {b"0.0.0.0"}) == {b"host": host.encode()}


@pytest.mark.parametrize("has_own_file", [False, True])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o600])
def test_tls_key_that_other_users_can_access_is_warned_of(
    tmp_path: Path, mode: int, has_own_file: bool, recwarn: pytest.WarningsRecorder
) -> None:
    ServerCA(tmp_path).context("localhost")
    pair, key = tmp_path / "localhost30.pem", tmp_path / "key.pem"
    key.write_bytes(pair.read_bytes())
    pair.chmod(0o644 if has_own_file else mode)
    key.chmod(mode)
    tls_context(str(pair), str(key) if has_own_file else None)
    found = [str(one.message) for one in recwarn]
    name = key if has_own_file else pair
    expected = f"private key file {name} has mode {mode:04o}: other users can read or change it. Run chmod 600 {name}"
    assert found == ([] if mode == 0o600 else [expected])


@pytest.mark.root
def test_tls_key_of_another_user_is_warned_of(tmp_path: Path) -> None:
    ServerCA(tmp_path).context("localhost")
    pair = tmp_path / "localhost30.pem"
    pair.chmod(0o600)
    os.chown(pair, 4711, 4711)
    with pytest.warns(UnsafeKeyWarning, match="belongs to user 4711"):
        tls_context(str(pair), None)


@pytest.mark.root
def test_tls_key_that_root_gives_to_the_service_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """By its group, or as a credential of systemd: the registrar's unit has LoadCredential=."""
    ServerCA(tmp_path).context("localhost")
    pair = tmp_path / "localhost30.pem"
    pair.chmod(0o640)
    os.chown(pair, 0, 4711)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "getgroups", lambda: [4711])
    tls_context(str(pair), None)
    monkeypatch.setattr(os, "getgroups", list[int])
    pair.chmod(0o440)
    os.chown(pair, 0, 0)
    monkeypatch.setattr(os, "getegid", lambda: 1234)
    tmp_path.chmod(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    tls_context(str(pair), None)
    assert not recwarn.list
