"""Requests on connections that are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsigner._http.address import Endpoint
from hwsigner._http.connection import Deadline
from hwsigner._http.kept import IDLE_SECONDS, KeptConnections
from hwsigner._http.tls import TlsSettings, TrustedCAs, make_settings
from hwsigner.errors import ServiceUnreachableError
from serving.pods.api_server import ApiServer, Exchange, answer_well, api_server


class Caller:
    """Requests to a server, with a clock that a test sets."""

    def __init__(self, api: ApiServer) -> None:
        self.now = 0.0
        host, port = api.environ.values()
        self.kept = KeptConnections(Endpoint("https", host, int(port), ""), lambda: self.now)
        self.tls = self.settings(api.folder)

    def settings(self, folder: Path, *, strict: bool = True) -> TlsSettings:
        return make_settings(TrustedCAs("the cluster's CA", str(folder / "ca.crt")), strict=strict)

    def ask(self) -> int:
        deadline = Deadline(5.0, "a test")
        return self.kept.request(
            "GET", "/openid/v1/jwks", [("Accept", "*/*")], b"", tls=self.tls, deadline=deadline
        ).status


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server(tmp_path / "account") as server:
        server.answer = lambda exchange: exchange.give(200, json.dumps({}).encode())
        yield server


@pytest.fixture
def caller(api: ApiServer) -> Iterator[Caller]:
    found = Caller(api)
    yield found
    found.kept.close()


def test_connection_is_used_again(api: ApiServer, caller: Caller) -> None:
    assert [caller.ask() for _ in range(3)] == [200] * 3
    assert api.connections == 1


def test_connection_that_was_idle_for_30_s_is_not_used_again(api: ApiServer, caller: Caller) -> None:
    caller.ask()
    caller.now += IDLE_SECONDS - 1
    caller.ask()
    caller.now += IDLE_SECONDS
    caller.ask()
    assert api.connections == 2


def test_connection_with_other_tls_settings_is_not_used_again(api: ApiServer, caller: Caller) -> None:
    caller.ask()
    caller.tls = caller.settings(api.folder, strict=False)
    caller.ask()
    assert api.connections == 2


def test_connection_that_the_server_closes_is_not_kept(api: ApiServer, caller: Caller) -> None:
    api.answer = lambda exchange: exchange.give(200, b"{}", {"Connection": "close"})
    caller.ask()
    assert caller.kept._idle == []


def test_request_is_sent_again_on_a_new_connection_when_a_kept_one_fails(api: ApiServer, caller: Caller) -> None:
    def answer(exchange: Exchange) -> None:
        if len(api.requests) == 2:
            exchange.drop()
        else:
            exchange.give(200, b"{}")

    api.answer = answer
    assert [caller.ask(), caller.ask()] == [200, 200]
    assert (len(api.requests), api.connections) == (3, 2)


def test_request_is_sent_once_when_a_new_connection_fails(api: ApiServer, caller: Caller) -> None:
    api.answer = lambda exchange: exchange.drop()
    with pytest.raises(ServiceUnreachableError, match="closed the connection"):
        caller.ask()
    assert len(api.requests) == 1
    api.answer = answer_well
    assert caller.ask() == 401
