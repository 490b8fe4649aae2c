"""`hwsigner serve` as a process, with the clients that are to use it."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.credentials import ContainerProvider
from botocore.exceptions import CredentialRetrievalError
from botocore.utils import InstanceMetadataFetcher

import certs
from hwsigner.cli import server_run as residence
from hwsigner.cli.sources import OwnProvider, Sourced
from hwsigner.config.profiles import add_profile
from hwsigner.emulator import Fault
from hwsigner.system import notices
from loopback import ServerCA
from scene import Outcome
from serving.raw import Client
from serving.stage import PROGRAM, Process, Stage
from terminals import Terminal

FREE = "--port=0"
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
IMDS = "AWS_EC2_METADATA_SERVICE_ENDPOINT"


@pytest.fixture
def served(stage: Stage) -> Iterator[tuple[Stage, Process, dict[str, str]]]:
    """`hwsigner serve`, with the flags of the program that hwsigner replaces, and the variables that it prints."""
    with stage.start("serve", FREE, *stage.flags()) as process:
        yield stage, process, process.variables()


def _port(variables: dict[str, str]) -> int:
    return int(variables[FULL_URI].split("/")[2].rpartition(":")[2])


def _aws(stage: Stage, variables: dict[str, str]) -> str:
    """Return who the AWS CLI is with the credentials that it finds."""
    command = ["/usr/bin/aws", "sts", "get-caller-identity", "--endpoint-url", stage.service.url, "--query", "Arn"]
    environ = stage.environ(AWS_DEFAULT_REGION="us-east-1", **variables)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: str = json.loads(done.stdout)
    return found


def test_the_flags_of_the_other_program_serve_both_endpoints(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, process, variables = served
    port = _port(variables)
    assert process.lines[:3] == [
        f"Local server started on port: {port}",
        "Make it available to the sdk by running:",
        f"export AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:{port}/",
    ]
    token_file = stage.folder / "run" / "hwsigner" / "serve" / f"{stage.role}.token"
    assert variables == {
        IMDS: f"http://127.0.0.1:{port}/",
        FULL_URI: f"http://127.0.0.1:{port}/credentials/{stage.role}",
        TOKEN_FILE: str(token_file),
    }
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600


def test_botocore_s_imds_client(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, _, variables = served
    fetcher = InstanceMetadataFetcher(timeout=5, num_attempts=1, base_url=variables[IMDS], env={})
    found = fetcher.retrieve_iam_role_credentials()
    assert found["role_name"] == stage.role
    assert found["access_key"].startswith("ASIA")
    assert found.keys() >= {"secret_key", "token", "expiry_time"}


def test_botocore_s_container_client(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, _, variables = served
    found = ContainerProvider(environ=variables).load().get_frozen_credentials()
    assert found.access_key.startswith("ASIA")
    assert stage.sessions == 1


def test_the_aws_cli_through_either(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, process, variables = served
    imds = {IMDS: variables.pop(IMDS)}
    role = f":assumed-role/{stage.role}/"
    assert role in _aws(stage, imds)
    assert role in _aws(stage, variables)
    assert process.end(signal.SIGTERM) == 0
    assert stage.sessions == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_0_and_every_session_and_refusal_has_its_line(
    served: tuple[Stage, Process, dict[str, str]], number: int
) -> None:
    stage, process, variables = served
    process.read_until("created a session")
    token = Path(variables[TOKEN_FILE]).read_text()
    with Client(_port(variables)) as client:
        answer = client.ask("GET", f"/credentials/{stage.role}", {"Authorization": token})
        assert client.ask("GET", "/%1b]0;x%07%0a").status == 404
    credentials = json.loads(answer.body)
    assert process.end(number) == 0
    lines = [line for line in process.lines if line.startswith("hwsigner: ")]
    assert len(lines) == 2
    assert lines[0] == f"hwsigner: {stage.role}: created a session, good until {credentials['Expiration']}"
    assert lines[1].endswith(" GET /\\x1b]0;x\\x07\\n: 404, there is nothing at this path")
    secrets = (token, credentials["SecretAccessKey"], credentials["Token"], credentials["AccessKeyId"])
    assert not [secret for secret in secrets if secret in "\n".join(process.lines)]


def test_profiles_each_have_a_path_and_a_token_that_is_kept(stage: Stage) -> None:
    add_profile("db and more", {**stage.values(), "session-duration": 900}, stage.environ())
    tokens = set()
    for _ in range(2):
        with stage.start("serve", FREE, "web", "db and more") as process:
            variables = process.variables(until="db%20and%20more.token")
            folder = Path(variables[TOKEN_FILE]).parent
            found = {name: (folder / f"{name}.token").read_text() for name in ("web", "db%20and%20more")}
            tokens.add(tuple(found.values()))
            with Client(_port(variables)) as client:
                for name, token in found.items():
                    assert client.ask("GET", f"/credentials/{name}", {"Authorization": token}).status == 200
                assert client.ask("GET", "/credentials/web", {"Authorization": found["db%20and%20more"]}).status == 401
            with Client(_port(variables)) as client:
                assert client.ask("PUT", "/latest/api/token").status == 404
            assert IMDS not in variables
            assert process.end(signal.SIGTERM) == 0
    assert len(tokens) == 1
    assert len(tokens.pop()) == 2


def test_imds_for_a_named_profile_if_asked_for(stage: Stage) -> None:
    with stage.start("serve", FREE, "web", "--imds") as process:
        variables = process.variables()
        fetcher = InstanceMetadataFetcher(timeout=5, num_attempts=1, base_url=variables[IMDS], env={})
        assert fetcher.retrieve_iam_role_credentials()["role_name"] == stage.role


def test_no_imds_if_not_asked_for(stage: Stage) -> None:
    with stage.start("serve", FREE, "--profile", "web", "--imds=false") as process:
        variables = process.variables()
        assert IMDS not in variables
        with Client(_port(variables)) as client:
            assert client.ask("PUT", "/latest/api/token").status == 404


def test_without_credentials_503_and_the_reason_and_then_credentials(stage: Stage) -> None:
    stage.service.misbehave(Fault.parse("deny*1"))
    with stage.start("serve", FREE, "web") as process:
        variables = process.variables()
        assert "no session: " in process.read_until("no session")
        with pytest.raises(CredentialRetrievalError, match=r"503 from container metadata.*no credentials for web: "):
            ContainerProvider(environ=variables, fetcher=_impatient()).load()
        process.read_until("503")
        assert process.end(signal.SIGTERM) == 0


def test_a_service_that_hangs_holds_up_no_end(stage: Stage) -> None:
    stage.service.misbehave(Fault.parse("stall*always"))
    with stage.start("serve", FREE, "web", "--strict") as process:
        variables = process.variables()
        with Client(_port(variables)) as client:
            client.send("GET", "/credentials/web", {"Authorization": Path(variables[TOKEN_FILE]).read_text()})
            with Client(_port(variables)) as other:
                assert other.ask("GET", "/credentials/web").status == 401
            assert process.end(signal.SIGTERM) == 0
            assert client.receive().status == 503


def test_a_refresh_ahead_of_need_that_hangs_holds_up_no_end(stage: Stage) -> None:
    stage.shorten_sessions(1, seconds=6)
    stage.service.misbehave(Fault.parse("stall*always"))
    with stage.start("serve", FREE, "web") as process:
        deadline = time.monotonic() + 30
        while stage.sessions < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        begin = time.monotonic()
        assert process.end(signal.SIGTERM) == 0
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("flags", [("web",), ("--profile=web",)])
def test_a_running_agent_s_session_is_served(stage: Stage, flags: tuple[str, ...]) -> None:
    with stage.start("agent") as agent:
        _wait_for_agent(stage)
        with stage.start("serve", FREE, *flags) as process:
            found = ContainerProvider(environ=process.variables()).load().get_frozen_credentials()
            assert process.end(signal.SIGTERM) == 0
        done = stage.run("exec", "web", "--", "sh", "-c", "exit 5")
        printed = json.loads(stage.run("credential-process", "--profile=web").stdout)
        assert agent.end(signal.SIGTERM) == 0
    assert (done.returncode, found.access_key, stage.sessions) == (5, printed["AccessKeyId"], 1)
    assert not [line for line in process.lines if "created a session" in line]


def test_beside_an_agent_exec_imports_nothing_that_creates_a_session(stage: Stage) -> None:
    with stage.start("agent") as agent:
        _wait_for_agent(stage)
        done = stage.run("exec", "web", "--", "true", environ=stage.environ(PYTHONPROFILEIMPORTTIME="1"))
        assert agent.end(signal.SIGTERM) == 0
    assert done.returncode == 0
    assert "hwsigner.serving.agent_source" in done.stderr
    assert "hwsigner.aws.create_session" not in done.stderr
    assert "http.client" not in done.stderr


def _wait_for_agent(stage: Stage) -> None:
    while stage.run("agent", "status").returncode:
        pass


def test_a_thousand_who_ask_at_once_cause_one_session(stage: Stage) -> None:
    with stage.start("serve", FREE, "web") as process:
        variables = process.variables()
        token = Path(variables[TOKEN_FILE]).read_text()
        clients = [Client(_port(variables)) for _ in range(1000)]
        for client in clients:
            client.send("GET", "/credentials/web", {"Authorization": token})
        assert {client.receive().status for client in clients} == {200}
        for client in clients:
            client.sock.close()
        assert process.end(signal.SIGTERM) == 0
    assert stage.sessions == 1


def _impatient() -> object:
    from botocore.utils import ContainerMetadataFetcher

    return ContainerMetadataFetcher(sleep=lambda seconds: None)


def test_what_another_try_can_t_mend_ends_it(stage: Stage) -> None:
    stage.key.write_text("nonsense")
    done = stage.run("serve", FREE, "web")
    assert done.returncode == 3
    assert "leaf.key" in done.stderr.splitlines()[-1]


# A look at once, where the server takes its time.
LOOKING = """if True:
    import sys
    from hwsigner.cli import main, server_run as residence
    residence._LOOK_SECONDS = 0.05
    sys.exit(main(sys.argv[2:]))
"""
QUICK = (sys.executable, "-c", LOOKING)


def test_a_profile_whose_pin_is_wrong_by_now_ends_it_once_the_last_credentials_have_ended(stage: Stage) -> None:
    stage.encrypt_key("first")
    end = stage.shorten_sessions(1, seconds=4)
    with stage.start("serve", FREE, "web", wrapper=QUICK, HWSIGNER_PIN="first") as process:
        variables = process.variables()
        process.read_until("created a session")
        stage.encrypt_key("second")
        assert _status(variables, "web") == 200
        process.read_until("web: no session: ")
        assert _status(variables, "web") == 200
        assert process.wait() == 3
        assert datetime.now(UTC) >= end
    assert "passphrase" in process.lines[-1]
    assert stage.sessions == 1


def test_one_of_two_such_profiles_has_a_line_and_the_last_one_ends_it(stage: Stage) -> None:
    other = replace(stage, key=certs.write_key(stage.folder / "other.key", stage.private_key()))
    for name, one in (("web", stage), ("db", other)):
        one.encrypt_key("first")
        add_profile(name, {**one.values(), "pkcs8-password": "first"}, stage.environ(), replace=True)
    stage.shorten_sessions(2, seconds=3)
    with stage.start("serve", FREE, "web", "db", wrapper=QUICK) as process:
        variables = process.variables(until="db.token")
        assert [line for line in process.lines if line.startswith("# ")] == ["# web, one of 2", "# db, one of 2"]
        for _ in range(2):
            process.read_until("created a session")
        stage.encrypt_key("second")
        assert _status(variables, "web") == 200
        end = stage.shorten_sessions(1, seconds=6)
        assert _status(variables, "db") == 200
        process.read_until("web: no credentials until the server is started again: ")
        assert _status(variables, "web") == 503
        other.encrypt_key("second")
        time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))
        with suppress(OSError):  # Unless the last request had it tried already, and it has ended.
            assert _status(variables, "db") == 503
        assert process.wait() == 3
    assert not [line for line in process.lines if "db: no credentials" in line]
    assert "other.key" in process.lines[-1]
    assert stage.sessions == 3


def _status(variables: dict[str, str], name: str) -> int:
    token = Path(variables[TOKEN_FILE]).with_name(f"{name}.token").read_text()
    with Client(_port(variables)) as client:
        return client.ask("GET", f"/credentials/{name}", {"Authorization": token}).status


def test_a_prompt_that_is_open_at_the_end_leaves_the_terminal_as_it_was(stage: Stage, tmp_path: Path) -> None:
    stage.encrypt_key("first")
    terminal = Terminal(tmp_path)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            process = terminal.start(str(PROGRAM), "serve", FREE, "web", **stage.environ())
            terminal.shown_until("passphrase for ")
            assert not terminal.echoes()
            terminal.type(b"fir\x03" if number == signal.SIGINT else b"fir")
            if number != signal.SIGINT:
                process.send_signal(number)
            process.communicate(timeout=20)
            assert process.returncode == 0
            assert terminal.echoes()
    finally:
        terminal.close()


def test_that_a_token_waits_for_a_person_is_told_in_the_log(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence.Residence, "stay", lambda _: notices.notify("touch token '\x07'"))
    done = call("serve", FREE, "web")
    assert (done.status, done.err.splitlines()[-1]) == (0, "hwsigner: touch token '\\x07'")


@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_it_serves_though_nobody_can_be_told_how_to_ask(stage: Stage, stderr: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    redirect = f'exec "$@" 2>{stderr or "&-"}'
    with stage.start("serve", f"--port={port}", "web", wrapper=("/bin/sh", "-c", redirect, "sh")) as process:
        _wait_for_port(port)
        assert process.end(signal.SIGTERM) == 0


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), Client(port) as client:
            assert client.ask("GET", "/credentials/web").status == 401
            return
    pytest.fail("nothing listens")


def test_systemd_s_socket(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    wrapper = (
        "/usr/bin/systemd-socket-activate",
        f"--listen=127.0.0.1:{port}",
        "--setenv=HOME",
        "--setenv=XDG_RUNTIME_DIR",
    )
    with stage.start("serve", "web", wrapper=wrapper) as process:
        process.read_until("Listening on")
        with Client(port) as client:
            assert client.ask("GET", "/credentials/web").status == 401
        assert f":{port}/" in process.variables()[FULL_URI]
        assert process.end(signal.SIGTERM) == 0


def test_a_socket_of_systemd_s_that_is_none_of_tcp_s(stage: Stage, short_folder: Path) -> None:
    path = short_folder / "s"
    wrapper = ("/usr/bin/systemd-socket-activate", f"--listen={path}", "--setenv=HOME")
    with stage.start("serve", "web", wrapper=wrapper) as process:
        process.read_until("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert process.wait() == 2
    assert "hwsigner: systemd passed a socket that is none of TCP's. Write ListenStream=" in process.lines[-1]


@pytest.fixture
def notified(short_folder: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(short_folder / "notify"))
        bound.settimeout(20)
        yield bound


@pytest.mark.parametrize("fault", ["", "deny*always"])
def test_systemd_is_told_once_the_first_session_is_there_or_failed(
    stage: Stage, notified: socket.socket, fault: str
) -> None:
    if fault:
        stage.service.misbehave(Fault.parse(fault))
    with stage.start("serve", FREE, "web", NOTIFY_SOCKET=notified.getsockname()) as process:
        assert notified.recv(100).startswith(b"READY=1\n")
        assert stage.sessions == 1
        assert process.end(signal.SIGTERM) == 0
        assert notified.recv(100).startswith(b"STOPPING=1\n")


def test_systemd_is_told_of_no_server_that_can_t_be(stage: Stage, notified: socket.socket) -> None:
    stage.key.write_text("nonsense")
    with stage.start("serve", FREE, "web", NOTIFY_SOCKET=notified.getsockname()) as process:
        assert process.wait() == 3
    assert notified.recv(100).startswith(b"STOPPING=1\n")


def test_systemd_does_not_wait_for_a_first_session_that_is_late(
    notified: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "_READY_SECONDS", 0.1)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("NOTIFY_SOCKET", notified.getsockname())
    is_late = threading.Event()

    class Late(OwnProvider):
        def reply(self, name: str) -> bytes:
            assert is_late.wait(20)
            return b""

    class Server:
        def run(self) -> None:
            assert notified.recv(100).startswith(b"READY=1\n")
            is_late.set()

    own = Late(lambda: pytest.fail("it is made"))
    residence.Residence([Sourced("web", "role", own, own)], Server()).stay()  # type: ignore[arg-type]
    assert is_late.is_set()


def test_https(stage: Stage) -> None:
    ca = ServerCA(stage.folder)
    ca.context("server.example")
    pair = next(path for path in stage.folder.glob("server.example*.pem"))
    with stage.start("serve", FREE, "web", f"--tls-certificate={pair}", "--host-name=server.example") as process:
        variables = process.variables()
        assert variables[FULL_URI].startswith("https://server.example:")
        assert IMDS not in variables
        context = ssl.create_default_context(cafile=ca.path)
        with (
            socket.create_connection(("127.0.0.1", _port(variables)), 20) as plain,
            context.wrap_socket(plain, server_hostname="server.example") as tls,
        ):
            token = Path(variables[TOKEN_FILE]).read_text()
            head = f"GET /credentials/web HTTP/1.0\r\nHost: server.example\r\nAuthorization: {token}\r\n\r\n"
            tls.sendall(head.encode())
            assert tls.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("web", "--address=0.0.0.0"), "other machines can reach the address, and there is no TLS"),
        (("web", "--address=::"), "other machines can reach the address, and there is no TLS"),
        (("web", "--tls-certificate=x.pem"), "--tls-certificate x.pem and its key can't be used: No such"),
        (("web", "--tls-key=/nonexistent"), "--tls-key is given without --tls-certificate"),
        (("web", "--imds", "--tls-certificate=x"), "--imds is given with --tls-certificate"),
        (("web", "db", "--imds"), "--imds is given with 2 profiles"),
        (("web", "--role-arn=x"), "--role-arn is given beside the name of a profile"),
        (("web", "--allow-user=no such user"), "--allow-user 'no such user' is no user of this machine"),
        (("nope",), "there is no profile 'nope'"),
        (("web", "--port=65536"), "--port"),
        (("web", "--hop-limit=0"), "--hop-limit"),
        ((), "--trust-anchor-arn is missing"),
    ],
)
def test_what_can_t_be_meant(stage: Stage, call: Callable[..., Outcome], flags: tuple[str, ...], message: str) -> None:
    done = call("serve", *flags)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list((stage.folder / "run").rglob("*.token"))


def test_a_port_in_use(call: Callable[..., Outcome]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = call("serve", "web", f"--port={port}")
    assert done.status == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.err


def test_memory_stays_flat_through_tokens_and_half_open_connections(stage: Stage) -> None:
    with stage.start("serve", FREE, "--profile=web") as process:
        variables = process.variables()
        port, token = _port(variables), Path(variables[TOKEN_FILE]).read_text()
        _take_tokens(port, 500)
        before = _resident_kib(process.pid)
        half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
        for sock in half_open:
            sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 4000)
        _take_tokens(port, 5000)
        with Client(port) as client:
            assert client.ask("GET", "/credentials/web", {"Authorization": token}).status == 200
        grown = _resident_kib(process.pid) - before
        for sock in half_open:
            sock.close()
        # 500 connections with 4 KB each are 2 MiB; 5,000 tokens that were kept would be seen in the bench.
        assert grown < 16 * 1024
        assert process.end(signal.SIGTERM) == 0


def _take_tokens(port: int, count: int) -> None:
    with Client(port) as client:
        for _ in range(count):
            assert client.ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}).status == 200


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("command", [["serve", "web", "--port=0"], ["exec", "web", "--", "true"]])
def test_without_the_extra_it_is_named(stage: Stage, command: list[str]) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from hwsigner.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=stage.environ(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "hwsigner: serving HTTP needs uvicorn. pip install 'hwsigner[serve]' brings it\n"
    assert stage.sessions == 0
