"""hwsigner-credentials under sanitizers, with agents of every kind: it prints an answer, or runs Python."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.conftest import FakeAgent, Program, Talk, says
from examples import scaled
from hwsigner._agent import protocol

JSON = b'{"Version": 1, "AccessKeyId": "ASIA"}\n'
GOOD = b"1 ok %d\n%s" % (len(JSON), JSON)
FELL_BACK = b"python <credential-process> <--profile> <web> HWSIGNER_AGENT=asked\n"

Start = Callable[[Path, Talk], FakeAgent]
Ask = Callable[[Talk], subprocess.CompletedProcess[bytes]]


def is_python(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Return whether Python was run for the profile `web`, and nothing else was printed."""
    return (done.returncode, done.stdout, done.stderr) == (42, FELL_BACK, b"")


@pytest.fixture
def ask(program: Program, runtime: Path, fake_agent: Start) -> Ask:
    """Run the program for the profile `web` beside a fake agent."""

    def run(talk: Talk) -> subprocess.CompletedProcess[bytes]:
        fake_agent(runtime / "hwsigner", talk)
        return program.run("--profile", "web", runtime=runtime)

    return run


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ([], "default"),
            (["--profile", "web"], "web"),
            (["--profile=a.b_c@d-9"], "a.b_c@d-9"),
            (["--profile", "x" * 64], "x" * 64),
        ],
    )
    def test_agent_is_asked_for_the_profile(
        self, program: Program, runtime: Path, fake_agent: Start, arguments: list[str], name: str
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        done = program.run(*arguments, runtime=runtime)
        assert (done.returncode, done.stdout, done.stderr) == (0, JSON, b"")
        assert agent.requests == [f"1 get {name} notes\n".encode()]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--profile"],
            ["--profile", ""],
            ["--profile="],
            ["--profile", "a b"],
            ["--profile", "a\nb"],
            ["--profile", "../a"],
            ["--profile", "-a"],
            ["--profile", "x" * 65],
            ["--profile", "é"],
            ["--profile", "web", "--debug"],
            ["--profile=web", "--debug"],
            ["--profiles", "web"],
            ["--profil", "web"],
            ["--profileweb"],
            ["web"],
            ["--help"],
            ["--certificate", "/x y", "--private-key", "$HOME"],
            [""],
        ],
    )
    def test_other_arguments_are_passed_to_python(
        self, program: Program, runtime: Path, fake_agent: Start, arguments: list[str]
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        done = program.run(*arguments, runtime=runtime)
        shown = "".join(f" <{argument}>" for argument in arguments)
        assert done.stdout.decode() == f"python <credential-process>{shown} HWSIGNER_AGENT=asked\n"
        assert agent.requests == []

    def test_python_is_given_the_default_profile(self, program: Program, runtime: Path) -> None:
        done = program.run(runtime=runtime)
        assert done.stdout == b"python <credential-process> <--profile> <default> HWSIGNER_AGENT=asked\n"

    def test_agent_is_not_asked_when_the_variable_forbids_it(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        done = program.run("--profile", "web", runtime=runtime, HWSIGNER_AGENT="none")
        assert done.stdout == FELL_BACK.replace(b"asked", b"none")
        assert agent.requests == []

    def test_agent_is_not_asked_when_agents_have_been_asked(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        assert is_python(program.run("--profile", "web", runtime=runtime, HWSIGNER_AGENT="asked"))
        assert agent.requests == []

    @pytest.mark.parametrize("value", ["", "other", "NONE"])
    def test_any_other_value_of_the_variable_has_no_effect(
        self, program: Program, runtime: Path, fake_agent: Start, value: str
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        assert program.run("--profile", "web", runtime=runtime, HWSIGNER_AGENT=value).stdout == JSON
        agent.talk = says(b"garbage")
        assert is_python(program.run("--profile", "web", runtime=runtime, HWSIGNER_AGENT=value))


class TestPython:
    def test_python_is_found_beside_the_program_and_never_on_the_path(
        self, program: Program, runtime: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "hwsigner").write_text("#!/bin/sh\necho wrong\n")
        (tmp_path / "hwsigner").chmod(0o755)
        (tmp_path / "link").symlink_to(program.path)
        environ = {"PATH": str(tmp_path), "XDG_RUNTIME_DIR": str(runtime), "ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run(["./link", "--profile", "web"], cwd=tmp_path, env=environ, capture_output=True)
        assert is_python(done)

    def test_error_says_what_to_do_without_an_agent_and_python(self, program: Program, tmp_path: Path) -> None:
        alone = shutil.copy(program.path, tmp_path / "alone")
        done = subprocess.run([alone], env={"ASAN_OPTIONS": "detect_leaks=0"}, capture_output=True)
        assert (done.returncode, done.stdout) == (1, b"")
        problem = f"no agent gave credentials, and can't run {tmp_path}/hwsigner"
        assert done.stderr == f"hwsigner: {problem}. Start the agent, or install hwsigner there\n".encode()


class TestAnswers:
    @pytest.mark.parametrize("body", [JSON, b"x", b"\0\n\xff" * 100, b"x" * 65536])
    def test_body_of_an_answer_is_printed(self, ask: Ask, body: bytes) -> None:
        done = ask(says(b"1 ok %d\n%s" % (len(body), body)))
        assert (done.returncode, done.stdout, done.stderr) == (0, body, b"")

    def test_reports_of_work_are_skipped(self, ask: Ask) -> None:
        assert ask(says(b"1 working\n" * 500 + GOOD)).stdout == JSON

    def test_notes_are_shown_on_the_terminal(self, ask: Ask, program: Program) -> None:
        os.mkfifo(program.terminal)
        reader = os.open(program.terminal, os.O_RDONLY | os.O_NONBLOCK)
        notes = [b"touch it", b"\x1b[2J\n" + "é".encode(), b"x" * 65536]
        done = ask(says(b"1 working\n".join(b"1 note %d\n%s" % (len(note), note) for note in notes) + GOOD))
        shown = os.read(reader, 65536).decode()
        os.close(reader)
        program.terminal.unlink()
        assert (done.returncode, done.stdout, done.stderr) == (0, JSON, b"")
        assert shown == f"hwsigner: touch it\nhwsigner: ?[2J?é\nhwsigner: {'x' * 1000}\n"

    def test_notes_are_skipped_without_a_terminal(self, ask: Ask) -> None:
        done = ask(says(b"1 note 5\ntouch" + GOOD))
        assert (done.returncode, done.stdout, done.stderr) == (0, JSON, b"")

    def test_agent_of_an_earlier_version_is_asked_without_notes(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", lambda connection: agent.answer_without_notes(connection, GOOD))
        assert program.run("--profile", "web", runtime=runtime).stdout == JSON
        assert agent.requests == [b"1 get web notes\n", b"1 get web\n"]

    def test_bytes_after_the_answer_are_ignored(self, ask: Ask) -> None:
        assert ask(says(GOOD + b"x" * 10000)).stdout == JSON

    @pytest.mark.parametrize("reason", [b"", b" locked", b" pin"])
    @pytest.mark.parametrize("status", range(1, 8))
    def test_error_is_printed_with_its_status(self, ask: Ask, status: int, reason: bytes) -> None:
        done = ask(says(b"1 error %d 9%s\nno. Do so" % (status, reason)))
        assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"hwsigner: no. Do so\n")

    def test_control_characters_in_an_error_are_replaced(self, ask: Ask) -> None:
        text = bytes(range(128)) + "é".encode()
        done = ask(says(b"1 error 7 %d\n%s" % (len(text), text)))
        shown = re.sub(rb"[\0-\x1f\x7f]", b"?", text)
        assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"hwsigner: " + shown + b"\n")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"\n",
            b"1\n",
            b"1 \n",
            b"1 ok\n",
            b"1 ok \n",
            b"garbage\n",
            b"\0" * 200,
            b"x" * 96,
            b"x" * 95 + b"\n",
            b"1 ok 2" + b" " * 89 + b"\n{}",
            b"1 working\n" * 3,
            b"1 working \n" + GOOD,
            b" " + GOOD,
            b"2" + GOOD[1:],
            b"1 ok 2",
            b"1 ok 0\n",
            b"1 ok -1\n{}",
            b"1 ok +2\n{}",
            b"1 ok 2 \n{}",
            b"1 ok  2\n{}",
            b"1 ok 2x\n{}",
            b"1 ok 1:\n" + b"x" * 20,
            b"1 ok 2/\n" + b"x" * 19,
            b"1 ok 2\r\n{}",
            b"1 ok 000002\n{}",
            b"1 ok 65537\n" + b"x" * 65537,
            b"1 ok 99999\n" + b"x" * 99999,
            b"1 ok 18446744073709551618\n{}",
            b"1 ok 3\n{}",
            b"1 OK 2\n{}",
            b"1 error 0 2\nno",
            b"1 error 8 2\nno",
            b"1 error 3\nno",
            b"1 error 3 0\n",
            b"1 error 3 3\nno",
            b"1 error 3\t2\nno",
            b"1 error 3 2 \nno",
            b"1 error 3 2 other\nno",
            b"1 error 3 2 pin locked\nno",
            b"1 error 3 pin\nno",
            b"1 ok 2 pin\n{}",
            b"1 unknown 1\nx",
            b"1 ask 1\nx",
            b"1 note 1\n" + GOOD,
            b"1 note 0\n" + GOOD,
            b"1 note 65537\n" + b"x" * 65537 + GOOD,
        ],
        ids=repr,
    )
    def test_invalid_answer_runs_python(self, ask: Ask, answer: bytes) -> None:
        assert is_python(ask(says(answer)))

    def test_endless_bytes_run_python(self, ask: Ask) -> None:
        def talk(connection: socket.socket) -> None:
            while True:
                connection.sendall(b"x" * 4096)

        assert is_python(ask(talk))

    def test_endless_body_is_cut_at_its_size(self, ask: Ask) -> None:
        def talk(connection: socket.socket) -> None:
            connection.sendall(b"1 ok 65536\n")
            while True:
                connection.sendall(b"x" * 4096)

        assert ask(talk).stdout == b"x" * 65536


PIECES = st.sampled_from(
    [
        b"1 ",
        b"2 ",
        b"ok ",
        b"error ",
        b"note ",
        b"working",
        b"unknown",
        b" pin",
        b" locked",
        b"\n",
        b" ",
        b"0",
        b"3",
        b"12",
        b"65536",
        b"x",
        b"{}",
        b"\0",
    ]
)


def expected(answer: bytes) -> tuple[int, bytes] | None:
    """Return the status and output for an answer, by the grammar of the Python side; None if Python is run."""
    line, end, rest = answer.partition(b"\n")
    head = protocol.parse_head(line) if end else None
    while head and head.kind in ("working", "note") and len(rest) >= head.size:
        line, end, rest = rest[head.size :].partition(b"\n")
        head = protocol.parse_head(line) if end else None
    if head is None or head.kind not in ("ok", "error") or len(rest) < head.size:
        return None
    return head.status, rest[: head.size]


class TestEveryAnswer:
    @pytest.fixture
    def serve(self, runtime: Path, fake_agent: Start) -> FakeAgent:
        return fake_agent(runtime / "hwsigner", says(b""))

    def check(self, program: Program, serve: FakeAgent, answer: bytes) -> None:
        done = program.run("--profile", "web", runtime=serve.folder.parent)
        wanted = expected(answer)
        if wanted is None:
            assert is_python(done)
        elif wanted[0] == 0:
            assert (done.returncode, done.stdout) == wanted
        else:
            assert (done.returncode, done.stdout) == (wanted[0], b"")

    def test_answer_is_understood_as_python_understands_it(self, program: Program, serve: FakeAgent) -> None:
        @settings(max_examples=scaled(100))
        @given(st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=100))
        def run(answer: bytes) -> None:
            serve.talk = says(answer)
            self.check(program, serve, answer)

        run()

    def test_answer_in_pieces_is_understood(self, program: Program, serve: FakeAgent) -> None:
        @settings(max_examples=20)
        @given(st.sampled_from([b"1 working\n" + GOOD, b"1 error 3 2\nno"]), st.integers(1, 60))
        def run(answer: bytes, step: int) -> None:
            def talk(connection: socket.socket) -> None:
                for begin in range(0, len(answer), step):
                    connection.sendall(answer[begin : begin + step])
                    time.sleep(0)

            serve.talk = talk
            self.check(program, serve, answer)

        run()


def hangs(connection: socket.socket) -> None:
    connection.recv(1)


class TestPatience:
    """With shorter limits than the real ones, except in one test."""

    def dripping(self, data: bytes, pause: float) -> Talk:
        def talk(connection: socket.socket) -> None:
            for byte in data:
                connection.sendall(bytes([byte]))
                time.sleep(pause)

        return talk

    @pytest.mark.slow
    def test_silent_agent_is_left_after_a_second(self, program: Program, runtime: Path, fake_agent: Start) -> None:
        fake_agent(runtime / "hwsigner", hangs)
        begin = time.monotonic()
        assert is_python(program.run("--profile", "web", runtime=runtime))
        assert time.monotonic() - begin >= 1

    @pytest.mark.slow
    def test_agent_with_a_full_queue_is_left(self, program: Program, runtime: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(str(runtime / "hwsigner" / "agent.sock"))
            listener.listen(0)
            first.connect(str(runtime / "hwsigner" / "agent.sock"))
            assert is_python(program.run("--profile", "web", runtime=runtime))

    @pytest.mark.slow
    def test_agent_that_falls_silent_while_working_is_left(
        self, hasty_program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        def talk(connection: socket.socket) -> None:
            connection.sendall(b"1 working\n")
            connection.recv(1)

        fake_agent(runtime / "hwsigner", talk)
        assert is_python(hasty_program.run("--profile", "web", runtime=runtime))

    @pytest.mark.slow
    def test_agent_that_is_working_is_waited_for(
        self, hasty_program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        def talk(connection: socket.socket) -> None:
            for _ in range(4):
                connection.sendall(b"1 working\n")
                time.sleep(0.3)  # In total more than the first byte, or a silence, may take.
            connection.sendall(GOOD)

        fake_agent(runtime / "hwsigner", talk)
        assert hasty_program.run("--profile", "web", runtime=runtime).stdout == JSON

    @pytest.mark.slow
    @pytest.mark.parametrize("answer", [b"1 working\n" * 1000, b"1 ok 60000\n" + b"x" * 60000])
    def test_agent_that_drips_is_left_in_the_end(
        self, hasty_program: Program, runtime: Path, fake_agent: Start, answer: bytes
    ) -> None:
        fake_agent(runtime / "hwsigner", self.dripping(answer, 0.05))
        assert is_python(hasty_program.run("--profile", "web", runtime=runtime))

    def test_agent_that_drips_an_answer_is_heard(self, program: Program, runtime: Path, fake_agent: Start) -> None:
        fake_agent(runtime / "hwsigner", self.dripping(GOOD, 0.005))
        assert program.run("--profile", "web", runtime=runtime).stdout == JSON


@contextmanager
def listening_as(uid: int, path: Path) -> Iterator[None]:
    """Let another user listen at a path, in a folder that they do not own."""
    listen = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.setuid(int(sys.argv[2])); "
        "s.listen(); print('ready', flush=True)\n"
        "while True:\n    c, _ = s.accept()\n    try: c.send(sys.argv[3].encode())\n    except OSError: pass"
    )
    process = subprocess.Popen([sys.executable, "-Ic", listen, path, str(uid), GOOD.decode()], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        path.unlink()


class TestTrust:
    def test_python_runs_without_an_agent(self, program: Program, runtime: Path) -> None:
        assert is_python(program.run("--profile", "web", runtime=runtime))

    @pytest.mark.parametrize("runtime", ["", "relative", "/nonexistent", "/" + "x" * 5000, "/" + "x/" * 45])
    def test_python_runs_without_a_runtime_folder(self, program: Program, runtime: str) -> None:
        assert is_python(program.run("--profile", "web", XDG_RUNTIME_DIR=runtime))

    def test_python_runs_when_the_socket_is_dead(self, program: Program, runtime: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(runtime / "hwsigner" / "agent.sock"))
        assert is_python(program.run("--profile", "web", runtime=runtime))

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
    def test_folder_that_others_can_write_is_not_trusted(
        self, program: Program, runtime: Path, fake_agent: Start, mode: int
    ) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        agent.folder.chmod(mode)
        assert is_python(program.run("--profile", "web", runtime=runtime))

    def test_folder_that_is_a_link_is_not_trusted(self, program: Program, runtime: Path, fake_agent: Start) -> None:
        fake_agent(runtime / "hwsigner", says(GOOD))
        (runtime / "other").mkdir()
        (runtime / "other" / "hwsigner").symlink_to(runtime / "hwsigner")
        assert is_python(program.run("--profile", "web", runtime=runtime / "other"))

    @pytest.mark.root
    def test_agent_of_another_user_is_not_trusted(self, program: Program, runtime: Path) -> None:
        with listening_as(65534, runtime / "hwsigner" / "agent.sock"):
            assert is_python(program.run("--profile", "web", runtime=runtime))

    @pytest.mark.root
    def test_folder_of_another_user_is_not_trusted(self, program: Program, runtime: Path, fake_agent: Start) -> None:
        agent = fake_agent(runtime / "hwsigner", says(GOOD))
        os.chown(agent.folder, 65534, 65534)
        assert is_python(program.run("--profile", "web", runtime=runtime))

    def test_system_s_agent_is_asked_when_there_is_no_other(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        fake_agent(program.system_folder, says(GOOD))
        assert program.run("--profile", "web", runtime=runtime).stdout == JSON

    def test_system_s_agent_is_asked_when_the_user_s_does_not_know_the_profile(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        fake_agent(runtime / "hwsigner", says(b"1 unknown\n"))
        assert is_python(program.run("--profile", "web", runtime=runtime))
        fake_agent(program.system_folder, says(b"1 working\n" + GOOD))
        assert program.run("--profile", "web", runtime=runtime).stdout == JSON

    @pytest.mark.root
    def test_system_s_agent_must_be_its_folder_s_owner(self, program: Program, runtime: Path) -> None:
        path = program.system_folder / "agent.sock"
        with listening_as(65534, path):
            assert is_python(program.run("--profile", "web", runtime=runtime))
            os.chown(program.system_folder, 65534, 65534)
            try:
                assert program.run("--profile", "web", runtime=runtime).stdout == JSON
            finally:
                os.chown(program.system_folder, 0, 0)


class TestStreams:
    @pytest.mark.parametrize(
        ("stdout", "problem"), [("/dev/full", "No space left on device"), (None, "Bad file descriptor")]
    )
    def test_stdout_that_can_t_be_written_is_an_error(
        self, program: Program, runtime: Path, fake_agent: Start, stdout: str | None, problem: str
    ) -> None:
        fake_agent(runtime / "hwsigner", says(GOOD))
        redirection = f">{stdout}" if stdout else ">&-"
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" --profile web {redirection}', program.path],
            env={"XDG_RUNTIME_DIR": str(runtime), "ASAN_OPTIONS": "detect_leaks=0"},
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (1, f"hwsigner: can't write to stdout: {problem}\n".encode())

    def test_closed_streams_leave_other_descriptors_alone(
        self, program: Program, runtime: Path, fake_agent: Start
    ) -> None:
        heard = SimpleQueue[bytes]()

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"1 error 3 2\nno")
            heard.put(connection.recv(100))

        fake_agent(runtime / "hwsigner", talk)
        done = subprocess.run(
            ["sh", "-c", 'exec "$0" --profile web <&- >&- 2>&-', program.path],
            env={"XDG_RUNTIME_DIR": str(runtime), "ASAN_OPTIONS": "detect_leaks=0"},
        )
        assert done.returncode == 3
        assert heard.get(timeout=20) == b""
