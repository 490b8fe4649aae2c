"""`hwsigner console`: a sign-in URL of the AWS console, from the session's credentials."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.homes import Home, run_agent
from federation import TOKEN, Federation, federation
from hwsigner._agent import client
from hwsigner._aws.console import console_page, federation_endpoint
from hwsigner._cli import browser
from hwsigner._config import profiles
from hwsigner.emulator import Fault
from hwsigner.errors import UsageError
from judges import needs_linux, needs_long_socket_paths
from loopback import Server, ServerCA, recording
from scene import Outcome, Scene

Call = Callable[..., Outcome]


@pytest.fixture
def endpoint(scene: Scene) -> Iterator[Federation]:
    with federation(scene.emulator) as found:
        yield found


def console(scene: Scene, endpoint: Federation, *flags: str, **instead: str | Path | None) -> Outcome:
    return scene.call("console", *scene.flags(**instead), f"--federation-endpoint={endpoint.url}", *flags)


def ends_in(outcome: Outcome) -> float:
    """Return in how many seconds the console session ends, by the message."""
    end = datetime.strptime(outcome.err.split()[-1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (end - datetime.now(UTC)).total_seconds()


def test_url_has_the_token_and_the_page_and_no_credentials(scene: Scene, endpoint: Federation) -> None:
    outcome = console(scene, endpoint, "--debug")
    assert outcome.status == 0, outcome.err
    (session,) = endpoint.sessions
    url = urlsplit(outcome.out.strip())
    assert f"{url.scheme}://{url.netloc}{url.path}" == endpoint.url
    region = scene.emulator.trust_anchor_arn.split(":")[3]
    assert parse_qs(url.query, strict_parsing=True) == {
        "Action": ["login"],
        "Issuer": ["hwsigner"],
        "Destination": [f"https://{region}.console.aws.amazon.com/console/home?region={region}"],
        "SigninToken": [TOKEN],
    }
    for secret in (session["sessionKey"], session["sessionToken"]):
        assert secret not in outcome.out + outcome.err + session["path"]
    assert TOKEN not in outcome.err
    # AWS refuses it for some sessions, and it could outlast what the Roles Anywhere profile allows.
    assert "SessionDuration" not in session


@pytest.mark.parametrize(("flags", "longest"), [((), 7200), (("--session-duration=900",), 900)])
def test_session_is_the_longest_that_is_allowed_unless_a_duration_is_set(
    scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], longest: int
) -> None:
    emulator = scene.emulator
    monkeypatch.setattr(emulator.world.profiles[emulator.profile_arn], "duration_seconds", 7200)
    monkeypatch.setattr(emulator.world.roles[emulator.role_arn], "max_session_duration", 43200)
    assert longest - 60 < ends_in(console(scene, endpoint, *flags)) <= longest


@pytest.mark.parametrize(
    ("profile", "role", "longest"),
    [(43200, 43200, 43200), (43200, 14400, 14400), (7200, 3600, 3600), (43200, 3601, 3600), (5400, 3600, 3600)],
)
def test_session_is_the_longest_that_a_role_allows_that_allows_less_than_the_profile(
    scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch, profile: int, role: int, longest: int
) -> None:
    emulator = scene.emulator
    monkeypatch.setattr(emulator.world.profiles[emulator.profile_arn], "duration_seconds", profile)
    monkeypatch.setattr(emulator.world.roles[emulator.role_arn], "max_session_duration", role)
    outcome = console(scene, endpoint)
    assert outcome.status == 0, outcome.err
    assert longest - 60 < ends_in(outcome) <= longest
    assert outcome.err.count("the role allows no session of") == len(emulator.requests) - 1


def test_duration_that_is_set_and_refused_is_an_error(
    scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = scene.emulator
    monkeypatch.setattr(emulator.world.profiles[emulator.profile_arn], "duration_seconds", 7200)
    assert console(scene, endpoint, "--session-duration=7200").status == 5
    assert len(emulator.requests) == 1


def test_other_refusal_is_not_repeated(scene: Scene, endpoint: Federation) -> None:
    scene.emulator.misbehave(Fault("deny"))
    assert console(scene, endpoint).status == 5
    assert len(scene.emulator.requests) == 1


@needs_long_socket_paths
def test_session_is_that_of_a_running_agent(
    scene: Scene, endpoint: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, scene.ca, scene.emulator)
    home.write_profiles(web={})
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc"))
    monkeypatch.setattr(client, "SYSTEM_FOLDER", str(tmp_path / "system"))
    flags = ("--profile=web", f"--federation-endpoint={endpoint.url}")
    with run_agent(home):
        assert scene.call("console", *flags).status == 0
        assert scene.call("console", *flags, "--destination=s3").status == 0
        first, second = endpoint.sessions
        assert first["sessionId"] == second["sessionId"]
        assert scene.call("console", *flags, "--session-duration=900").status == 0
    assert endpoint.sessions[2]["sessionId"] != first["sessionId"]


def test_new_session_has_an_audit_line_before_the_credentials_are_sent(
    scene: Scene, endpoint: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log" / "audit"
    config = tmp_path / "hwsigner" / "config.toml"
    config.parent.mkdir()
    config.write_text(f'[monitoring]\naudit-log = "{log}"\naudit = "required"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert console(scene, endpoint).status == 7
    assert endpoint.sessions == []
    log.parent.mkdir()
    assert console(scene, endpoint).status == 0
    (line,) = log.read_text().splitlines()
    assert endpoint.sessions[0]["sessionKey"] not in line
    assert json.loads(line)["uid"] == os.geteuid()


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((400, b"Invalid credentials parameter SECRET"), "refused the session: status 400"),
        ((302, b""), "refused the session: status 302"),
        ((503, b"SECRET"), "status 503. Retry later"),
        ((200, b"<html>SECRET</html>"), "gave no sign-in token"),
        ((200, b'{"SigninToken": ["SECRET"]}'), "gave no sign-in token"),
        ((200, rb'{"SigninToken": "SECRET\ud800"}'), "gave no sign-in token"),
    ],
)
def test_refusal_is_an_error_that_shows_nothing_of_the_answer(
    scene: Scene, endpoint: Federation, answer: tuple[int, bytes], part: str
) -> None:
    endpoint.answer = answer
    outcome = console(scene, endpoint)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (5, "", 1)
    assert part in outcome.err
    assert "SECRET" not in outcome.err


def test_credentials_are_not_sent_without_tls(scene: Scene, endpoint: Federation) -> None:
    outcome = scene.call(
        "console", *scene.flags(), "--federation-endpoint=http://signin.example.com/", "--no-verify-ssl"
    )
    assert outcome.status == 2
    assert "http: is for this machine only" in outcome.err
    assert not scene.emulator.requests


def test_credentials_are_not_sent_to_an_unverified_server(scene: Scene, tmp_path: Path) -> None:
    """Nor with `--no-verify-ssl`, which is for CreateSession."""
    requests: list[bytes] = []
    with Server(recording(requests), ServerCA(tmp_path).context("localhost")) as server:
        url = f"https://localhost:{server.endpoint().port}/federation"
        outcome = scene.call("console", *scene.flags(), f"--federation-endpoint={url}", "--no-verify-ssl")
    assert (outcome.status, outcome.out, requests) == (6, "", [])
    assert "certificate" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("partition", "region", "federated", "home"),
    [
        ("aws", "eu-central-1", "signin.aws.amazon.com", "eu-central-1.console.aws.amazon.com"),
        ("aws-us-gov", "us-gov-west-1", "signin.amazonaws-us-gov.com", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("aws-cn", "cn-north-1", "signin.amazonaws.cn", "cn-north-1.console.amazonaws.cn"),
    ],
)
def test_hosts_are_those_of_the_partition(partition: str, region: str, federated: str, home: str) -> None:
    assert federation_endpoint(partition).url == f"https://{federated}/federation"
    assert console_page(partition, region) == f"https://{home}/console/home?region={region}"
    assert console_page(partition, region, "s3") == f"https://{home}/s3?region={region}"
    page = f"https://{home}/ec2/home?region={region}#Instances:"
    assert console_page(partition, region, page) == page


def test_partition_without_a_known_console_needs_both_urls() -> None:
    with pytest.raises(UsageError, match="--federation-endpoint"):
        federation_endpoint("aws-eusc")
    with pytest.raises(UsageError, match="--destination"):
        console_page("aws-eusc", "eusc-de-east-1")
    assert federation_endpoint("aws-eusc", "https://signin.example.eu/federation").host == "signin.example.eu"
    assert console_page("aws-eusc", "eusc-de-east-1", "https://console.example.eu/") == "https://console.example.eu/"


@pytest.mark.parametrize("text", ["http://console.aws.amazon.com/", "s3?x=y", "//evil.example", "a b", "https://a b/"])
def test_destination_that_is_neither_a_service_nor_a_url_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--destination"):
        console_page("aws", "eu-central-1", text)


@needs_linux
class TestOpen:
    """With `--open`, a browser gets the URL, and other processes do not see it."""

    def test_browser_is_redirected_and_its_arguments_have_no_secret(
        self, scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, str | None, int]] = []

        def open_url(url: str) -> bool:
            other = f"http://{urlsplit(url).netloc}/"
            seen.extend((each, *_fetch(each)) for each in (other, url, url))
            return True

        monkeypatch.setattr("webbrowser.open", open_url)
        monkeypatch.setattr(browser, "_LATER_SECONDS", 0)
        outcome = console(scene, endpoint, "--open")
        assert (outcome.status, outcome.out) == (0, ""), outcome.err
        statuses = [status for _, _, status in seen]
        assert statuses == [404, 302, 302]
        location = seen[1][1] or ""
        assert parse_qs(urlsplit(location).query)["SigninToken"] == [TOKEN]
        assert TOKEN not in "".join(url for url, _, _ in seen) + outcome.err

    @pytest.mark.slow
    def test_another_user_gets_nothing(
        self, scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(browser, "_WAIT_SECONDS", 0.2)
        monkeypatch.setattr(browser, "find_owner", lambda *_: os.geteuid() + 1)
        seen: list[int] = []

        def open_url(url: str) -> bool:
            seen.append(_fetch(url)[1])
            return True

        monkeypatch.setattr("webbrowser.open", open_url)
        outcome = console(scene, endpoint, "--open")
        assert (outcome.status, outcome.out, seen) == (1, "", [404])
        assert "Leave out --open" in outcome.err

    @pytest.mark.slow
    def test_connection_that_is_broken_off_leaves_no_traceback(
        self, scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_url(url: str) -> bool:
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as broken:
                broken.sendall(b"GET ")
                broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return bool(_fetch(url))

        monkeypatch.setattr("webbrowser.open", open_url)
        monkeypatch.setattr(browser, "_LATER_SECONDS", 0.3)
        outcome = console(scene, endpoint, "--open")
        assert (outcome.status, outcome.err.count("\n")) == (0, 1), outcome.err

    def test_missing_browser_is_an_error(
        self, scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webbrowser.open", lambda _: False)
        begin = time.monotonic()
        outcome = console(scene, endpoint, "--open")
        assert (outcome.status, outcome.out) == (1, "")
        assert "no browser was started" in outcome.err
        assert time.monotonic() - begin < 10


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _fetch(url: str) -> tuple[str | None, int]:
    """Return the Location header and the status of a URL, without following it."""
    try:
        urllib.request.build_opener(_NoRedirect).open(url, timeout=5)
    except urllib.error.HTTPError as error:
        with error:
            return error.headers.get("Location"), error.code
    raise AssertionError(url)
