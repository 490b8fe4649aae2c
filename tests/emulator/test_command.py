"""The command `hwsigner emulator`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from certs import Authority, issue, pem
from emulator.client import Caller, Request, draft, read_reply, send
from emulator.material import Form, certificate
from emulator.planes import client_of
from emulator.signing import credentials_of
from emulator.test_callers import signed
from hwsigner._cli import main
from hwsigner._identity.certificate_request import parse_name
from hwsigner.emulator import Difference, Emulator, World
from hwsigner.emulator.faults import KINDS
from ports import reserve_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KEYS = ["endpoint", "access-key-id", "secret-access-key"]
Start = Callable[..., tuple[subprocess.Popen[str], dict[str, str]]]


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "hwsigner", "emulator", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts the command, and returns it with the lines that it prints first."""
    running = []

    def begin(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        process = command(*arguments)
        running.append(process)
        assert process.stdout is not None
        lines: dict[str, str] = {}
        while ("secret-access-key" if "--empty" in arguments else "role-arn") not in lines:
            name, equals, value = process.stdout.readline().rstrip("\n").partition("=")
            assert equals, process.communicate(timeout=60)
            lines[name] = value
        return process, lines

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def ca_file(tmp_path: Path, ca: Authority) -> str:
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    return str(tmp_path / "ca.pem")


def emulated(lines: dict[str, str]) -> Emulator:
    """Return the attributes of an emulator that the client of these tests needs."""
    known = {name.replace("-", "_"): value for name, value in lines.items()}
    return cast(Emulator, SimpleNamespace(url=known["endpoint"], **known))


def stopped(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_serves_until_interrupted(
    start: Start, ca_file: str, ca: Authority, caller: Caller, number: int
) -> None:
    process, lines = start("--trust-anchor", ca_file)
    assert list(lines) == [*KEYS, "trust-anchor-arn", "profile-arn", "role-arn"]
    assert lines["trust-anchor-arn"] == next(iter(World.simple(ca.pem).trust_anchors))
    assert send(emulated(lines), draft(emulated(lines), caller).signed()).status == 201
    assert stopped(process, number) == (0, "hwsigner: POST /sessions 201\n")


def test_printed_access_key_is_for_the_control_plane_of_the_account(start: Start) -> None:
    process, lines = start("--empty", "--account", "210987654321")
    assert list(lines) == KEYS
    plane = client_of(lines["endpoint"], credentials=(lines["access-key-id"], lines["secret-access-key"], None))
    made = plane.create_profile(name="p", roleArns=[])["profile"]
    assert made["profileArn"].startswith("arn:aws:rolesanywhere:us-east-1:210987654321:profile/")
    assert stopped(process) == (0, "hwsigner: POST /profiles 201\n")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_signals_at_once_end_the_command_once(start: Start, ca_file: str, second: int) -> None:
    process, _ = start("--trust-anchor", ca_file)
    process.send_signal(signal.SIGINT)
    assert stopped(process, second) in ((0, ""), (-second, ""), (130, ""))  # It may have been on its way out.


def test_tls_uses_the_given_host_name_and_copies_the_ca(
    start: Start, ca_file: str, caller: Caller, tmp_path: Path
) -> None:
    copy = tmp_path / "tls ca.pem"
    process, lines = start("--trust-anchor", ca_file, "--tls", "--ca-file", str(copy), "--host-name", "roles.example")
    assert lines["ca-file"] == f"'{copy}'"
    context = ssl.create_default_context(cafile=copy)
    host, _, port = lines["endpoint"].removeprefix("https://").partition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname="roles.example") as connection,
    ):
        connection.sendall(draft(emulated(lines), caller).signed().to_bytes())
        assert read_reply(connection).status == 201
    assert stopped(process)[0] == 0


def test_temporary_folder_is_removed_at_the_end(start: Start, ca_file: str) -> None:
    process, lines = start("--trust-anchor", ca_file, "--tls")
    assert Path(lines["ca-file"]).exists()
    assert stopped(process)[0] == 0
    assert not Path(lines["ca-file"]).parent.exists()


def test_flags_set_region_account_port_and_trust_anchors(start: Start, ca_file: str) -> None:
    port = str(reserve_port())
    arguments = ["--trust-anchor", ca_file, "--trust-anchor", ca_file, "--region", "eu-west-1", "--port", port]
    process, lines = start(*arguments, "--account", "210987654321", "--host", "localhost")
    prefix = "arn:aws:rolesanywhere:eu-west-1:210987654321"
    assert lines["endpoint"].endswith(f":{port}")
    assert lines["trust-anchor-arn"] == f"{prefix}:trust-anchor/00000000-0000-4000-8000-000000000001"
    assert lines["profile-arn"].startswith(prefix)
    assert stopped(process)[0] == 0


def test_faults_occur_in_the_order_given(start: Start, ca_file: str, caller: Caller) -> None:
    process, lines = start("--trust-anchor", ca_file, "--fault", "throttle*2:retry-after=1", "--fault", "close")
    replies = [send(emulated(lines), draft(emulated(lines), caller).signed()) for _ in range(2)]
    assert [(reply.status, reply.headers["retry-after"]) for reply in replies] == [(429, "1")] * 2
    with pytest.raises(ConnectionError):
        send(emulated(lines), draft(emulated(lines), caller).signed())
    assert "POST /sessions no response: fault close\n" in stopped(process)[1]


def test_log_has_no_secret(start: Start, ca_file: str, caller: Caller, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, lines = start("--trust-anchor", ca_file, "--log", str(log))
    reply = send(emulated(lines), draft(emulated(lines), caller).signed())
    assert send(emulated(lines), signed(emulated(lines), credentials_of(reply))).status == 200
    send(emulated(lines), draft(emulated(lines), caller, region="eu-west-1").signed())
    _, stderr = stopped(process)
    text = log.read_text()
    entries: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [entry["status"] for entry in entries] == [201, 200, 403]
    assert entries[0]["headers"][0] == ["Host", lines["endpoint"].removeprefix("http://")]
    assert entries[2]["reason"] in stderr
    assert entries[2]["stringToSign"].startswith("AWS4-X509-ECDSA-SHA256\n")
    for secret in (reply.credentials["secretAccessKey"], reply.credentials["sessionToken"]):
        assert secret not in text + stderr
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_session_token_in_the_query_is_not_logged(emulator: Emulator) -> None:
    send(emulator, Request("POST", "/?X-Amz-Security-Token=abc123&a=b", (("X-Amz-Security-Token", "abc123"),)))
    entry = emulator.requests[0].log_entry()
    assert "abc123" not in json.dumps(entry)
    assert entry["target"] == "/?X-Amz-Security-Token=***&a=b"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "no trust anchor"),
        (["--trust-anchor", "none.pem"], 2, "none.pem can't be read"),
        (["--trust-anchor", "CA", "--config", "x"], 2, "--config can't be combined"),
        (["--trust-policy", "x", "--config", "x"], 2, "--config can't be combined"),
        (["--trust-anchor", "CA", "--empty"], 2, "--empty can't be combined"),
        (["--config", "x", "--empty"], 2, "--empty can't be combined"),
        (["--empty", "--account", "1"], 2, "'1' is not an account"),
        (["--trust-anchor", "CA", "--trust-policy", "none.json"], 2, "none.json can't be read"),
        (["--trust-anchor", "CA", "--trust-policy", __file__], 2, f"{__file__}: the trust policy is not JSON"),
        (["--config", "none.toml"], 2, "none.toml"),
        (["--trust-anchor", __file__], 4, f"--trust-anchor {__file__} can't be read"),
        (["--trust-anchor", "CA", "--port", "65536"], 2, "--port is '65536'"),
        (["--trust-anchor", "CA", "--host", "0.0.0.0"], 2, "not a loopback address"),
        (["--trust-anchor", "CA", "--ca-file", "x"], 2, "require --tls"),
        (["--trust-anchor", "CA", "--host-name", "x"], 2, "require --tls"),
        (["--trust-anchor", "CA", "--tls", "--host-name", "bücher.example"], 2, "--host-name is 'bücher.example'"),
        (["--trust-anchor", "CA", "--fault", "nonsense"], 2, "no fault is named nonsense"),
        (["--trust-anchor", "CA", "--log", "/none/log"], 1, "--log /none/log can't be written"),
        (["--trust-anchor", "CA", "--tls", "--ca-file", "/none/ca"], 1, "--ca-file /none/ca can't be written"),
        (["--trust-anchor", "CA", "--region", "x"], 2, "no such region"),
    ],
)
def test_invalid_arguments_are_one_line_and_a_status(
    ca_file: str, arguments: list[str], status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulator", *(ca_file if each == "CA" else each for each in arguments)]) == status
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert words in stderr
    assert stderr.count("\n") == 1


def test_trust_anchor_that_is_no_ca_is_an_error_as_in_aws(
    ca: Authority, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "leaf.pem"
    leaf = issue(ca, ca.key.public_key())
    path.write_bytes(pem(leaf))
    assert main(["emulator", "--trust-anchor", str(path)]) == 4
    problem = f"--trust-anchor {path}: the CA certificate {leaf.subject.rfc4514_string()} is not CA:TRUE"
    assert capfd.readouterr() == ("", f"hwsigner: {problem}. Use a file with the CA's certificate\n")


def test_refusal_by_the_trust_policy_names_the_condition_on_stderr(
    start: Start, ca_file: str, ca: Authority, caller: Caller, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "emulator.md").read_text()
    policy = tmp_path / "trust-policy.json"
    policy.write_text(page.partition("```json\n")[2].partition("```")[0])
    process, lines = start("--trust-anchor", ca_file, "--trust-policy", str(policy))
    for unit, status in (("devops", 201), ("ops", 403)):
        leaf = certificate(Form(parse_name(f"OU={unit},CN=bamboo-01")), caller.key.public_key(), ca)
        reply = send(emulated(lines), draft(emulated(lines), Caller(caller.key, leaf)).signed())
        assert reply.status == status
    assert reply.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert reply.json["message"] == f"Unable to assume role for {lines['role-arn']}"
    stderr = stopped(process)[1].splitlines()
    assert stderr[0] == "hwsigner: POST /sessions 201"
    assert stderr[1] in [line.strip() for line in page.splitlines()]


def test_help_lists_every_fault() -> None:
    stdout, stderr = command("--help").communicate(timeout=60)
    rows = [re.sub(r"\s+", " ", row) for row in re.split(r"\n  (?=\S)", stdout)]
    for name, kind in KINDS.items():
        (row,) = [row for row in rows if row.startswith(f"{name} ")]
        assert kind.summary in row
        assert all(f"{key.replace('_', '-')}={value}" in row for key, value in kind.parameters.items())
    starts = {row.removesuffix(" Example:") for row in rows}
    assert [each for each in Difference if f"{each} {each.summary}" not in starts] == []
    assert stderr == ""


def test_command_answers_otherwise_on_demand(start: Start, ca_file: str, caller: Caller) -> None:
    process, lines = start("--trust-anchor", ca_file, "--differ", "status-200", "--differ", "bare-source-identity")
    reply = send(emulated(lines), draft(emulated(lines), caller).signed())
    assert (reply.status, reply.json["credentialSet"][0]["sourceIdentity"]) == (200, "bamboo-01")
    stopped(process)


def test_documentation_page_lists_every_difference() -> None:
    page = (ROOT / "docs" / "how-to" / "emulator.md").read_text()
    assert [each for each in Difference if f"| `{each}` | {each.summary} |" not in page] == []


def test_command_outlives_its_terminal_under_nohup(ca_file: str) -> None:
    script = 'trap "" HUP; exec "$@"'
    arguments = [sys.executable, "-m", "hwsigner", "emulator", "--trust-anchor", ca_file]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(["sh", "-c", script, "sh", *arguments], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while not process.stdout.readline().startswith(b"role-arn="):
            pass
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.usefixtures("ca_file")
def test_config_file_defines_the_world(start: Start, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "emulator.md").read_text()
    (tmp_path / "trust-policy.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    config = tmp_path / "world.toml"
    config.write_text(page.partition("```toml\n")[2].partition("```")[0])
    _, lines = start("--config", str(config))
    assert lines["profile-arn"].endswith(":profile/6f1d2c3b-4a59-4e68-9b77-8c9dab0e1f22")
