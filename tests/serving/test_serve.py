"""`hwsigner serve` as a process, with real clients."""

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
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from botocore.credentials import ContainerProvider
from botocore.exceptions import CredentialRetrievalError
from botocore.utils import InstanceMetadataFetcher
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import certs
from hwsigner import __version__
from hwsigner._cli import server_run
from hwsigner._cli.served_profiles import ServedProfile
from hwsigner._cli.server_run import ServerRun
from hwsigner._config.profiles import add_profile
from hwsigner._system import notices
from hwsigner.emulator import Fault
from hwsigner.errors import ServiceUnreachableError
from judges import needs_netlink, needs_systemd
from loopback import ServerCA
from ports import reserve_port
from scene import Outcome
from serving.raw import Client
from serving.stage import PATIENT, PROGRAM, Clock, Process, Stage
from terminals import Terminal

pytestmark = pytest.mark.process

FREE = "--port=0"
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
IMDS = "AWS_EC2_METADATA_SERVICE_ENDPOINT"


@pytest.fixture
def served(stage: Stage) -> Iterator[tuple[Stage, Process, dict[str, str]]]:
    """`hwsigner serve` with the flags of `aws_signing_helper serve`, and the variables that it prints."""
    with stage.start("serve", FREE, *stage.flags()) as process:
        yield stage, process, process.variables()


def _port(variables: dict[str, str]) -> int:
    return int(variables[FULL_URI].split("/")[2].rpartition(":")[2])


def _aws(stage: Stage, variables: dict[str, str]) -> str:
    """Return the ARN of the credentials that the AWS CLI finds."""
    command = ["/usr/bin/aws", "sts", "get-caller-identity", "--endpoint-url", stage.service.url, "--query", "Arn"]
    environ = stage.environ(AWS_DEFAULT_REGION="us-east-1", **variables)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: str = json.loads(done.stdout)
    return found


@needs_netlink
def test_flags_of_aws_signing_helper_serve_both_endpoints(served: tuple[Stage, Process, dict[str, str]]) -> None:
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


@needs_netlink
def test_botocore_gets_credentials_by_imds(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, _, variables = served
    fetcher = InstanceMetadataFetcher(timeout=60, num_attempts=1, base_url=variables[IMDS], env={})
    found = fetcher.retrieve_iam_role_credentials()
    assert found["role_name"] == stage.role
    assert found["access_key"].startswith("ASIA")
    assert found.keys() >= {"secret_key", "token", "expiry_time"}


def test_botocore_gets_credentials_by_the_container_endpoint(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, _, variables = served
    found = ContainerProvider(environ=variables).load().get_frozen_credentials()
    assert found.access_key.startswith("ASIA")
    assert stage.sessions == 1


@pytest.mark.slow
def test_aws_cli_gets_credentials_by_either_endpoint(served: tuple[Stage, Process, dict[str, str]]) -> None:
    stage, process, variables = served
    imds = {IMDS: variables.pop(IMDS)}
    role = f":assumed-role/{stage.role}/"
    assert role in _aws(stage, imds)
    assert role in _aws(stage, variables)
    assert process.end(signal.SIGTERM) == 0
    assert stage.sessions == 1


@pytest.mark.slow
def test_certificate_near_its_end_is_logged(stage: Stage, ca: certs.Authority) -> None:
    key = load_pem_private_key(stage.key.read_bytes(), None)
    shape = certs.Shape(begin=certs.ago(15), end=certs.ago(-0.5))
    stage.leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key(), shape)))
    with stage.start("serve", FREE, *stage.flags()) as process:
        process.read_until("error: the certificate CN=bamboo-01,OU=devops,O=Example,C=DE expires in 11 hours, on ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_server_with_0_and_each_session_and_refusal_is_logged(
    served: tuple[Stage, Process, dict[str, str]], number: int
) -> None:
    stage, process, variables = served
    process.read_until("session created")
    token = Path(variables[TOKEN_FILE]).read_text()
    with Client(_port(variables)) as client:
        answer = client.ask("GET", f"/credentials/{stage.role}", {"Authorization": token})
        assert client.ask("GET", "/%1b]0;x%07%0a").status == 404
    credentials = json.loads(answer.body)
    assert process.end(number) == 0
    lines = [line for line in process.lines if line.startswith("hwsigner: ")]
    if sys.platform == "darwin":
        assert "the kernel does not tell which user a client is" in lines.pop(1)
    assert len(lines) == 2
    assert (
        lines[0] == f"hwsigner: profile {stage.role!r}: session created, credentials until {credentials['Expiration']}"
    )
    assert lines[1].endswith(" GET /\\x1b]0;x\\x07\\n: 404, there is nothing at this path")
    secrets = (token, credentials["SecretAccessKey"], credentials["Token"], credentials["AccessKeyId"])
    assert not [secret for secret in secrets if secret in "\n".join(process.lines)]


@pytest.mark.slow
def test_each_profile_has_a_path_and_a_token_that_is_new_in_each_run(stage: Stage) -> None:
    add_profile("db and more", {**stage.values(), "session-duration": 900}, stage.environ())
    tokens: set[str] = set()
    for _ in range(2):
        with stage.start("serve", FREE, "web", "db and more") as process:
            variables = process.variables(until="db%20and%20more.token")
            folder = Path(variables[TOKEN_FILE]).parent
            found = {name: (folder / f"{name}.token").read_text() for name in ("web", "db%20and%20more")}
            tokens |= set(found.values())
            with Client(_port(variables)) as client:
                for name, token in found.items():
                    assert client.ask("GET", f"/credentials/{name}", {"Authorization": token}).status == 200
                assert client.ask("GET", "/credentials/web", {"Authorization": found["db%20and%20more"]}).status == 401
            with Client(_port(variables)) as client:
                assert client.ask("PUT", "/latest/api/token").status == 404
            assert IMDS not in variables
            assert process.end(signal.SIGTERM) == 0
    assert len(tokens) == 4


@pytest.mark.slow
def test_token_is_not_replaced_while_the_port_is_in_use(stage: Stage) -> None:
    with stage.start("serve", FREE, "web") as process:
        variables = process.variables()
        token = Path(variables[TOKEN_FILE]).read_text()
        assert stage.run("serve", f"--port={_port(variables)}", "web").returncode == 1
        assert Path(variables[TOKEN_FILE]).read_text() == token
        assert _status(variables, "web") == 200


@pytest.mark.slow
@needs_netlink
def test_imds_token_is_accepted_by_the_next_run(stage: Stage) -> None:
    sent = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    for _ in range(2):
        with stage.start("serve", FREE, "web", "--imds") as process, Client(_port(process.variables())) as client:
            if "X-aws-ec2-metadata-token" not in sent:
                sent = {"X-aws-ec2-metadata-token": client.ask("PUT", "/latest/api/token", sent).body.decode()}
            answer = client.ask("GET", "/latest/meta-data/iam/security-credentials", sent)
            assert answer.body.decode() == stage.role


@pytest.mark.parametrize("is_taken", [False, True])
def test_localhost_is_an_accepted_host_unless_another_process_has_its_other_address(
    stage: Stage, is_taken: bool
) -> None:
    port = reserve_port()
    with socket.create_server(("::1", port), family=socket.AF_INET6) as other:
        if not is_taken:
            other.close()
        with stage.start("serve", f"--port={port}", "web") as process:
            variables = process.variables()
            assert variables[FULL_URI] == f"http://127.0.0.1:{port}/credentials/web"
            token = Path(variables[TOKEN_FILE]).read_text()
            for host in ["127.0.0.1"] if is_taken else ["127.0.0.1", "::1"]:
                with Client(port, host) as client:
                    headers = {"Authorization": token, "Host": f"localhost:{port}"}
                    assert client.ask("GET", "/credentials/web", headers).status == (403 if is_taken else 200)
        warnings = [line for line in process.lines if "warning: " in line]
    assert ["so that 'localhost' may be another server" in line for line in warnings] == [True] * is_taken


def test_address_is_printed_even_if_the_server_has_a_name(stage: Stage) -> None:
    with stage.start("serve", FREE, "web", "--host-name=localhost.example") as process:
        assert process.variables()[FULL_URI].startswith("http://127.0.0.1:")


@needs_netlink
def test_imds_is_served_for_a_named_profile_if_asked_for(stage: Stage) -> None:
    with stage.start("serve", FREE, "web", "--imds") as process:
        variables = process.variables()
        fetcher = InstanceMetadataFetcher(timeout=60, num_attempts=1, base_url=variables[IMDS], env={})
        assert fetcher.retrieve_iam_role_credentials()["role_name"] == stage.role


def test_imds_is_not_served_if_turned_off(stage: Stage) -> None:
    with stage.start("serve", FREE, "--profile", "web", "--imds=false") as process:
        variables = process.variables()
        assert IMDS not in variables
        with Client(_port(variables)) as client:
            assert client.ask("PUT", "/latest/api/token").status == 404


@pytest.mark.slow
def test_client_gets_503_and_the_reason_without_credentials(stage: Stage) -> None:
    stage.service.misbehave(Fault.parse("deny*1"))
    with stage.start("serve", FREE, "web") as process:
        variables = process.variables()
        assert "no session: " in process.read_until("no session")
        with pytest.raises(CredentialRetrievalError, match=r"503 from container metadata.*no credentials for web: "):
            ContainerProvider(environ=variables, fetcher=_impatient()).load()
        process.read_until("503")
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_sigterm_ends_the_server_when_the_service_hangs(stage: Stage) -> None:
    stage.service.misbehave(Fault.parse("stall*always"))
    with stage.start("serve", FREE, "web", "--strict") as process:
        variables = process.variables()
        with Client(_port(variables)) as client:
            client.send("GET", "/credentials/web", {"Authorization": Path(variables[TOKEN_FILE]).read_text()})
            with Client(_port(variables)) as other:
                assert other.ask("GET", "/credentials/web").status == 401
            assert process.end(signal.SIGTERM) == 0
            assert client.receive().status == 503


@pytest.mark.slow
def test_sigterm_ends_the_server_when_a_background_refresh_hangs(stage: Stage, clock: Clock) -> None:
    limits = {"read-timeout": 600, "timeout": 600, "attended": False}
    add_profile("web", {**stage.values(), **limits}, stage.environ(), replace=True)
    with stage.start("serve", FREE, "web", wrapper=clock.wrapper) as process:
        process.read_until("session created")
        stage.service.misbehave(Fault.parse("stall*always"))
        clock.advance(3000)
        while stage.sessions < 2:
            assert process.process.poll() is None
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("web",), ("--profile=web",)])
def test_session_of_a_running_agent_is_served(stage: Stage, flags: tuple[str, ...]) -> None:
    with stage.start("agent") as agent:
        _wait_for_agent(stage)
        with stage.start("serve", FREE, *flags, wrapper=PATIENT) as process:
            found = ContainerProvider(environ=process.variables()).load().get_frozen_credentials()
            assert process.end(signal.SIGTERM) == 0
        done = stage.run("exec", "web", "--", "sh", "-c", "exit 5", wrapper=PATIENT)
        printed = json.loads(stage.run("credential-process", "--profile=web", wrapper=PATIENT).stdout)
        assert agent.end(signal.SIGTERM) == 0
    assert (done.returncode, found.access_key, stage.sessions) == (5, printed["AccessKeyId"], 1)
    assert not [line for line in process.lines if "session created" in line]


@pytest.mark.parametrize("is_agent_first", [True, False])
@pytest.mark.slow
def test_lock_of_the_agent_reaches_serve_and_exec(stage: Stage, is_agent_first: bool) -> None:
    ask = """if True:
        import os, sys, urllib.error, urllib.request
        url, token = (os.environ[f"AWS_CONTAINER_{name}"] for name in ("CREDENTIALS_FULL_URI", "AUTHORIZATION_TOKEN"))
        for _ in sys.stdin:
            try:
                urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": token}))
                print(200, flush=True)
            except urllib.error.HTTPError as error:
                print(error.code, flush=True)
    """
    with ExitStack() as stack:
        if is_agent_first:
            stack.enter_context(stage.start("agent"))
            _wait_for_agent(stage)
        served = stack.enter_context(stage.start("serve", FREE, "web", wrapper=PATIENT))
        command = (sys.executable, "-c", ask)
        run = stack.enter_context(
            stage.start("exec", "web", "--", *command, wrapper=PATIENT, stdin=subprocess.PIPE)
        ).process
        variables = served.variables()
        assert _status(variables, "web") == _status_of_exec(run) == 200
        if not is_agent_first:
            stack.enter_context(stage.start("agent"))
            _wait_for_agent(stage)
        for action, status in ((["lock"], 503), (["unlock", "web"], 200)):
            assert stage.run("agent", *action).returncode == 0
            while _status(variables, "web") != status:
                time.sleep(0.1)
            while _status_of_exec(run) != status:
                time.sleep(0.1)


def _status_of_exec(process: subprocess.Popen[str]) -> int:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.slow
def test_exec_imports_nothing_that_creates_sessions_when_an_agent_has_one(stage: Stage) -> None:
    with stage.start("agent") as agent:
        _wait_for_agent(stage)
        environ = stage.environ(PYTHONPROFILEIMPORTTIME="1")
        done = stage.run("exec", "web", "--", "true", wrapper=PATIENT, environ=environ)
        assert agent.end(signal.SIGTERM) == 0
    assert done.returncode == 0
    assert "hwsigner._agent.agent_or_own" in done.stderr
    assert "hwsigner._aws.create_session" not in done.stderr
    assert "http.client" not in done.stderr


def _wait_for_agent(stage: Stage) -> None:
    while stage.run("agent", "status").returncode:
        pass


@pytest.mark.slow
def test_thousand_requests_at_once_cause_one_session(stage: Stage) -> None:
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


def test_permanent_failure_of_the_first_session_ends_the_server(stage: Stage) -> None:
    stage.key.write_text("nonsense")
    done = stage.run("serve", FREE, "web")
    assert done.returncode == 3
    assert "leaf.key" in done.stderr.splitlines()[-1]


def test_server_ends_with_status_3_when_the_pin_is_wrong_and_the_last_credentials_have_expired(
    stage: Stage, clock: Clock
) -> None:
    stage.encrypt_key("first")
    with stage.start("serve", FREE, "web", wrapper=clock.wrapper, HWSIGNER_PIN="first") as process:
        variables = process.variables()
        process.read_until("session created")
        stage.encrypt_key("second")
        assert _status(variables, "web") == 200
        clock.advance(3000)  # Of an hour: it is time for the next session.
        assert _status(variables, "web") == 200
        process.read_until("profile 'web': no session: ")
        assert _status(variables, "web") == 200
        clock.advance(1000)
        assert process.wait() == 3
    assert "passphrase" in process.lines[-1]
    assert stage.sessions == 1


@pytest.mark.slow
def test_profile_with_a_wrong_pin_is_logged_while_another_has_credentials(stage: Stage, clock: Clock) -> None:
    other = replace(stage, key=certs.write_key(stage.folder / "other.key", stage.private_key()))
    for name, one in (("web", stage), ("db", other)):
        one.encrypt_key("first")
        add_profile(name, {**one.values(), "pkcs8-password": "first"}, stage.environ(), replace=True)
    with stage.start("serve", FREE, "web", "db", wrapper=clock.wrapper) as process:
        variables = process.variables(until="db.token")
        assert [line for line in process.lines if line.startswith("# ")] == ["# web, one of 2", "# db, one of 2"]
        for _ in range(2):
            process.read_until("session created")
        stage.encrypt_key("second")
        clock.advance(3000)
        assert _status(variables, "web") == 200
        assert _status(variables, "db") == 200
        process.read_until("profile 'db': session created")
        clock.advance(1000)
        process.read_until("web: no credentials until the server is restarted: ")
        assert _status(variables, "web") == 503
        assert _status(variables, "db") == 200
        other.encrypt_key("second")
        clock.advance(4000)
        assert process.wait() == 3
    assert not [line for line in process.lines if "db: no credentials" in line]
    assert "other.key" in process.lines[-1]
    assert stage.sessions == 3


def _status(variables: dict[str, str], name: str) -> int:
    token = Path(variables[TOKEN_FILE]).with_name(f"{name}.token").read_text()
    with Client(_port(variables)) as client:
        return client.ask("GET", f"/credentials/{name}", {"Authorization": token}).status


@pytest.mark.slow
def test_terminal_is_restored_when_a_signal_ends_an_open_prompt(stage: Stage, tmp_path: Path) -> None:
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
            process.communicate(timeout=60)
            assert process.returncode == 0
            assert terminal.echoes()
    finally:
        terminal.close()


def test_notice_that_a_token_waits_for_a_person_is_logged(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerRun, "run", lambda _: notices.notify("touch token '\x07'"))
    done = call("serve", FREE, "web")
    assert (done.status, done.err.splitlines()[-1]) == (0, "hwsigner: touch token '\\x07'")


@pytest.mark.slow
@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_server_runs_when_stderr_is_full_or_closed(stage: Stage, stderr: str | None) -> None:
    port = reserve_port()
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


@needs_systemd
def test_socket_of_systemd_is_served(stage: Stage) -> None:
    port = reserve_port()
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


@pytest.mark.slow
@needs_systemd
def test_token_stays_and_all_sockets_are_served_when_systemd_holds_them(stage: Stage) -> None:
    port = reserve_port()
    listens = (f"--listen=127.0.0.1:{port}", f"--listen=[::1]:{port}")
    wrapper = ("/usr/bin/systemd-socket-activate", *listens, "--setenv=HOME", "--setenv=XDG_RUNTIME_DIR")
    tokens = set()
    for _ in range(2):
        with stage.start("serve", "web", wrapper=wrapper) as process:
            process.read_until(f"Listening on [::1]:{port}")
            with Client(port) as client, Client(port, "::1") as six:
                client.send("GET", "/credentials/web")
                token = Path(process.variables()[TOKEN_FILE]).read_text()
                tokens.add(token)
                assert client.receive().status == 401
                headers = {"Authorization": token, "Host": "localhost"}
                assert six.ask("GET", "/credentials/web", headers).status == 200
            assert not [line for line in process.lines if "warning" in line]
            assert process.end(signal.SIGTERM) == 0
    assert len(tokens) == 1


@needs_systemd
def test_unix_socket_of_systemd_is_a_usage_error(stage: Stage, short_folder: Path) -> None:
    path = short_folder / "s"
    wrapper = ("/usr/bin/systemd-socket-activate", f"--listen={path}", "--setenv=HOME")
    with stage.start("serve", "web", wrapper=wrapper) as process:
        process.read_until("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert process.wait() == 2
    assert (
        "hwsigner: systemd passed a socket that is not a listening TCP socket. Write ListenStream=" in process.lines[-1]
    )


@pytest.fixture
def notified(short_folder: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(short_folder / "notify"))
        bound.settimeout(20)
        yield bound


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["", "deny*always"])
def test_ready_is_sent_once_the_first_session_exists_or_has_failed(
    stage: Stage, notified: socket.socket, fault: str
) -> None:
    if fault:
        stage.service.misbehave(Fault.parse(fault))
    with stage.start("serve", FREE, "web", NOTIFY_SOCKET=notified.getsockname()) as process:
        assert notified.recv(100).startswith(b"READY=1\n")
        assert stage.sessions == 1
        assert process.end(signal.SIGTERM) == 0
        assert notified.recv(100).startswith(b"STOPPING=1\n")


@pytest.mark.slow
def test_ready_is_not_sent_when_the_first_session_fails_permanently(stage: Stage, notified: socket.socket) -> None:
    stage.key.write_text("nonsense")
    with stage.start("serve", FREE, "web", NOTIFY_SOCKET=notified.getsockname()) as process:
        assert process.wait() == 3
    assert notified.recv(100).startswith(b"STOPPING=1\n")


def test_ready_is_sent_when_the_first_session_is_late(notified: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_run, "_READY_SECONDS", 0.1)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("NOTIFY_SOCKET", notified.getsockname())
    is_late = threading.Event()

    def make() -> NoReturn:
        assert is_late.wait(20)
        raise ServiceUnreachableError("late")

    class Server:
        def run(self) -> None:
            assert notified.recv(100).startswith(b"READY=1\n")
            is_late.set()

    ServerRun([ServedProfile("web", "role/web", make)], Server()).run()  # type: ignore[arg-type]
    assert is_late.is_set()


@pytest.mark.slow
def test_https_is_served_with_the_certificate(stage: Stage) -> None:
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
        (("web", "--address=server.example"), "--address 'server.example' is not an IP address. Give one"),
        (("web", "--tls-certificate=x.pem"), "--tls-certificate x.pem and its key can't be used: No such"),
        (("web", "--tls-key=/nonexistent"), "--tls-key is given without --tls-certificate"),
        pytest.param(
            ("web", "--imds", "--tls-certificate=x"),
            "--imds can't be combined with --tls-certificate",
            marks=needs_netlink,
        ),
        pytest.param(("web", "db", "--imds"), "--imds can't be combined with 2 profiles", marks=needs_netlink),
        (("web", "--role-arn=x"), "--role-arn can't be combined with profile names"),
        (("web", "--allow-user=no such user"), "--allow-user 'no such user' is not a user of this machine"),
        (("nope",), "there is no profile 'nope'"),
        (("web", "--port=65536"), "--port"),
        (("web", "--host-name=a b"), "--host-name is 'a b': write a name such as server.example.com"),
        (("web", "--host-name=https://server.example"), "--host-name is 'https://server.example': write a name"),
        (("web", "--host-name=server.example:9911"), "without a port"),
        (("web", "--host-name="), "--host-name is '': write a name"),
        (("web", "--hop-limit=0"), "--hop-limit"),
        ((), "no profile and no flags for a session were given"),
    ],
)
def test_invalid_flags_exit_with_status_2(
    stage: Stage, call: Callable[..., Outcome], flags: tuple[str, ...], message: str
) -> None:
    done = call("serve", *flags)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list((stage.folder / "run").rglob("*.token"))


def test_port_in_use_exits_with_status_1(call: Callable[..., Outcome]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = call("serve", "web", f"--port={port}")
    assert done.status == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.err


@pytest.mark.slow
@needs_netlink
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


@pytest.mark.slow
@needs_netlink
def test_memory_is_returned_after_a_burst_of_connections(stage: Stage) -> None:
    with stage.start("serve", FREE, "--profile=web") as process:
        port = _port(process.variables())
        process.read_until("session created")
        _take_tokens(port, 500)
        before = _resident_kib(process.pid)
        half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(900)]
        for sock in half_open:
            sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 16000)
        _take_tokens(port, 1)
        assert _resident_kib(process.pid) - before > 14 * 1024
        for sock in half_open:
            sock.close()
        while _resident_kib(process.pid) - before > 7 * 1024:
            time.sleep(0.05)
        assert process.end(signal.SIGTERM) == 0


def _take_tokens(port: int, count: int) -> None:
    with Client(port) as client:
        for _ in range(count):
            assert client.ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}).status == 200


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("library", ["httptools", "uvloop"])
@pytest.mark.parametrize("command", [["serve", "web", "--port=0"], ["exec", "web", "--", "true"]])
def test_error_names_a_missing_library_and_the_extra(stage: Stage, command: list[str], library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from hwsigner._cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=stage.environ(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    hint = f"Run {sys.executable} -m pip install 'hwsigner[serve]=={__version__}'"
    assert done.stderr == f"hwsigner: serving HTTP needs {library}. {hint}\n"
    assert stage.sessions == 0
