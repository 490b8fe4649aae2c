"""How a command reaches the service, through proxies and at the region's host."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hwsigner.emulator import Emulator, World
from loopback import Server, connect_proxy
from scene import Scene

HOSTS = (
    "rolesanywhere.us-east-1.amazonaws.com",
    "rolesanywhere-fips.us-east-1.amazonaws.com",
    "rolesanywhere.us-east-1.api.aws",
)


@pytest.fixture
def aws(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator with the host names of the real service and a trusted CA."""
    with Emulator(World.simple(scene.ca.certificate), tls=True, host_names=HOSTS) as emulator:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(emulator.ca_file))
        yield emulator


@pytest.fixture
def heads(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The heads of the requests to the proxy in HTTPS_PROXY, which requires a password."""
    heads: list[bytes] = []
    port = int(aws.url.rpartition(":")[2])
    with Server(connect_proxy(heads, {f"{host}:443": port for host in HOSTS}, "Basic dXNlcjpzZWNyZXQ=")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy.port}")
        yield heads


@pytest.mark.parametrize("flags", [(), ("--with-proxy",), ("--with-proxy=false",)])
def test_proxy_is_used_with_and_without_the_flag(
    scene: Scene, aws: Emulator, heads: list[bytes], flags: tuple[str, ...]
) -> None:
    outcome = scene.credentials(*flags, endpoint=None)
    assert (outcome.status, outcome.err) == (0, "")
    assert heads[0].startswith(b"CONNECT rolesanywhere.us-east-1.amazonaws.com:443 ")
    assert dict(aws.requests[0].headers)["Host"] == HOSTS[0]


@pytest.mark.parametrize(
    ("variable", "host"), [("AWS_USE_FIPS_ENDPOINT", HOSTS[1]), ("AWS_USE_DUALSTACK_ENDPOINT", HOSTS[2])]
)
def test_fips_and_dual_stack_hosts_are_reached(
    scene: Scene, aws: Emulator, heads: list[bytes], monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv(variable, "true")
    assert scene.credentials(endpoint=None).status == 0
    assert dict(aws.requests[0].headers)["Host"] == host


def test_no_proxy_bypasses_the_proxy(
    scene: Scene, aws: Emulator, heads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "service.invalid")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert scene.credentials("--connect-timeout=2", endpoint="https://service.invalid").status == 6
    assert heads == []


def test_proxy_that_refuses_is_an_error_that_hides_the_password(
    scene: Scene, aws: Emulator, heads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", os.environ["HTTPS_PROXY"].replace("secret", "sesame"))
    outcome = scene.credentials(endpoint=None)
    assert outcome.status == 6
    assert "407" in outcome.err
    assert "sesame" not in outcome.err
