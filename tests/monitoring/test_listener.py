"""`--metrics-listen` and `--metrics-textfile` of real agents and servers."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.conftest import home, real_program
from agent.homes import Home
from agent.processes import AGENT, AgentProcess, agent_process, ask
from hwsigner.emulator import Fault
from monitoring.test_metrics import samples
from serving.conftest import clock, stage
from serving.stage import PROGRAM, Clock, Stage

pytestmark = pytest.mark.process

__all__ = ["clock", "home", "real_program", "stage"]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def get(place: Path | int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return status and body of a response, from a socket or a port of this machine."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", place, timeout=20) if isinstance(place, int) else UnixConnection(place)
    )
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    """An agent with metrics on a socket in its home."""
    with agent_process(home, [*AGENT, f"--metrics-listen=unix:{home.folder}/m.sock"]) as agent:
        yield agent


def test_agent_shows_its_sessions_and_health(agent: AgentProcess, real_program: Path) -> None:
    path = agent.home.folder / "m.sock"
    assert get(path, "/health")[0] == 200  # Nobody has asked yet.
    printed = ask(real_program, agent.home, "--profile", "web").stdout
    agent.home.emulator.misbehave(Fault.parse("deny*9"))
    refreshed = ask(PROGRAM, agent.home, "agent", "refresh", "web")
    assert refreshed.returncode == 5
    status, text = get(path, "/metrics")
    found = samples(text)
    assert status == 200
    assert found["hwsigner_sessions_created_total", "web"] == 1
    assert found["hwsigner_session_failures_total", "web", "service", "AccessDeniedException"] == 1
    assert found["hwsigner_create_session_duration_seconds_count",] == 2
    assert found["hwsigner_session_expiry_timestamp_seconds", "web"] > time.time()
    assert found["hwsigner_certificate_expiry_timestamp_seconds", "web"] > time.time()
    assert found["hwsigner_profile_healthy", "web"] == 1  # The last credentials are still valid.
    for secret in json.loads(printed).values():
        assert str(secret) not in text or secret == 1


def test_agent_is_not_healthy_with_a_profile_that_is_locked_or_fails(agent: AgentProcess) -> None:
    path = agent.home.folder / "m.sock"
    agent.home.emulator.misbehave(Fault.parse("deny*9"))
    assert ask(PROGRAM, agent.home, "agent", "refresh", "web").returncode == 5
    status, body = get(path, "/health")
    assert (status, json.loads(body)["failing"]) == (503, {"web": "service"})
    ask(PROGRAM, agent.home, "agent", "lock")
    status, body = get(path, "/health")
    assert (status, json.loads(body)["failing"]) == (503, {"web": "locked"})


@pytest.mark.slow
def test_socket_is_removed_at_the_end_and_a_dead_one_replaced(home: Home) -> None:
    path = home.folder / "m.sock"
    command = [*AGENT, f"--metrics-listen=unix:{path}"]
    with agent_process(home, command) as agent:
        agent.process.kill()
        agent.process.wait()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with agent_process(home, command) as agent:
        assert get(path, "/health")[0] == 200
        assert agent.stop()[0] == 0
    assert not path.exists()


def test_file_in_the_place_of_the_socket_stays(home: Home) -> None:
    path = home.folder / "m.sock"
    path.write_text("precious")
    done = ask(PROGRAM, home, "agent", f"--metrics-listen=unix:{path}")
    assert done.returncode == 1
    assert f"can't listen on {path}: Address already in use" in done.stderr
    assert path.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("0.0.0.0:9912", "other machines can reach '0.0.0.0'. Give 127.0.0.1, or add --metrics-remote"),
        ("[::]:9912", "other machines can reach '::'"),
        (
            "9912",
            "--metrics-listen is '9912', which is neither IP:PORT nor unix:PATH. Write 127.0.0.1:9912",
        ),
        ("127.0.0.1:99999", "--metrics-listen is '127.0.0.1:99999'"),
        (
            "localhost:9912",
            "--metrics-listen is 'localhost:9912', which is neither IP:PORT nor unix:PATH. Write 127.0.0.1:9912",
        ),
        ("unix:/nonesuch/m.sock", "can't listen on /nonesuch/m.sock: No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", ["agent", "serve --port=0 web"])
def test_invalid_address_is_an_error(stage: Stage, command: str, place: str, problem: str) -> None:
    done = stage.run(*command.split(), f"--metrics-listen={place}")
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert "Local server started" not in done.stdout + done.stderr  # Not before it fails.


def test_port_in_use_is_an_error_that_names_no_other_flag(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = stage.run("agent", f"--metrics-listen=127.0.0.1:{other.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr.endswith("Stop the other server there (ss -ltnp shows it), or give another port\n")


def metrics_port(process: Any) -> int:
    line = process.read_until("metrics on http://")
    return int(line.rpartition(":")[2].partition("/")[0])


@pytest.mark.slow
def test_serve_shows_metrics_on_a_port_of_their_own(stage: Stage) -> None:
    with stage.start("serve", "web", "--port=0", "--metrics-listen=127.0.0.1:0") as process:
        port = metrics_port(process)
        process.read_until("session created")
        status, text = get(port, "/metrics")
        assert status == 200
        assert samples(text)["hwsigner_sessions_created_total", "web"] == 1
        assert get(port, "/health") == (200, '{"status": "ok", "profiles": 1, "failing": {}}\n')
        assert get(port, "/credentials/web")[0] == 404
        for method, path, headers, refusal in (
            ("POST", "/metrics", {}, 405),
            ("GET", "/metrics", {"Host": "evil.example"}, 403),
            ("GET", "/metrics", {"Origin": "http://evil.example"}, 403),
            ("GET", "/" + "x" * 20_000, {}, 400),
        ):
            assert get(port, path, method, **headers)[0] == refusal
        assert process.end(signal.SIGTERM) == 0


def test_other_machines_may_use_any_name_if_they_may_read_the_metrics(stage: Stage) -> None:
    flags = ("--metrics-listen=0.0.0.0:0", "--metrics-remote")
    with stage.start("serve", "web", "--port=0", *flags) as process:
        port = metrics_port(process)
        process.read_until("session created")
        assert get(port, "/metrics", Host="host.example:9912")[0] == 200
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_serve_is_not_healthy_without_a_session(stage: Stage) -> None:
    stage.service.misbehave(Fault.parse("deny*always"))
    with stage.start("serve", "web", "--port=0", "--metrics-listen=127.0.0.1:0") as process:
        port = metrics_port(process)
        process.read_until("no session")
        end = time.monotonic() + 30
        while (found := get(port, "/health"))[1].count("starting") and time.monotonic() < end:
            time.sleep(0.01)
        assert (found[0], json.loads(found[1])["failing"]) == (503, {"web": "service"})
        process.end(signal.SIGTERM)


@pytest.mark.slow
def test_scrapes_under_load_are_whole_and_idle_connections_are_dropped_for_new_ones(stage: Stage) -> None:
    with stage.start("serve", "web", "--port=0", "--metrics-listen=127.0.0.1:0") as process:
        port = metrics_port(process)
        process.read_until("session created")
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]

        def scrape(_: int) -> float:
            status, text = get(port, "/metrics")
            assert status == 200
            assert [family.name for family in text_string_to_metric_families(text)]
            return samples(text)["hwsigner_sessions_created_total", "web"]

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(scrape, range(200))) == {1}
        for one in idle:
            one.close()
        assert process.end(signal.SIGTERM) == 0


def test_agent_writes_a_textfile_and_removes_it_at_the_end(home: Home) -> None:
    path = home.folder / "hwsigner.prom"
    with agent_process(home, [*AGENT, f"--metrics-textfile={path}"]) as agent:
        end = time.monotonic() + 30
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert samples(path.read_text())["hwsigner_profile_healthy", "web"] == 1
        assert agent.stop()[0] == 0
    assert not path.exists()


def test_session_that_expired_unasked_is_no_failure(stage: Stage, clock: Clock) -> None:
    flags = ("serve", "web", "--port=0", "--metrics-listen=127.0.0.1:0")
    with stage.start(*flags, wrapper=clock.wrapper) as process:
        port = metrics_port(process)
        process.read_until("session created")
        clock.advance(4000)
        assert get(port, "/health")[0] == 200
        process.end(signal.SIGTERM)
