"""The issuer that is a command, with openssl as the CA, and with programs that misbehave."""

from __future__ import annotations

import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import certs
from alive import is_alive
from enrolment.authority import Requested
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.testing import IssuerContract
from hwsigner.errors import CertificateError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError


def run(asked: Requested, *words: str, timeout: float = 60.0) -> Issued | Pending:
    settings = IssuerSettings(command=shlex.join(words), timeout=timeout)
    return open_issuer("command", settings).issue(asked.request)


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


class TestCommand(IssuerContract):
    NAME = "command"
    URIS = ("spiffe://example.com/bamboo-01",)

    @pytest.fixture
    def issuer_settings(self, ca: certs.Authority, tmp_path: Path) -> IssuerSettings:
        signer = certs.write_key(tmp_path / "ca.key", ca.key)
        (tmp_path / "ca.pem").write_bytes(ca.pem)
        flags = f"-CA {tmp_path / 'ca.pem'} -CAkey {signer} -copy_extensions copy -days 2"
        return IssuerSettings(command=f"openssl x509 -req {flags}")

    @pytest.fixture
    def refused_settings(self) -> IssuerSettings:
        return IssuerSettings(command="false")


def test_openssl_issues_what_was_asked(asked: Requested, ca: certs.Authority, tmp_path: Path) -> None:
    signer = certs.write_key(tmp_path / "ca.key", ca.key)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    flags = ("-CA", str(tmp_path / "ca.pem"), "-CAkey", str(signer), "-copy_extensions", "copy", "-days", "2", "-text")
    answer = run(asked, "openssl", "x509", "-req", *flags)
    assert isinstance(answer, Issued)
    assert check_issued(asked.request, answer, datetime.now(UTC)).leaf.subject == "CN=bamboo-01,OU=devops"


def test_status_75_means_not_yet(asked: Requested) -> None:
    assert run(asked, *script("raise SystemExit(75)")) == Pending()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("import sys; print('no\\x1b[2Jroom.', file=sys.stderr); sys.exit(3)", ServiceError, r"status 3: no\\x1b\[2Jr"),
        ("import os; os.kill(os.getpid(), 9)", ServiceError, "was killed by signal 9"),
        ("print('x' * (1 << 21))", ServiceError, "printed more than 1048576 bytes"),
        ("pass", CertificateError, "the output of .* has no certificate"),
        ("print('-----BEGIN CERTIFICATE-----\\nA\\n-----END CERTIFICATE-----')", CertificateError, "is not base64"),
    ],
)
def test_failure_of_the_command_is_named(asked: Requested, text: str, error: type[HwsignerError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(asked, *script(text))


def test_long_messages_do_not_stop_the_command(asked: Requested) -> None:
    text = "import sys; sys.stderr.write('x\\n' * (1 << 22) + 'the end'); sys.exit(1)"
    with pytest.raises(ServiceError, match="status 1: the end"):
        run(asked, *script(text))


@pytest.mark.slow
def test_command_that_does_not_end_is_killed_with_its_children(asked: Requested, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(ServiceUnreachableError, match=r"did not end within 0\.5 s"):
        run(asked, "sh", "-c", f"sleep 600 & echo $! > {mark}; wait", timeout=0.5)
    while is_alive(int(mark.read_text())):
        time.sleep(0.01)


def test_process_that_the_command_leaves_is_not_waited_for(asked: Requested) -> None:
    with pytest.raises(CertificateError, match="no certificate"):
        run(asked, "sh", "-c", "sleep 60 & exit 0", timeout=30.0)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "none was given"),
        ("'", "has an open quote"),
        ("/no/such/program", "'/no/such/program' can't be run: No such file"),
        ("/etc/passwd", "can't be run: Permission denied"),
    ],
)
def test_command_that_can_t_be_run_is_a_usage_error(asked: Requested, command: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_issuer("command", IssuerSettings(command=command)).issue(asked.request)


def test_unknown_issuer_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no issuer 'acme'"):
        open_issuer("acme", IssuerSettings())


def test_secret_arguments_are_not_shown() -> None:
    assert "hunter2" not in repr(open_issuer("command", IssuerSettings(command="ca --token hunter2")))
