"""Faults of the service and the network, and what the user gets: a status, one line, nothing on stdout."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from hwsigner.emulator import Emulator, Fault, World
from scene import Outcome, Scene

REFUSED = {
    "deny": (Fault("deny", message="Nope"), "AccessDeniedException (403): Nope (request id "),
    "html": (Fault("html"), "is not from the service: <html>"),
    "not-json": (Fault("not-json", body='{"credentialSet": ['), "JSON"),
    "redirect": (Fault("redirect"), "https://elsewhere.invalid/sessions"),
    "no-credentials": (Fault("no-credentials"), "no credentials"),
    "past-expiration": (Fault("past-expiration"), "expired"),
    "bad-expiration": (Fault("bad-expiration"), "'tomorrow'"),
    "other-role": (Fault("other-role"), "role/other"),
    "wrong-clock": (Fault("wrong-clock", seconds=-600), "10 minutes ahead"),
}
RETRYABLE = {
    "throttle": (Fault("throttle", None), "ThrottlingException (429)", 5),
    "fail-500": (Fault("fail", None), "(500)", 5),
    "fail-503": (Fault("fail", None, status=503), "(503)", 5),
    "html-503": (Fault("html", None, status=503), "(503) is not from the service", 5),
    "close": (Fault("close", None), "closed the connection", 6),
    "reset": (Fault("reset", None), "reset", 6),
    "cut-off": (Fault("cut-off", None), "closed the connection", 6),
}
FIELDS = (
    "credentialSet",
    "credentials",
    "accessKeyId",
    "secretAccessKey",
    "sessionToken",
    "expiration",
    "roleArn",
    "assumedRoleUser",
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsigner._aws.create_session._BACKOFF_BASE", 0.01)


def assert_one_line(outcome: Outcome, status: int) -> None:
    assert outcome.status == status
    assert outcome.out == ""
    assert outcome.err.startswith("hwsigner: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", REFUSED)
def test_error_that_a_retry_cannot_fix_is_not_retried(scene: Scene, name: str) -> None:
    fault, text = REFUSED[name]
    scene.emulator.misbehave(fault)
    outcome = scene.credentials()
    assert_one_line(outcome, 5)
    assert text in outcome.err
    assert len(scene.emulator.requests) == 1


@pytest.mark.parametrize("field", FIELDS)
def test_missing_field_is_an_error_that_names_it(scene: Scene, field: str) -> None:
    scene.emulator.misbehave(Fault("missing-field", field=field))
    outcome = scene.credentials()
    assert_one_line(outcome, 5)
    assert field in outcome.err


@pytest.mark.parametrize("name", RETRYABLE)
def test_retryable_error_is_attempted_three_times_with_new_signatures(scene: Scene, name: str) -> None:
    fault, text, status = RETRYABLE[name]
    scene.emulator.misbehave(fault)
    outcome = scene.credentials()
    assert_one_line(outcome, status)
    assert text in outcome.err
    signatures = {dict(record.headers)["Authorization"] for record in scene.emulator.requests}
    assert len(signatures) == 3


@pytest.mark.parametrize("name", RETRYABLE)
def test_third_attempt_may_succeed(scene: Scene, name: str) -> None:
    fault = RETRYABLE[name][0]
    scene.emulator.misbehave(Fault(fault.name, 2, **fault.values))
    outcome = scene.credentials()
    assert outcome.status == 0
    assert json.loads(outcome.out)["Version"] == 1


def test_aws_max_attempts_limits_the_attempts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    scene.emulator.misbehave(Fault("throttle", None))
    assert scene.credentials().status == 5
    assert len(scene.emulator.requests) == 1
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "four")
    assert_one_line(scene.credentials(), 2)


@pytest.mark.slow
def test_retry_after_is_honoured(scene: Scene) -> None:
    scene.emulator.misbehave(Fault("throttle", retry_after="1"))
    assert scene.credentials().status == 0
    first, second = scene.emulator.requests
    assert (second.time - first.time).total_seconds() >= 1


def test_retry_after_beyond_the_time_limit_is_not_waited_for(scene: Scene) -> None:
    scene.emulator.misbehave(Fault("throttle", retry_after="3600"))
    begin = time.monotonic()
    assert_one_line(scene.credentials(), 5)
    assert time.monotonic() - begin < 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stall", "drip"])
@pytest.mark.parametrize("flags", [("--read-timeout=0.2",), ("--timeout=0.3",)])
def test_slow_service_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str, flags: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    scene.emulator.misbehave(Fault(name))
    outcome = scene.credentials(*flags)
    assert_one_line(outcome, 6)
    assert flags[0].partition("=")[0] in outcome.err


def test_refused_connection_names_the_address(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        outcome = scene.credentials(endpoint=f"http://127.0.0.1:{port}")
    assert_one_line(outcome, 6)
    assert f"127.0.0.1:{port}" in outcome.err


class TestTls:
    @pytest.fixture
    def secure(self, scene: Scene) -> Iterator[Emulator]:
        with Emulator(World.simple(scene.ca.certificate), tls=True) as emulator:
            yield emulator

    def test_ca_bundle_makes_the_service_trusted(
        self, scene: Scene, secure: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        untrusted = scene.credentials(endpoint=secure.url)
        assert_one_line(untrusted, 6)
        assert "AWS_CA_BUNDLE" in untrusted.err
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca_file))
        assert scene.credentials(endpoint=secure.url).status == 0
        monkeypatch.setenv("AWS_CA_BUNDLE", str(scene.write("other.pem", certs.make_ca("Other").pem)))
        assert_one_line(scene.credentials(endpoint=secure.url), 6)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(secure.ca_file))
        monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
        assert scene.credentials(endpoint=secure.url).status == 0

    def test_no_verify_ssl_accepts_any_certificate_with_a_warning(self, scene: Scene, secure: Emulator) -> None:
        outcome = scene.credentials("--no-verify-ssl=true", endpoint=secure.url)
        assert outcome.status == 0
        assert "warning: --no-verify-ssl" in outcome.err

    def test_connect_timeout_covers_the_handshake(
        self, scene: Scene, secure: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        secure.misbehave(Fault("stall-handshake"))
        outcome = scene.credentials("--connect-timeout=0.2", endpoint=secure.url)
        assert_one_line(outcome, 6)
        assert "--connect-timeout" in outcome.err


class TestRefusedBeforeAnythingIsSent:
    def test_certificate_of_another_ca_gets_a_hint(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = scene.write("stranger.pem", certs.pem(certs.issue(certs.make_ca("Stranger"), key.public_key())))
        outcome = scene.credentials(certificate=leaf, private_key=certs.write_key(scene.folder / "k", key))
        assert_one_line(outcome, 5)
        assert "Untrusted signing certificate" in outcome.err
        assert "does not reach the trust anchor" in outcome.err

    def test_key_that_does_not_match_the_certificate_is_an_error(self, scene: Scene) -> None:
        other = certs.write_key(scene.folder / "k", ec.generate_private_key(ec.SECP256R1()))
        outcome = scene.credentials(private_key=other)
        assert_one_line(outcome, 3)
        assert str(scene.leaf) in outcome.err
        assert scene.emulator.requests == []

    @pytest.mark.parametrize(
        ("shape", "text"),
        [
            (certs.Shape(begin=certs.ago(20), end=certs.ago(10)), "expired at"),
            (certs.Shape(begin=certs.ago(-10)), "is not valid before"),
            (certs.Shape(is_ca=True), "CA:TRUE"),
            (certs.Shape(digital_signature=False), "digitalSignature"),
        ],
    )
    def test_unsuitable_certificate_is_refused_before_the_key_is_opened(
        self, scene: Scene, shape: certs.Shape, text: str
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        # The key is not even opened.
        outcome = scene.credentials(certificate=scene.issue(key.public_key(), shape), private_key="/nonexistent")
        assert_one_line(outcome, 4)
        assert text in outcome.err
        assert scene.emulator.requests == []

    @pytest.mark.parametrize("flag", ["certificate", "private_key", "intermediates"])
    @pytest.mark.parametrize("what", ["missing", "folder", "empty", "garbage"])
    def test_invalid_file_is_an_error_with_its_path(self, scene: Scene, flag: str, what: str) -> None:
        path = scene.folder / "bad\x1b[31m.pem"
        if what == "folder":
            path.mkdir()
        elif what != "missing":
            path.write_bytes(b"" if what == "empty" else b"\x00garbage\xff" * 9)
        outcome = scene.credentials(**{flag: path})
        assert_one_line(outcome, 3 if flag == "private_key" else 4)
        assert "bad\\x1b[31m.pem" in outcome.err
        assert scene.emulator.requests == []


def test_clock_message_names_the_direction(scene: Scene) -> None:
    scene.emulator.misbehave(Fault("wrong-clock", seconds=900))
    assert "15 minutes behind" in scene.credentials().err


def test_netrc_is_not_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    (scene.folder / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (scene.folder / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(scene.folder))
    assert scene.credentials().status == 0
