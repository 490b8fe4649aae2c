"""`hwsigner agent` as a process: under systemd, stopped, killed, started by its first client, asked by real clients."""

from __future__ import annotations

import json
import mmap
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.homes import PASSPHRASE, Home, read_end
from agent.processes import AGENT, agent_process, ask
from hwsigner._agent.client import command, is_running
from hwsigner._agent.protocol import AgentRequest, Channel, Verb
from hwsigner._system.users import RUN
from hwsigner.errors import AgentError
from hwsigner.sigv4.canonical import IMPLEMENTATION
from judges import needs_client_in_c, needs_namespaces, needs_proc, needs_systemd
from terminals import Terminal

pytestmark = pytest.mark.process

AWS = "/usr/bin/aws"
PROFILE = ("--profile", "web")
# An agent of which another thread than the main one gets SIGTERM, once a file named by the variable is read to its end.
OTHER_THREAD_GETS_SIGTERM = """
import os, runpy, signal, sys, threading, time

def send():
    open(os.environ["GATE"]).read()
    time.sleep(0.2)  # The main thread now waits.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=send, daemon=True).start()
sys.argv[1:] = ["agent"]
runpy.run_module("hwsigner", run_name="__main__")
"""


@pytest.fixture(params=[pytest.param("C", marks=needs_client_in_c), "Python"])
def client(request: pytest.FixtureRequest, real_program: Path) -> list[str]:
    """The client: hwsigner-credentials, or the program in Python."""
    return (
        [str(real_program)] if request.param == "C" else [str(real_program.with_name("hwsigner")), "credential-process"]
    )


def key_id(done: subprocess.CompletedProcess[str]) -> str:
    """Return the access key's id that was printed."""
    assert (done.returncode, done.stderr) == (0, "")
    found: str = json.loads(done.stdout)["AccessKeyId"]
    return found


def run(client: list[str], home: Home, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return ask(Path(client[0]), home, *client[1:], *arguments, **environ)


def may_lock_all() -> bool:
    """Return whether no limit applies to locked memory (CAP_IPC_LOCK is 14)."""
    rights = re.search(r"CapEff:\s+(\w+)", Path("/proc/self/status").read_text())
    assert rights
    is_limited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY
    return not is_limited or bool(int(rights[1], 16) >> 14 & 1)


class TestClients:
    @pytest.mark.slow
    def test_client_gets_the_agent_s_credentials(self, client: list[str], home: Home) -> None:
        with agent_process(home) as agent:
            assert key_id(run(client, home, *PROFILE)) == key_id(run(client, home, *PROFILE))
            assert len(home.emulator.requests) == 1
            status, err = agent.stop()
        assert status == 0
        assert re.fullmatch(r"hwsigner: profile 'web': session created, credentials until \S+Z\n", err)

    @pytest.mark.slow
    def test_client_creates_a_session_without_an_agent(self, client: list[str], home: Home) -> None:
        assert key_id(run(client, home, *PROFILE)) != key_id(run(client, home, *PROFILE))
        assert len(home.emulator.requests) == 2

    @pytest.mark.slow
    def test_client_creates_a_session_when_the_variable_forbids_the_agent(self, client: list[str], home: Home) -> None:
        with agent_process(home):
            first = key_id(run(client, home, *PROFILE))
            assert key_id(run(client, home, *PROFILE, HWSIGNER_AGENT="none")) != first

    @pytest.mark.slow
    def test_client_creates_a_session_when_other_flags_are_given(self, client: list[str], home: Home) -> None:
        with agent_process(home):
            first = key_id(run(client, home, *PROFILE))
            assert key_id(run(client, home, *PROFILE, "--session-duration=900")) != first

    def test_client_ends_with_the_agent_s_error(self, client: list[str], home: Home) -> None:
        home.write_profiles(web={"private-key": str(home.encrypted_key("web"))})
        with agent_process(home):
            done = run(client, home, *PROFILE)
        assert (done.returncode, done.stdout) == (3, "")
        assert re.fullmatch(r"hwsigner: profile 'web' is locked: .* Run hwsigner agent unlock web\n", done.stderr)

    @pytest.mark.slow
    def test_client_creates_a_session_when_the_agent_is_suspended(self, client: list[str], home: Home) -> None:
        with agent_process(home) as agent:
            first = key_id(run(client, home, *PROFILE))
            agent.process.send_signal(signal.SIGSTOP)
            assert key_id(run(client, home, *PROFILE)) != first
            agent.process.send_signal(signal.SIGCONT)
            assert key_id(run(client, home, *PROFILE)) == first

    @pytest.mark.slow
    def test_client_creates_a_session_when_the_agent_was_killed_and_another_replaces_it(
        self, client: list[str], home: Home
    ) -> None:
        with agent_process(home) as agent:
            agent.process.kill()
            agent.process.wait()
            assert os.path.exists(home.address.socket)
            key_id(run(client, home, *PROFILE))
        with agent_process(home):
            assert key_id(run(client, home, *PROFILE)) == key_id(run(client, home, *PROFILE))

    @pytest.mark.slow
    @needs_client_in_c
    def test_default_profile_is_used_without_arguments(self, real_program: Path, home: Home) -> None:
        home.write_profiles(default={})
        cold = key_id(ask(real_program, home))
        with agent_process(home):
            assert cold != key_id(ask(real_program, home)) == key_id(ask(real_program, home, "--profile=default"))

    @pytest.mark.slow
    def test_aws_cli_gets_the_agent_s_credentials(self, real_program: Path, home: Home) -> None:
        config = home.folder / "aws"
        config.write_text(f"[default]\nregion = us-east-1\ncredential_process = {real_program} --profile web\n")
        environ = {"AWS_CONFIG_FILE": str(config), "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": ""}
        with agent_process(home):
            for _ in range(2):
                done = ask(
                    Path(AWS), home, "sts", "get-caller-identity", "--endpoint-url", home.emulator.url, **environ
                )
                assert (done.returncode, done.stderr) == (0, "")
                assert json.loads(done.stdout)["Arn"].startswith("arn:aws:sts::")
        assert [record.request.path for record in home.emulator.requests].count("/sessions") == 1


class TestProcess:
    @needs_proc
    def test_agent_locks_its_memory_and_writes_no_core_dump(self, home: Home, real_program: Path) -> None:
        with agent_process(home) as agent:
            key_id(ask(real_program, home, *PROFILE))
            rss, locked = agent.status("VmRSS"), agent.status("VmLck")
            assert locked > rss if may_lock_all() else locked == mmap.PAGESIZE // 1024
            assert rss < 60_000
            limits = Path(f"/proc/{agent.process.pid}/limits").read_text()
            assert re.search(r"Max core file size +0 +0 ", limits)

    @needs_namespaces
    def test_agent_makes_no_socket_when_it_can_lock_no_memory(self, home: Home) -> None:
        limited = ["setpriv", "--bounding-set=-ipc_lock"] if os.geteuid() == 0 else []
        command = [*limited, "prlimit", "--memlock=0", *AGENT]
        done = subprocess.run(command, env=home.environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (7, "")
        assert done.stderr.startswith("hwsigner: no memory can be locked: Operation not permitted. Raise the limit")
        assert not os.path.exists(home.address.folder)

    def test_second_agent_ends_with_an_error(self, home: Home) -> None:
        with agent_process(home):
            done = subprocess.run(AGENT, env=home.environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (7, "")
        assert done.stderr.startswith(f"hwsigner: an agent is running already at {home.address.socket}. ")

    @pytest.mark.slow
    def test_second_signal_ends_the_agent_though_its_key_hangs(self, home: Home) -> None:
        uri, gate = home.gated_key("web")
        home.write_profiles(web={"private-key": uri})
        with agent_process(home) as agent, socket.socket(socket.AF_UNIX) as client:
            client.connect(home.address.socket)
            client.sendall(b"1 get web\n")
            assert client.recv(100) == b"1 working\n"
            agent.process.send_signal(signal.SIGTERM)
            assert agent.manager.next()[0] == "STOPPING=1"
            assert client.recv(100) == b"1 working\n"  # The agent still waits for the key.
            agent.process.send_signal(signal.SIGINT)
            assert agent.process.wait(20) == 0
            assert read_end(client) == b""
        assert not os.path.exists(home.address.socket)
        with open(gate, "w"):  # The command that reads the PIN was left behind, and ends too.
            pass

    @pytest.mark.slow
    def test_agent_ends_at_once_whatever_thread_gets_the_signal(self, home: Home) -> None:
        # A signal that comes just before the main thread begins to wait has the same effect, and can't be timed.
        gate = home.folder / "gate"
        os.mkfifo(gate)
        command = [sys.executable, "-P", "-c", OTHER_THREAD_GETS_SIGTERM]
        with agent_process(home, command, GATE=str(gate)) as agent:
            with open(gate, "w"):
                pass
            assert agent.process.wait(30) == 0

    def test_warning_goes_to_the_log(self, home: Home) -> None:
        home.write_profiles(web={"pkcs8-password": PASSPHRASE})
        file = home.folder / "config" / "hwsigner" / "config.toml"
        file.chmod(0o644)
        with agent_process(home) as agent:
            _, err = agent.stop()
        assert err == f"hwsigner: warning: --pkcs8-password in {file} is visible to other users. " + (
            "pin-source= in the key URI is safer, with file:, env: or cmd:\n"
        )

    def test_agent_reports_to_systemd(self, home: Home) -> None:
        with agent_process(home) as agent:
            home.write_profiles(web={}, other={})
            agent.process.send_signal(signal.SIGHUP)
            reloading = agent.manager.next()
            assert reloading[0] == "RELOADING=1"
            assert 0 < int(reloading[1].removeprefix("MONOTONIC_USEC=")) < time.monotonic_ns() // 1000
            assert agent.manager.next() == ["READY=1", "STATUS=serving 2 profiles"]
            assert agent.stop() == (0, "")
            assert agent.manager.next()[0] == "STOPPING=1"
        assert not os.path.exists(home.address.socket)

    def test_agent_reports_to_the_watchdog(self, home: Home) -> None:
        with agent_process(home, WATCHDOG_USEC="100000") as agent:
            assert [agent.manager.next() for _ in range(3)] == [["WATCHDOG=1"]] * 3

    @pytest.mark.parametrize("text", ["[profile", "[profile.web]\nx = 1\n"])
    def test_invalid_configuration_is_reported(self, home: Home, text: str) -> None:
        (home.folder / "config" / "hwsigner" / "config.toml").write_text(text)
        if text == "[profile":
            done = subprocess.run(AGENT, env=home.environ, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stdout) == (2, "")
            assert "is not TOML" in done.stderr
        else:
            with agent_process(home), pytest.raises(AgentError, match="is not a flag") as caught:
                command(home.address, AgentRequest(Verb.REFRESH, "web"))
            assert caught.value.exit_status == 2

    @pytest.mark.slow
    def test_stop_ends_the_agent(self, home: Home, real_program: Path) -> None:
        hwsigner = real_program.with_name("hwsigner")
        with agent_process(home) as agent:
            done = ask(hwsigner, home, "agent", "stop")
            assert (done.returncode, done.stderr) == (0, "")
            assert agent.process.wait(30) == 0
        done = ask(hwsigner, home, "agent", "status")
        assert (done.returncode, done.stdout) == (7, "")
        assert done.stderr.startswith(f"hwsigner: no agent is running at {home.address.socket}. Start one: ")
        again = ask(hwsigner, home, "agent", "stop")
        assert again.returncode == 7
        assert again.stderr.endswith(f"{home.address.socket}. Nothing needs to be stopped\n")

    @pytest.mark.slow
    @pytest.mark.parametrize("line", ["lock", "unlock web", "refresh web", "stop"])
    def test_command_that_changed_the_agent_says_so_when_its_reader_has_gone(
        self, line: str, home: Home, real_program: Path
    ) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with agent_process(home):
            command = [str(real_program.with_name("hwsigner")), "agent", *line.split()]
            done = subprocess.run(command, env=home.environ, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        problem = f"hwsigner: the agent has done {line.split()[0]!r}, but stdout can't be written: Broken pipe. "
        assert (done.returncode, done.stderr) == (1, f"{problem}Check where the output goes\n")


@needs_systemd
class TestSocketActivation:
    @pytest.fixture
    def activated(self, home: Home) -> Iterator[Home]:
        """A home where systemd listens, and starts an agent for the first client."""
        os.mkdir(home.address.folder, 0o700)
        environ = [f"--setenv={name}={value}" for name, value in home.environ.items()]
        process = subprocess.Popen(
            ["systemd-socket-activate", "--listen", home.address.socket, *environ, *AGENT],
            env=home.environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            try:
                assert "Listening on" in process.stderr.readline()
                yield home
            finally:
                process.terminate()
                process.communicate(timeout=30)
        assert process.returncode == 0

    def test_first_client_starts_the_agent(self, activated: Home, real_program: Path) -> None:
        # From the agent or not: on a slow machine the program does not wait until the agent has started.
        key_id(ask(real_program, activated, *PROFILE))
        assert command(activated.address, AgentRequest(Verb.UNLOCK, "web"))
        assert key_id(ask(real_program, activated, *PROFILE)) == key_id(ask(real_program, activated, *PROFILE))

    def test_socket_stays_systemd_s(self, activated: Home, real_program: Path) -> None:
        key_id(ask(real_program, activated, *PROFILE))
        command(activated.address, AgentRequest(Verb.STATUS))
        assert not (Path(activated.address.folder) / "agent.lock").exists()

    def test_client_hears_at_once_why_the_agent_can_t_start(self, home: Home, real_program: Path) -> None:
        file = home.folder / "config" / "hwsigner" / "config.toml"
        file.write_text("[profile")
        os.mkdir(home.address.folder, 0o700)
        command = ["systemd-socket-activate", "--listen", home.address.socket]
        environ = [f"--setenv={name}={value}" for name, value in home.environ.items()]
        with subprocess.Popen([*command, *environ, *AGENT], env=home.environ, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert b"Listening on" in process.stderr.readline()
            with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
                for client in (first, second):
                    client.connect(home.address.socket)
                    client.sendall(AgentRequest(Verb.GET, "web").line())
                for client in (first, second):
                    head, body = Channel(client).answer(30)
                    assert (head.kind, head.status) == ("error", 2)
                    assert body.startswith(f"the agent can't start: {file} is not TOML".encode())
            assert process.wait(30) == 2


class TestAuto:
    @pytest.fixture
    def auto(self, home: Home) -> Iterator[Home]:
        """A home whose profile starts an agent, which is stopped at the end."""
        home.write_profiles(web={"agent": "auto"})
        yield home
        if is_running(home.address):
            command(home.address, AgentRequest(Verb.STOP))

    def started(self, home: Home) -> int:
        """Wait for the agent and return its process's id."""
        deadline = time.monotonic() + 30
        while not is_running(home.address):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        match = re.search(r"process (\d+)", command(home.address, AgentRequest(Verb.STATUS)))
        assert match
        return int(match[1])

    @pytest.mark.slow
    @needs_proc
    @pytest.mark.root
    def test_first_use_starts_an_agent_that_holds_no_descriptors(self, auto: Home, client: list[str]) -> None:
        first = key_id(run(client, auto, *PROFILE))  # The agent has not kept its pipes open.
        process = self.started(auto)
        assert os.getsid(process) == process
        numbers = os.listdir(f"/proc/{process}/fd")
        descriptors = {number: os.readlink(f"/proc/{process}/fd/{number}") for number in numbers}
        assert [descriptors.pop(number) for number in "012"] == ["/dev/null"] * 3
        # The log is /dev/null. libffi from 3.5 on keeps its own file open.
        own = rf"{auto.address.folder}(/.*)?|socket:.*|anon_inode:.*|/dev/null|.*/libffi\.so[.\d]*"
        left = [target for target in descriptors.values() if not re.fullmatch(own, target)]
        assert (len(left), len({*left})) == (2, 1)  # Both ends of the pipe that wakes its loop.
        assert "Umask:\t0077\n" in Path(f"/proc/{process}/status").read_text()
        assert os.readlink(f"/proc/{process}/cwd") == "/"
        assert key_id(run(client, auto, *PROFILE)) == first  # It was handed over.

    @pytest.mark.slow
    def test_many_first_uses_start_one_agent(self, auto: Home, real_program: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: ask(real_program, auto, *PROFILE), range(4)))
        assert all(map(key_id, done))
        process = self.started(auto)
        assert key_id(ask(real_program, auto, *PROFILE)) == key_id(ask(real_program, auto, *PROFILE))
        assert self.started(auto) == process

    @pytest.mark.parametrize("values", [{}, {"agent": "none"}])
    def test_agent_is_not_started_for_other_profiles(
        self, home: Home, real_program: Path, values: dict[str, str]
    ) -> None:
        home.write_profiles(web=values)
        key_id(ask(real_program, home, *PROFILE))
        assert not os.path.exists(home.address.folder)

    def test_agent_is_not_started_when_the_variable_forbids_it(self, auto: Home, real_program: Path) -> None:
        key_id(ask(real_program, auto, *PROFILE, HWSIGNER_AGENT="none"))
        assert not os.path.exists(auto.address.folder)

    def test_agent_is_not_started_after_a_failure(self, auto: Home, real_program: Path) -> None:
        auto.write_profiles(web={"agent": "auto", "private-key": "/nonexistent"})
        assert ask(real_program, auto, *PROFILE).returncode == 3
        assert not os.path.exists(auto.address.folder)

    @pytest.mark.slow
    @needs_proc
    @pytest.mark.root
    def test_started_agent_has_no_pin_in_its_environment(self, auto: Home, real_program: Path) -> None:
        auto.write_profiles(web={"agent": "auto", "private-key": str(auto.encrypted_key("web"))})
        key_id(ask(real_program, auto, *PROFILE, HWSIGNER_PIN=PASSPHRASE))
        environment = Path(f"/proc/{self.started(auto)}/environ").read_bytes()
        assert PASSPHRASE.encode() not in environment
        assert b"HWSIGNER" not in environment
        assert ask(real_program, auto, *PROFILE).returncode == 0  # It has the session.
        with pytest.raises(AgentError, match="Run hwsigner agent unlock web"):
            command(auto.address, AgentRequest(Verb.REFRESH, "web"))


class TestUnlock:
    @pytest.mark.slow
    def test_unlock_asks_on_the_terminal(self, home: Home, terminal: Terminal, real_program: Path) -> None:
        path = home.encrypted_key("web")
        home.write_profiles(web={"private-key": str(path)})
        hwsigner = str(real_program.with_name("hwsigner"))
        with agent_process(home) as agent:
            assert ask(real_program, home, *PROFILE).returncode == 3
            process = terminal.start(hwsigner, "agent", "unlock", "web", **home.environ)
            terminal.shown_until(f"passphrase for {path}: ")
            terminal.wait_until_silent()
            terminal.type(PASSPHRASE.encode() + b"\n")
            out, err = process.communicate(timeout=30)
            assert (process.returncode, err) == (0, b"")
            assert out.startswith(b"profile 'web' has credentials until ")
            assert key_id(ask(real_program, home, *PROFILE))
            assert PASSPHRASE not in agent.stop()[1]

    def test_unlock_without_a_terminal_fails(self, home: Home, real_program: Path) -> None:
        path = home.encrypted_key("web")
        home.write_profiles(web={"private-key": str(path)})
        with agent_process(home):
            done = subprocess.run(
                ["setsid", "--wait", real_program.with_name("hwsigner"), "agent", "unlock", "web"],
                env=home.environ,
                capture_output=True,
                text=True,
            )
        assert (done.returncode, done.stdout) == (3, "")
        wanted = f"{path} needs its passphrase, and none was given"
        assert done.stderr == f"hwsigner: {wanted}. Run from a terminal, or where a pinentry can ask\n"


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["unlock"], "agent unlock takes the name of a profile"),
            (["refresh"], "agent refresh takes the name of a profile"),
            (["status", "web"], "agent status takes no profile"),
            (["stop", "web"], "agent stop takes no profile"),
            (["unlock", "../x"], "a profile can't have the name '../x'"),
            (["start"], "agent has no command 'start'"),
        ],
    )
    def test_invalid_arguments_exit_with_status_2(
        self, home: Home, real_program: Path, arguments: list[str], problem: str
    ) -> None:
        done = ask(real_program.with_name("hwsigner"), home, "agent", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"hwsigner: {problem}")

    @pytest.mark.slow
    def test_system_s_agent_is_another(self, home: Home, real_program: Path) -> None:
        with agent_process(home):
            done = ask(real_program.with_name("hwsigner"), home, "agent", "status", "--system")
        assert (done.returncode, done.stdout) == (7, "")
        assert done.stderr.startswith(f"hwsigner: no agent is running at {RUN}/hwsigner/agent.sock. ")


def test_program_is_installed_with_the_extension() -> None:
    installed = Path(sys.executable).with_name("hwsigner-credentials")
    assert os.access(installed, os.X_OK) == (IMPLEMENTATION == "native")
