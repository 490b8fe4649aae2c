"""The client in Python: like hwsigner-credentials, it uses an agent's answer or does without."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from agent.conftest import FakeAgent, Talk, read_line, says
from agent.homes import Home
from agent.test_program import GOOD, JSON
from hwsigner._agent import client, protocol
from hwsigner._agent.client import Address, command, find_credentials, is_running, start_agent
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._cli import main
from hwsigner._config import profiles as config
from hwsigner._pins import PinRequest
from hwsigner._system import notices
from hwsigner._system.files import open_trusted
from hwsigner.errors import AgentError, HwsignerError
from scene import Outcome

Start = Callable[[Path, Talk], FakeAgent]
STATUS = AgentRequest(Verb.STATUS)


@pytest.fixture(autouse=True)
def system_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for the system's."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setattr(client, "SYSTEM_FOLDER", folder)
        yield Path(folder)


def find(runtime: Path, name: str = "web", **environ: str) -> bytes | None:
    return find_credentials(name, {"XDG_RUNTIME_DIR": str(runtime), **environ})


class TestFindCredentials:
    def test_answer_is_returned(self, runtime: Path, fake_agent: Start) -> None:
        agent = fake_agent(runtime / "hwsigner", says(protocol.WORKING + GOOD))
        assert find(runtime) == JSON
        assert agent.requests == [b"1 get web notes\n"]

    def test_notes_of_the_agent_are_shown(
        self, runtime: Path, fake_agent: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[str] = []
        monkeypatch.setattr(client, "notices", SimpleNamespace(notify=shown.append))
        fake_agent(
            runtime / "hwsigner", says(protocol.note("touch") + protocol.WORKING + protocol.note("again") + GOOD)
        )
        assert find(runtime) == JSON
        assert shown == ["touch", "again"]

    def test_agent_of_an_earlier_version_is_asked_without_notes(self, runtime: Path, fake_agent: Start) -> None:
        agent = fake_agent(runtime / "hwsigner", lambda connection: agent.answer_without_notes(connection, GOOD))
        assert find(runtime) == JSON
        assert agent.requests == [b"1 get web notes\n", b"1 get web\n"]

    def test_agent_that_hung_up_after_a_byte_is_not_asked_again(self, runtime: Path, fake_agent: Start) -> None:
        agent = fake_agent(runtime / "hwsigner", says(protocol.WORKING))
        assert find(runtime) is None
        assert len(agent.requests) == 1

    def test_error_is_raised_with_its_status(self, runtime: Path, fake_agent: Start) -> None:
        fake_agent(runtime / "hwsigner", says(b"1 error 5 10\nno\x1b. Do so"))
        with pytest.raises(AgentError) as caught:
            find(runtime)
        assert (caught.value.exit_status, str(caught.value)) == (5, "no\\x1b. Do so")

    @pytest.mark.parametrize("body", [b"{}", b'{"Version": 1}'])
    def test_answer_without_an_access_key_id_is_an_error(
        self,
        runtime: Path,
        fake_agent: Start,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        body: bytes,
    ) -> None:
        fake_agent(runtime / "hwsigner", says(b"1 ok %d\n%s" % (len(body), body)))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        monkeypatch.setenv("HWSIGNER_AGENT", "")
        assert main(["credential-process", "--profile=web"]) == 7
        output = capfd.readouterr()
        assert output.out == ""
        assert "the agent's reply has no credentials" in output.err

    @pytest.mark.parametrize("answer", [b"", b"garbage\n", b"x" * 500, b"2 ok 1\nx", b"1 ok 5\nx", b"1 ok 99999\n"])
    def test_nonsense_is_taken_for_no_agent(
        self, runtime: Path, fake_agent: Start, system_folder: Path, answer: bytes
    ) -> None:
        fake_agent(runtime / "hwsigner", says(answer))
        fake_agent(system_folder, says(GOOD))
        assert find(runtime) is None

    def test_system_s_agent_is_asked_when_the_user_s_does_not_know_the_profile(
        self, runtime: Path, fake_agent: Start, system_folder: Path
    ) -> None:
        fake_agent(runtime / "hwsigner", says(protocol.UNKNOWN))
        assert find(runtime) is None
        fake_agent(system_folder, says(GOOD))
        assert find(runtime) == JSON

    def test_system_s_agent_is_asked_when_the_user_has_none(
        self, runtime: Path, fake_agent: Start, system_folder: Path
    ) -> None:
        assert find(runtime) is None
        fake_agent(system_folder, says(GOOD))
        assert find(runtime) == JSON

    @pytest.mark.parametrize(
        ("name", "environ"), [("a b", {}), ("web", {"HWSIGNER_AGENT": "none"}), ("web", {"HWSIGNER_AGENT": "asked"})]
    )
    def test_agent_is_not_asked_for_an_invalid_name_or_when_the_variable_forbids_it(
        self, runtime: Path, fake_agent: Start, name: str, environ: dict[str, str]
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        assert find(runtime, name, **environ) is None
        assert agent.requests == []

    @pytest.mark.parametrize("value", ["", "other", "NONE"])
    def test_agent_is_asked_when_the_variable_has_another_value(
        self, runtime: Path, fake_agent: Start, value: str
    ) -> None:
        fake_agent(runtime / "hwsigner", says(GOOD))
        assert find(runtime, HWSIGNER_AGENT=value) == JSON

    def test_agent_of_another_user_is_not_trusted(
        self, runtime: Path, fake_agent: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        monkeypatch.setattr(client, "peer_uid", lambda _: os.geteuid() + 1)
        assert find(runtime) is None
        assert is_running(Address(str(runtime / "hwsigner"), is_system=False))  # No agent can replace it.
        with pytest.raises(AgentError, match=r"user \d+ listens at"):
            command(Address(str(runtime / "hwsigner"), is_system=False), STATUS)
        assert agent.requests in ([], [b""], [b"", b""], [b"", b"", b""])

    def test_agent_of_root_is_trusted(self, runtime: Path, fake_agent: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_agent(runtime / "hwsigner", says(GOOD))
        monkeypatch.setattr(client, "peer_uid", lambda _: 0)
        assert find(runtime) == JSON

    @pytest.mark.slow
    def test_agent_that_hangs_is_taken_for_none(self, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "CONNECT_LIMIT", 0.05)
        monkeypatch.setattr(protocol, "FIRST_BYTE_LIMIT", 0.05)
        address = Address(str(runtime / "hwsigner"), is_system=False)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address.socket)
            listener.listen(0)
            for _ in range(3):  # The first waits in the queue, the others find it full.
                assert find(runtime) is None
                assert is_running(address)

    def test_agent_is_found_when_a_limit_for_sending_can_t_be_set(
        self, runtime: Path, fake_agent: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its form is another on 32-bit ARM with a time of 64 bits."""
        monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: os.fstat(-1))
        fake_agent(runtime / "hwsigner", says(GOOD))
        assert find(runtime) == JSON

    def test_client_waits_while_the_agent_s_queue_is_full(self, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for where, limit in ((client, "CONNECT_LIMIT"), (protocol, "FIRST_BYTE_LIMIT")):
            monkeypatch.setattr(where, limit, 20.0)
        with ExitStack() as stack:
            listener, silent = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
            listener.bind(str(runtime / "hwsigner" / "agent.sock"))
            listener.listen(0)
            silent.connect(listener.getsockname())
            found = stack.enter_context(ThreadPoolExecutor()).submit(find, runtime)
            with pytest.raises(TimeoutError):
                found.result(0.2)
            listener.accept()[0].close()
            served = stack.enter_context(listener.accept()[0])
            assert read_line(served) == b"1 get web notes\n"
            served.sendall(GOOD)
            assert found.result() == JSON


class TestStartOfTheSystemAgent:
    """The program in Python, after hwsigner-credentials got no answer from the system's agent within a second."""

    @pytest.fixture(autouse=True)
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_AGENT", "asked")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(config, "SYSTEM_FILE", str(tmp_path / "config.toml"))
        monkeypatch.setattr(client, "_PAUSE", 0.01)

    @pytest.fixture
    def call(self, capfd: pytest.CaptureFixture[str]) -> Callable[[], Outcome]:
        """Run the program for a profile."""

        def run() -> Outcome:
            status = main(["credential-process", "--profile", "web"])
            return Outcome(status, *capfd.readouterr())

        return run

    def test_agent_is_asked_until_it_answers(
        self, fake_agent: Start, system_folder: Path, call: Callable[[], Outcome]
    ) -> None:
        answers = iter([b"", b"", b"1 work", protocol.WORKING + GOOD])
        agent = fake_agent(system_folder, lambda connection: connection.sendall(next(answers)))
        done = call()
        assert (done.status, done.out, done.err) == (0, JSON.decode(), "")
        assert agent.requests[-1] == b"1 get web notes\n"

    def test_agent_is_not_even_connected_to_with_none(
        self, system_folder: Path, call: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_AGENT", "none")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(system_folder / "agent.sock"))
            listener.listen()
            listener.setblocking(False)
            assert call().status == 2
            with pytest.raises(BlockingIOError):
                listener.accept()

    def test_agent_that_answers_nothing_ends_with_status_7(
        self, fake_agent: Start, system_folder: Path, call: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "START_LIMIT", 0.1)
        fake_agent(system_folder, says(b""))
        done = call()
        assert (done.status, done.out) == (7, "")
        assert "the system's agent did not answer within 0 s" in done.err

    def test_profile_that_the_agent_does_not_know_is_missing(
        self, fake_agent: Start, system_folder: Path, call: Callable[[], Outcome]
    ) -> None:
        fake_agent(system_folder, says(protocol.UNKNOWN))
        done = call()
        assert done.status == 2
        assert "there is no profile 'web'" in done.err

    def test_agent_that_is_gone_is_named_when_it_may_have_the_profile(
        self, system_folder: Path, call: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after someone has removed /run/hwsigner."""
        monkeypatch.setattr(config, "is_system_file_hidden", lambda: True)
        system_folder.rmdir()
        done = call()
        assert (done.status, done.out) == (7, "")
        assert f"no agent listens at {system_folder}/agent.sock, and you can't read " in done.err
        assert "systemctl restart hwsigner-agent.socket" in done.err

    def test_profile_that_can_be_read_is_used_and_read_once(
        self,
        fake_agent: Start,
        system_folder: Path,
        call: Callable[[], Outcome],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        agent = fake_agent(system_folder, says(GOOD))
        file = tmp_path / "config" / "hwsigner" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text("[profile.web]\n")
        opened = list[str]()

        def open_counted(path: str, error: type[HwsignerError]) -> BinaryIO:
            opened.append(path)
            return open_trusted(path, error)

        monkeypatch.setattr(config, "open_trusted", open_counted)
        done = call()
        assert (done.status, done.out) == (2, "")
        assert b"1 get web notes\n" not in agent.requests
        assert opened.count(str(file)) == 1


class TestCommand:
    def test_command_fails_without_an_agent(self, home: Home) -> None:
        with pytest.raises(AgentError, match="no agent is running"):
            command(home.address, STATUS)

    @pytest.mark.parametrize("answer", [b"", b"2 ok 1\nx"])
    def test_nonsense_is_an_error(self, runtime: Path, fake_agent: Start, answer: bytes) -> None:
        fake_agent(runtime / "hwsigner", says(answer))
        with pytest.raises(AgentError) as caught:
            command(Address(str(runtime / "hwsigner"), is_system=False), STATUS)
        assert caught.value.exit_status == 7

    def test_question_with_missing_or_too_many_fields_is_asked(self, runtime: Path, fake_agent: Start) -> None:
        def talk(connection: socket.socket) -> None:
            connection.sendall(b"1 ask 4\nkind")
            connection.recv(100)
            connection.sendall(b"1 ask 15\n" + b"\n" * 15)
            connection.recv(100)
            connection.sendall(b"1 ok 4\ndone")

        fake_agent(runtime / "hwsigner", talk)
        asked: list[str] = []

        def ask(request: PinRequest) -> str:
            asked.append(request.kind)
            return "1234"

        address = Address(str(runtime / "hwsigner"), is_system=False)
        assert command(address, AgentRequest(Verb.UNLOCK, "web"), ask) == "done"
        assert asked == ["kind", ""]


START_AND_STOP = """
import os, time
from hwsigner._agent.client import user_address
from hwsigner._agent.client import is_running, start_agent
agent = start_agent(os.environ)
while agent.poll() is None and not is_running(user_address(os.environ)):
    time.sleep(0.05)
agent.terminate()
agent.wait()
"""


class TestStart:
    def test_agent_is_not_started_when_one_runs(self, runtime: Path, fake_agent: Start) -> None:
        fake_agent(runtime / "hwsigner", says(b""))
        assert start_agent({"XDG_RUNTIME_DIR": str(runtime)}) is None

    def test_agent_is_not_started_without_a_runtime_folder(self, tmp_path: Path) -> None:
        assert start_agent({"XDG_RUNTIME_DIR": str(tmp_path / "none")}) is None

    def test_agent_is_not_started_when_the_variable_forbids_it(self, runtime: Path) -> None:
        assert start_agent({"XDG_RUNTIME_DIR": str(runtime), "HWSIGNER_AGENT": "none"}) is None

    def test_agent_of_an_isolated_program_imports_nothing_that_the_environment_names(
        self, runtime: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text("open(f'{__file__}.ran', 'w')")
        variables = {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
        subprocess.run([sys.executable, "-I", "-c", START_AND_STOP], env=variables, check=True)
        assert not (tmp_path / "sitecustomize.py.ran").exists()


def test_profile_add_accepts_the_agent_s_keys(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notices, "_notify", None)  # Restored after the test.
    monkeypatch.setenv("XDG_CONFIG_HOME", home.environ["XDG_CONFIG_HOME"])
    flags = ["--agent=auto", "--allow-users=alice", "--allow-users", "1000"]
    assert main(["profile", "add", "new", *flags]) == 0
    assert config.profile("new", home.environ).values == {"agent": "auto", "allow-users": ["alice", "1000"]}
    assert main(["profile", "add", "other", "--agent=always"]) == 2
    assert "--agent is 'always'" in capfd.readouterr().err
